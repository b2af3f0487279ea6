"""Keys derived from one configured development key.

Every purpose and context has its own key (HKDF), so a seal opens only where it belongs. What this step cannot do is destroy a
key: whoever holds the development key can open every seal. Use it on a laptop, not with people's data.

Room rules: pure computation; the key comes in by the constructor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from schemas.errors import ProtocolViolation
from schemas.orders import order_binding
from schemas.sealed import Sealed, SealingKey, seal, unsafe_reveal
from schemas.subject import SubjectData
from schemas.vocabulary import IdentifierKind, QuarantineReason

__all__ = ["DevelopmentKeys"]

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


class DevelopmentKeys:
    """All keys from one. Implements `orchestrator.ports.Keys`."""

    def __init__(self, root: SealingKey) -> None:
        self._root = root
        self._intake = root.derive("intake")
        self._grouping = root.derive("grouping")

    def open_intake(self, subject_request_id: str, sealed: Sealed) -> SubjectData:
        """Open what a portal sealed."""
        return _read(unsafe_reveal(sealed, self._intake, associated=subject_request_id))

    def open_yielded(self, subject_request_id: str, system: str, order_id: str, sealed: Sealed) -> SubjectData:
        """Open identifiers that a connector found."""
        key = self._root.derive("report", subject_request_id, system, order_id)
        return _read(unsafe_reveal(sealed, key, associated=order_binding(subject_request_id, system, order_id)))

    def seal_order(self, subject_request_id: str, system: str, order_id: str, data: SubjectData) -> Sealed:
        """Seal what one system needs, bound to its order."""
        key = self._root.derive("order", subject_request_id, system, order_id)
        return seal(data.to_bytes(), key, associated=order_binding(subject_request_id, system, order_id))

    def seal_stored(self, subject_request_id: str, finds: Sequence[SubjectData]) -> bytes:
        """Seal what was found of a person, in the order of finding, for the store."""
        key = self._root.derive("store", subject_request_id)
        return (
            seal(b"\n".join(find.to_bytes() for find in finds), key, associated=subject_request_id).model_dump_json().encode()
        )

    def open_stored(self, subject_request_id: str, sealed: bytes) -> tuple[SubjectData, ...]:
        """Open what the store kept."""
        key = self._root.derive("store", subject_request_id)
        plain = unsafe_reveal(Sealed.model_validate_json(sealed), key, associated=subject_request_id)
        return tuple(_read(line) for line in plain.split(b"\n"))

    def person(self, identifiers: Mapping[IdentifierKind, tuple[str, ...]]) -> str | None:
        """Return the keyed hash that groups one person's requests."""
        for kind in _GROUPED_BY:
            values = identifiers.get(kind)
            if values:
                return self._grouping.mac(f"{kind}\x1f{min(values).strip().lower()}".encode()).hex()
        return None

    def patch(self, data: SubjectData) -> str | None:
        """Return the keyed hash of what is to be changed."""
        if not data.changes:
            return None
        text = "\x1e".join(sorted(f"{change.field}\x1f{change.new}" for change in data.changes))
        return self._grouping.mac(text.encode()).hex()

    def portal_key(self) -> SealingKey:
        """Return the key that portals seal to."""
        return self._intake


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
