"""A key for every request: random, wrapped, stored beside what it seals, and gone with it.

    key-encryption key  (a file or the environment)
      wraps  request key  (random, stored in the request's own row, destroyed when the request closes)
        derives  the store's key        identities in the database
        derives  one root for each order
          derives  order, report, journal     what travels and what a connector writes down

So whoever has the database, every topic, every journal and the key-encryption key can open requests that are open, and nothing
of one that is closed.

Room rules: pure computation but for fresh keys; keys come in by the constructor.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence

from pydantic import ValidationError

from orchestrator.ports import KeyEncryption
from schemas.errors import ProtocolViolation, RowDamaged
from schemas.intake import IntakeKey, open_intake
from schemas.order_keys import Purpose, order_root
from schemas.orders import order_binding
from schemas.sealed import Sealed, SealingKey, seal, unsafe_reveal
from schemas.subject import SubjectData
from schemas.vocabulary import IdentifierKind, QuarantineReason

__all__ = ["RequestKeys", "rewrapped"]

#: The most telling identifier first: two requests are of one person if the first kind both have is equal.
_GROUPED_BY = (
    IdentifierKind.EMAIL,
    IdentifierKind.PHONE,
    IdentifierKind.ACCOUNT_ID,
    IdentifierKind.CUSTOMER_ID,
    IdentifierKind.CRM_CONTACT_ID,
    IdentifierKind.GA_USER_ID,
    IdentifierKind.HOTJAR_USER_ID,
    IdentifierKind.GA_CLIENT_ID,
    IdentifierKind.COOKIE_ID,
)
_REQUEST = "request"


def rewrapped(encryption: KeyEncryption, subject_request_id: str, stored: bytes) -> bytes | None:
    """Return a sealed identity with its key wrapped by the current key-encryption key; None if it is so already.

    Raises as `KeyEncryption.unwrap` does, also for one that would stay as it is.
    """
    wrapped, _, sealed = stored.partition(b"\n")
    secret = encryption.unwrap(wrapped, subject_request_id)
    if encryption.is_current(wrapped):
        return None
    return encryption.wrap(secret, subject_request_id) + b"\n" + sealed


class RequestKeys:
    """Implements `orchestrator.ports.Keys`."""

    def __init__(
        self,
        encryption: KeyEncryption,
        *,
        intake: Mapping[str, IntakeKey],
        grouping: SealingKey,
        fresh: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """`intake` holds the keys that portals seal to, by name, and may change while it is used.

        `grouping` makes the hash by which one person's requests find each other; `fresh` gives random bytes.
        """
        self._encryption = encryption
        self._intake = intake
        self._grouping = grouping
        self._fresh = fresh

    def open_intake(self, subject_request_id: str, sealed: str) -> SubjectData:
        """Open what a portal sealed."""
        return _read(open_intake(sealed, self._intake, subject_request_id))

    def new_request_key(self) -> SealingKey:
        """Return a fresh key for one request."""
        return SealingKey(_REQUEST, self._fresh(32))

    def seal_stored(self, subject_request_id: str, key: SealingKey, finds: Sequence[SubjectData]) -> bytes:
        """Seal what was found of a person, in the order of finding, with the wrapped key before it."""
        wrapped = self._encryption.wrap(key.unsafe_bytes(), subject_request_id)
        plain = b"\n".join(find.to_bytes() for find in finds)
        sealed = seal(plain, key.derive("store"), associated=subject_request_id)
        return wrapped + b"\n" + sealed.model_dump_json().encode()

    def open_stored(self, subject_request_id: str, stored: bytes) -> tuple[SealingKey, tuple[SubjectData, ...]]:
        """Return the request's key, and what the store kept."""
        key, sealed = self._key_in(subject_request_id, stored)
        try:
            plain = unsafe_reveal(Sealed.model_validate_json(sealed), key.derive("store"), associated=subject_request_id)
            return key, tuple(_read(line) for line in plain.split(b"\n"))
        except (ValidationError, ProtocolViolation):
            raise RowDamaged("the store: a sealed identity was changed or moved: restore its row from a backup") from None

    def request_key(self, subject_request_id: str, stored: bytes) -> SealingKey:
        """Return a request's key, from what the store keeps of it."""
        key, _ = self._key_in(subject_request_id, stored)
        return key

    def _key_in(self, subject_request_id: str, stored: bytes) -> tuple[SealingKey, bytes]:
        wrapped, _, sealed = stored.partition(b"\n")
        return SealingKey(_REQUEST, self._encryption.unwrap(wrapped, subject_request_id)), sealed

    def seal_order(
        self, subject_request_id: str, system: str, order_id: str, root: SealingKey, data: SubjectData, *, terms: str
    ) -> Sealed:
        """Seal what one system needs, bound to its order and what that asks for."""
        binding = order_binding(subject_request_id, system, order_id) + terms
        return seal(data.to_bytes(), root.derive(Purpose.ORDER), associated=binding)

    def open_yielded(self, subject_request_id: str, system: str, order_id: str, key: SealingKey, sealed: Sealed) -> SubjectData:
        """Open identifiers that a connector found."""
        root = order_root(key, subject_request_id, system, order_id)
        binding = order_binding(subject_request_id, system, order_id)
        return _read(unsafe_reveal(sealed, root.derive(Purpose.REPORT), associated=binding))

    def person(self, identifiers: Mapping[IdentifierKind, tuple[str, ...]]) -> str | None:
        """Return the keyed hash that groups one person's requests."""
        for kind in _GROUPED_BY:
            values = identifiers.get(kind)
            if values:
                return self._grouping.mac(f"{kind}\x1f{min(values).strip().lower()}".encode()).hex()
        return None

    def identity(self, identifiers: Mapping[IdentifierKind, tuple[str, ...]]) -> str:
        """Return the keyed hash of all of them: mail addresses in any case, as for `person`, all else to the letter."""
        each = {
            f"{kind}\x1f{value.strip().lower() if kind is IdentifierKind.EMAIL else value}"
            for kind, values in identifiers.items()
            for value in values
        }
        return self._grouping.mac("\x1e".join(["identity", *sorted(each)]).encode()).hex()

    def patch(self, data: SubjectData) -> str | None:
        """Return the keyed hash of what is to be changed."""
        if not data.changes:
            return None
        text = "\x1e".join(sorted(f"{change.field}\x1f{change.new}" for change in data.changes))
        return self._grouping.mac(text.encode()).hex()


def _read(plaintext: bytes) -> SubjectData:
    try:
        return SubjectData.model_validate_json(plaintext)
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors(include_input=False, include_url=False)[0]["loc"][:1])
        raise ProtocolViolation(
            QuarantineReason.INVALID_FIELD,
            field=f"sealed.{field}" if field in SubjectData.model_fields else "sealed",
            remedy="seal a SubjectData document: identifiers by kind, and changes",
        ) from None
