"""The bench's table of stages: it follows the code, and a small run fills it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from orchestrator.bench import stages
from orchestrator.bench.crypto import crypto_costs
from orchestrator.bench.scale import Case, Measured, as_markdown
from orchestrator.bench.stages import Share, measure_stages, stages_as_markdown

_ROOMS = ("orchestrator.core", "orchestrator.shell", "orchestrator.adapters")


@pytest.mark.parametrize(("module", "function"), stages._STAGES, ids=".".join)
def test_each_stage_is_named_after_a_function_that_exists(module: str, function: str) -> None:
    """A function that is renamed must not vanish into "the rest"."""
    found = [name for room in _ROOMS if importlib.util.find_spec(name := f"{room}.{module}") is not None]
    assert found
    text = "".join(Path(str(importlib.import_module(name).__file__)).read_text() for name in found)
    assert f"def {function}(" in text


async def test_a_small_run_books_time_to_the_stages(tmp_path: Path) -> None:
    """Requests go all the way to their confirmations, and deciding is among what took time."""
    shares = await measure_stages(tmp_path, requests=300, batch=100)
    assert {"decide", "SQL, in the store's own thread"} <= {share.stage for share in shares}
    assert all(share.micros > 0 for share in shares)


def test_every_place_that_seals_or_signs_has_its_costs() -> None:
    """Portal, worker and connectors; what is done for each system counts as often as there are systems."""
    few, many = crypto_costs(2), crypto_costs(8)
    assert {cost.place for cost in few} == {"portal", "worker", "connectors"}
    assert {cost.work for cost in few} == {"seal", "reveal", "sign", "verify"}
    assert all(cost.micros_each > 0 for cost in few)
    assert [one.times for one in many if one.what == "the orders"] == [8]
    assert sum(one.times for one in many) > sum(one.times for one in few)


def test_the_tables_have_a_cell_for_every_column() -> None:
    """Markdown shows a table only if all its rows are equally long."""
    case = Case(store_url="sqlite:///x", already_open=1_000_000)
    row = Measured(case=case, per_second=1, p50_ms=1, p99_ms=1, cpu_ms=1, resident_mb=1, sweep_ms=1, restart_seconds=1)
    for table in (as_markdown([row]), stages_as_markdown([Share("decide", 3.0), Share("load", 1.0)])):
        assert len({line.count("|") for line in table.splitlines()}) == 1
