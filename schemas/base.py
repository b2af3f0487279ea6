"""The one base of every message, and the rules all of them share.

Room rules: frozen, closed (`extra="forbid"`), aware UTC instants, and no input ever quoted in an error.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

__all__ = ["Actor", "Instant", "Message", "Reason", "Record"]


def _as_utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("needs an offset, for instance 2026-03-05T10:00:00+01:00")
    return value.astimezone(UTC)


#: An aware instant, kept in UTC.
Instant = Annotated[datetime, AfterValidator(_as_utc)]

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


class Message(Record):
    """One record's value. `type` and `version` are literals of each subclass and stand in the headers as well."""

    version: Annotated[int, Field(description="Version of this message's shape")] = 1
