"""The generated part of docs/deadlines.md: rules, calendars and the table of regimes and rights, straight from the data.

Room rules: text only, a pure function of the tables; the page on disk must equal it, and a test says so.
"""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.core.deadlines.calendars import OWN_CALENDARS
from orchestrator.core.deadlines.rule import ClockStops, Notice, Rule, Start
from orchestrator.core.deadlines.rules import REGIMES, RULES
from schemas.vocabulary import Right

__all__ = ["acknowledge_text", "answer_text", "counting_text", "extension_text", "rules_page"]

_STOPS = {
    ClockStops.NEVER: "no pause",
    ClockStops.ADDS_DAYS: "identity and clarification add their days (ours)",
    ClockStops.UK: "identity and fee move the start; clarification (access only) adds its days, both ends included",
    ClockStops.SWISS_FEE: "an announced cost share restarts it after 10 days",
}


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part) or "-"


def acknowledge_text(rule: Rule) -> str:
    """Return what the rule says about confirming receipt."""
    return _joined(str(rule.acknowledge) if rule.acknowledge else "", rule.acknowledge_note)


def answer_text(rule: Rule) -> str:
    """Return the duty and its period in words."""
    informed = f"inform within {rule.inform}" if rule.inform else ""
    return _joined(f"{rule.duty}: {rule.period}", informed, rule.answer_note)


def extension_text(rule: Rule) -> str:
    """Return what the rule says about extending."""
    if not rule.extends:
        return "none"
    notice = {
        Notice.FIRST_DUE: "",
        Notice.FIRST_DUE_UNPAUSED: "notice by the first date without pauses",
        Notice.DATE_OF_REQUEST: "notice counted from the date of the request",
    }[rule.notice]
    return _joined(f"to {rule.total} in all" if rule.total else "", notice, rule.extension_note)


def counting_text(rule: Rule) -> str:
    """Return how the days are counted."""
    if rule.period.in_hours:
        rolled = "hours, never rolled"
    elif rule.rolls:
        rolled = "the last day rolls to a working day"
    elif rule.list_name and rule.acknowledge is None:
        rolled = f"working days of `{rule.list_name}`"
    else:
        rolled = "calendar days, not rolled"
    acknowledged = f"receipt confirmed by working days of `{rule.list_name}`" if rule.acknowledge else ""
    sent = "counted from sending" if rule.starts is Start.SENT else ""
    return _joined(rolled, acknowledged, sent, _STOPS[rule.stops], rule.counting_note)


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def rules_page() -> str:
    """Return the generated part of docs/deadlines.md, as Markdown that ends in a newline."""
    rules = _table(
        ("rule", "right", "acknowledge", "duty and period", "extension", "counting", "source", "confidence"),
        (
            (
                f"`{rule.id}`",
                rule.right,
                acknowledge_text(rule),
                answer_text(rule),
                extension_text(rule),
                counting_text(rule),
                f"[{rule.source}]({rule.link})",
                rule.confidence,
            )
            for rule in RULES.values()
        ),
    )
    calendars = _table(("calendar", "days off"), ((f"`{name}`", text) for name, text in OWN_CALENDARS.items()))
    regimes = _table(
        ("regime", *(right.value for right in Right)),
        ((f"`{regime}`", *(f"`{rights[right]}`" for right in Right)) for regime, rights in REGIMES.items()),
    )
    return f"## Rules\n\n{rules}\n\n## Which rule answers which right\n\n{regimes}\n\n## Our own calendars\n\n{calendars}\n"
