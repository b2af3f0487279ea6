"""The worked examples, the pinned Dutch list, and the tables: every row of them."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.core.deadlines import (
    REGIMES,
    RULES,
    Due,
    IdentityConfirmed,
    Paused,
    Received,
    Resumed,
    days_off,
    due,
    rules_for,
)
from schemas.vocabulary import HoldKind, Right

VECTORS: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("vectors.yaml").read_text())
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def computed(vector: dict[str, Any]) -> Due:
    events: list[Any] = [Received(at=datetime.fromisoformat(vector["received"]))]
    if pause := vector.get("pause"):
        kind = HoldKind(pause["kind"])
        events += [Paused(reason=kind, asked_on=pause["asked_on"]), Resumed(reason=kind, received_on=pause["received_on"])]
    if on := vector.get("identity_on"):
        events.append(IdentityConfirmed(on=on))
    return due(vector["rule"], events, zone=vector["zone"], calendar=vector["calendar"])


def test_there_are_59_worked_examples() -> None:
    """No example is lost from the file."""
    assert [v["id"] for v in VECTORS] == list(range(1, 60))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['id']}-{v['rule']}")
def test_worked_example(vector: dict[str, Any]) -> None:
    """The dates are those that were computed by hand, weekday and paused days included."""
    found = computed(vector)
    assert found.extended_due_on == vector.get("extended"), vector["why"]
    assert found.paused_days == vector.get("pause", {}).get("days", 0)
    if isinstance(vector["due"], date):
        assert found.due_on == vector["due"], vector["why"]
        assert WEEKDAYS[found.due_on.weekday()] == vector["weekday"]
    else:
        assert found.due_at == datetime.fromisoformat(vector["due"]), vector["why"]


def test_acknowledgement_rules_show_their_date_twice() -> None:
    """Where the only dated duty is the acknowledgement, it is the due date and the date to acknowledge."""
    for vector in VECTORS:
        if vector["rule"] in {"us.ccpa.ack", "uk.complaint"}:
            assert computed(vector).acknowledge_by_on == vector["due"]


@pytest.mark.parametrize(
    ("year", "days"),
    [
        (2026, "01-01 04-06 04-27 05-14 05-25 12-25 12-26"),
        (2027, "01-01 03-29 04-27 05-06 05-17 12-25 12-26"),
        (2028, "01-01 04-17 04-27 05-25 06-05 12-25 12-26"),
    ],
)
def test_dutch_list_is_pinned(year: int, days: str) -> None:
    """The Dutch holidays of 2026 to 2028 are exactly these."""
    assert sorted(days_off("NL", year)) == [date.fromisoformat(f"{year}-{day}") for day in days.split()]


def test_koningsdag_moves_to_saturday() -> None:
    """When 27 April is a Sunday the holiday is the 26th, and no weekday replaces it."""
    for year in (2025, 2031):
        assert date(year, 4, 26) in days_off("NL", year)
        assert not {date(year, 4, 27), date(year, 4, 28)} & days_off("NL", year)


def test_atw_list_adds_its_days() -> None:
    """NL-ATW is NL, 5 May, Good Friday and the days of the decree."""
    assert sorted(days_off("NL-ATW", 2026) - days_off("NL", 2026)) == [
        date(2026, 1, 2),
        date(2026, 4, 3),
        date(2026, 5, 5),
        date(2026, 5, 15),
    ]
    assert sorted(days_off("NL-ATW", 2025) - days_off("NL", 2025)) == [date(2025, 4, 18), date(2025, 5, 5)]


def test_california_list_moves_sundays_only() -> None:
    """The eleven federal days; a Sunday moves to Monday, a Saturday does not move to Friday."""
    assert sorted(days_off("US-CA*", 2026)) == [
        date(2026, month, day)
        for month, day in ((1, 1), (1, 19), (2, 16), (5, 25), (6, 19), (7, 4), (9, 7), (10, 12), (11, 11), (11, 26), (12, 25))
    ]
    assert date(2027, 7, 5) in days_off("US-CA*", 2027)


def test_lists_differ_for_four_receipt_days_of_2026() -> None:
    """NL and NL-ATW give different first dates for 3 March and 5, 14 and 15 April 2026, and no other receipt day."""

    def first(day: date, calendar: str) -> date:
        received = Received(at=datetime(day.year, day.month, day.day, 12, tzinfo=UTC))
        return due("eu.gdpr", (received,), zone="Europe/Amsterdam", calendar=calendar).due_on

    days = [date.fromordinal(n) for n in range(date(2026, 1, 1).toordinal(), date(2027, 1, 1).toordinal())]
    differing = [day for day in days if first(day, "NL") != first(day, "NL-ATW")]
    assert differing == [date(2026, 3, 3), date(2026, 4, 5), date(2026, 4, 14), date(2026, 4, 15)]


def test_conservative_differs_for_six_receipt_days_of_2026() -> None:
    """Chaining 1 + 2 months gives an earlier extended date for the receipt days that the specification names."""
    differing = []
    for n in range(date(2026, 1, 1).toordinal(), date(2027, 1, 1).toordinal()):
        day = date.fromordinal(n)
        received = Received(at=datetime(day.year, day.month, day.day, 12, tzinfo=UTC))
        total, chained = (
            due("eu.gdpr", (received,), zone="Europe/Amsterdam", calendar="-", conservative=c).extended_due_on
            for c in (False, True)
        )
        assert total is not None
        assert chained is not None
        if chained != total:
            assert chained < total
            differing.append(day)
    assert differing == [date(2026, 1, n) for n in (29, 30, 31)] + [date(2026, 5, 31), date(2026, 10, 31)]


CELLS = {
    "eu.gdpr": {Right.OBJECTION: "eu.gdpr.object_marketing", Right.UNSUBSCRIBE: "mail.oneclick", None: "eu.gdpr"},
    "uk.gdpr": {Right.OBJECTION: "uk.gdpr.object_marketing", Right.UNSUBSCRIBE: "mail.oneclick", None: "uk.gdpr"},
    "us.ccpa": {
        Right.RESTRICTION: "us.ccpa.optout",
        Right.OBJECTION: "us.ccpa.optout",
        Right.UNSUBSCRIBE: "mail.canspam",
        None: "us.ccpa",
    },
    "us.state": {Right.UNSUBSCRIBE: "mail.canspam", None: "us.state"},
    "us.state.iowa": {Right.UNSUBSCRIBE: "mail.canspam", None: "us.state.iowa"},
    "br.lgpd": {Right.ACCESS: "br.lgpd", Right.UNSUBSCRIBE: "mail.oneclick", None: "br.lgpd.other"},
    "br.lgpd.small": {Right.ACCESS: "br.lgpd.small", Right.UNSUBSCRIBE: "mail.oneclick", None: "br.lgpd.other"},
    "ca.qc.law25": {Right.UNSUBSCRIBE: "mail.casl", None: "ca.qc.law25"},
    "ca.pipeda": {Right.UNSUBSCRIBE: "mail.casl", None: "ca.pipeda"},
    "ch.fadp": {Right.UNSUBSCRIBE: "mail.oneclick", None: "ch.fadp"},
    "in.dpdp": {Right.UNSUBSCRIBE: "mail.oneclick", None: "in.dpdp.grievance"},
}


@pytest.mark.parametrize("right", list(Right))
@pytest.mark.parametrize("regime", list(REGIMES))
def test_every_right_has_a_rule_in_every_regime(regime: str, right: Right) -> None:
    """Each cell of regime and right names the expected rule, which exists."""
    expected = CELLS[regime]
    assert rules_for(regime, right) == expected.get(right, expected[None])
    assert rules_for(regime, right) in RULES


@pytest.mark.parametrize("rule_id", list(RULES))
def test_every_rule_yields_dates_in_order(rule_id: str) -> None:
    """Every rule can be computed, explains itself and says where it comes from."""
    rule = RULES[rule_id]
    found = due(rule_id, (Received(at=datetime(2026, 5, 29, 12, tzinfo=UTC)),), zone="Europe/Amsterdam", calendar="NL")
    assert found.steps
    assert found.source == rule.source
    assert found.link.startswith("https://")
    assert (found.extended_due_on is not None) == (rule.total is not None)
    assert (found.notice_by_on is not None) == rule.extends
    assert (found.inform_by_on is not None) == (rule.inform is not None)
    assert Due.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize("host_zone", ["Pacific/Kiritimati", "America/Los_Angeles", "Pacific/Pago_Pago", "UTC"])
def test_same_dates_on_any_host(host_zone: str) -> None:
    """The host's own time zone changes nothing: a process that lives elsewhere computes the same."""
    script = (
        "import time; time.tzset()\n"
        "from orchestrator.core.deadlines import *\n"
        "from datetime import datetime\n"
        "for rule in RULES:\n"
        "    for at in ('2026-02-27T23:30:00+00:00', '2026-03-28T22:59:59+00:00'):\n"
        "        e = (Received(at=datetime.fromisoformat(at)),)\n"
        "        print(due(rule, e, zone='Europe/Amsterdam', calendar='NL').model_dump_json())\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "TZ": host_zone},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    here = [
        due(rule, (Received(at=datetime.fromisoformat(at)),), zone="Europe/Amsterdam", calendar="NL").model_dump_json()
        for rule in RULES
        for at in ("2026-02-27T23:30:00+00:00", "2026-03-28T22:59:59+00:00")
    ]
    assert run.stdout.splitlines() == here
