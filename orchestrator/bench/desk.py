"""The key desk: how many keys a worker gives to connectors that ask, and what each question takes of it.

Room rules: measures and returns rows; starts its own processes and stops them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from aiokafka import AIOKafkaConsumer
from pydantic_core import from_json

from connectors.sdk.clock import SystemClock
from connectors.sdk.keys import HttpOrderKeys, order_keys_client
from orchestrator.adapters import topics as topics_adapter
from orchestrator.bench.measure import make_requests, publish
from orchestrator.bench.processes import Running, worker
from orchestrator.bench.run import SIGNED_TOGETHER, bench_keys
from schemas.intake import IntakeKey
from schemas.order_keys import MOST_ORDERS, WantedKey
from schemas.topics import Topics, manifest

__all__ = ["DESK_CASES", "Asked", "measure_desk"]

_SYSTEM = "system1"
#: Orders in one question, and questions at one time: a connector under light load, many of them, and one that reads a backlog.
DESK_CASES = ((1, 1), (1, 32), (MOST_ORDERS, 1), (MOST_ORDERS, 8))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What questions of one size took. Every key was given, signed for and written down, as to any connector."""

    orders_per_question: int
    at_once: int
    questions: int
    keys_per_second: float
    #: From sending a question until its answer was read; the client that asks shares the machine.
    p50_ms: float
    p99_ms: float
    #: Processor time of the worker for each question, all threads.
    cpu_ms: float


async def measure_desk(
    bootstrap: str, folder: Path, *, orders: int = 2_000, questions: int = 2_000, say: Callable[[str], None] = lambda _: None
) -> list[Asked]:
    """Let a worker send so many orders that nobody answers, and ask it for their keys: a row for each of `DESK_CASES`.

    `questions` are asked of the smallest size, and a twentieth of them, one at least, of the others. Raises `RuntimeError` when
    the worker ends or refuses a key, and `TimeoutError` if its orders do not come within two minutes.
    """
    topics = Topics(prefix=f"desk-{secrets.token_hex(3)}")
    await topics_adapter.apply(bootstrap, manifest([_SYSTEM], prefix=topics.prefix))
    intake = IntakeKey.new("intake-bench")
    keyring = bench_keys(folder / f"{topics.prefix}-keys", [_SYSTEM])
    made = make_requests(orders, topics, intake.public, signer=keyring.key("portal:bench"), together=SIGNED_TOGETHER)
    await publish(bootstrap, made)
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    store_url = f"sqlite:///{folder / topics.prefix}.sqlite"
    unlimited = {"DSR_KEY_QUESTIONS_PER_SECOND": "1000000"}
    async with worker(
        bootstrap, topics, [_SYSTEM], folder, key=key, intake=intake, store_url=store_url, keyring=keyring, more=unlimited
    ) as running:
        await running.ready()
        sent = await _sent(bootstrap, topics, orders, running)
        say(f"{orders:,} orders are out")
        async with order_keys_client(None) as client:
            url, signer = f"http://127.0.0.1:{running.port}", keyring.key(f"system:{_SYSTEM}")
            keys = HttpOrderKeys(_SYSTEM, [url], client, SystemClock(), prefix=topics.prefix, signer=signer)
            await _asked(keys, sent[:1])
            rows = []
            for size, at_once in DESK_CASES:
                count = questions if size == 1 else max(1, questions // 20)
                say(f"{count:,} questions for {size} key(s), {at_once} at a time")
                rows.append(await _measured(keys, _questions(sent, size, count), at_once, running))
    return rows


def _questions(orders: Sequence[WantedKey], size: int, count: int) -> Iterator[list[WantedKey]]:
    """Go through the orders again and again, so many in a question."""
    around = cycle(orders)
    for _ in range(count):
        yield list(islice(around, size))


async def _asked(keys: HttpOrderKeys, wanted: Sequence[WantedKey]) -> float:
    """Ask as a connector does; return the milliseconds until it knew."""
    began = time.perf_counter()
    statuses = set((await keys.standing(wanted)).values())
    if statuses != {200}:
        raise RuntimeError(f"keys were refused ({statuses}): what is measured is not what it should be")
    return (time.perf_counter() - began) * 1000


async def _measured(keys: HttpOrderKeys, questions: Iterator[list[WantedKey]], at_once: int, running: Running) -> Asked:
    asked: list[tuple[int, float]] = []

    async def ask_on() -> None:
        asked.extend([(len(question), await _asked(keys, question)) for question in questions])

    cpu, began = running.cpu_seconds(), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(ask_on())
    seconds, used = time.perf_counter() - began, running.cpu_seconds() - cpu
    running.check()
    times = sorted(took for _, took in asked)
    return Asked(
        orders_per_question=asked[0][0],
        at_once=at_once,
        questions=len(asked),
        keys_per_second=sum(size for size, _ in asked) / seconds,
        p50_ms=statistics.median(times),
        p99_ms=times[int(len(times) * 0.99)],
        cpu_ms=(used.main + used.others) / len(asked) * 1000,
    )


async def _sent(bootstrap: str, topics: Topics, count: int, running: Running) -> list[WantedKey]:
    """Return what to ask for: every order, once all are out."""
    found: dict[str, WantedKey] = {}
    consumer = AIOKafkaConsumer(topics.orders(_SYSTEM), bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(consumer)
        await stack.enter_async_context(asyncio.timeout(120))
        while len(found) < count:
            running.check()
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for order in map(from_json, (record.value for record in records)):
                    wanted = WantedKey(subject_request_id=order["subject_request_id"], order_id=order["order_id"])
                    found[wanted.order_id] = wanted
    return list(found.values())
