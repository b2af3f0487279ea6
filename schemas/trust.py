"""Who may speak as whom: signing keys, and the set of public keys that a reader trusts.

A principal is `system:<id>`, `portal:<id>`, `operator:<actor>` or `orchestrator`. Keys are Ed25519 (RFC 8032) as JSON Web Keys
(RFC 8037); a trust file is a JWK set (RFC 7517) whose members carry two fields of ours beside the standard ones:

    {"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "...", "x": "...", "principal": "system:crm", "nbf": 0, "exp": 0}]}

`nbf` and `exp` are optional unix seconds, with the meaning they have in RFC 7519. A principal may hold several: to rotate,
add the new key first, let its owner sign with it, and take the old one out when what it signed has been read.

Room rules: bytes in, values out; no file, no clock; `repr` and every error show no private key.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from pydantic import TypeAdapter, ValidationError

from schemas.base import Actor
from schemas.errors import ConfigurationError, ProtocolViolation
from schemas.ids import PortalId, SystemId
from schemas.vocabulary import QuarantineReason

__all__ = [
    "ORCHESTRATOR",
    "SigningKey",
    "Trust",
    "TrustedKey",
    "kid_of",
    "operator_principal",
    "payload_of",
    "portal_principal",
    "system_principal",
    "valid_principal",
]

#: The principal of the orchestrator itself: every worker of an installation speaks as this one.
ORCHESTRATOR = "orchestrator"

_ALGORITHM = "Ed25519"
# "EdDSA" is the older name of the same algorithm (RFC 8037, deprecated by RFC 9864); libraries elsewhere still write it.
_ACCEPTED = (_ALGORITHM, "EdDSA")
#: What reading a JWS ends in when somebody else wrote it: the library takes its header's shape on trust, before any signature.
_UNREADABLE = (JoseError, ValueError, TypeError, LookupError, AttributeError, RecursionError)
_NAMES: dict[str, TypeAdapter[str]] = {
    "system": TypeAdapter(SystemId),
    "portal": TypeAdapter(PortalId),
    "operator": TypeAdapter(Actor),
}
_REMEDY = f"use system:<id>, portal:<id>, operator:<actor> or {ORCHESTRATOR}"


def system_principal(system: str) -> str:
    """Return the principal that a system's connector speaks as."""
    return f"system:{system}"


def portal_principal(portal: str) -> str:
    """Return the principal of a portal."""
    return f"portal:{portal}"


def operator_principal(actor: str) -> str:
    """Return the principal of an operator, by the `actor` of their commands."""
    return f"operator:{actor}"


def valid_principal(text: str) -> str:
    """Return `text` if it is a principal. Raises `ConfigurationError`."""
    kind, _, name = text.partition(":")
    if text != ORCHESTRATOR:
        try:
            _NAMES[kind].validate_python(name)
        except (KeyError, ValidationError):
            raise ConfigurationError(f"principal is none of ours: {_REMEDY}") from None
    return text


class SigningKey:
    """A principal's private key. It signs; it shows itself only where `to_json` is asked for."""

    __slots__ = ("_key", "kid", "principal")

    def __init__(self, principal: str, key: OKPKey) -> None:
        self.principal = valid_principal(principal)
        self._key = key
        self.kid = key.kid or key.thumbprint()

    @classmethod
    def new(cls, principal: str) -> SigningKey:
        """Make a key from the operating system's randomness; its `kid` is the RFC 7638 thumbprint."""
        return cls(principal, OKPKey.generate_key("Ed25519"))

    @classmethod
    def from_json(cls, text: str | bytes) -> SigningKey:
        """Read what `to_json` wrote. Raises `ConfigurationError` that names the field and never the key."""
        where = "signing key"
        fields = _object(text, where)
        key = _ed25519(fields, where)
        if not key.is_private:
            raise ConfigurationError(f"{where}: d is missing: this is a public key, take the file that `dsr keys new` wrote")
        return cls(_text(fields, "principal", where), key)

    def to_json(self) -> str:
        """Return the private JWK. The caller holds a secret from here on: a file that only its owner reads, or a vault."""
        return json.dumps({**self._key.as_dict(private=True), "kid": self.kid, "principal": self.principal})

    def public(self) -> dict[str, Any]:
        """Return the public JWK for a trust file."""
        return {**self._key.as_dict(private=False), "kid": self.kid, "principal": self.principal}

    def sign(self, payload: bytes, *, typ: str) -> str:
        """Return a compact JWS (RFC 7515) over `payload`; the same input gives the same text.

        `typ` says what is signed, so that a signature made for one purpose is worth nothing for another (RFC 8725, 3.11).
        """
        protected = {"alg": _ALGORITHM, "kid": self.kid, "typ": typ}
        return jws.serialize_compact(protected, payload, self._key, algorithms=[_ALGORITHM])

    def derived(self, purpose: str) -> bytes:
        """Return 32 secret bytes that follow from the private key, others for each purpose, for who has no other secret."""
        return hmac.digest(str(self._key.as_dict(private=True)["d"]).encode(), f"dsr-derived\x1f{purpose}".encode(), "sha256")

    def __repr__(self) -> str:
        return f"SigningKey(principal={self.principal!r}, kid={self.kid!r})"


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key, whose it is, and from when until when (exclusive) what it signed is believed."""

    kid: str
    principal: str
    valid_from: datetime | None
    valid_until: datetime | None
    _key: OKPKey = field(repr=False, compare=False)

    def valid_at(self, at: datetime) -> bool:
        """Tell whether the aware instant lies within the key's time."""
        return (self.valid_from is None or self.valid_from <= at) and (self.valid_until is None or at < self.valid_until)

    def payload_of(self, signed: str, *, typ: str) -> bytes:
        """Return the payload of a compact JWS that this key signed for `typ`.

        Raises `ProtocolViolation(signature_broken)`. Success does not imply that the key is within its time, nor that its
        principal may say what the payload says: ask `valid_at` and compare `principal`.
        """
        try:
            found = jws.deserialize_compact(signed, self._key, algorithms=_ACCEPTED)
        except _UNREADABLE:
            raise _broken("sign again: the bytes are not those that were signed, or it was not this key") from None
        if found.protected.get("typ") != typ:
            raise _broken(f"this place takes signatures of typ {typ}")
        return found.payload


def _broken(remedy: str) -> ProtocolViolation:
    return ProtocolViolation(QuarantineReason.SIGNATURE_BROKEN, field="signature", remedy=remedy)


class Trust:
    """The public keys of an installation, by `kid`."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Iterable[TrustedKey]) -> None:
        self._keys: dict[str, TrustedKey] = {}
        for key in keys:
            if key.kid in self._keys:
                raise ConfigurationError(f"trust file: kid {key.kid!r} stands there twice: give each key a kid of its own")
            self._keys[key.kid] = key

    @classmethod
    def from_json(cls, text: str | bytes) -> Trust:
        """Read a JWK set. Raises `ConfigurationError` naming the member, the field and the remedy."""
        members = _object(text, "trust file").get("keys")
        if not isinstance(members, list):
            raise ConfigurationError('trust file: keys is no list: write a JWK set, {"keys": [...]}')
        return cls(_trusted(member, f"trust file: keys[{index}]") for index, member in enumerate(members))

    @classmethod
    def of(cls, *keys: SigningKey) -> Trust:
        """Return the trust in these keys' public halves, without limit in time."""
        return cls.from_json(json.dumps({"keys": [key.public() for key in keys]}))

    def key(self, kid: str) -> TrustedKey | None:
        """Return the key of that name, or None."""
        return self._keys.get(kid)

    def keys_of(self, principal: str) -> tuple[TrustedKey, ...]:
        """Return every key of a principal, expired ones included."""
        return tuple(key for key in self._keys.values() if key.principal == principal)

    def __iter__(self) -> Iterator[TrustedKey]:
        return iter(self._keys.values())

    def __len__(self) -> int:
        return len(self._keys)

    def opened(self, signed: str, *, typ: str) -> tuple[bytes, TrustedKey]:
        """Return payload and key of a compact JWS made for `typ` by any key of this set.

        Raises `ProtocolViolation`: `signature_broken`, or `signer_unknown` for a `kid` that is not here. What success does not
        imply is said at `TrustedKey.payload_of`.
        """
        key = self.key(kid_of(signed))
        if key is None:
            remedy = "add the signer's public key to the trust file, or sign with a key that stands there"
            raise ProtocolViolation(QuarantineReason.SIGNER_UNKNOWN, field="kid", remedy=remedy)
        return key.payload_of(signed, typ=typ), key


def kid_of(signed: str) -> str:
    """Return the `kid` a compact JWS names, believing nothing yet. Raises `ProtocolViolation(signature_broken)`."""
    kid = _extracted(signed).protected.get("kid")
    if not isinstance(kid, str) or not kid:
        raise _broken("name the key by kid in the protected header")
    return kid


def payload_of(signed: str) -> bytes:
    """Return the payload of a compact JWS that the caller has verified before. Raises `ProtocolViolation(signature_broken)`."""
    return _extracted(signed).payload


def _extracted(signed: str) -> jws.CompactSignature:
    try:
        found = jws.extract_compact(signed.encode())
    except _UNREADABLE:
        found = None
    if found is None or not isinstance(found.protected, dict):  # the library takes any header that holds the word `alg`
        raise _broken("send a compact JWS (RFC 7515)")
    return found


def _object(text: str | bytes, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ConfigurationError(f"{where}: is no JSON object: make one with `dsr keys new`")
    return found


def _trusted(member: object, where: str) -> TrustedKey:
    if not isinstance(member, dict):
        raise ConfigurationError(f"{where}: is no JSON object: each member is one public JWK")
    if "d" in member:
        raise ConfigurationError(f"{where}: d is a private key: keep it with its owner, and make a new one; this one was shown")
    key = _ed25519(member, where)
    kid, principal = _text(member, "kid", where), _text(member, "principal", where)
    try:
        valid_principal(principal)
    except ConfigurationError:
        raise ConfigurationError(f"{where}: principal is none of ours: {_REMEDY}") from None
    since, until = _instant(member, "nbf", where), _instant(member, "exp", where)
    if since is not None and until is not None and until <= since:
        raise ConfigurationError(f"{where}: exp is not after nbf: such a key is never valid")
    return TrustedKey(kid, principal, since, until, key)


def _ed25519(fields: dict[str, Any], where: str) -> OKPKey:
    for name, wanted in (("kty", "OKP"), ("crv", "Ed25519")):
        if fields.get(name) != wanted:
            raise ConfigurationError(f"{where}: {name} must be {wanted}: make the key with `dsr keys new`")
    standard = {name: fields[name] for name in ("kty", "crv", "x", "d", "kid") if isinstance(fields.get(name), str)}
    try:
        key = OKPKey.import_key(cast("Any", standard))
        key.get_op_key("sign" if key.is_private else "verify")
    except (JoseError, ValueError):
        raise ConfigurationError(f"{where}: x (or d) is no Ed25519 key in base64url: make one with `dsr keys new`") from None
    return key


def _text(fields: dict[str, Any], name: str, where: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{where}: {name} is missing: the public key that `dsr keys new` prints has it")
    return value


def _instant(fields: dict[str, Any], name: str, where: str) -> datetime | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigurationError(f"{where}: {name} is no number: write unix seconds")
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        raise ConfigurationError(f"{where}: {name} lies outside the calendar: write unix seconds") from None
