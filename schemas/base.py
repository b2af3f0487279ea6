"""The one base of every message, and the rules all of them share.

Room rules: frozen, closed (`extra="forbid"`), aware UTC instants, and no input ever quoted in an error.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

__all__ = ["Actor", "Day", "Instant", "Message", "Reason", "Record"]


#: Moments outside these years are slips of the pen, and arithmetic near the ends of the calendar overflows.
_YEARS = range(1970, 3000)


def _as_utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("needs an offset, for instance 2026-03-05T10:00:00+01:00")
    _near(value)
    return value.astimezone(UTC)


def _near(value: date) -> date:
    if value.year not in _YEARS:
        raise ValueError(f"needs a year from {_YEARS.start} to {_YEARS[-1]}")
    return value


#: An aware instant, kept in UTC.
Instant = Annotated[datetime, AfterValidator(_as_utc)]
#: A local calendar date.
Day = Annotated[date, AfterValidator(_near)]

#: Dates and times of day are long numbers that name nobody.
_MOMENT = re.compile(r"\b(?:19|20)\d{2}-\d{2}-\d{2}\b|\b\d{1,2}:\d{2}(?::\d{2})?\b")
_LOOKS_PERSONAL = re.compile(r"[@\uff20\ufe6b]|\d{6,}|(?:\d[\s().\u00a0/-]{0,3}){9,}")


def _names_nobody(value: str) -> str:
    if _LOOKS_PERSONAL.search(_MOMENT.sub("a moment", value)):
        raise ValueError("looks as if it names a person (an address or a long number): describe the reason without it")
    return value


#: Free text by an operator: shown in confirmations, so it must not name the person.
Reason = Annotated[str, StringConstraints(min_length=3, max_length=300, strip_whitespace=True), AfterValidator(_names_nobody)]
#: Who acted: an operator's or service's id, no mail address.
Actor = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9._:-]{1,63}$")]


class Record(BaseModel):
    """A frozen value inside a message."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, use_enum_values=False)

    @classmethod
    def trusted(cls, **fields: Any) -> Self:
        """Build from values that this process made itself, without validating them again: for hot paths only.

        The bytes are those of a validated instance. Raises `TypeError` for a field that does not exist or is missing.
        """
        plan = _PLANS.get(cls)
        if plan is None:
            plan = _PLANS[cls] = _plan_of(cls)
        defaults, required, names = plan
        # The defaults come first, so every field has its declared place; an unknown one makes the sum longer.
        values = defaults | fields
        if len(values) != len(defaults) or not required <= fields.keys():
            raise TypeError(f"{cls.__name__}: unknown or missing fields: {sorted(required ^ fields.keys())}")
        made = cls.__new__(cls)
        _put(made, "__dict__", values)
        _put(made, "__pydantic_fields_set__", names)
        _put(made, "__pydantic_extra__", None)
        _put(made, "__pydantic_private__", None)
        return made


_put = object.__setattr__
_PLANS: dict[type[Record], tuple[dict[str, Any], frozenset[str], set[str]]] = {}


def _plan_of(kind: type[Record]) -> tuple[dict[str, Any], frozenset[str], set[str]]:
    """Return each field's default, in declared order, the fields without one, and all names. Frozen records share these."""
    fields = kind.model_fields.items()
    defaults = {name: None if info.is_required() else info.get_default(call_default_factory=True) for name, info in fields}
    return defaults, frozenset(name for name, info in fields if info.is_required()), set(defaults)


class Message(Record):
    """One record's value. `type` and `version` are literals of each subclass and stand in the headers as well."""

    version: Annotated[int, Field(description="Version of this message's shape")] = 1
