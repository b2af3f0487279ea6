"""One connector process with a long queue: memory stays flat, and the system is called as often as it allows, not more.

`make backlog` runs it with 10,000 orders and prints the figures.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest
from test_connector_runtime import OUTSIDE, Wire, most_within, running, taken_by

sys.path.insert(0, str(Path(__file__).parent.parent / "connectors"))
from sdk_world import ROOT, an_order

from connectors.sdk.loader import build_standin
from connectors.sdk.standin import serve
from tests.key_desk_kit import desk_for_all

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

ORDERS = int(os.environ.get("BACKLOG_ORDERS", "300"))
PER_SECOND = float(os.environ.get("BACKLOG_PER_SECOND", "100"))
#: By then whatever is kept for the work at hand, and is bounded, has its size: pools, caches, the most recent keys.
WARM_ORDERS = 2_000
#: What may be added for each further order, and to be told from noise at all: an order takes some 2,400 bytes as an object.
FLAT_BYTES = 1_000
TELLING_ORDERS = 10_000


@pytest.fixture
def acme(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(OUTSIDE))
    standin = build_standin("acme")
    standin.release = True
    with serve(standin) as standin.base_url:
        yield standin


def resident_mib(pid: int) -> float:
    """Return what the process holds in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def judge(what: str, sizes: list[float], further: int) -> None:
    """Say what each further order has added to the process, and raise if that is more than noise."""
    if ORDERS >= TELLING_ORDERS:
        each = (sizes[1] - sizes[0]) * 2**20 / further
        print(f"\nadded by each of {further} further orders {what}: {each:,.0f} bytes", flush=True)
        assert each < FLAT_BYTES


async def test_a_long_queue_keeps_the_rate_and_takes_no_memory(fresh_kafka, acme, tmp_path: Path) -> None:
    """All orders wait in the journal; each is done once; in no second is the system called more often than it allows.

    Memory is judged from 10,000 orders on: what 8,000 more waiting orders add, and 8,000 more that are done, beside the first
    2,000. Of fewer nothing is claimed, as they would fit into what the work at hand takes.
    """
    topics = await fresh_kafka.create("crm")
    journal = tmp_path / "state" / "crm.journal.sqlite"
    settings = {
        "DSR_ACME_BASE_URL": acme.base_url,
        "DSR_ACME_CALLS_PER_SECOND": str(PER_SECOND),
        "DSR_LOG_LEVEL": "WARNING",
    }
    rss: dict[str, float] = {}
    async with desk_for_all(ROOT, prefix=topics.prefix) as desk, Wire(fresh_kafka.bootstrap, topics) as wire:
        settings["DSR_KEYS_URL"] = desk.url
        await wire.send(an_order(1))
        with running("acme", fresh_kafka, tmp_path, **settings) as process:
            pid = process.process.pid
            await wire.until(lambda: len(wire.final()) == 1)
            rss["1"] = resident_mib(pid)
            began = time.monotonic()
            warm = min(WARM_ORDERS, ORDERS)
            for first, last in ((2, warm), (warm + 1, ORDERS)):
                for start in range(first, last + 1, 500):
                    await wire.send(*(an_order(number) for number in range(start, min(start + 500, last + 1))))
                await wire.until(lambda last=last: taken_by(journal) == last, 240)
                rss.setdefault(f"{warm} taken", resident_mib(pid))
            taken = (ORDERS - 1) / (time.monotonic() - began)
            waiting = ORDERS - len(wire.final())
            rss[f"{ORDERS}, {waiting} of them not done"] = resident_mib(pid)
            judge("waiting", list(rss.values())[-2:], ORDERS - warm)
            patience = 60 + 10 * ORDERS / PER_SECOND
            half = max(warm, ORDERS // 5)
            await wire.until(lambda: len({report.order_id for report in wire.final()}) >= half, patience)
            rss[f"{half} done"] = resident_mib(pid)
            await wire.until(lambda: len({report.order_id for report in wire.final()}) == ORDERS, patience)
            took = time.monotonic() - began
            rss["all done"] = resident_mib(pid)
            judge("done", list(rss.values())[-2:], ORDERS - half)
            assert await asyncio.to_thread(process.terminate) == 0
    calls = len(acme.called_at)
    print("\n| orders taken | resident MiB |\n| --- | ---: |")
    for what, size in rss.items():
        print(f"| {what} | {size:.0f} |")
    print(f"taken into the journal: {taken:,.0f} orders/s, publishing them included")
    most = most_within(acme.called_at, 1.0)
    print(f"allowed {PER_SECOND:g} calls/s, at most {most} in a second, {calls / took:.0f} on average")
    assert len(acme.started) == ORDERS
    # Turns are granted evenly; a busy machine may push a few calls into the next second.
    assert most <= PER_SECOND * 1.1 + 5
