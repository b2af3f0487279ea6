"""Whether a field may be changed as a rectification or completion asks (GDPR Art. 16).

Room rules: pure; an error names the field and no value.
"""

from __future__ import annotations

import hashlib

from schemas.errors import SystemRejected
from schemas.subject import FieldChange

__all__ = ["completes", "is_as_named", "rectifies"]


def is_as_named(held: str, change: FieldChange) -> bool:
    """Tell whether a value is the one that the person called wrong; true if the person named none."""
    forms = (held, held.strip(), held.strip().lower())
    return change.old_sha256 is None or change.old_sha256 in {hashlib.sha256(form.encode()).hexdigest() for form in forms}


def rectifies(held: str, change: FieldChange) -> bool:
    """Tell whether a wrong value is to be replaced. Raises `SystemRejected` if another stands there than the person named."""
    if held == change.new:
        return False
    if not is_as_named(held, change):
        raise SystemRejected(f"field {change.field}: holds another value than the person named: a person must look")
    return True


def completes(held: str, change: FieldChange) -> bool:
    """Tell whether an empty field is to be filled. Raises `SystemRejected` if another value stands there."""
    if held == change.new:
        return False
    if held.strip():
        raise SystemRejected(f"field {change.field}: already filled with another value: this is a rectification")
    return True
