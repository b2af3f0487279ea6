"""The person, as the two ends of a seal see them: the plaintext that never leaves memory.

Room rules: these models are only ever serialised in order to be sealed; `repr` and `str` show kinds and counts.
"""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Annotated

from pydantic import Field, StringConstraints

from schemas.base import Record
from schemas.vocabulary import IdentifierForm, IdentifierKind, Right

__all__ = ["CHANGING", "FieldChange", "Identifiers", "Need", "SubjectData", "in_form"]

#: Rights that say what to write: a request for one of them carries `changes`, and no other does.
CHANGING = frozenset({Right.RECTIFICATION, Right.COMPLETION})

_Value = Annotated[str, StringConstraints(min_length=1, max_length=320, strip_whitespace=True)]
#: Identifier values by kind; several of one kind are possible (two addresses, three cookies).
Identifiers = dict[IdentifierKind, tuple[_Value, ...]]


class Need(Record):
    """An identifier that a system can use, in the form it needs it."""

    kind: IdentifierKind
    form: IdentifierForm = IdentifierForm.RAW


class FieldChange(Record):
    """One field to rectify or complete. `old_sha256` guards against overwriting a value the person did not mean."""

    field: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
    new: Annotated[str, StringConstraints(max_length=1000)]
    old_sha256: Annotated[str | None, StringConstraints(pattern=r"^[0-9a-f]{64}$")] = None

    def __repr_args__(self) -> list[tuple[str | None, object]]:
        """Name the field, nothing of its value; `repr`, `str` and pretty-printers all ask here."""
        return [("field", self.field)]

    def __str__(self) -> str:
        return repr(self)


class SubjectData(Record):
    """Everything about the person that an order or request carries: who, and what to change."""

    identifiers: Annotated[Identifiers, Field(default_factory=dict)]
    changes: Annotated[tuple[FieldChange, ...], Field(max_length=50)] = ()

    def __repr_args__(self) -> list[tuple[str | None, object]]:
        """Name kinds and counts; `repr`, `str` and pretty-printers all ask here."""
        kinds = {kind.value: len(values) for kind, values in self.identifiers.items()}
        return [("identifiers", kinds), ("changes", len(self.changes))]

    def __str__(self) -> str:
        return repr(self)

    def to_bytes(self) -> bytes:
        """Return canonical bytes, for sealing and for nothing else."""
        ordered = {kind: tuple(sorted(set(self.identifiers[kind]))) for kind in sorted(self.identifiers)}
        data = SubjectData.trusted(identifiers=ordered, changes=self.changes)
        return data.__pydantic_serializer__.to_json(data, exclude_none=True)


def in_form(value: str, form: IdentifierForm) -> str:
    """Return an identifier in the form a system needs; hashes are of the trimmed, lower-cased value, in hexadecimal."""
    plain = value.strip()
    match form:
        case IdentifierForm.RAW:
            return plain
        case IdentifierForm.LOWER:
            return plain.lower()
        case IdentifierForm.MD5:
            return hashlib.md5(plain.lower().encode(), usedforsecurity=False).hexdigest()
        case IdentifierForm.SHA256:
            return hashlib.sha256(plain.lower().encode()).hexdigest()
        case IdentifierForm.E164:
            return _e164(plain)


def _e164(number: str) -> str:
    """Return a telephone number as ITU-T E.164 writes it; of a national one, whose country nobody has said, its digits."""
    text = unicodedata.normalize("NFKC", number)
    international = text.startswith(("+", "00"))
    if international:
        text = text.replace("(0)", "")  # the national prefix, which nobody dials from abroad
    digits = "".join(str(unicodedata.decimal(char)) for char in text if char.isdecimal())
    return f"+{digits.removeprefix('00') if text.startswith('0') else digits}" if international else digits
