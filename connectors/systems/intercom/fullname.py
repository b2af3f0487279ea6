"""Change one part of a name where only the whole of it is held.

Room rules: pure; a guess at where a name divides is never made, a person must look instead.
"""

from __future__ import annotations

import hashlib

from schemas.errors import SystemRejected
from schemas.subject import FieldChange

__all__ = ["PARTS", "with_parts"]

#: Our fields that are parts of a whole name, in the order in which they stand in it.
PARTS = ("first_name", "last_name")


def with_parts(held: str, changes: dict[str, FieldChange]) -> str:
    """Return the whole name after changes of `first_name`, `last_name` or both.

    Both given: they are the whole name. One given: it takes the place of that beginning or end of the held name whose digest
    the change names. Raises `SystemRejected` where the held name does not show where it divides.
    """
    if set(changes) >= set(PARTS):
        return " ".join(changes[part].new for part in PARTS)
    ((part, change),) = changes.items()
    words = held.split()
    divisions = [(" ".join(words[:n]), " ".join(words[n:])) for n in range(1, len(words))]
    for first, last in divisions:
        named = first if part == "first_name" else last
        whole = f"{change.new} {last}" if part == "first_name" else f"{first} {change.new}"
        if change.old_sha256 == hashlib.sha256(named.encode()).hexdigest() or named == change.new:
            return whole
    raise SystemRejected(f"intercom holds a whole name only: send name, or both parts, or {part} with its old value's digest")
