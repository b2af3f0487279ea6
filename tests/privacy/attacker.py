"""An attacker with everything that lies about: every byte of every disk, and every key that outlives a request.

It knows how the product works. It takes each seal that it finds, wherever and in whatever it stands, and tries every key that
it has or can derive, under every binding that the product uses. A key that it finds wrapped and can unwrap joins the others;
what it opens is searched like a disk. It does not care which key a seal names, nor what authenticates it.

Room rules: no help from the product's own stores: bytes in, findings out.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from schemas.ids import order_id
from schemas.intake import IntakePublicKey, seal_intake
from schemas.order_keys import Purpose, order_root
from schemas.orders import FulfilmentOrder, order_binding, order_terms
from schemas.sealed import Sealed, SealingKey
from schemas.subject import SubjectData
from schemas.vocabulary import IdentifierKind
from tests.privacy.canary import in_base64

__all__ = ["Attacker", "Found", "Loot", "Way"]

_SEAL = re.compile(rb'\{"kid":"([^"\\]{1,80})","nonce":"([A-Za-z0-9_=-]{16})","ciphertext":"([A-Za-z0-9_=-]{22,})"\}')
_JWE = re.compile(rb"eyJ[A-Za-z0-9_-]{20,1024}\.\.[A-Za-z0-9_-]{16}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{22}")
_BLOB = re.compile(rb"DSRB1 (" + _JWE.pattern + rb")\n")
_CHUNK, _TAG, _MOST_CHUNKS = 64 * 1024, 16, 16
#: How the plaintext of a blob begins: an access result, a record of quarantine.
_BEGINNINGS = (b'{"name":', b'{"key":')
_UUID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_HASHES = ("md5", "sha1", "sha256")


class Way(StrEnum):
    """What it does with a key."""

    UNWRAP = "unwrapping a key"
    SEAL = "opening a seal"
    JWE = "opening what was sealed to a public key"
    FILE = "opening a result or a set-aside record without its own key"
    GUESS = "guessing who asked, by a keyed hash"
    REPEAT = "guessing who asked, by sealing a guess again"


#: What it does without any.
WITHOUT_KEY = ("reading in clear", "guessing who asked, by a plain hash")


@dataclass(frozen=True)
class Found:
    """Something that was opened: where it lay, what was in it, and by which key."""

    place: str
    plain: bytes = field(repr=False)
    by: str


@dataclass
class Loot:
    """What an attack brought."""

    opened: list[Found] = field(default_factory=list)
    #: Who was recognised without anything being opened: the guess, where, and by which key; without a key, in which form.
    recognised: list[tuple[str, str, str]] = field(default_factory=list)
    #: What was tried with which key, and how often.
    tried: Counter[tuple[str, str]] = field(default_factory=Counter)

    def of(self, text: str) -> list[Found]:
        """Return what was opened with this text in it."""
        return [found for found in self.opened if text.encode() in found.plain]

    def guessed(self, text: str) -> set[tuple[str, str]]:
        """Return where this guess was recognised, and how."""
        return {(place, how) for guess, place, how in self.recognised if guess == text}


class Attacker:
    """Holds long-lived secrets by name, 32 bytes each, the public intake keys, and the disks' bytes by place.

    `repeating` are those among the secrets that a portal or a mailbox may repeat its seals by.
    """

    def __init__(
        self,
        disks: Mapping[str, bytes],
        secrets: Mapping[str, bytes],
        systems: Sequence[str],
        *,
        intake: Sequence[IntakePublicKey] = (),
        repeating: Collection[str] = (),
    ) -> None:
        self._disks = dict(disks)
        self._secrets = {name: SealingKey(name, secret) for name, secret in secrets.items()}
        self._systems = systems
        self._intake = intake
        self._repeating = repeating
        self._curve = {name: _on_curve(key.unsafe_bytes()) for name, key in self._secrets.items()}
        self.loot = Loot()

    def attack(self, guesses: Iterable[str]) -> Loot:
        """Try everything. `guesses` are addresses of people who may have asked."""
        keys, sealed = dict(self._secrets), dict(self._disks)
        searched: set[bytes] = set()
        while sealed:
            # What was opened in the last round may hold what can be opened in this one.
            self._look_about()
            keys = self._unwrapped(keys)
            sealed = self._open_jwes(keys, searched)
            self._disks |= sealed
        self._open_seals(keys)
        for guess in guesses:
            self._read(guess)
            self._recognise(keys, guess)
        return self.loot

    def _look_about(self) -> None:
        self._requests = sorted({found.decode() for data in self._disks.values() for found in _UUID.findall(data)})
        names = (name.decode() for data in self._disks.values() for name in re.findall(rb"intake-[A-Za-z0-9-]{1,60}", data))
        self._places_of_keys = [*self._requests, "grouping", *(f"intake:{kid}" for kid in sorted(set(names)))]
        self._seals = sorted({one for data in self._disks.values() for one in _seals(data)}, key=lambda one: one.ciphertext)
        #: By order, what orders that were found ask for.
        self._terms: dict[str, set[str]] = {}
        for order in (order for data in self._disks.values() for order in _orders(data)):
            self._terms.setdefault(order.order_id, set()).add(order_terms(order))

    def _places(self, needle: bytes) -> str:
        return ", ".join(sorted(place for place, data in self._disks.items() if needle in data))

    def _unwrapped(self, keys: Mapping[str, SealingKey]) -> dict[str, SealingKey]:
        """Unwrap whatever unwraps, for every place where a key could have been kept, under old keys and new ones."""
        known, waiting = dict(keys), list(keys.items())
        while waiting:
            name, key = waiting.pop()
            for place in self._places_of_keys:
                self._note(Way.UNWRAP, name, len(self._seals))
                for _, plain in _opened(self._seals, key.derive("wrap", place), place):
                    found = f"{place} (under {name})"
                    if len(plain) == 32 and found not in known:
                        known[found] = SealingKey(place, plain)
                        self._curve[found] = _on_curve(plain)
                        waiting.append((found, known[found]))
        return known

    def _open_seals(self, keys: Mapping[str, SealingKey]) -> None:
        left = list(self._seals)
        for name, key in keys.items():
            for derived, binding in self._derivations(name, key):
                self._note(Way.SEAL, name, len(left))
                for seal, plain in _opened(left, derived, binding):
                    self.loot.opened.append(Found(self._places(seal.ciphertext.encode()), plain, name))
                    left.remove(seal)

    def _derivations(self, name: str, key: SealingKey) -> Iterator[tuple[SealingKey, str]]:
        """Yield every key that the product derives, with what it binds to; a request's own key for that request only."""
        own = [request for request in self._requests if name.startswith(request)]
        for request in own or self._requests:
            yield key, request
            yield key.derive("store"), request
            for system in self._systems:
                order = order_id(request, system)
                binding = order_binding(request, system, order)
                # It may be a request's key, from which a root follows, or such a root.
                for root in (order_root(key, request, system, order), key):
                    for purpose in Purpose:
                        yield root.derive(purpose), binding
                    for terms in self._terms.get(order, ()):
                        yield root.derive(Purpose.ORDER), binding + terms
                    yield root.derive(Purpose.JOURNAL), f"{binding}\x1fhandle"

    def _open_jwes(self, keys: Mapping[str, SealingKey], searched: set[bytes]) -> dict[str, bytes]:
        """Open what portals sealed, results and records that were set aside; return what is new, by place."""
        new: dict[str, bytes] = {}
        for place, data in self._disks.items():
            for token in sorted(set(_JWE.findall(data)) - searched):
                searched.add(token)
                for name in keys:
                    self._note(Way.JWE, name)
                    plain = _agreed(token.decode(), self._curve[name])
                    if plain is not None:
                        self.loot.opened.append(Found(self._places(token), plain, name))
                        new[f"{self._places(token)}, opened {hashlib.sha256(token).hexdigest()[:8]}"] = plain
            for found in _BLOB.finditer(data):
                if found[0] in searched:
                    continue
                searched.add(found[0])
                body = data[found.end() : found.end() + _MOST_CHUNKS * (_CHUNK + _TAG)]
                own = {name: _agreed(found[1].decode(), self._curve[name]) for name in keys}
                for name, key in keys.items():
                    self._note(Way.FILE, name)
                    for content_key in (key.unsafe_bytes(), own[name]):
                        plain = None if content_key is None else _deciphered(body, content_key)
                        if plain is not None:
                            self.loot.opened.append(Found(place, plain, name))
                            new[f"{place}, opened {hashlib.sha256(found[0]).hexdigest()[:8]}"] = plain
        return new

    def _read(self, guess: str) -> None:
        forms = {"in clear": [guess.encode(), guess.encode().hex().encode(), *in_base64(guess.encode())]}
        self.loot.tried[WITHOUT_KEY[0], "no key"] += len(self._disks)
        for name in _HASHES:
            self.loot.tried[WITHOUT_KEY[1], "no key"] += len(self._disks)
            hashed = hashlib.new(name, guess.encode(), usedforsecurity=False).digest()
            forms[name] = [hashed, hashed.hex().encode(), *in_base64(hashed)]
        for how, needles in forms.items():
            for place, data in self._disks.items():
                # What it has opened itself is told by `opened`.
                if ", opened " not in place and any(needle in data for needle in needles):
                    self.loot.recognised.append((guess, place, how))

    def _recognise(self, keys: Mapping[str, SealingKey], guess: str) -> None:
        whole = b"\n".join(self._disks.values())
        for name, key in keys.items():
            for form in (guess, guess.lower(), f"email\x1f{guess.lower()}"):
                self._note(Way.GUESS, name)
                hashed = key.mac(form.encode())
                for needle in (hashed, hashed.hex().encode()):
                    if needle in whole:
                        self.loot.recognised.append((guess, self._places(needle), name))
        person = SubjectData(identifiers={IdentifierKind.EMAIL: (guess,)}).to_bytes()
        for name in self._repeating:
            for public in self._intake:
                for request in self._requests:
                    self._note(Way.REPEAT, name)
                    sealed = seal_intake(person, public, request, secret=self._secrets[name].unsafe_bytes())
                    where = self._places(sealed.encode())
                    if where:
                        self.loot.recognised.append((guess, where, name))

    def _note(self, way: Way, name: str, count: int = 1) -> None:
        self.loot.tried[way, name if name in self._secrets else "keys that were unwrapped"] += count


def _orders(data: bytes) -> Iterator[FulfilmentOrder]:
    for found in re.finditer(rb'\{"version":1,"type":"FulfilmentOrder"', data):
        text = data[found.start() : found.start() + 64 * 1024].decode("utf-8", "replace")
        with contextlib.suppress(ValueError):
            content, _ = json.JSONDecoder().raw_decode(text)
            yield FulfilmentOrder.model_validate(content)


def _seals(data: bytes) -> Iterator[Sealed]:
    for kid, nonce, ciphertext in _SEAL.findall(data):
        # A page's border may lie within the name of the key, which opens nothing by being right.
        yield Sealed.trusted(kid=kid.decode("utf-8", "replace"), nonce=nonce.decode(), ciphertext=ciphertext.decode())


def _opened(seals: Iterable[Sealed], key: SealingKey, binding: str) -> list[tuple[Sealed, bytes]]:
    """Return those that open; `schemas.sealed` does the same for one, more slowly."""
    cipher, bound, found = AESGCM(key.unsafe_bytes()), binding.encode(), []
    for seal in seals:
        with contextlib.suppress(InvalidTag, ValueError):
            found.append((seal, cipher.decrypt(_bytes(seal.nonce), _bytes(seal.ciphertext), bound)))
    return found


@cache
def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text)


def _on_curve(secret: bytes) -> OKPKey:
    """Return 32 bytes as a private key of X25519: any 32 bytes are one."""
    return OKPKey.import_key(X25519PrivateKey.from_private_bytes(secret))


def _agreed(token: str, key: OKPKey) -> bytes | None:
    """Open a JWE by key agreement (RFC 7518, section 4.6), whatever key it names and whatever request it is bound to."""
    try:
        return jwe.decrypt_compact(token, key, algorithms=["ECDH-ES", "A256GCM"]).plaintext
    except (JoseError, ValueError, KeyError, TypeError):
        return None


def _deciphered(body: bytes, key: bytes) -> bytes | None:
    """Read chunks without minding their tags: neither where they end nor the order that they are bound to needs to be known.

    GCM is counter mode with a tag (NIST SP 800-38D); behind the end comes noise. None if it does not begin as one of ours.
    """
    chunks = [body[start : start + _CHUNK] for start in range(0, len(body), _CHUNK + _TAG)]
    for is_last in (True, False):
        begun = _counted(chunks[0], 0, is_last, key) if chunks else b""
        if begun.startswith(_BEGINNINGS):
            rest = [] if is_last else list(enumerate(chunks))[1:]
            return begun + b"".join(_counted(one, number, last, key) for number, one in rest for last in (True, False))
    return None


def _counted(chunk: bytes, number: int, is_last: bool, key: bytes) -> bytes:
    nonce = number.to_bytes(11, "big") + (b"\x01" if is_last else b"\x00")
    return Cipher(AES(key), CTR(nonce + b"\0\0\0\x02")).decryptor().update(chunk)
