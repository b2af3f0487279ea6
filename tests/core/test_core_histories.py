"""Histories: what once happened, or easily could, replayed through today's core; each file says what it shows and how it ends.

A history that ends otherwise than it says is either a defect or a changed meaning: then its file changes with the code, in one
commit. Events, in order: `submit`, `confirm`, `refuse`, `withdraw`, `report`, `command`, `pass` (time, with every wake-up in
it), `sleep` (time without any), `again` (all input so far, once more).
"""

from __future__ import annotations

import re
from collections import Counter
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from core_building import (
    COMPANY,
    CONTACT,
    DONE,
    FAILED,
    NOTHING,
    START,
    TOLD,
    World,
    accepted,
    as_input,
    command,
    confirm,
    later,
    opening,
    refuse,
    registry,
    report,
    rid,
    submission,
    system,
    withdrawal,
)

from orchestrator.core.effects import Input, Opened
from schemas import commands
from schemas.outcomes import Retained
from schemas.vocabulary import IdentifierKind, RetentionGround, Right

FOLDER = Path(__file__).resolve().parents[1] / "histories"
FILES = sorted(FOLDER.glob("*.yaml"))
_OUTCOMES: dict[str, Any] = {"fulfilled": DONE, "nothing_held": NOTHING, "notified": TOLD, "failed": FAILED}


def _span(text: str) -> timedelta:
    parts = re.findall(r"(-?\d+)([dhm])", text)
    return sum((timedelta(minutes=int(n) * {"d": 1440, "h": 60, "m": 1}[unit]) for n, unit in parts), timedelta())


class History:
    """One file, being replayed."""

    def __init__(self, told: dict[str, Any]) -> None:
        systems = told.get("systems")
        self.world = World(registry(*(_system(name, more or {}) for name, more in systems.items())) if systems else COMPANY)
        self.inputs: list[tuple[Input, str]] = []
        self.number = 0

    def happen(self, event: dict[str, Any]) -> None:
        """Let one event happen, and see that it is refused exactly if the history says so."""
        event = dict(event)
        refused = event.pop("refused", None)
        verb = next(iter(event))
        subject = event.pop(verb)
        code = getattr(self, f"_{verb}")(subject, event)
        assert code == refused, f"{verb} {subject}: {code}"

    def _give(self, message: Any, name: str, opened: Opened | None = None) -> str | None:
        self.number += 1
        given = as_input(message, source=f"t-0-{self.number}", opened=opened)
        self.inputs.append((given, name))
        violation = self.world.give(given, rid(name)).refused
        return violation.code if violation else None

    def _submit(self, name: str, event: dict[str, Any]) -> str | None:
        right = Right(event.pop("right", "erasure"))
        keys = {"person": event.pop("person", "p")} | ({"patch": event.pop("patch")} if "patch" in event else {})
        event["submitted_at"] = self.world.now - _span(event.pop("ago", "0d"))
        return self._give(submission(name, right, now=self.world.now, **event), name, opening(right, keys))

    def _confirm(self, name: str, event: dict[str, Any]) -> str | None:
        return self._give(confirm(name, self.world.now, **event), name)

    def _refuse(self, name: str, event: dict[str, Any]) -> str | None:
        return self._give(refuse(name, self.world.now, **event), name)

    def _withdraw(self, name: str, event: dict[str, Any]) -> str | None:
        return self._give(withdrawal(name, self.world.now, **event), name)

    def _report(self, name: str, event: dict[str, Any]) -> str | None:
        found = tuple(IdentifierKind(kind) for kind in event.pop("yields", ()))
        where, outcome = event.pop("system"), self._outcome(event)
        known = self.world.state(name).order(where)
        attempt = event.pop("attempt", max(1, known.attempt) if known else 1)
        return self._give(report(name, where, outcome, attempt, now=self.world.now, **event), name, Opened(found))

    def _outcome(self, event: dict[str, Any]) -> Any:
        said = event.pop("outcome", "fulfilled")
        if said == "accepted":
            return accepted(self.world.now + _span(event.pop("in")))
        if said == "retained":
            until = date.fromisoformat(str(event.pop("until")))
            return Retained(ground=RetentionGround.LEGAL_OBLIGATION, until=until, count=1)
        return _OUTCOMES[said]

    def _command(self, kind: str, event: dict[str, Any]) -> str | None:
        name = event.pop("request")
        if "notice" in event:
            event["notice_sent_at"] = START + _span(event.pop("notice"))
        for field in ("review_on", "asked_on", "received_on"):
            if field in event:
                event[field] = (START + _span(event[field])).date()
        self.number += 1
        return self._give(command(getattr(commands, kind), name, now=self.world.now, number=str(self.number), **event), name)

    def _pass(self, span: str, _event: dict[str, Any]) -> None:
        self.world.pass_time(_span(span))

    def _sleep(self, span: str, _event: dict[str, Any]) -> None:
        self.world.now += _span(span)

    def _again(self, times: int, _event: dict[str, Any]) -> None:
        for _ in range(times):
            for given, name in self.inputs:
                self.world.give(given, rid(name))

    def _registry(self, name: str, event: dict[str, Any]) -> None:
        later(self.world, **{name: _system(name, event)})

    def ends(self, name: str, told: dict[str, Any]) -> None:
        """See that a request ended as the history says."""
        state, heard = self.world.state(name), Counter(self.world.codes(name))
        seen: dict[str, Any] = {
            "phase": state.phase.value,
            "result": state.result.value if state.result else None,
            "systems": {o.system: o.outcome.code.value if o.outcome else o.phase.value for o in state.orders},
            "sent": [f"{where} {attempt}" for where, attempt in self.world.orders(name)],
            "changes": [change.kind for change in state.changes],
            "executed": next((other for other in "abcdef" if rid(other) == state.executed_request), None),
            "in_time": self.world.confirmation(name).in_time if state.confirmation else None,
            "due": str(state.due.applicable_due_on) if state.due else None,
            "confirmations": len(set(self.world.confirmations.get(rid(name), ()))),
            "heard": {code: heard[code] for code in told.get("heard", {})},
        }
        assert {key: seen[key] for key in told} == told


def _system(name: str, more: dict[str, Any]) -> Any:
    more = dict(more)
    rights = [Right(right) for right in more.pop("rights", ())]
    if more.pop("needs_contact", False):
        more["needs"] = (CONTACT,)
    for field in ("patience", "cooling_off"):
        if field in more:
            more[field] = _span(more[field])
    return system(name, *rights, **more)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_history(file: Path) -> None:
    """The history ends as its file says, and replaying all of its input once more changes no end."""
    told = yaml.safe_load(file.read_text(encoding="utf-8"))
    history = History(told)
    for event in told["events"]:
        history.happen(event)
    for name, ends in told["ends"].items():
        history.ends(name, ends)
    history._again(1, {})
    for name, ends in told["ends"].items():
        history.ends(name, {key: value for key, value in ends.items() if key in {"phase", "result", "systems", "sent"}})


def test_there_are_enough_histories() -> None:
    """Every history says what it shows, and how it ends."""
    assert len(FILES) >= 25
    for file in FILES:
        told = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert set(told) <= {"shows", "systems", "events", "ends"} and told["shows"] and told["ends"]
