"""Due dates computed a second time, from facts alone and without the orchestrator's tables.

Months and paused days under the GDPR (Reg. 1182/71 arts. 2-3), periods in calendar days and in hours. The holidays of the
Netherlands are known here, and the calendars `-` and `weekends`; under another calendar the end may lie up to ten days behind
the counted day, as long as it is no weekend. For every other rule only consistency is checked: `How` says which.

Room rules: pure functions; nothing of `orchestrator.core` is used, because its mistakes are what this room looks for.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

__all__ = ["Clock", "Dates", "How", "check_dates", "rolled"]

_DAY = timedelta(days=1)
_LONGEST_ROLL = timedelta(days=10)


class How(StrEnum):
    """How thoroughly a date was checked."""

    RECOMPUTED = "recomputed"
    #: The holidays of the calendar are not known here.
    WITHIN_ROLL = "recomputed up to holidays"
    CONSISTENT = "consistency only"


#: rule -> months of the first and the extended period; ends on a working day; a question to the person adds days.
_MONTHS: Mapping[str, tuple[int, int | None]] = {"eu.gdpr": (1, 3), "eu.art19": (1, 3), "eu.gdpr.refuse": (1, None)}
#: rule -> calendar days of the first and the extended period; never rolled, never paused.
_DAYS: Mapping[str, tuple[int, int | None]] = {
    "us.ccpa": (45, 90),
    "us.state": (45, 90),
    "us.state.iowa": (90, 135),
    "us.ca.delete_act": (45, None),
}
#: rule -> hours from the submission; never rolled, never extended.
_HOURS: Mapping[str, int] = {"eu.gdpr.object_marketing": 48, "uk.gdpr.object_marketing": 48, "mail.oneclick": 48}


@dataclass(slots=True)
class Clock:
    """What happened to the clock of one request. `pauses` are [reason, asked, answered or None]."""

    rule: str
    zone: str
    calendar: str
    submitted_at: datetime
    pauses: list[tuple[str, date, date | None]] = field(default_factory=list)
    notices: list[datetime] = field(default_factory=list)
    #: The day that the last notice named, if it named one.
    named_on: date | None = None

    def ask(self, reason: str, asked_on: date) -> None:
        """A question went out; one that is still open is not asked twice."""
        if not any(pause[0] == reason and pause[2] is None for pause in self.pauses):
            self.pauses.append((reason, asked_on, None))

    def answer(self, reason: str, received_on: date) -> None:
        """The answer came."""
        self.pauses = [
            (kind, asked, received_on if kind == reason and answered is None else answered)
            for kind, asked, answered in self.pauses
        ]

    def identify(self, at: datetime) -> None:
        """The identity is known: an open question for it has its answer, or is void if the answer came before it."""
        on = local(at, self.zone)
        self.pauses = [p for p in self.pauses if not (p[0] == "identity" and p[2] is None and p[1] > on)]
        self.answer("identity", on)


@dataclass(frozen=True, slots=True)
class Dates:
    """Due dates as the journal or a confirmation says them."""

    due_on: date | None
    extended_due_on: date | None
    notice_by_on: date | None
    applicable_due_on: date | None
    due_at: datetime

    @classmethod
    def of(cls, due: Mapping[str, Any]) -> Dates:
        """Read them from a journal's JSON. Raises `KeyError`, `TypeError` or `ValueError` if they are not there."""

        def day(name: str) -> date | None:
            return date.fromisoformat(due[name]) if due.get(name) else None

        return cls(
            day("due_on"),
            day("extended_due_on"),
            day("notice_by_on"),
            day("applicable_due_on"),
            datetime.fromisoformat(due["due_at"]),
        )


def local(at: datetime, zone: str) -> date:
    """Return the local date at the seat."""
    return at.astimezone(ZoneInfo(zone)).date()


def check_dates(clock: Clock, said: Dates) -> tuple[How, str | None]:
    """Return how the dates were checked, and what is wrong with them, if anything is."""
    try:
        zone = ZoneInfo(clock.zone)
    except (ZoneInfoNotFoundError, ValueError):
        return How.CONSISTENT, "the zone is unknown"
    if clock.rule in _HOURS:
        wanted = clock.submitted_at + timedelta(hours=_HOURS[clock.rule])
        wrong = "the end is not so many hours after the submission" if said.due_at != wanted else None
        return How.RECOMPUTED, wrong or ("a period in hours was extended" if clock.notices else None)
    wrong = _inconsistent(clock, said, zone)
    if wrong or clock.rule not in (*_MONTHS, *_DAYS):
        return How.CONSISTENT, wrong
    exact = clock.rule in _DAYS or clock.calendar in _HOLIDAYS
    return How.RECOMPUTED if exact else How.WITHIN_ROLL, _recomputed(clock, said)


def _inconsistent(clock: Clock, said: Dates, zone: ZoneInfo) -> str | None:
    if said.due_on is None or said.applicable_due_on is None:
        return "a due date is missing"
    if said.due_at != datetime.combine(said.applicable_due_on + _DAY, time(), zone).astimezone(UTC):
        return "the period does not end at 24:00 of the applicable due date at the seat"
    possible = {said.due_on, said.extended_due_on, clock.named_on}
    if said.applicable_due_on not in possible or said.applicable_due_on < said.due_on:
        return "the applicable due date is neither the first nor the extended one"
    return None


def _recomputed(clock: Clock, said: Dates) -> str | None:
    """Return what is wrong with the dates, whichever of the pauses count; of a known calendar it is known which do."""
    start = local(clock.submitted_at, clock.zone)
    in_months = clock.rule in _MONTHS
    first, total = (_MONTHS if in_months else _DAYS)[clock.rule]
    due_on = _end(start, first, in_months=in_months)
    extended_on = _end(start, total, in_months=in_months) if total else None
    if not in_months:
        return _differs(clock, said, due_on, due_on, extended_on)
    last = extended_on if clock.notices and extended_on else due_on
    found = [
        _differs(clock, said, due_on, due_on + paused, extended_on + paused if extended_on else None)
        for paused in sorted(_paused(clock, start, last))
    ]
    return None if None in found else found[0]


def _differs(clock: Clock, said: Dates, unpaused_on: date, due_on: date, extended_on: date | None) -> str | None:
    fits = _fits_rolled if clock.rule in _MONTHS else _fits_exactly
    assert said.due_on is not None, "consistency was checked before"
    if not fits(clock.calendar, due_on, said.due_on):
        return "the first due date is another one"
    later_on = said.extended_due_on
    if later_on is not None and (extended_on is None or not fits(clock.calendar, extended_on, later_on)):
        return "the extended due date is another one"
    wanted = (clock.named_on or later_on) if clock.notices else said.due_on
    if clock.named_on and later_on and clock.named_on > later_on:
        return "the extension names a day behind the last that the law allows"
    if wanted is None or said.applicable_due_on != max(wanted, said.due_on):
        return "the extended date applies exactly if there is an extension, and here it does not so"
    return _notice_wrong(clock, said, unpaused_on)


def _notice_wrong(clock: Clock, said: Dates, unpaused_on: date) -> str | None:
    for notice in clock.notices:
        limit = said.notice_by_on or unpaused_on
        if local(notice, clock.zone) > limit:  # the last day still counts
            return "the notice of the extension left too late to be valid"
    return None


def _end(start: date, count: int, *, in_months: bool) -> date:
    if not in_months:
        return start + timedelta(days=count)
    years, month = divmod(start.month - 1 + count, 12)
    year = start.year + years
    return date(year, month + 1, min(start.day, monthrange(year, month + 1)[1]))


def _paused(clock: Clock, start: date, last: date) -> set[timedelta]:
    """Days between question and answer, a day in two pauses once; a question after the end cannot revive the period.

    Where holidays are not known, a question just behind the end may have been within it: then it counts, or does not.
    """
    longest = timedelta(0) if clock.calendar in _HOLIDAYS else _LONGEST_ROLL
    possible = {(timedelta(0), start)}
    for reason, asked, answered in sorted(clock.pauses, key=lambda pause: pause[1]):
        if reason not in {"identity", "clarification"} or answered is None:
            continue
        before, possible = possible, set()
        for total, free_from in before:
            end = rolled(clock.calendar, last + total)
            if asked <= end + longest:
                more = max(timedelta(0), answered - max(asked, free_from))
                possible.add((total + more, max(free_from, answered)))
            if asked > end:
                possible.add((total, free_from))
    return {total for total, _ in possible}


def _fits_exactly(_calendar: str, wanted: date, said: date) -> bool:
    return said == wanted


def _fits_rolled(calendar: str, wanted: date, said: date) -> bool:
    if calendar in _HOLIDAYS:
        return said == rolled(calendar, wanted)
    return said.weekday() < 5 and wanted <= said <= wanted + _LONGEST_ROLL


def rolled(calendar: str, day: date) -> date:
    """Return the first working day on or after `day`; of an unknown calendar only the weekends are known."""
    if calendar == "-":
        return day
    off = _HOLIDAYS.get(calendar, _none)
    while day.weekday() >= 5 or day in off(day.year):
        day += _DAY
    return day


def _none(_year: int) -> frozenset[date]:
    return frozenset()


def _easter(year: int) -> date:
    """Return Easter Sunday, by Gauss's method with Lichtenberg's corrections (1997)."""
    k = year // 100
    m = 15 + (3 * k + 3) // 4 - (8 * k + 13) // 25
    a = year % 19
    d = (19 * a + m) % 30
    r = (d + a // 11) // 29
    full_moon = 21 + d - r
    first_sunday = 7 - (year + year // 4 + 2 - (3 * k + 3) // 4) % 7
    return date(year, 3, 1) + timedelta(days=full_moon + 7 - (full_moon - first_sunday) % 7 - 1)


def _netherlands(year: int) -> frozenset[date]:
    """Public holidays of the Netherlands as offices keep them; the King's birthday moves off a Sunday to the Saturday."""
    king = date(year, 4, 27)
    easter = _easter(year)
    moving = {easter + n * _DAY for n in (1, 39, 50)}
    return frozenset({date(year, 1, 1), king - _DAY if king.weekday() == 6 else king, *moving, *_christmas(year)})


def _christmas(year: int) -> tuple[date, date]:
    return date(year, 12, 25), date(year, 12, 26)


_HOLIDAYS: Mapping[str, Any] = {"NL": _netherlands, "weekends": _none, "-": _none}
