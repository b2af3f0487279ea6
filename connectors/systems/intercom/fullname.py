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
    the change names. Raises `SystemRejected` where the held name does not show where it divides, or is another one than named.
    """
    is_whole = set(changes) >= set(PARTS)
    if is_whole and (not held.strip() or not any(change.old_sha256 for change in changes.values())):
        return " ".join(changes[part].new for part in PARTS)
    words = held.split()
    for n in range(1, len(words)):
        stands = dict(zip(PARTS, (" ".join(words[:n]), " ".join(words[n:])), strict=True))
        if all(_fits(stands[part], change, is_whole) for part, change in changes.items()):
            after = stands | {part: change.new for part, change in changes.items()}
            return " ".join(after[part] for part in PARTS)
    raise SystemRejected("intercom holds a whole name only: send name, or both parts, or one part with its old value's digest")


def _fits(stands: str, change: FieldChange, is_whole: bool) -> bool:
    """Tell whether the change is about what stands there, or has been made before."""
    is_named = change.old_sha256 == hashlib.sha256(stands.encode()).hexdigest()
    return is_named or stands == change.new or (is_whole and change.old_sha256 is None)
