"""The machine finds bugs: each of these, planted on purpose, makes it fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from core_machine import CoreMachine
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from orchestrator.core import decide, progress, relations, reporting, settling, timers
from orchestrator.core.draft import Draft
from orchestrator.core.effects import Forget, LeaderClosed, Settled

Plant = Callable[[pytest.MonkeyPatch], None]


def _closes_when_any_system_settled(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(progress, "all", any, raising=False)


def _a_late_report_replaces_the_outcome(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reporting, "_late", lambda draft, order, message: draft.put(replace(order, outcome=message.outcome)))


def _one_answer_opens_every_gate(patch: pytest.MonkeyPatch) -> None:
    def open_all(draft: Draft, message: Settled) -> None:
        everything = tuple(order.system for order in draft.state.orders)
        relations.open_gates(draft, replace(message, systems=everything))

    patch.setitem(decide._HANDLERS, Settled, open_all)


def _a_failure_is_final(patch: pytest.MonkeyPatch) -> None:
    def settle(draft: Draft, order: Any, _event: Any, _reason: Any, **changes: Any) -> None:
        settling.settle(draft, order, changes["outcome"], report=changes["report_id"])

    patch.setattr(reporting, "escalate_order", settle)


def _patience_is_not_stored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(timers, "_order_ends", lambda _draft, _order: iter(()))


def _routine_words_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    def quiet(draft: Draft) -> Any:
        draft.set(next_status_at=None)
        return min(timers._ends(draft), default=None)

    patch.setattr(timers, "next_wake", quiet)


def _a_withdrawal_leaves_the_duplicates_alone(patch: pytest.MonkeyPatch) -> None:
    tell = Draft.tell
    patch.setattr(Draft, "tell", lambda draft, to, what: None if isinstance(what, LeaderClosed) else tell(draft, to, what))


def _a_duplicate_keeps_the_leaders_gates_closed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(relations, "_inherit", lambda _draft, _message: None)
    patch.setattr(relations, "tell_others", _without_settled)


def _without_settled(draft: Draft, before: Any, _original: Any = relations.tell_others) -> None:
    known = len(draft.effects)
    _original(draft, before)
    draft.effects[known:] = [e for e in draft.effects[known:] if not isinstance(getattr(e, "message", None), Settled)]


def _nothing_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    def do(draft: Draft, effect: Any) -> None:
        if not isinstance(effect, Forget):
            draft.effects.append(effect)

    patch.setattr(Draft, "do", do)


PLANTS = [
    _closes_when_any_system_settled,
    _a_late_report_replaces_the_outcome,
    _one_answer_opens_every_gate,
    _a_failure_is_final,
    _patience_is_not_stored,
    _routine_words_are_forgotten,
    _a_withdrawal_leaves_the_duplicates_alone,
    _a_duplicate_keeps_the_leaders_gates_closed,
    _nothing_is_forgotten,
]


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # a planted bug writes what no model allows
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__.strip("_"))
def test_planted_bug_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine fails with the bug in place."""
    plant(monkeypatch)
    found = settings(
        max_examples=600,
        stateful_step_count=30,
        derandomize=True,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(CoreMachine, settings=found)
