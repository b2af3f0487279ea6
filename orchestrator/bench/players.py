"""The processes around the orchestrator under measurement, and the floor it is compared with.

`respond`: connectors that answer every order at once. `floor`: a plain aiokafka orchestrator with its state in memory: no
validation, no seal, no store, no chain; what it does a second is what the wire and the client allow.

Room rules: as little work as possible per record, the same for both sides of the comparison.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from pydantic_core import from_json

from connectors.sdk.clock import SystemClock
from connectors.sdk.keys import HttpOrderKeys, KeysUnavailable, order_keys_client
from orchestrator.ports import OutRecord
from schemas.ids import report_id
from schemas.keys_ahead import AheadMark, mark_in
from schemas.order_keys import WantedKey
from schemas.signatures import sign_records
from schemas.topics import Topics
from schemas.trust import SigningKey

__all__ = ["DESK_VARIABLE", "KEYS_VARIABLE", "SIZES_VARIABLE", "answer_to", "floor", "main", "respond"]

#: Names the folder of signing keys, `system-<id>.jwk`; without it reports are unsigned.
KEYS_VARIABLE = "DSR_BENCH_KEYS"

#: Names the worker that is asked for each order's key before the order is answered; without it nobody is asked.
DESK_VARIABLE = "DSR_BENCH_KEYS_URL"
_ASK_AGAIN_SECONDS = 0.2

#: Bytes of a worker's records by the kind of their topic, as JSON: the floor writes records as large, and of all these kinds.
SIZES_VARIABLE = "DSR_BENCH_SIZES"
#: What a record of the floor has beside its padding, about.
_UNPADDED = 130

_REPORT = (
    '{"version":1,"type":"FulfilmentReport","report_id":"%s","order_id":"%s","subject_request_id":"%s","system":"%s",'
    '"attempt":%d,"reported_at":"%s","outcome":{"code":"fulfilled","count":1},"results":[],"notes":[]}'
)
_HEADERS = [("dsr-type", b"FulfilmentReport"), ("dsr-version", b"1")]


class _PlainSender:
    """aiokafka as its documentation uses it, with room in its batches: one `send` per record, all awaited together.

    With the client's own 16 KiB a batch it would spend its time waiting for the one before to leave.
    """

    def __init__(self, bootstrap: str) -> None:
        self._producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=5, max_batch_size=256 * 1024
        )

    async def start(self) -> None:
        await self._producer.start()

    async def send(self, records: list[Any]) -> None:
        sends = [await self._producer.send(r.topic, r.value, key=r.key, headers=r.headers) for r in records]
        await asyncio.gather(*sends)


class _Sender:
    """An idempotent producer fed with whole batches per partition, like the product's own."""

    def __init__(self, bootstrap: str) -> None:
        from orchestrator.adapters.producer import KafkaPublisher

        self._publisher = KafkaPublisher(bootstrap)

    async def start(self) -> None:
        await self._publisher.start()

    async def send(self, records: list[Any]) -> None:
        await self._publisher.publish(records)


async def respond(bootstrap: str, prefix: str, systems: list[str]) -> None:
    """Answer every order with `fulfilled`."""
    topics = Topics(prefix=prefix)
    names = [topics.orders(system) for system in systems]
    signers = _signers(systems)
    desk = os.environ.get(DESK_VARIABLE)

    def answers(records: list[Any]) -> list[OutRecord]:
        made = [answer_to(record, topics) for record in records]
        if not signers:
            return made
        by_system: dict[str, list[OutRecord]] = {}
        for record, out in zip(records, made, strict=True):
            by_system.setdefault(record.topic.split(".")[2], []).append(out)
        return [
            OutRecord(out.topic, out.key, out.value, headers)
            for system, outs in by_system.items()
            for out, headers in zip(
                outs, sign_records([(o.topic, o.key, o.value, o.headers) for o in outs], signers[system]), strict=True
            )
        ]

    async with contextlib.AsyncExitStack() as stack:
        asks = None
        if desk is not None:
            client = await stack.enter_async_context(order_keys_client(None))
            keys = {
                one: HttpOrderKeys(one, desk.split(","), client, SystemClock(), prefix=prefix, signer=signers.get(one))
                for one in systems
            }
            asks = _Asks(keys).ask
            group = await stack.enter_async_context(asyncio.TaskGroup())
            for one in keys.values():
                group.create_task(one.listen())
        await _serve(bootstrap, names, topics.group("bench-connectors"), answers, before=asks)


class _Asks:
    """Asks for keys with the connectors' own client: once for the orders of a batch, each system for its own."""

    def __init__(self, keys: Mapping[str, HttpOrderKeys]) -> None:
        self._keys = keys

    async def ask(self, records: list[Any]) -> None:
        """Return when every order's key was given."""
        by_system: dict[str, list[WantedKey]] = {}
        ahead: dict[str, AheadMark] = {}
        for record in records:
            order = from_json(record.value)
            wanted = WantedKey.trusted(subject_request_id=order["subject_request_id"], order_id=order["order_id"])
            by_system.setdefault(order["system"], []).append(wanted)
            if (mark := mark_in(record.headers)) is not None:
                ahead[wanted.order_id] = mark
        await asyncio.gather(*(self._ask(self._keys[system], wanted, ahead) for system, wanted in by_system.items()))

    async def _ask(self, keys: HttpOrderKeys, wanted: list[WantedKey], ahead: Mapping[str, AheadMark]) -> None:
        while True:
            try:
                refused = await keys.fetch(wanted, ahead)
            except KeysUnavailable:
                await asyncio.sleep(_ASK_AGAIN_SECONDS)  # the worker is still starting
                continue
            if refused:
                raise RuntimeError(f"{len(refused)} orders have no key: what is measured is not what it should be")
            return


def answer_to(record: Any, topics: Topics) -> OutRecord:
    """Return the report that says `fulfilled` to the order in a record."""
    order = from_json(record.value)
    report = report_id(order["order_id"], order["attempt"], "fulfilled")
    value = _REPORT % (
        report,
        order["order_id"],
        order["subject_request_id"],
        order["system"],
        order["attempt"],
        order["issued_at"],
    )
    return OutRecord(topics.reports, record.key, value.encode(), _HEADERS)


def _signers(systems: list[str]) -> dict[str, SigningKey]:
    """Return the systems' keys from the folder that the environment names; none if it names none."""
    folder = os.environ.get(KEYS_VARIABLE)
    if folder is None:
        return {}
    return {one: SigningKey.from_json((Path(folder) / f"system-{one}.jwk").read_bytes()) for one in systems}


async def floor(bootstrap: str, prefix: str, systems: list[str]) -> None:
    """Orchestrate with a counter per request in a dictionary.

    It writes the orders and the confirmation of each request, and, if the environment says how large a worker's records are,
    an acknowledgement to the portal and a journal entry for each input as well: the records that a worker writes, as large.
    Without that orders and confirmations have a size of their own, below a worker's.
    """
    topics = Topics(prefix=prefix)
    counts: dict[bytes, int] = {}
    sizes: dict[str, int] = json.loads(os.environ.get(SIZES_VARIABLE, "{}"))
    padding = {kind: "x" * max(0, size - _UNPADDED) for kind, size in ({"orders": 550, "confirmations": 1390} | sizes).items()}
    also = bool(sizes)
    orders = [(topics.orders(system), system) for system in systems]

    def order(topic: str, key: bytes, system: str) -> OutRecord:
        request = key.decode()
        value = (
            f'{{"order_id":"ord_{request}{system}","subject_request_id":"{request}","system":"{system}",'
            f'"attempt":1,"issued_at":"2026-01-01T00:00:00Z","padding":"{padding["orders"]}"}}'
        )
        return OutRecord(topic, key, value.encode(), [])

    def other(topic: str, key: bytes, kind: str) -> OutRecord:
        value = f'{{"subject_request_id":"{key.decode()}","issued_at":"2026-01-01T00:00:00Z","padding":"{padding[kind]}"}}'
        return OutRecord(topic, key, value.encode(), [])

    def decide(record: Any) -> list[OutRecord]:
        key = record.key
        made = [other(topics.journal, key, "journal")] if also else []
        if record.topic == topics.requests:
            counts[key] = len(systems)
            made += [other(topics.status, key, "status")] if also else []
            return [*made, *(order(topic, key, system) for topic, system in orders)]
        counts[key] -= 1
        if counts[key]:
            return made
        del counts[key]
        return [*made, other(topics.confirmations, key, "confirmations")]

    def decided(records: list[Any]) -> list[OutRecord]:
        return [made for record in records for made in decide(record)]

    await _serve(bootstrap, [topics.requests, topics.reports], topics.group("bench-floor"), decided, plain=True)


async def _serve(
    bootstrap: str,
    names: list[str],
    group: str,
    work: Callable[[list[Any]], list[Any]],
    *,
    plain: bool = False,
    before: Callable[[list[Any]], Awaitable[None]] | None = None,
) -> None:
    consumer = AIOKafkaConsumer(
        *names,
        bootstrap_servers=bootstrap,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=True,
        auto_commit_interval_ms=1000,
        max_partition_fetch_bytes=4 * 1024 * 1024,
    )
    sender = _PlainSender(bootstrap) if plain else _Sender(bootstrap)
    await consumer.start()
    await sender.start()
    print("ready", flush=True)
    while True:
        fetched = await consumer.getmany(timeout_ms=1000, max_records=2000)
        taken = [record for records in fetched.values() for record in records]
        if before is not None and taken:
            await before(taken)
        out = work(taken)
        if out:
            await sender.send(out)


def main() -> None:
    """Run one player: `python -m orchestrator.bench.players respond|floor BOOTSTRAP PREFIX SYSTEM...`."""
    role, bootstrap, prefix, *systems = sys.argv[1:]
    players: dict[str, Callable[[str, str, list[str]], Awaitable[None]]] = {"respond": respond, "floor": floor}

    async def run() -> None:
        task = asyncio.ensure_future(players[role](bootstrap, prefix, systems))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            return

    uvloop.run(run())


if __name__ == "__main__":
    main()
