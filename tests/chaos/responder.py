"""The responding connectors as one process: slow, out of order, and not always saying the same thing twice in the same bytes.

With signatures somebody else speaks in between, with what is not, or wrongly, signed: `tests.chaos.forger`.
Every order is opened first, as connectors must, with the key that a worker gives unasked or is asked for; while none answers,
the order waits.

Room rules: what is answered follows from the order alone, so a life after a SIGKILL repeats the lives before it.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import httpx
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from connectors.sdk.clock import SystemClock
from connectors.sdk.keys import CLOSED, HttpOrderKeys, KeysUnavailable, order_keys_client
from connectors.sdk.opening import open_order
from schemas.ids import report_id
from schemas.keys_ahead import AheadMark, mark_in
from schemas.order_keys import PATH
from schemas.orders import FulfilmentOrder
from schemas.outcomes import Accepted, Fulfilled
from schemas.reports import FulfilmentReport
from schemas.topics import Topics
from schemas.trust import SigningKey, system_principal
from schemas.wire import ORDER_MESSAGES, decode, encode, headers_of
from tests.chaos.forger import forged_headers, forged_report, key_in

__all__ = ["Reply", "main", "replies"]

#: Shares of the orders. `late` is far behind what other systems say of the same person.
ACCEPTED_FIRST, SAME_AGAIN, OTHER_BYTES, LATE = 0.10, 0.05, 0.05, 0.03
_COMMIT_SECONDS = 0.5
_ASK_AGAIN_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Reply:
    """One report and how long after the order's arrival it is sent."""

    after_seconds: float
    report: FulfilmentReport


def replies(order: FulfilmentOrder) -> list[Reply]:
    """Return what is said to an order, the same in every life: late, doubled, with other bytes, progress after the end."""
    chance = Random(sha256(f"{order.order_id}/{order.attempt}".encode()).digest())

    def report(outcome: Accepted | Fulfilled, after: float) -> FulfilmentReport:
        return FulfilmentReport(
            report_id=report_id(order.order_id, order.attempt, outcome.code.value),
            order_id=order.order_id,
            subject_request_id=order.subject_request_id,
            system=order.system,
            attempt=order.attempt,
            reported_at=order.issued_at + timedelta(milliseconds=round(after * 1000)),
            outcome=outcome,
        )

    after = chance.uniform(4, 8) if chance.random() < LATE else chance.uniform(0, 2)
    final = report(Fulfilled(count=1), after)
    said = [Reply(after, final)]
    if chance.random() < ACCEPTED_FIRST:
        progress = chance.uniform(0, 2)
        said.append(Reply(progress, report(Accepted(expected_by=order.issued_at + timedelta(days=1)), progress)))
    again = after + chance.uniform(0, 2)
    luck = chance.random()
    if luck < SAME_AGAIN:
        said.append(Reply(again, final))
    elif luck < SAME_AGAIN + OTHER_BYTES:
        said.append(Reply(again, report(Fulfilled(count=2), again)))
    return sorted(said, key=lambda one: one.after_seconds)


class _Responder:
    """Answers orders; commits only up to the first order that is not yet answered in full."""

    def __init__(self, bootstrap: str, topics: Topics, keys: Mapping[str, SigningKey | None], desks: Sequence[str]) -> None:
        self._topics = topics
        self._keys = keys
        self._client = order_keys_client(None)
        self._order_keys = {
            system: HttpOrderKeys(system, desks, self._client, SystemClock(), prefix=topics.prefix, signer=key)
            for system, key in keys.items()
        }
        self._opened, self._questions = 0, 0
        self._client.event_hooks = {"request": [self._count]}
        systems = tuple(keys)
        #: Whose key a foreign signature is made with.
        self._others = dict(zip(systems, (*systems[1:], *systems[:1]), strict=True))
        self._names = [topics.orders(system) for system in systems]
        self._producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap,
            group_id=topics.group("chaos-connectors"),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        self._open: dict[TopicPartition, set[int]] = defaultdict(set)
        self._next: dict[TopicPartition, int] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Answer until told to stop, then say what is still owed. Any failure ends it: the next life repeats."""
        await self._producer.start()
        await self._consumer.start()
        # Partitions taken by hand: no group to rejoin, so a killed life is followed at once.
        cluster = await self._producer.client.fetch_all_metadata()
        self._consumer.assign([TopicPartition(n, p) for n in self._names for p in cluster.partitions_for_topic(n) or ()])
        async with asyncio.TaskGroup() as tasks:
            listening = [tasks.create_task(keys.listen()) for keys in self._order_keys.values()]
            committing = tasks.create_task(self._keep_committing())
            owed: set[asyncio.Task[None]] = set()
            while not stop.is_set():
                for partition, records in (await self._consumer.getmany(timeout_ms=200)).items():
                    for record in records:
                        self._open[partition].add(record.offset)
                        self._next[partition] = record.offset + 1
                        task = tasks.create_task(self._answer(partition, record))
                        owed.add(task)
                        task.add_done_callback(owed.discard)
            if owed:
                await asyncio.wait(set(owed))
            for task in (committing, *listening):
                task.cancel()
        await self._commit()
        print(f"{self._opened} orders opened, {self._questions} questions for keys", flush=True)
        await self._client.aclose()
        await self._consumer.stop()
        await self._producer.stop()

    async def _answer(self, partition: TopicPartition, record: Any) -> None:
        order = decode(record.value, record.headers, ORDER_MESSAGES)
        if not isinstance(order, FulfilmentOrder):  # over: what was begun is reported all the same
            self._open[partition].discard(record.offset)
            return
        await self._open_it(order, mark_in(record.headers))
        own, topic, slept = self._keys[order.system], self._topics.reports, 0.0
        for reply, wrong in self._words(order):
            await asyncio.sleep(reply.after_seconds - slept)
            slept = reply.after_seconds
            headers = headers_of(reply.report)
            if own is not None:
                other = self._keys[self._others[order.system]]
                assert other is not None
                headers = forged_headers(wrong, topic, reply.report, own, other)
            await self._producer.send_and_wait(topic, encode(reply.report), key=record.key, headers=headers)
        self._open[partition].discard(record.offset)

    async def _open_it(self, order: FulfilmentOrder, mark: AheadMark | None) -> None:
        """Return when the order was opened, or is over; raise if there is no key to an order that was sent."""
        keys, marks = self._order_keys[order.system], {} if mark is None else {order.order_id: mark}
        while True:
            try:
                refused = await keys.fetch([order], marks)
                break
            except KeysUnavailable:
                await asyncio.sleep(_ASK_AGAIN_SECONDS)
        if refused.get(order.order_id) == CLOSED:  # what was begun in an earlier life is said all the same
            return
        if refused:
            raise RuntimeError(f"no key to an order that was sent: {refused}")
        assert open_order(order, keys).identifiers
        self._opened += 1
        keys.forget(order.order_id)

    async def _count(self, request: httpx.Request) -> None:
        self._questions += request.url.path == PATH

    def _words(self, order: FulfilmentOrder) -> list[tuple[Reply, str]]:
        """Return what is said to an order, in time order, with what is wrong with its signature."""
        words = [(reply, "") for reply in replies(order)]
        if self._keys[order.system] is not None and (forged := forged_report(order)) is not None:
            wrong, after, report = forged
            words.append((Reply(after, report), wrong))
        return sorted(words, key=lambda word: word[0].after_seconds)

    async def _keep_committing(self) -> None:
        while True:
            await asyncio.sleep(_COMMIT_SECONDS)
            await self._commit()

    async def _commit(self) -> None:
        done = {partition: min(self._open[partition], default=after) for partition, after in self._next.items()}
        if done:
            await self._consumer.commit(done)


def main() -> None:
    """Run it: `python -m tests.chaos.responder BOOTSTRAP PREFIX KEYS DESKS SYSTEM...`; SIGTERM lets it finish.

    KEYS: the folder of the systems' signing keys, or `-` to sign nothing. DESKS: the workers' addresses, separated by commas.
    """
    bootstrap, prefix, folder, desks, *systems = sys.argv[1:]
    keys = {one: None if folder == "-" else key_in(Path(folder), system_principal(one)) for one in systems}

    async def run() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await _Responder(bootstrap, Topics(prefix=prefix), keys, desks.split(",")).run(stop)

    asyncio.run(run())


if __name__ == "__main__":
    main()
