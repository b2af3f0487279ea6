"""What is polled for, and in which order: partitions of which nothing waits come first, and are never left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from orchestrator.shell.consumer import BatchConsumer
from orchestrator.shell.fair_queue import FairQueue
from tests.shell.test_shell_fair_queue import records

FLOODED, QUIET, EMPTY = TP("t.requests.v1", 0), TP("t.requests.urgent.v1", 0), TP("t.reports.v1", 0)


@dataclass
class Bounds:
    queue_records: int = 100
    queue_bytes: int = 10**9


class Client:
    """The client's side of a poll: what it has, by partition, and what it was asked for."""

    def __init__(self) -> None:
        self.has: dict[TP, list[Any]] = {}
        self.asked: list[tuple[set[TP], float]] = []

    async def __call__(self, partitions: set[TP], timeout: float) -> dict[TP, list[Any]]:  # noqa: ASYNC109 - Faust's
        assert partitions, "an empty set means every partition to the client"
        self.asked.append((set(partitions), timeout))
        return {tp: self.has.pop(tp) for tp in list(self.has) if tp in partitions}


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client()

    async def getmany(_self: Any, partitions: set[TP], timeout: float) -> dict[TP, list[Any]]:  # noqa: ASYNC109 - Faust's
        return await made(partitions, timeout)

    monkeypatch.setattr(driver.Consumer, "_getmany", getmany)
    return made


def consumer(waiting: int) -> BatchConsumer:
    class Bare(BatchConsumer):
        deck = Bounds()  # type: ignore[assignment] # all that a poll looks at

    made = Bare.__new__(Bare)
    made._waiting = FairQueue()
    made._waiting.add(FLOODED, records(waiting))
    return made


async def test_with_nothing_waiting_one_poll_asks_for_all(client: Client) -> None:
    await consumer(0)._getmany({FLOODED, QUIET, EMPTY}, 1.0)
    assert client.asked == [({FLOODED, QUIET, EMPTY}, 1.0)]


async def test_who_has_nothing_waiting_is_asked_for_first(client: Client) -> None:
    """The client would hand out what it has in the order in which it fetched it: the flood first."""
    client.has = {FLOODED: records(60, 10), QUIET: records(1)}
    assert set(await consumer(10)._getmany({FLOODED, QUIET, EMPTY}, 1.0)) == {QUIET}
    assert client.asked == [({QUIET, EMPTY}, 0.0)]
    assert set(await consumer(10)._getmany({FLOODED, QUIET, EMPTY}, 1.0)) == {FLOODED}
    assert client.asked[1:] == [({QUIET, EMPTY}, 0.0), ({FLOODED, QUIET, EMPTY}, 1.0)]


async def test_a_full_queue_stops_only_who_filled_it(client: Client) -> None:
    """It is looked again soon whether there is room; when nobody has any, nothing is asked for."""
    client.has = {FLOODED: records(60, 100), QUIET: records(1)}
    assert set(await consumer(100)._getmany({FLOODED, QUIET}, 1.0)) == {QUIET}
    ((asked, seconds),) = client.asked
    assert asked == {QUIET} and seconds < 1.0
    assert await consumer(100)._getmany({FLOODED}, 1.0) == {}
    assert len(client.asked) == 1
