"""A short run of `python -m tests.chaos`, and what its schedule, its connectors and its verdict promise."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import ProtocolViolation
from schemas.orders import FulfilmentOrder, order_binding
from schemas.outcomes import Fulfilled
from schemas.sealed import SealingKey, seal
from schemas.signatures import Verifier, leaf_of, signature_in
from schemas.trust import SigningKey, Trust
from schemas.vocabulary import Right
from schemas.wire import Headers, encode
from tests.chaos.forger import FORGERIES, UNKNOWN_ORDER, expected, forged_headers, forged_report
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
    assert set(found["forged"]) >= set(FORGERIES.values())
    assert re.fullmatch(r"[1-9]\d* orders opened, \d+ questions for keys", found["keys"]), found["keys"]
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


@pytest.mark.parametrize("wrong", FORGERIES)
def test_each_forgery_is_wrong_in_its_own_way(wrong: str) -> None:
    """The verifier refuses it with the code that the run expects; the right signature over the same record is believed."""
    order, own, other = orders(1)[0], SigningKey.new("system:crm"), SigningKey.new("system:accounts")
    report, verifier = replies(order)[0].report, Verifier(Trust.of(own, other))
    leaf = leaf_of("FulfilmentReport", "reports", order.subject_request_id.encode(), encode(report))

    def check(headers: Headers) -> None:
        verifier.verify(leaf, signature_in(headers), principal="system:crm", at=order.issued_at)

    check(forged_headers("", "dsr.reports.v1", report, own, other))
    with pytest.raises(ProtocolViolation) as refused:
        check(forged_headers(wrong, "dsr.reports.v1", report, own, other))
    assert refused.value.code == FORGERIES[wrong]


def test_forged_reports_follow_from_their_order() -> None:
    """A second life forges the same bytes, of every kind, and none that a connector ever says."""
    made = {order.order_id: forged_report(order) for order in orders(1000)}
    assert made == {order.order_id: forged_report(order) for order in orders(1000)}
    assert {found[0] for found in made.values() if found is not None} == {*FORGERIES, UNKNOWN_ORDER}
    genuine = {encode(reply.report) for order in orders(1000) for reply in replies(order)}
    assert not genuine & expected(orders(1000)).keys()


ASIDE = {b"x": {"not_json"}, b"f": {"signature_broken"}}


def good() -> Account:
    """Return the account of a run in which all went well."""
    found = {
        "violations": [], "inputs_not_processed_yet": 0, "requests": {"closed": 2}, "quarantined": 1,
        "duplicates": {"t.journal.v1": 5}, "published_again": {"batches": 2, "largest": 3},
    }  # fmt: skip
    return Account(
        hits=[Hit("all workers SIGKILL", "worker-1+worker-2", 1.0), Hit("worker SIGTERM", "worker-1", 2.0)],
        asked=["a", "b"],
        poison={b"x"},
        forged={b"f": "signature_broken"},
        set_aside=ASIDE,
        progress=[(9.0, 0), (12.5, 0)],
        found=found,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"lost": ["a"]},
        {"doubled": ["a"]},
        {"swayed": ["a"]},
        {"readable": ["worker-1/some.log: in clear"]},
        {"set_aside": {b"f": {"signature_broken"}}},
        {"set_aside": {b"x": {"not_json"}}},
        {"set_aside": ASIDE | {b"f": {"not_json"}}},
        {"set_aside": ASIDE | {b"a good one": {"not_json"}}},
        {"hits": [*good().hits, Hit("stop took too long", "worker-1", 1.0)]},
        {"hits": [Hit("worker SIGKILL", "worker-1", 1.0), Hit("worker SIGTERM", "worker-1", 2.0)]},
        {"found": good().found | {"published_again": {"batches": 3, "largest": 1}}},
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


def test_a_server_that_goes_away_delays_each_of_several_workers() -> None:
    """Another worker may then adopt a batch that is still being published; a worker that is alone has nobody who would."""
    again = good().found | {"published_again": {"batches": 4, "largest": 1}}
    hits = [*good().hits, Hit("broker SIGKILL", "broker", 3.0)]
    assert violations(replace(good(), found=again, hits=hits))
    assert not violations(replace(good(), found=again, hits=hits, workers=2))


def test_a_control_that_lost_nothing_is_a_failure() -> None:
    """If the worker that must lose requests lost none, the run proves nothing."""
    assert as_json(PLAN, good(), 5)["clean"] and not as_json(PLAN, good(), 0)["clean"]


def test_progress_is_counted_from_the_hit() -> None:
    """The next confirmation after a hit counts, not the one before it."""
    hit = replace(good(), hits=[Hit("worker SIGKILL", "worker-1", 10.0)])
    assert as_json(PLAN, hit, 5)["next_confirmed_max_seconds"] == 2.5
