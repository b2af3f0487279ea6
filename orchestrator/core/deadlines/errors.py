"""What the deadline engine refuses: each refusal is of one event and leaves every date as it was.

Room rules: the message names the field, the remedy and, where one exists, the last valid date; never a person.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date
from difflib import get_close_matches

from schemas.errors import ConfigurationError, ProtocolViolation
from schemas.vocabulary import QuarantineReason

__all__ = [
    "ClockEventRejected",
    "ClockOutOfOrder",
    "ExtensionDateInvalid",
    "ExtensionNotOffered",
    "ExtensionTooLate",
    "closest_first",
    "unknown_name",
]

_FAMILY = re.compile(r"[./-]")


class ClockEventRejected(ProtocolViolation):
    """A clock event that cannot be: do not append it to the request's events, the dates stay as they were."""


class ClockOutOfOrder(ClockEventRejected):
    """The events tell no possible story: no receipt first, two receipts, an answer before the question."""

    def __init__(self, *, field: str, remedy: str) -> None:
        super().__init__(QuarantineReason.ILLEGAL_MOVE, field=field, remedy=remedy)


class ExtensionTooLate(ClockEventRejected):
    """The notice of the extension left after `last_valid_on` (GDPR Art. 12(3): within the first month)."""

    def __init__(self, *, rule: str, last_valid_on: date, sent_on: date) -> None:
        super().__init__(
            QuarantineReason.EXTENSION_TOO_LATE,
            field="notice_sent_at",
            remedy=(
                f"under {rule} the notice had to leave by {last_valid_on} and left on {sent_on}; answer by the first due date"
            ),
        )
        self.last_valid_on = last_valid_on


class ExtensionNotOffered(ClockEventRejected):
    """The rule knows no extension."""

    def __init__(self, *, rule: str) -> None:
        super().__init__(
            QuarantineReason.ILLEGAL_MOVE, field="rule", remedy=f"{rule} allows no extension; answer by the due date"
        )


class ExtensionDateInvalid(ClockEventRejected):
    """`until_on` is missing where the rule leaves the date open, or lies outside what the rule allows."""

    def __init__(self, *, remedy: str) -> None:
        super().__init__(QuarantineReason.ILLEGAL_MOVE, field="until_on", remedy=remedy)


def closest_first(value: str, valid: Iterable[str]) -> list[str]:
    """Return the valid names: those most like `value`, then those of its family (`eu.`, `GB-`, `Europe/`), then the others."""
    names = sorted(valid)
    folded = {name.casefold(): name for name in reversed(names)}
    close = [folded[name] for name in get_close_matches(value.casefold(), folded, n=5, cutoff=0.5)]
    family = _FAMILY.split(value.casefold())[0]
    others = (name for name in names if name not in close)
    return [*close, *sorted(others, key=lambda name: _FAMILY.split(name.casefold())[0] != family)]


def unknown_name(field: str, value: str, valid: Iterable[str], *, shown: int = 400) -> ConfigurationError:
    """Return the error for a name that is not in a closed list: a sentence with the valid ones, the closest first."""
    names = closest_first(value, valid)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ConfigurationError(f"{field}: {value!r} is not known; valid are {', '.join(names[:shown])}{more}")
