"""Which days are no working days, by calendar name.

Four lists are our own, because libraries differ on them: `NL`, `NL-ATW`, `US-CA*` and `weekends`. `-` knows no days off at all.
Every other name is an ISO 3166 country (`FR`) or subdivision (`GB-ENG`, `DE-BY`), answered by the `holidays` data set.
Saturdays and Sundays are always off, except in `-`. A shorter list can only give an earlier date.

Sources: Reg. 1182/71 art. 2; Algemene termijnenwet art. 3; Cal. Gov. Code 6700; 5 USC 6103. Details in docs/deadlines.md.

Room rules: pure functions of (name, day); sets are cached per name and year, which no caller can see.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from functools import cache, lru_cache

import holidays

from orchestrator.core.deadlines.errors import unknown_name

__all__ = [
    "OWN_CALENDARS",
    "PLAIN",
    "WEEKENDS",
    "add_business_days",
    "calendar_names",
    "check_calendar",
    "days_off",
    "easter",
    "is_working_day",
    "roll_forward",
]

#: Plain calendar days: every day is a working day and nothing is rolled.
PLAIN = "-"
#: Saturdays and Sundays and no holiday at all: the strict reading of "business day".
WEEKENDS = "weekends"

_DAY = timedelta(days=1)
_SATURDAY = 5
_SUNDAY = 6
#: Days equated to holidays by royal decree under Algemene termijnenwet art. 3(3); renewed about every three years.
_ATW_DECREE = frozenset({date(2026, 1, 2), date(2026, 5, 15), date(2027, 5, 7), date(2028, 4, 28), date(2028, 5, 26)})


def easter(year: int) -> date:
    """Return Easter Sunday in the Gregorian calendar (the anonymous algorithm of 1876, Meeus chapter 8)."""
    century, of_century = divmod(year, 100)
    golden = year % 19
    skipped = century // 4 + (century - (century + 8) // 25 + 1) // 3
    epact = (19 * golden + century - skipped + 15) % 30
    weekday = (32 + 2 * (century % 4) + 2 * (of_century // 4) - epact - of_century % 4) % 7
    late = (golden + 11 * epact + 22 * weekday) // 451
    month, day = divmod(epact + weekday - 7 * late + 114, 31)
    return date(year, month, day + 1)


def _nl(year: int) -> frozenset[date]:
    sunday = easter(year)
    kings = date(year, 4, 27)
    return frozenset(
        {
            date(year, 1, 1),
            sunday + _DAY,
            kings - _DAY if kings.weekday() == _SUNDAY else kings,
            sunday + timedelta(days=39),
            sunday + timedelta(days=50),
            date(year, 12, 25),
            date(year, 12, 26),
        }
    )


def _nl_atw(year: int) -> frozenset[date]:
    decree = {day for day in _ATW_DECREE if day.year == year}
    return _nl(year) | {date(year, 5, 5), easter(year) - 2 * _DAY} | decree


def _nth(year: int, month: int, weekday: int, nth: int) -> date:
    """Return the nth given weekday of a month; nth 0 is the last one of the month before."""
    first = date(year, month, 1)
    return first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * (nth - 1))


def _us_ca_common(year: int) -> frozenset[date]:
    fixed = (date(year, 1, 1), date(year, 6, 19), date(year, 7, 4), date(year, 11, 11), date(year, 12, 25))
    moved = {day + _DAY for day in fixed if day.weekday() == _SUNDAY}
    mondays = {
        _nth(year, 1, 0, 3),  # Martin Luther King Jr. Day
        _nth(year, 2, 0, 3),  # Presidents' Day
        _nth(year, 6, 0, 0),  # Memorial Day: the last Monday of May
        _nth(year, 9, 0, 1),  # Labor Day
        _nth(year, 10, 0, 2),  # Columbus Day
    }
    thanksgiving = _nth(year, 11, 3, 4)
    return frozenset(fixed) | moved | mondays | {thanksgiving}


def _none(_year: int) -> frozenset[date]:
    return frozenset()


_OWN: dict[str, Callable[[int], frozenset[date]]] = {
    "NL": _nl,
    "NL-ATW": _nl_atw,
    "US-CA*": _us_ca_common,
    WEEKENDS: _none,
    PLAIN: _none,
}

#: Our own lists, with the sentence that docs/deadlines.md prints.
OWN_CALENDARS: dict[str, str] = {
    "NL": (
        "1 Jan, Easter Monday, Koningsdag (27 Apr; Sat 26 Apr when the 27th is a Sunday), Ascension Day, Whit Monday, 25 and "
        "26 Dec. Not Good Friday, 1 May or 5 May; no substitute weekday"
    ),
    "NL-ATW": "`NL` and 5 May every year, Good Friday, and the days of the royal decree for 2026 to 2028",
    "US-CA*": (
        "holidays of both US federal law and Cal. Gov. Code 6700: the eleven federal days, a Sunday moved to Monday, and no "
        "federal Friday for a Saturday"
    ),
    WEEKENDS: "Saturdays and Sundays only: the strict reading of business day",
    PLAIN: "plain calendar days: nothing is rolled, not even from a Sunday",
}


@cache
def calendar_names() -> tuple[str, ...]:
    """Return every valid calendar name: our own lists, then countries and subdivisions, sorted."""
    names = set(_OWN)
    for country, subdivisions in holidays.list_supported_countries(include_aliases=False).items():
        if country == "NL":
            continue  # the library's list for NL counts days that the law does not: ours answers instead
        names.add(country)
        names.update(f"{country}-{part}" for part in subdivisions if " " not in part)
    return tuple(sorted(names))


@lru_cache(maxsize=256)
def check_calendar(name: str) -> str:
    """Return the name if it is valid.

    Raises `schemas.errors.ConfigurationError`, which lists the valid ones: our own lists, countries, and the subdivisions of
    the country that was meant.
    """
    if name in _OWN or name in calendar_names():
        return name
    country = name.partition("-")[0].upper()
    near = [known for known in calendar_names() if known in _OWN or "-" not in known or known.startswith(f"{country}-")]
    raise unknown_name("calendar", name, near)


@lru_cache(maxsize=4096)
def days_off(name: str, year: int) -> frozenset[date]:
    """Return the holidays of one year, without the Saturdays and Sundays that are no holidays. Cached.

    Raises `schemas.errors.ConfigurationError` for an unknown name.
    """
    check_calendar(name)
    own = _OWN.get(name)
    if own is not None:
        return own(year)
    country, _, subdivision = name.partition("-")
    listed = holidays.country_holidays(country, subdiv=subdivision or None, years=year, expand=False)
    return frozenset(day for day in listed if day.year == year)


def is_working_day(name: str, day: date) -> bool:
    """Tell whether `day` is a working day in the calendar (Reg. 1182/71 art. 2(2)); in `-` every day is."""
    return name == PLAIN or (day.weekday() < _SATURDAY and day not in days_off(name, day.year))


def roll_forward(name: str, day: date) -> date:
    """Return `day`, or the first working day after it (Reg. 1182/71 art. 3(4))."""
    while not is_working_day(name, day):
        day += _DAY
    return day


def add_business_days(name: str, day: date, count: int) -> date:
    """Return the `count`th working day after `day`, which itself never counts."""
    while count:
        day += _DAY
        count -= is_working_day(name, day)
    return day
