"""Whatever happens, in whatever order: the invariants of the core hold and every request ends."""

from __future__ import annotations

import pytest
from core_machine import CoreMachine
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

# Without `explain`: it traces every line, which takes longer than everything else.
_PHASES = (Phase.explicit, Phase.generate, Phase.shrink)
_COMMON = {
    "phases": _PHASES,
    "deadline": None,
    "database": None,
    "print_blob": True,
    "suppress_health_check": list(HealthCheck),
}


def test_core_machine_short() -> None:
    """A few hundred steps in any order break no invariant, and every request closes."""
    run_state_machine_as_test(
        CoreMachine, settings=settings(max_examples=80, stateful_step_count=30, derandomize=True, **_COMMON)
    )


@pytest.mark.slow
@pytest.mark.long
def test_core_machine_long() -> None:
    """Thousands of steps, others in every run, break no invariant, and every request closes."""
    run_state_machine_as_test(CoreMachine, settings=settings(max_examples=700, stateful_step_count=50, **_COMMON))
