"""Workers as processes of their own, to be killed; and an account of everything they have written."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from worker_kit import World

from orchestrator.adapters.sql.store import SqlStore, make_engine
from orchestrator.settings import Settings
from schemas.ids import digest
from schemas.journal import JournalEntry

CLI = ("-m", "orchestrator.cli", "worker", "--upgrade-store")


@dataclass
class Life:
    """One life of a worker's process."""

    process: subprocess.Popen[bytes]
    log: Path
    started: float

    async def ended(self, seconds: float = 30.0) -> int:
        """Wait until it ends by itself; return its exit status."""
        try:
            return await asyncio.to_thread(self.process.wait, seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still alive after {seconds:g} s:\n{self.last_words()}") from None

    def last_words(self) -> str:
        """Return the end of its log."""
        return self.log.read_bytes()[-3_000:].decode(errors="replace")


@contextlib.asynccontextmanager
async def life(settings: Settings, *command: str, **environment: str) -> AsyncIterator[Life]:
    """Run a worker's process while the block runs, then stop it in order; one that was killed is left alone.

    Where the block waits too long for something, what the process last said is shown with the failure.
    """
    given = {
        f"DSR_{name.upper()}": str(value)
        for name, value in settings.model_dump(exclude_unset=True).items()
        if not isinstance(value, SecretStr)
    }
    for name, value in settings:
        if isinstance(value, SecretStr):
            given[f"DSR_{name.upper()}"] = value.get_secret_value()
    given |= {"DSR_LOG_FORMAT": "json", **environment}
    log = settings.datadir.parent / f"{settings.worker_id}.log"
    with log.open("ab") as out:
        process = subprocess.Popen(  # noqa: ASYNC220 - starting takes no time
            [sys.executable, *(command or CLI)], env={**os.environ, **given}, stdout=out, stderr=out
        )
    one = Life(process, log, time.monotonic())
    try:
        yield one
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert await one.ended() == 0, one.last_words()
    except TimeoutError:
        # Somebody waited in vain for what this process was to do; its log is gone with the test's folder.
        print(f"{settings.worker_id}, exit status {process.poll()}:\n{one.last_words()}")
        raise
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


async def outbox(settings: Settings) -> dict[str, int]:
    """Return the number of records in every batch of the outbox, as `worker/id`."""
    store = SqlStore(make_engine(settings.store_url))
    from datetime import UTC, datetime, timedelta  # noqa: PLC0415 - only this look into the future needs them

    batches = await store.unpublished("", datetime.now(UTC) + timedelta(days=1))
    await store.aclose()
    return {f"{batch.worker}/{batch.outbox_id}": len(batch.records) for batch in batches}


async def read_to_the_end(world: World) -> None:
    """Wait until the world has read everything that is there now."""
    consumer = world._consumer
    ends = await consumer.end_offsets(consumer.assignment())
    await world.until(lambda: sum(map(len, world.records.values())) >= sum(ends.values()))


@dataclass
class Account:
    """What is doubled, by kind; everything else has been checked."""

    doubled: Mapping[str, int]

    @property
    def total(self) -> int:
        """Return the number of records that say something again."""
        return sum(self.doubled.values())


def account(world: World, asked: list[str]) -> Account:
    """Check what must hold after any crash, and count records that stand twice.

    Every request has one distinct confirmation and one distinct order for each system and attempt; its journal has no gap,
    no fork and an unbroken chain.
    """
    records: dict[str, list[Any]] = defaultdict(list)
    for topic, found in world.records.items():
        kind = topic.removeprefix(f"{world.topics.prefix}.").split(".")[0]
        records[kind] += found
    for request in asked:
        world.confirmation(request)
    assert set(world.confirmations) == set(asked)
    orders = {record.value for record in records["orders"]}
    assert len(orders) == len({(o.subject_request_id, o.system, o.attempt) for o in world.orders})
    assert {(o.subject_request_id, o.system) for o in world.orders} == {(r, s) for r in asked for s in world.systems}
    journals: dict[str, dict[int, bytes]] = defaultdict(dict)
    for record in records["journal"]:
        entry = JournalEntry.model_validate_json(record.value)
        assert journals[entry.subject_request_id].setdefault(entry.sequence, record.value) == record.value
    for request in asked:
        chain = [value for _, value in sorted(journals[request].items())]
        entries = [JournalEntry.model_validate_json(value) for value in chain]
        assert [entry.sequence for entry in entries] == list(range(1, len(entries) + 1))
        assert [entry.previous for entry in entries[1:]] == [digest(value) for value in chain[:-1]]
    assert not records["quarantine"]
    counts = {kind: Counter((r.topic, r.key, r.value) for r in found) for kind, found in records.items()}
    return Account({kind: sum(count.values()) - len(count) for kind, count in counts.items()})
