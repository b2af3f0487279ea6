"""Intake: a portal seals the person to the orchestrator's public key, and cannot open it again itself.

A seal is a JWE in compact form (RFC 7516): key agreement ECDH-ES over X25519 without key wrapping (RFC 7518 section 4.6, RFC
8037), content encryption A256GCM. Its protected header holds six members and no other:

    {"alg": "ECDH-ES", "enc": "A256GCM", "typ": "dsr-intake", "kid": "<intake key>", "apu": "<the request's id>", "epk": {...}}

`apu` (RFC 7518 section 4.6.1.2) is the id's bytes in base64url, so the seal is bound to its request: the compact form has no
associated data of its own, but its header is authenticated, and `apu` goes into the key derivation besides. JOSE libraries can
set it, where a header of our own with `crit` would need one that lets the application understand it. A seal that was moved to
another request is refused before anything is decrypted. So is `zip`: the length of compressed text tells of its content.

Sealing and opening are put together from the primitives. No library lets the caller repeat a seal (`secret`), and one that
opens every form of JWE spends most of its time on forms that this header excludes. joserfc is the tests' second opinion.

Room rules: public keys are data; a private key is in no `repr` and no error; the instant is the caller's.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import json
import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from pydantic import Field, StringConstraints, ValidationError

from schemas.base import Record
from schemas.blobs import KeyName, PublicPoint
from schemas.errors import ConfigurationError, ProtocolViolation
from schemas.trust import ORCHESTRATOR, SigningKey, Trust
from schemas.vocabulary import QuarantineReason

__all__ = [
    "KEY_SET_TYP",
    "IntakeKey",
    "IntakeKeySet",
    "IntakePublicKey",
    "SealedIntake",
    "intake_kid",
    "open_intake",
    "seal_intake",
]

#: `typ` of the JWS over a key set, and its media type behind `application/` (OpenID Federation 1.0, section 5.2.1).
KEY_SET_TYP = "jwk-set+jwt"

_TYP = "dsr-intake"
_MEMBERS = {"alg", "enc", "typ", "kid", "apu", "epk"}
_POINT = {"kty", "crv", "x"}
_LONGEST_HEADER = 1024
_LONGEST = 96 * 1024

#: A seal on the wire: header, no encrypted key, 96-bit nonce, ciphertext, 128-bit tag.
SealedIntake = Annotated[
    str,
    StringConstraints(
        pattern=r"^[A-Za-z0-9_-]{1,1024}\.\.[A-Za-z0-9_-]{16}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{22}$", max_length=_LONGEST
    ),
]


class IntakePublicKey(Record):
    """A public key that portals seal to (JWK, RFC 7517 and 8037)."""

    kty: Annotated[Literal["OKP"], Field(description="Key type: OKP")] = "OKP"
    crv: Annotated[Literal["X25519"], Field(description="Curve: X25519")] = "X25519"
    x: PublicPoint
    kid: KeyName
    use: Annotated[Literal["enc"], Field(description="What it is for: encryption")] = "enc"
    alg: Annotated[Literal["ECDH-ES"], Field(description="Key agreement, without key wrapping")] = "ECDH-ES"


class IntakeKey:
    """A private intake key. Only the orchestrator has it; when it is destroyed, nothing opens what was sealed to it."""

    __slots__ = ("_key", "_secret", "kid", "public")

    def __init__(self, kid: str, secret: bytes) -> None:
        """Build from 32 bytes. Raises `ConfigurationError`, never quoting them."""
        if len(secret) != 32:
            raise ConfigurationError(f"intake key {kid!r} is not 32 bytes long: let the orchestrator make a new one")
        self._secret = secret
        self._key = X25519PrivateKey.from_private_bytes(secret)
        self.kid = kid
        self.public = IntakePublicKey(kid=kid, x=_text(self._key.public_key().public_bytes_raw()))

    @classmethod
    def new(cls, kid: str) -> IntakeKey:
        """Make a key from the operating system's randomness."""
        return cls(kid, secrets.token_bytes(32))

    def unsafe_bytes(self) -> bytes:
        """Return the private key. The caller wraps it before it is written anywhere."""
        return self._secret

    def __repr__(self) -> str:
        return f"IntakeKey(kid={self.kid!r})"


class IntakeKeySet(Record):
    """The public keys of an installation, the current one first: seal to that, the others still open."""

    keys: Annotated[tuple[IntakePublicKey, ...], Field(min_length=1)]

    @property
    def current(self) -> IntakePublicKey:
        """Return the key to seal to now."""
        return self.keys[0]

    @classmethod
    def from_json(cls, text: str | bytes) -> IntakeKeySet:
        """Read a JWK set (RFC 7517 section 5): keys of other kinds and members that are not ours are passed over.

        Raises `ConfigurationError` naming member, field and remedy. Success does not imply that the set is the orchestrator's:
        it is only as good as the way it came; `from_signed` is the answer where that is doubtful.
        """
        try:
            members = json.loads(text)["keys"]
        except (ValueError, KeyError, TypeError, RecursionError):
            members = None
        if not isinstance(members, list):
            raise ConfigurationError('intake keys: no JWK set, {"keys": [...]}: take what `dsr keys intake --json` prints')
        found = []
        for index, member in enumerate(members):
            if not isinstance(member, dict) or (member.get("kty"), member.get("use")) != ("OKP", "enc"):
                continue
            ours = {name: member[name] for name in IntakePublicKey.model_fields if name in member}
            try:
                found.append(IntakePublicKey.model_validate(ours))
            except ValidationError as error:
                field = ".".join(str(part) for part in error.errors(include_input=False, include_url=False)[0]["loc"])
                raise ConfigurationError(
                    f"intake keys: keys[{index}].{field} is no X25519 key for ECDH-ES: fetch the set again"
                ) from None
        if not found:
            raise ConfigurationError("intake keys: none of them is for sealing: fetch the set again")
        return cls(keys=tuple(found))

    @classmethod
    def from_signed(cls, signed: str, trust: Trust, *, at: datetime) -> IntakeKeySet:
        """Read what `signed` wrote, at an aware instant. Raises `ProtocolViolation`, or as `from_json` does.

        Success does not imply that the set is the newest: whoever can replay an older one may do so until its `exp`.
        """
        payload, key = trust.opened(signed, typ=KEY_SET_TYP)
        if key.principal != ORCHESTRATOR:
            remedy = f"this must be signed by {ORCHESTRATOR}"
            raise ProtocolViolation(QuarantineReason.SIGNATURE_FOREIGN, field="keys", remedy=remedy)
        try:
            claims = json.loads(payload)
        except (ValueError, RecursionError):
            claims = None
        until = claims.get("exp") if isinstance(claims, dict) else None
        if not key.valid_at(at) or not isinstance(until, int) or at.timestamp() >= until:
            raise ProtocolViolation(QuarantineReason.SIGNATURE_EXPIRED, field="keys", remedy="fetch the set again")
        return cls.from_json(payload)

    def signed(self, signer: SigningKey, *, at: datetime, until: datetime) -> str:
        """Return the set as a JWS (compact, `application/jwk-set+jwt`) that a portal believes from `at` until `until`."""
        claims = {"iss": ORCHESTRATOR, "sub": ORCHESTRATOR, "iat": int(at.timestamp()), "exp": int(until.timestamp())}
        return signer.sign(json.dumps({**claims, **self.model_dump()}, separators=(",", ":")).encode(), typ=KEY_SET_TYP)


def seal_intake(plaintext: bytes, key: IntakePublicKey, subject_request_id: str, *, secret: bytes | None = None) -> str:
    """Seal `plaintext` (`SubjectData.to_bytes()`) to an intake key, bound to the request's id.

    Without `secret` every seal is another text, even of the same person in the same request: store the request before you
    publish it. With `secret`, 32 bytes that nobody else has, the same input gives the same text, for callers that cannot store;
    whoever has learnt the secret can find out whether a guess at the whole plaintext is right, and nothing else.
    """
    party = subject_request_id.encode()
    if secret is None:
        ephemeral, nonce = secrets.token_bytes(32), secrets.token_bytes(12)
    else:
        context = _framed(key.x.encode(), party, plaintext)
        ephemeral, nonce = (hmac.digest(secret, purpose + context, "sha256") for purpose in (b"ephemeral", b"nonce"))
    return _sealed(plaintext, key, party, X25519PrivateKey.from_private_bytes(ephemeral), nonce[:12])


def _sealed(plaintext: bytes, key: IntakePublicKey, party: bytes, ephemeral: X25519PrivateKey, nonce: bytes) -> str:
    header = {
        "alg": "ECDH-ES",
        "enc": "A256GCM",
        "typ": _TYP,
        "kid": key.kid,
        "apu": _text(party),
        "epk": {"kty": "OKP", "crv": "X25519", "x": _text(ephemeral.public_key().public_bytes_raw())},
    }
    protected = _text(json.dumps(header, separators=(",", ":")).encode())
    agreed = ephemeral.exchange(X25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(f"{key.x}=")))
    sealed = AESGCM(_content_key(agreed, party)).encrypt(nonce, plaintext, protected.encode())
    return f"{protected}..{_text(nonce)}.{_text(sealed[:-16])}.{_text(sealed[-16:])}"


def _content_key(agreed: bytes, party_u: bytes, party_v: bytes = b"", *, enc: bytes = b"A256GCM", bits: int = 256) -> bytes:
    """Return the key for the content: Concat KDF with SHA-256 (RFC 7518 section 4.6.2)."""
    return ConcatKDFHash(SHA256(), bits // 8, _framed(enc, party_u, party_v) + bits.to_bytes(4, "big")).derive(agreed)


def _framed(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def intake_kid(sealed: str) -> str:
    """Return the name of the key that a seal is for, believing nothing yet. Raises as `open_intake` does."""
    kid: str = _header(sealed)["kid"]
    return kid


def open_intake(sealed: str, keys: Mapping[str, IntakeKey], subject_request_id: str) -> bytes:
    """Open a seal of this request. The caller holds an identity from here on: keep it off every log, exception and disk.

    Raises `ProtocolViolation(identity_unreadable)`: at `sealed.kid` for a key that is not here, because it was destroyed or is
    nobody's; at `sealed.apu` for another request's seal; at the header's member that is not as it must be; else at `sealed`.
    """
    header = _header(sealed)
    if header["apu"] != _text(subject_request_id.encode()):
        _refuse("apu", "seal for this very request: apu is its id in base64url")
    key = keys.get(header["kid"])
    if key is None:
        _refuse("kid", "this key is not, or no longer, in use: fetch the intake keys and seal to the first of them")
    try:
        return _opened(sealed, header, key)
    except (InvalidTag, ValueError):  # of the curve for a point that agrees with nobody, and of base64, besides
        _refuse("", "seal to the intake key that kid names, and publish the seal as it is")


def _opened(sealed: str, header: dict[str, Any], key: IntakeKey) -> bytes:
    """RFC 7516, section 5.2, for the one form whose header has been read. Raises `ValueError` or `InvalidTag`."""
    protected, encrypted_key, *rest = sealed.split(".")
    if encrypted_key:
        raise ValueError("no direct key agreement")
    nonce, ciphertext, tag = map(_exactly, rest)
    if (len(nonce), len(tag)) != (12, 16):
        raise ValueError("the nonce has 96 bits, the tag 128")
    agreed = key._key.exchange(X25519PublicKey.from_public_bytes(_bytes(header["epk"]["x"])))  # noqa: SLF001 - same module
    return AESGCM(_content_key(agreed, _bytes(header["apu"]))).decrypt(nonce, ciphertext + tag, protected.encode())


def _header(sealed: str) -> dict[str, Any]:
    """Return the protected header if it is one of ours, in its one spelling."""
    text = sealed.partition(".")[0]
    header = None
    if len(text) <= _LONGEST_HEADER:
        with contextlib.suppress(ValueError, RecursionError):
            header = json.loads(_exactly(text), object_pairs_hook=_once)
    if not isinstance(header, dict) or header.keys() != _MEMBERS:
        _refuse("", f"the protected header holds {', '.join(sorted(_MEMBERS))} and nothing else")
    for name, wanted in (("alg", "ECDH-ES"), ("enc", "A256GCM"), ("typ", _TYP)):
        if header[name] != wanted:
            _refuse(name, f"must be {wanted}")
    point = header["epk"]
    if not isinstance(point, dict) or point.keys() != _POINT or (point["kty"], point["crv"]) != ("OKP", "X25519"):
        _refuse("epk", "a public key with kty OKP, crv X25519 and x")
    if not isinstance(point["x"], str) or len(point["x"]) != 43 or not _is_canonical(point["x"]):
        _refuse("epk", "x is 32 bytes in base64url without padding")
    if not isinstance(header["kid"], str):
        _refuse("kid", "the name of the intake key")
    return header


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member stands there twice")
    return members


def _refuse(member: str, remedy: str) -> NoReturn:
    field = f"sealed.{member}" if member else "sealed"
    raise ProtocolViolation(QuarantineReason.IDENTITY_UNREADABLE, field=field, remedy=remedy) from None


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _exactly(text: str) -> bytes:
    """Return the bytes of base64url without padding in its one spelling. Raises `ValueError` for any other."""
    data = _bytes(text)
    if _text(data) != text:
        raise ValueError("not the canonical base64url of anything")
    return data


def _is_canonical(text: str) -> bool:
    try:
        _exactly(text)
    except ValueError:
        return False
    return True
