"""The counting itself: where a period starts, what the pauses add, on which day it ends, and each step in words.

Months and days are added first, paused days after that, and only the last day is rolled, once (Reg. 1182/71 art. 3(3)-(4)).

Room rules: arithmetic on local dates; a `Count` lives for one call of `due` and is seen by nobody else.
"""

from __future__ import annotations

from datetime import date, timedelta

from orchestrator.core.deadlines.calendars import roll_forward
from orchestrator.core.deadlines.periods import Period, Unit, add_months, add_period
from orchestrator.core.deadlines.replay import Pause, Story
from orchestrator.core.deadlines.rule import ClockStops, Notice, Rule, Start
from schemas.vocabulary import HoldKind, Right

__all__ = ["Count", "say"]

_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
#: DPO art. 19(3): the person has ten days to confirm the request after a cost share was announced.
_SWISS_REFLECTION = timedelta(days=10)
_STOPPING: dict[ClockStops, frozenset[HoldKind]] = {
    ClockStops.NEVER: frozenset(),
    ClockStops.ADDS_DAYS: frozenset({HoldKind.IDENTITY, HoldKind.CLARIFICATION}),
    ClockStops.UK: frozenset({HoldKind.IDENTITY, HoldKind.FEE, HoldKind.CLARIFICATION}),
    ClockStops.SWISS_FEE: frozenset({HoldKind.FEE}),
}


def say(day: date) -> str:
    """Return a date as people check it: weekday and ISO date, in English on any host."""
    return f"{_WEEKDAYS[day.weekday()]} {day.isoformat()}"


class Count:
    """One rule applied to one story, step by step.

    `roll_by` names the calendar whose days off move a last day; `days_of` the list that business days are counted by.
    """

    __slots__ = ("conservative", "days_of", "paused_days", "paused_since", "roll_by", "rule", "starts_on", "steps")

    def __init__(self, rule: Rule, roll_by: str, days_of: str, starts_on: date, *, conservative: bool) -> None:
        self.rule = rule
        self.roll_by = roll_by
        self.days_of = days_of
        self.starts_on = starts_on
        self.conservative = conservative
        self.paused_days = 0
        self.paused_since: date | None = None
        self.steps: list[str] = []

    def start(self, story: Story, zone: str) -> None:
        """Say where the period starts: on the local date at the seat, never the UTC date."""
        sent = self.rule.starts is Start.SENT
        word, at = ("sent", story.sent_at) if sent else ("received", story.received_at)
        self.steps.append(f"{word} {at:%Y-%m-%dT%H:%M}Z = {say(self.starts_on)} in {zone}: the period is counted from that day")

    def stop_for(self, story: Story, right: Right | None) -> None:
        """Let the questions and answers of the story stop the clock as far as the rule knows that."""
        rule = self.rule
        stopping = _STOPPING[rule.stops]
        if rule.stops is ClockStops.UK and right not in (None, Right.ACCESS):
            stopping -= {HoldKind.CLARIFICATION}
        effective: list[Pause] = []
        for pause in sorted(story.pauses, key=lambda p: p.asked_on):
            if pause.reason in stopping:
                effective.append(pause)
            else:
                self.steps.append(f"{pause.reason} asked {say(pause.asked_on)}: does not stop this clock")
        self.paused_since = next((p.asked_on for p in effective if p.received_on is None), None)
        last = rule.total if story.extensions and rule.total else rule.period
        if rule.stops is ClockStops.UK:
            self._move_start(effective, story.confirmed_on, last)
        elif rule.stops is ClockStops.SWISS_FEE:
            self._restart(effective, last)
        self._add_days(effective, last)

    def first(self, *, paused: bool = True) -> date:
        """Return the last day of the first period."""
        return self._ending(self.rule.period, f"{self.rule.duty} by" if paused else "", paused=paused)

    def extended(self, *, paused: bool = True) -> date | None:
        """Return the last day of the extended period, counted from the start and not chained to the first; None without one."""
        total = self.rule.total
        return None if total is None else self._ending(total, "if extended" if paused else "", paused=paused)

    def acknowledge_by(self) -> date | None:
        """Return the last day to confirm receipt, where the rule has a period for that."""
        return None if self.rule.acknowledge is None else self._ending(self.rule.acknowledge, "acknowledge by", paused=False)

    def inform_by(self) -> date | None:
        """Return the last day to inform about a stop, where the rule has a period for that."""
        return None if self.rule.inform is None else self._ending(self.rule.inform, "inform by", paused=False)

    def notice_by(self, sent_on: date) -> date:
        """Return the last day on which the notice of an extension may leave."""
        if self.rule.notice is Notice.DATE_OF_REQUEST:
            return add_period(sent_on, self.rule.period, days_of=self.days_of)
        paused = self.rule.notice is Notice.FIRST_DUE
        return self._ending(self.rule.period, "", paused=paused)

    def _ending(self, period: Period, label: str, *, paused: bool) -> date:
        counted = self._counted(period)
        shift = self.paused_days if paused else 0
        moved = counted + timedelta(days=shift)
        ends = roll_forward(self.roll_by, moved) if self.rule.rolls else moved
        if label:
            added = f", + {shift} paused days = {say(moved)}" if shift else ""
            rolled = f", no working day in {self.roll_by}: {say(ends)}" if ends != moved else ""
            by_list = f" of {self.days_of}" if period.unit is Unit.BUSINESS_DAYS else ""
            self.steps.append(f"{label}: {say(self.starts_on)} + {period}{by_list} = {say(counted)}{added}{rolled}")
        return ends

    def _counted(self, period: Period) -> date:
        """Return the last day before pauses and rolling; `conservative` takes the earlier of two readings."""
        counted = add_period(self.starts_on, period, days_of=self.days_of)
        if not self.conservative:
            return counted
        if period.unit is Unit.MONTHS and period is self.rule.total:
            months = self.rule.period.count
            return min(counted, add_months(add_months(self.starts_on, months), period.count - months))
        return counted - timedelta(days=self.rule.strict_days) if period.unit is Unit.DAYS else counted

    def _runs_on(self, day: date, last: Period, *, added: int = 0) -> bool:
        """Tell whether the period is still running on `day`: a question asked after its end cannot revive it."""
        ends = self._counted(last) + timedelta(days=added)
        return day <= (roll_forward(self.roll_by, ends) if self.rule.rolls else ends)

    def _too_late(self, pause: Pause) -> None:
        self.steps.append(f"{pause.reason} asked {say(pause.asked_on)}, after the period had ended: no effect")

    def _move_start(self, pauses: list[Pause], confirmed_on: list[date], last: Period) -> None:
        """Start at the relevant time: the latest of receipt, identity information and fee (UK GDPR Art. 12A)."""
        answers = [(p.received_on, p) for p in pauses if p.reason is not HoldKind.CLARIFICATION]
        for on, pause in answers:
            if not self._runs_on(pause.asked_on, last):
                self._too_late(pause)
            elif on is not None:
                self._start_at(on, f"{pause.reason} asked {say(pause.asked_on)}, received {say(on)}")
        for on in confirmed_on:
            self._start_at(on, f"identity information received {say(on)}")

    def _start_at(self, on: date, why: str) -> None:
        if on > self.starts_on:
            self.starts_on = on
            self.steps.append(f"{why}: the period is counted from {say(on)}")

    def _restart(self, pauses: list[Pause], last: Period) -> None:
        for pause in pauses:
            if self._runs_on(pause.asked_on, last):
                self._start_at(
                    pause.asked_on + _SWISS_REFLECTION, f"cost share announced {say(pause.asked_on)}, 10 days to confirm"
                )
            else:
                self._too_late(pause)

    def _add_days(self, pauses: list[Pause], last: Period) -> None:
        """Add the paused days, a day in two pauses once: EU from asking until the answer, UK both of these days included."""
        uk = self.rule.stops is ClockStops.UK
        free_from = self.starts_on
        for pause in pauses:
            if pause.received_on is None or pause.reason is HoldKind.FEE or (uk and pause.reason is HoldKind.IDENTITY):
                continue
            if not self._runs_on(pause.asked_on, last, added=self.paused_days):
                self._too_late(pause)
                continue
            ends = pause.received_on + timedelta(days=1) if uk else pause.received_on
            days = max(0, (ends - max(pause.asked_on, free_from)).days)
            free_from = max(free_from, ends)
            self.paused_days += days
            self.steps.append(f"{pause.reason} asked {say(pause.asked_on)}, answered {say(pause.received_on)}: + {days} days")
