"""Whoever must be told is counted where the alerts look."""

from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from orchestrator.adapters.metrics import WorkerMetrics
from orchestrator.shell.measure import measure
from orchestrator.shell.work import Outcome
from schemas.journal import JournalFact
from schemas.vocabulary import EscalationReason


@pytest.mark.parametrize(
    ("fact", "details", "reason", "system"),
    [
        ("escalated", {"reason": EscalationReason.OVERDUE, "system": ""}, "overdue", "none"),
        ("escalated", {"reason": EscalationReason.ORDER_FAILED, "system": "crm"}, "order_failed", "crm"),
        ("retention_ended", {"system": "ledger"}, "retention_ended", "ledger"),
    ],
)
def test_a_fact_that_tells_a_person_is_an_escalation(fact, details, reason, system):
    """Each kind of fact that needs a person lands in `dsr_escalations_total`, the end of a retention included."""
    registry = CollectorRegistry()
    outcome = Outcome()
    any_state = cast("Any", None)  # these facts speak for themselves
    outcome.facts.append((any_state, JournalFact(fact=fact, details=details)))
    measure(WorkerMetrics(registry), outcome)
    assert registry.get_sample_value("dsr_escalations_total", {"reason": reason, "system": system}) == 1
