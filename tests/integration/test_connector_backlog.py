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
#: What may be in memory for the work at hand, whatever the length of the queue.
FLAT_MIB = 24
#: From this length on a queue that is kept in memory shows beside the work at hand: an order takes some 2.4 kB as an object.
TELLING_ORDERS = 20_000


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


async def test_a_long_queue_keeps_the_rate_and_takes_no_memory(fresh_kafka, acme, tmp_path: Path) -> None:
    """All orders wait in the journal; each is done once; in no second is the system called more often than it allows.

    Memory is judged from 20,000 orders on (`make backlog ORDERS=20000`); of fewer nothing is claimed, as they would fit in.
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
            for first in range(2, ORDERS + 1, 500):
                await wire.send(*(an_order(number) for number in range(first, min(first + 500, ORDERS + 1))))
            await wire.until(lambda: taken_by(journal) == ORDERS, 120)
            taken = (ORDERS - 1) / (time.monotonic() - began)
            waiting = ORDERS - len(wire.final())
            rss[f"{ORDERS}, {waiting} of them not done"] = resident_mib(pid)
            await wire.until(lambda: len({report.order_id for report in wire.final()}) == ORDERS, 60 + 10 * ORDERS / PER_SECOND)
            took = time.monotonic() - began
            rss["all done"] = resident_mib(pid)
            assert await asyncio.to_thread(process.terminate) == 0
    calls = len(acme.called_at)
    print("\n| orders taken | resident MiB |\n| --- | ---: |")
    for what, size in rss.items():
        print(f"| {what} | {size:.0f} |")
    print(f"taken into the journal: {taken:,.0f} orders/s, publishing them included")
    most = most_within(acme.called_at, 1.0)
    print(f"allowed {PER_SECOND:g} calls/s, at most {most} in a second, {calls / took:.0f} on average")
    assert len(acme.started) == ORDERS
    if ORDERS >= TELLING_ORDERS:
        assert max(rss.values()) - rss["1"] < FLAT_MIB
    # Turns are granted evenly; a busy machine may push a few calls into the next second.
    assert most <= PER_SECOND * 1.1 + 5
