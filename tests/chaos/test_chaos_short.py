"""A short run of `python -m tests.chaos`, and what its schedule, its connectors and its verdict promise."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from schemas.orders import FulfilmentOrder, order_binding
from schemas.outcomes import Fulfilled
from schemas.sealed import SealingKey, seal
from schemas.vocabulary import Right
from tests.chaos.responder import replies
from tests.chaos.run import Account, Plan
from tests.chaos.schedule import POINTS, draw
from tests.chaos.supervised import Hit
from tests.chaos.verdict import as_json, violations
from tests.integration.worker_kit import KEY

ROOT = Path(__file__).parents[2]
WORKERS = ("worker-1", "worker-2")
PLAN = Plan(seed=1, requests=2, minutes=1, store="sqlite", workers=1)


@pytest.mark.kafka
@pytest.mark.slow
def test_a_short_run_loses_nothing(record_property: Callable[[str, object], None]) -> None:
    """Four blows on one worker under load: every request is confirmed once, every poison set aside, the auditor is content."""
    command = [sys.executable, "-m", "tests.chaos", "--seed", "3", "--requests", "150", "--minutes", "0.35", "--blows", "4"]
    run = subprocess.Popen([*command, "--no-control"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said, _ = run.communicate(timeout=140)
    except subprocess.TimeoutExpired:
        run.terminate()  # so that it ends its own processes
        said, _ = run.communicate(timeout=30)
    assert run.returncode == 0, said
    found = json.loads(said.splitlines()[-1])
    record_property("chaos", found)
    assert found["clean"] and found["requests"] == 150 and found["poison"]
    assert sum(found["hits"].values()) >= 4


def test_a_seed_gives_one_schedule() -> None:
    """The same seed draws the same blows, another seed others."""
    assert draw(7, 120, WORKERS, postgresql=True) == draw(7, 120, WORKERS, postgresql=True)
    assert draw(7, 120, WORKERS, postgresql=True) != draw(8, 120, WORKERS, postgresql=True)


@pytest.mark.parametrize("seed", range(20))
def test_a_long_run_hits_everything(seed: int) -> None:
    """In three minutes every kind of blow and every point comes at least once, and no blow begins before the last has ended."""
    drawn = draw(seed, 180, WORKERS, postgresql=True)
    assert {blow.arm.split(":")[0] for blow in drawn if blow.arm} == set(POINTS)
    assert {blow.kind for blow in drawn} >= {
        "worker SIGKILL", "worker SIGTERM", "worker SIGSTOP", "all workers SIGKILL", "connectors SIGKILL",
        "broker SIGKILL", "broker STOP", "postgresql STOP", "postgresql SIGKILL",
    }  # fmt: skip
    assert all(after.at_seconds >= before.at_seconds + before.lasts_seconds + 1 for before, after in pairwise(drawn))


def orders(count: int) -> list[FulfilmentOrder]:
    """Return orders to one system."""
    at = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
    key = SealingKey.from_base64("dev", KEY)
    made = []
    for number in range(count):
        request, order = f"00000000-0000-4000-8000-{number:012d}", f"ord_{number}"
        made.append(
            FulfilmentOrder(
                order_id=order,
                subject_request_id=request,
                system="crm",
                right=Right.ERASURE,
                attempt=1,
                issued_at=at,
                received_at=at,
                due_on=date(2026, 4, 2),
                respond_by=datetime(2026, 3, 9, tzinfo=UTC),
                sealed=seal(b"{}", key, associated=order_binding(request, "crm", order)),
                registry_version="test-1",
            )
        )
    return made


def test_connectors_repeat_themselves_in_both_ways() -> None:
    """Some say the same twice, some say the same report in other bytes, some report progress late; a second life agrees."""
    said = {order.order_id: replies(order) for order in orders(400)}
    assert said == {order.order_id: replies(order) for order in orders(400)}
    finals = [[reply.report for reply in found if isinstance(reply.report.outcome, Fulfilled)] for found in said.values()]
    assert all(finals)
    doubled = [found for found in finals if len(found) == 2]
    assert any(one == two for one, two in doubled)
    assert any(one != two and one.report_id == two.report_id for one, two in doubled)
    codes = [[reply.report.outcome.code for reply in found] for found in said.values()]
    assert ["fulfilled", "accepted"] in codes and ["accepted", "fulfilled"] in codes
    assert any(reply.after_seconds > 4 for found in said.values() for reply in found)


def good() -> Account:
    """Return the account of a run in which all went well."""
    found = {"violations": [], "inputs_not_processed_yet": 0, "requests": {"closed": 2}, "quarantined": 1, "duplicates": {}}
    return Account(asked=["a", "b"], poison={b"x"}, set_aside={b"x"}, progress=[(9.0, 0), (12.5, 0)], found=found)


@pytest.mark.parametrize(
    "changes",
    [
        {"lost": ["a"]},
        {"doubled": ["a"]},
        {"set_aside": set()},
        {"set_aside": {b"x", b"a good one"}},
        {"hits": [Hit("stop took too long", "worker-1", 1.0)]},
        {"found": good().found | {"inputs_not_processed_yet": 1}},
        {"found": good().found | {"requests": {"closed": 1}}},
        {"found": good().found | {"violations": [{"invariant": 6, "meaning": "broken", "topic": "t", "offset": 1}]}},
    ],
)
def test_whatever_is_wrong_is_a_violation(changes: dict[str, Any]) -> None:
    """A run in which all went well is clean; each single thing that is wrong makes it not clean."""
    assert not violations(good())
    assert len(violations(replace(good(), **changes))) == 1
    assert not as_json(PLAN, replace(good(), **changes), 5)["clean"]


def test_a_control_that_lost_nothing_is_a_failure() -> None:
    """If the worker that must lose requests lost none, the run proves nothing."""
    assert as_json(PLAN, good(), 5)["clean"] and not as_json(PLAN, good(), 0)["clean"]


def test_progress_is_counted_from_the_hit() -> None:
    """The next confirmation after a hit counts, not the one before it."""
    hit = replace(good(), hits=[Hit("worker SIGKILL", "worker-1", 10.0)])
    assert as_json(PLAN, hit, 5)["next_confirmed_max_seconds"] == 2.5
