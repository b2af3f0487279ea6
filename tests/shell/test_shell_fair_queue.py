"""Turns between partitions: no order is lost, nobody starves, and how long anybody waits follows from its own partition."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.shell.fair_queue import FairQueue


class Partition(NamedTuple):
    topic: str
    partition: int


@dataclass
class Fetched:
    offset: int
    value: bytes
    key: bytes = b"k"
    headers: tuple[tuple[str, bytes], ...] = (("h", b"12"),)


def records(count: int, start: int = 0) -> list[Fetched]:
    return [Fetched(start + number, b"v" * (number % 3)) for number in range(count)]


PARTITIONS = st.integers(1, 24)
AT_MOST = st.one_of(st.integers(1, 12), st.just(2000))
#: Some records arrive at a partition, or a batch is taken (None).
STEPS = st.lists(st.one_of(st.none(), st.tuples(st.integers(0, 23), st.integers(1, 30))), max_size=30)


@given(PARTITIONS, AT_MOST, STEPS)
def test_the_bound_holds_whatever_comes(partitions, at_most, steps):
    """Every record is in one of as many batches as the docstring says, in the order of its partition, once."""
    queue = FairQueue()
    fetched: dict[Partition, int] = defaultdict(int)
    expected: dict[Partition, int] = defaultdict(int)
    #: By record: the last batch that may hold it.
    latest: dict[tuple[Partition, int], int] = {}
    waits: dict[Partition, int] = defaultdict(int)
    batches = 0

    def take() -> None:
        nonlocal batches
        batches += 1
        there = queue.records
        taken = queue.take(at_most)
        assert sum(len(batch.records) for batch in taken) == min(at_most, there)
        assert len({batch.tp for batch in taken}) == len(taken)
        for batch in taken:
            assert batch.offset == expected[batch.tp]
            for record in batch.records:
                assert record.offset == expected[batch.tp]
                assert batches <= latest[batch.tp, record.offset]
                expected[batch.tp] += 1
            assert batch.next_offset == expected[batch.tp]
            waits[batch.tp] -= len(batch.records)

    for step in steps:
        if step is None:
            take()
            continue
        tp = Partition("t", step[0] % partitions)
        for _ in range(step[1]):
            share = max(1, at_most // partitions)
            bound = (waits[tp] // share + 1) * -(-partitions // at_most)
            latest[tp, fetched[tp]] = batches + bound
            queue.add(tp, [Fetched(fetched[tp], b"")])
            fetched[tp] += 1
            waits[tp] += 1
    while queue:
        take()
    assert expected == fetched
    assert (queue.records, queue.bytes) == (0, 0)


def test_an_urgent_record_is_in_the_next_batch():
    """A flood in four partitions of ordinary requests, a single record in an urgent one; and the other way round."""
    for flooded, lonely in (("requests", "urgent"), ("urgent", "requests")):
        queue = FairQueue()
        for number in range(4):
            queue.add(Partition(flooded, number), records(5000))
        queue.take(2000)
        queue.add(Partition(lonely, 3), records(1))
        assert Partition(lonely, 3) in {batch.tp for batch in queue.take(2000)}


def test_what_one_leaves_others_take():
    """A batch is full as long as enough waits, and no record is counted wrongly."""
    queue = FairQueue()
    queue.add(Partition("a", 0), records(1500))
    queue.add(Partition("b", 0), records(10))
    assert queue.bytes == sum(1 + len(record.value) + 2 for record in (*records(1500), *records(10)))
    taken = {batch.tp.topic: len(batch.records) for batch in queue.take(1000)}
    assert taken == {"a": 990, "b": 10}
    assert queue.records == 510
    assert queue.waits(Partition("a", 0)) and not queue.waits(Partition("b", 0))
    assert queue.is_full(510, 10**9) and queue.is_full(10**9, 1) and not queue.is_full(511, 10**9)
    queue.clear()
    assert not queue and queue.take(1000) == []
