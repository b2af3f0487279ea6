"""A whole run: load and blows side by side, then healing, waiting, and the account of what came of it.

Room rules: hits what the schedule names; what it all means is said in `verdict`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.adapters.local_kafka import LocalKafka
from schemas.trust import SigningKey
from tests.chaos.outside import Confirmations, Portal, forged_reports, set_aside
from tests.chaos.schedule import Blow, draw
from tests.chaos.servers import Postgres
from tests.chaos.stage import Stage, audit, readable, staged
from tests.chaos.supervised import Hit
from tests.integration.worker_kit import SYSTEMS

__all__ = ["Account", "Plan", "control", "run"]

Say = Callable[[str], None]
_EARLY_ACK = str(Path(__file__).parents[1] / "integration" / "early_ack_worker.py")
_PROGRESS_SECONDS = 10.0
_DRAIN_SECONDS = 30.0
_LATE_REQUESTS = 40
_BREATH_SECONDS = 2.0
_PATIENCE_SECONDS = 10.0
_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do. `minutes` is the length of the load; healing and waiting come on top, at most `heal_seconds`."""

    seed: int
    requests: int
    minutes: float
    store: str
    workers: int
    blows: int | None = None
    #: Everybody signs, the workers require it, and somebody forges; without, whoever writes is believed.
    signatures: bool = True
    heal_seconds: float = 120.0

    @property
    def worker_names(self) -> tuple[str, ...]:
        """Return the workers' names."""
        return tuple(f"worker-{number}" for number in range(1, self.workers + 1))

    @property
    def schedule(self) -> tuple[Blow, ...]:
        """Return the blows that follow from the seed."""
        return draw(self.seed, self.minutes * 60, self.worker_names, postgresql=self.store == "postgresql", at_most=self.blows)


@dataclass(slots=True)
class Account:
    """What a run has seen. `found` is the auditor's document; times are Unix times."""

    asked: list[str] = field(default_factory=list)
    poison: set[bytes] = field(default_factory=set)
    forged: dict[bytes, str] = field(default_factory=dict)
    set_aside: dict[bytes, set[str]] = field(default_factory=dict)
    hits: list[Hit] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    swayed: list[str] = field(default_factory=list)
    progress: list[tuple[float, int]] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)
    heal_seconds: float = 0.0
    workers: int = 1
    #: Where in the installation's files somebody can be read, in whatever disguise.
    readable: list[str] = field(default_factory=list)
    #: What the connectors' last life says of the keys it used.
    keys: str = ""


class _Striker:
    """Carries out blows."""

    def __init__(self, stage: Stage, kafka: LocalKafka, postgres: Postgres | None, on_hit: Callable[[Hit], None]) -> None:
        self._stage = stage
        self._kafka = kafka
        self._postgres = postgres
        self._on_hit = on_hit

    async def strike(self, blow: Blow) -> None:
        """Hit, and return when what was hit has been started again (it may not be ready yet)."""
        self._on_hit(Hit(blow.kind, "+".join(blow.who), time.time()))
        await asyncio.gather(*(self._one(who, blow) for who in blow.who))

    async def _one(self, who: str, blow: Blow) -> None:
        if who == "broker":
            await asyncio.to_thread(self._kafka.kill if blow.how == "SIGKILL" else self._kafka.stop)
            await asyncio.sleep(blow.lasts_seconds)
            await asyncio.to_thread(self._kafka.start)
        elif who == "postgresql":
            assert self._postgres is not None
            await asyncio.to_thread(self._postgres.crash if blow.how == "SIGKILL" else self._postgres.stop)
            await asyncio.sleep(blow.lasts_seconds)
            await asyncio.to_thread(self._postgres.start)
        else:
            process = self._stage.connectors if who == "connectors" else self._stage.workers[who]
            if blow.how == "SIGKILL":
                await process.kill(away_seconds=blow.lasts_seconds, arm=blow.arm)
            elif blow.how == "SIGTERM":
                await process.restart()
            else:
                await process.sleep(blow.lasts_seconds)


async def run(plan: Plan, kafka: LocalKafka, postgres: Postgres | None, folder: Path, say: Say) -> Account:
    """Carry out a plan on a broker and a store of one's own."""
    account = Account(workers=plan.workers)
    store_url = postgres.url if postgres else f"sqlite:///{folder / 'chaos.sqlite'}"
    started = time.time()

    def on_hit(hit: Hit) -> None:
        account.hits.append(hit)
        say(f"{hit.at - started:6.1f} s  {hit.who}: {hit.kind}")

    async with (
        staged(kafka.bootstrap, folder, store_url, on_hit, workers=plan.workers, signatures=plan.signatures) as stage,
        Confirmations().reading(kafka.bootstrap, stage.topics) as confirmed,
        Portal(kafka.bootstrap, stage.topics, plan.seed, _keys(stage)) as portal,
    ):
        for one in (*stage.workers.values(), stage.connectors):
            one.start()
        striker = _Striker(stage, kafka, postgres, on_hit)
        await portal.say(1, 0)
        if not await confirmed.until_all(set(portal.asked), _START_SECONDS):
            raise RuntimeError("the installation confirms nothing although nobody has hit it")
        say("the first request is confirmed: load and blows begin")
        started = time.time()
        async with asyncio.TaskGroup() as tasks:
            telling = tasks.create_task(_tell(say, portal, confirmed, started))
            load = tasks.create_task(portal.say(plan.requests - 1, plan.minutes * 60))
            await _strike_all(striker, plan, confirmed, say)
            await load
            telling.cancel()
        healed = time.monotonic()
        say(f"healing: every process runs, {len(portal.asked)} asked, {len(confirmed.bytes_of)} confirmed")
        await confirmed.until_all(set(portal.asked), plan.heal_seconds)
        account.heal_seconds = time.monotonic() - healed
        account.asked, account.poison = portal.asked, portal.poison
        account.found = await _drained(stage, len(portal.asked), say)
        account.keys = stage.connectors.log.read_text(errors="replace").rstrip().rpartition("\n")[2]
        account.set_aside = await set_aside(stage.bootstrap, stage.topics)
        account.forged = portal.forged
        if plan.signatures:
            account.forged = portal.forged | await forged_reports(stage.bootstrap, stage.topics, SYSTEMS)
        await asyncio.gather(*(worker.stop() for worker in stage.workers.values()))
        say("looking for people in every file")
        account.readable = await asyncio.to_thread(readable, stage)
        account.lost = [one for one in portal.asked if one not in confirmed.bytes_of]
        account.doubled, account.progress = confirmed.doubled, confirmed.progress
        account.swayed = confirmed.swayed
    return account


def _keys(stage: Stage) -> tuple[SigningKey, SigningKey] | None:
    ring = stage.keyring
    return None if ring is None else (ring.key("portal:website"), ring.key("system:crm"))


async def _strike_all(striker: _Striker, plan: Plan, confirmed: Confirmations, say: Say) -> None:
    """Carry out the schedule, no blow after the load's end.

    On a slow machine blows come later: each waits for a confirmation after the one before, so that it hits something that
    works, but not for ever, so that some hit what is still getting up.
    """
    started = time.monotonic()
    not_before = started
    for number, blow in enumerate(plan.schedule):
        await asyncio.sleep(max(started + blow.at_seconds, not_before) - time.monotonic())
        if time.monotonic() - started > plan.minutes * 60:
            say(f"          the load has ended: {len(plan.schedule) - number} blows are left out")
            return
        say(f"          next: {' and '.join(blow.who)} {blow.how} {blow.arm or ''} ({blow.why})")
        await striker.strike(blow)
        await confirmed.until_more(_PATIENCE_SECONDS)
        not_before = time.monotonic() + _BREATH_SECONDS


async def _tell(say: Say, portal: Portal, confirmed: Confirmations, started: float) -> None:
    while True:
        await asyncio.sleep(_PROGRESS_SECONDS)
        say(f"{time.time() - started:6.1f} s  asked {len(portal.asked)}, confirmed {len(confirmed.bytes_of)}")


async def _drained(stage: Stage, people: int, say: Say, within_seconds: float = _DRAIN_SECONDS) -> dict[str, Any]:
    """Let the connectors say what they still owe and the workers take it in; return the auditor's document."""
    await stage.connectors.stop()
    deadline = time.monotonic() + within_seconds
    while True:
        say("auditing the log")
        found = await asyncio.to_thread(audit, stage, people)
        if not found["inputs_not_processed_yet"] or time.monotonic() > deadline:
            return found


async def control(kafka: LocalKafka, folder: Path, say: Say, requests: int = 60) -> Account:
    """Do the same to a worker that acknowledges before it works: an account in which requests must be lost."""
    account = Account()
    url = f"sqlite:///{folder / 'control.sqlite'}"
    async with (
        staged(kafka.bootstrap, folder, url, account.hits.append, command=(_EARLY_ACK,), batch_records=8) as stage,
        Confirmations().reading(kafka.bootstrap, stage.topics) as confirmed,
        Portal(kafka.bootstrap, stage.topics, 0) as portal,
    ):
        stage.connectors.start()
        stage.workers["worker-1"].start(arm="before_save:3")
        await portal.say(requests, 6)
        async with asyncio.timeout(60):
            while not account.hits:
                await portal.say(2, 1)
        # Enough of them that each partition gets some: once they are confirmed, the next life has passed over what came before.
        late = len(portal.asked)
        await portal.say(_LATE_REQUESTS, 1)
        if not await confirmed.until_all(set(portal.asked[late:]), 60):
            raise RuntimeError("the control's second life does not work: its loss would prove nothing")
        account.asked, account.poison = portal.asked, portal.poison
        account.found = await _drained(stage, len(portal.asked), lambda _line: None, within_seconds=0)
        account.lost = [one for one in portal.asked if one not in confirmed.bytes_of]
        account.doubled, account.progress = confirmed.doubled, confirmed.progress
    say(f"control: {len(account.lost)} of {len(account.asked)} lost, {len(account.found['violations'])} violations found")
    return account
