"""An attacker with everything that lies about: every byte of every disk, and every key that outlives a request.

It knows how the product works. It takes each seal that it finds, wherever and in whatever it stands, and tries every key that
it has or can derive, under every binding that the product uses; a key that it finds wrapped and can unwrap joins the others.

Room rules: no help from the product's own stores: bytes in, findings out.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from schemas.errors import ProtocolViolation
from schemas.ids import order_id
from schemas.intake import IntakeKey, open_intake
from schemas.order_keys import Purpose, order_root
from schemas.orders import FulfilmentOrder, order_binding, order_terms
from schemas.sealed import Sealed, SealingKey, unsafe_reveal

__all__ = ["Attacker", "Loot"]

_SEAL = re.compile(rb'\{"kid":"([^"\\]{1,80})","nonce":"([A-Za-z0-9_=-]{16})","ciphertext":"([A-Za-z0-9_=-]{22,})"\}')
_JWE = re.compile(rb"eyJ[A-Za-z0-9_-]{20,1024}\.\.[A-Za-z0-9_-]{16}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{22}")
_UUID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass
class Loot:
    """What an attack brought."""

    #: What was opened: where it lay, and its plaintext.
    opened: list[tuple[str, bytes]] = field(default_factory=list)
    #: Where a person's grouping hash could be computed and found.
    recognised: list[str] = field(default_factory=list)
    #: What was tried, and how often.
    tried: Counter[str] = field(default_factory=Counter)

    def of(self, text: str) -> list[str]:
        """Return the places where something with this text was opened."""
        return [place for place, plain in self.opened if text.encode() in plain]


class Attacker:
    """Holds long-lived secrets by name, 32 bytes each, and the disks' bytes by place."""

    def __init__(self, disks: Mapping[str, bytes], secrets: Mapping[str, bytes], systems: Sequence[str]) -> None:
        self._disks = disks
        self._secrets = dict(secrets)
        self._systems = systems
        self._requests = sorted({found.decode() for data in disks.values() for found in _UUID.findall(data)})
        #: By order, what orders that were found ask for.
        self._terms: dict[str, set[str]] = {}
        for order in (order for data in disks.values() for order in _orders(data)):
            self._terms.setdefault(order.order_id, set()).add(order_terms(order))
        self.loot = Loot()

    def attack(self, guesses: Iterable[str]) -> Loot:
        """Try everything. `guesses` are addresses of people who may have asked."""
        seals = {one for data in self._disks.values() for one in _seals(data)}
        keys = self._unwrapped({name: SealingKey(name, secret) for name, secret in self._secrets.items()}, seals)
        for seal in sorted(seals, key=lambda one: one.ciphertext):
            self._try(seal, keys)
        self._try_intake(keys)
        self._recognise(keys, guesses)
        return self.loot

    def _places(self, needle: bytes) -> str:
        return ", ".join(sorted(place for place, data in self._disks.items() if needle in data))

    def _unwrapped(self, keys: dict[str, SealingKey], seals: Iterable[Sealed]) -> dict[str, SealingKey]:
        """Unwrap whatever unwraps, for every place where a key could have been kept."""
        places = [*self._requests, "grouping", *(f"intake:{kid}" for kid in self._intake_names())]
        for seal in seals:
            for name, key in list(keys.items()):
                for place in places:
                    self.loot.tried["unwrapping a key"] += 1
                    plain = _opened(seal, key.derive("wrap", place), place)
                    if plain is not None and len(plain) == 32:
                        keys[f"{place} (under {name})"] = SealingKey(place, plain)
        return keys

    def _intake_names(self) -> set[str]:
        return {name.decode() for data in self._disks.values() for name in re.findall(rb"intake-[A-Za-z0-9-]{1,60}", data)}

    def _try(self, seal: Sealed, keys: Mapping[str, SealingKey]) -> None:
        for name, key in keys.items():
            for derived, binding in self._derivations(name, key):
                self.loot.tried["opening a seal"] += 1
                plain = _opened(seal, derived, binding)
                if plain is not None:
                    self.loot.opened.append((self._places(seal.ciphertext.encode()), plain))
                    return

    def _derivations(self, name: str, key: SealingKey) -> Iterator[tuple[SealingKey, str]]:
        """Yield every key that the product derives, with what it binds to; a request's own key for that request only."""
        own = [request for request in self._requests if name.startswith(request)]
        for request in own or self._requests:
            yield key, request
            yield key.derive("store"), request
            for system in self._systems:
                order = order_id(request, system)
                root, binding = order_root(key, request, system, order), order_binding(request, system, order)
                for purpose in Purpose:
                    yield root.derive(purpose), binding
                for terms in self._terms.get(order, ()):
                    yield root.derive(Purpose.ORDER), binding + terms
                yield root.derive(Purpose.JOURNAL), f"{binding}\x1fhandle"

    def _try_intake(self, keys: Mapping[str, SealingKey]) -> None:
        for data in self._disks.values():
            for found in set(_JWE.findall(data)):
                for kid in self._intake_names():
                    for key in keys.values():
                        self.loot.tried["opening what a portal sealed"] += 1
                        private = IntakeKey(kid, key.unsafe_bytes())
                        for request in self._requests if kid in _header(found) else ():
                            plain = _intake_opened(found.decode(), private, request)
                            if plain is not None:
                                self.loot.opened.append((self._places(found), plain))

    def _recognise(self, keys: Mapping[str, SealingKey], guesses: Iterable[str]) -> None:
        for guess in guesses:
            for key in keys.values():
                for form in (guess, guess.lower(), f"email\x1f{guess.lower()}"):
                    self.loot.tried["guessing who asked"] += 1
                    where = self._places(key.mac(form.encode()).hex().encode())
                    if where:
                        self.loot.recognised.append(f"{guess}: {where}")


def _orders(data: bytes) -> Iterator[FulfilmentOrder]:
    for found in re.finditer(rb'\{"version":1,"type":"FulfilmentOrder"', data):
        text = data[found.start() : found.start() + 64 * 1024].decode("utf-8", "replace")
        with contextlib.suppress(ValueError):
            content, _ = json.JSONDecoder().raw_decode(text)
            yield FulfilmentOrder.model_validate(content)


def _seals(data: bytes) -> Iterator[Sealed]:
    for kid, nonce, ciphertext in _SEAL.findall(data):
        yield Sealed.trusted(kid=kid.decode(), nonce=nonce.decode(), ciphertext=ciphertext.decode())


def _opened(seal: Sealed, key: SealingKey, binding: str) -> bytes | None:
    try:
        return unsafe_reveal(seal, key, associated=binding)
    except ProtocolViolation:
        return None


def _header(jwe: bytes) -> str:
    head = jwe.split(b".", 1)[0]
    return base64.urlsafe_b64decode(head + b"=" * (-len(head) % 4)).decode("utf-8", "replace")


def _intake_opened(sealed: str, key: IntakeKey, request: str) -> bytes | None:
    try:
        return open_intake(sealed, {key.kid: key}, request)
    except ProtocolViolation:
        return None
