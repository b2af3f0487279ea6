"""One simulated world, from its seed to its verdict.

Room rules: everything that is drawn is drawn from the seed, so the same seed is the same world.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import structlog

from connectors.sdk.protocol import Throttle
from orchestrator.core.policy import Policy
from orchestrator.core.state import from_bytes
from orchestrator.ports import Change
from orchestrator.shell import work
from schemas.ids import digest
from schemas.topics import Topics
from schemas.vocabulary import Phase
from tests.simulation.broker import Broker
from tests.simulation.chance import Chance, Trouble
from tests.simulation.clockwork import AtRest, NeverAtRest, VirtualLoop
from tests.simulation.company import registry_of
from tests.simulation.journal import disks
from tests.simulation.life import Process, Schedule, track_tasks
from tests.simulation.people import People
from tests.simulation.processes import ConnectorSetting, WorkerSetting, limits_of, run_connector, run_worker
from tests.simulation.store import Database
from tests.simulation.vendor import Vendor
from tests.simulation.verdict import judge

__all__ = ["Run", "World", "outcome_of", "run"]

_HOUR, _DAY = 3600.0, 86400.0
#: Share of the worlds in which operators act on a request in the very seconds in which it arrives.
_HURRIED = 0.1
#: At one record in so many a defective release fails.
_BREAKS_ONE_IN = 6
#: Connectors hear keys ahead in one world in so many.
_HEARD_ONE_IN = 5


@dataclass(slots=True)
class World:
    """Everything that is simulated."""

    loop: VirtualLoop
    chance: Chance
    schedule: Schedule
    broker: Broker
    database: Database
    people: People
    vendors: dict[str, Vendor]
    connectors: dict[str, ConnectorSetting]
    processes: list[Process]
    span: float
    agenda: Any
    largest_batch: int = 1
    #: Tells by the digest of its bytes whether the worker's code fails at a record, as long as no mended release runs.
    breaks: Callable[[str], bool] = lambda _content: False
    is_mended: bool = False


@dataclass(slots=True)
class Run:
    """What came of one seed."""

    seed: int
    complaints: list[str]
    lines: list[str] = field(repr=False)
    disturbances: list[int] = field(repr=False)
    happened: dict[str, int] = field(default_factory=dict)
    requests: int = 0
    virtual_days: float = 0.0

    @property
    def digest(self) -> str:
        """Return a hash of the whole schedule: equal seeds have equal schedules."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()

    @property
    def is_clean(self) -> bool:
        """Tell whether nothing is wrong."""
        return not self.complaints


def outcome_of(seed: int, *, large: bool) -> Run:
    """Run a world and return what came of it without its schedule, which is long: whoever wants that runs the seed again."""
    return replace(run(seed, large=large), lines=[])


def run(
    seed: int,
    *,
    large: bool = False,
    without: frozenset[int] = frozenset(),
    checks_versions: bool = True,
    has_defect: bool = False,
) -> Run:
    """Run the world of a seed and judge it. `without` leaves out disturbances by their number.

    With `has_defect` the workers' release fails at some records, whatever their kind, until the world heals; then a mended
    one runs, and what was set aside is published again.
    """
    dice = random.Random(f"{seed}{'L' if large else ''}")
    chance = Chance(random.Random(f"{seed}/schedule"), Trouble.of(dice), without)
    loop = VirtualLoop(lambda: chance.dice.random() < 0.02)
    track_tasks(loop)
    schedule = Schedule(loop)
    hurry = random.Random(f"{seed}/hurry")
    world = _build(dice, chance, loop, schedule, large=large, hurry=hurry if hurry.random() < _HURRIED else None)
    world.database.checks_versions = checks_versions
    if seed % _HEARD_ONE_IN == 0:
        world.broker.ahead = {}
    if has_defect:
        world.breaks = lambda content: bool(content) and int(digest(f"{seed}/{content}".encode())[:8], 16) % _BREAKS_ONE_IN == 0
    complaints: list[str] = []
    try:
        with _quiet(schedule), _release(world):
            complaints = loop.run_until_complete(_live(world))
    except AtRest:
        complaints = ["deadlock: nothing waits for anything any more"]
    except NeverAtRest:
        complaints = ["livelock: the world never comes to rest"]
    finally:
        _close(loop)
    return Run(
        seed,
        complaints,
        schedule.text(),
        chance.numbers,
        dict(chance.happened),
        len(world.people.submitted),
        loop.micros / 1e6 / _DAY,
    )


@contextlib.contextmanager
def _release(world: World) -> Iterator[None]:
    """Let the workers' code fail where this world's release does."""
    decide = work.decide

    def release(state: Any, given: Any, *more: Any) -> Any:
        if not world.is_mended and world.breaks(given.content):
            raise ZeroDivisionError
        return decide(state, given, *more)

    work.decide = release  # type: ignore[assignment] # as a patch of the module
    try:
        yield
    finally:
        work.decide = decide


@contextlib.contextmanager
def _quiet(schedule: Schedule) -> Iterator[None]:
    """Let what the product logs stand in the schedule."""
    before = structlog.get_config()

    def note(_logger: Any, level: str, line: Any) -> Any:
        if level != "info" or line.get("event") in {"retry", "outbox_published"}:
            text = " ".join(f"{name}={value}" for name, value in line.items() if name not in {"event", "exc_info"})
            schedule.add("log", f"  {level}: {line.get('event')} {text}")
        raise structlog.DropEvent

    structlog.configure(processors=[note], wrapper_class=structlog.BoundLogger, cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.configure(**before)


def _close(loop: VirtualLoop) -> None:
    """End whatever still runs, without a word."""
    loop.moves = 0
    tasks = asyncio.all_tasks(loop)
    loop.set_exception_handler(lambda _loop, _context: None)
    for task in tasks:
        task.cancel()
    if tasks:
        with contextlib.suppress(AtRest, NeverAtRest):
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()


def _build(
    dice: random.Random,
    chance: Chance,
    loop: VirtualLoop,
    schedule: Schedule,
    *,
    large: bool,
    hurry: random.Random | None,
) -> World:
    choices = [("crm", "newsletter"), ("crm", "analytics"), ("crm", "newsletter", "analytics"), ("newsletter", "subsidiary")]
    names = ("crm", "newsletter", "analytics", "subsidiary") if large else dice.choice(choices)
    registry = registry_of(
        names, cooling_off=dice.choice((timedelta(0), timedelta(0), timedelta(days=1))), four_eyes=dice.random() < 0.2
    )
    topics = Topics(prefix="sim")
    broker = Broker(loop, chance, schedule, topics, dice.choice((1, 2, 3)))
    database = Database()
    people = People(dice, broker, database, names, hurry=hurry)
    span = dice.choice((_HOUR, 6 * _HOUR, 3 * _DAY, 20 * _DAY, 60 * _DAY)) * (3 if large else 1)
    agenda = people.agenda(
        dice.randrange(8, 16) if large else dice.choice((1, 2, 2, 3, 4)), span, 5 if large else dice.choice((1, 2))
    )
    vendors = {
        name: Vendor(
            registry.by_id[name],
            chance,
            is_asynchronous=dice.random() < 0.35,
            throttle=Throttle(
                concurrent=dice.choice((1, 2, 4)),
                per_second=dice.choice((None, None, 1.0)),
                per_day=dice.choice((None, None, 4)),
            ),
            retains=name == "newsletter" and dice.random() < 0.2,
        )
        for name in names
    }
    world = World(loop, chance, schedule, broker, database, people, vendors, {}, [], span, agenda)
    _add_connectors(world, dice)
    _add_workers(world, dice, registry)
    return world


def _add_connectors(world: World, dice: random.Random) -> None:
    for (name, vendor), disk in zip(world.vendors.items(), disks(len(world.vendors)), strict=True):
        setting = ConnectorSetting(
            world.broker, vendor, disk, limits_of(dice.choice((3, 8, 60))), dice.choice((1, 3, 50)), world.database
        )
        world.connectors[name] = setting
        world.processes.append(
            Process(f"c:{name}"[:12], world.loop, world.chance, world.schedule, lambda life, s=setting: run_connector(life, s))  # type: ignore[misc] # bound early
        )


def _add_workers(world: World, dice: random.Random, registry: Any) -> None:
    topics = world.broker.topics
    group = world.broker.group(topics.group("orchestrator"), [*topics.all_requests, topics.commands, topics.reports])
    setting = WorkerSetting(
        broker=world.broker,
        group=group,
        database=world.database,
        registry=registry,
        policy=Policy(),
        sweep_seconds=dice.choice((1.0, 2.0, 10.0)),
        commit_seconds=dice.choice((0.2, 1.0, 5.0)),
        batch_records=dice.choice((1, 5, 2000)),
        fetch_at_most=dice.choice((1, 4, 100)),
        session_seconds=dice.choice((6.0, 20.0)),
    )

    def watch(change: Change) -> None:
        world.largest_batch = max(world.largest_batch, len(change.records))

    world.database.watch = watch
    for number in range(dice.choice((1, 1, 2))):
        process = Process(f"w{number + 1}", world.loop, world.chance, world.schedule, lambda life: run_worker(life, setting))
        process.on_death = lambda life: group.leave_after(life.name, setting.session_seconds)
        world.processes.append(process)


async def _live(world: World) -> list[str]:
    supervisors = [asyncio.create_task(process.supervise()) for process in world.processes]
    rebalancing = asyncio.create_task(_rebalance(world))
    for at, act in world.agenda:
        await asyncio.sleep(max(0.0, at - world.loop.time()))
        act()
    await asyncio.sleep(max(0.0, world.span - world.loop.time()))
    world.chance.healed = world.is_mended = True
    world.schedule.add("world", "=== all is well from here on ===")
    rebalancing.cancel()
    await asyncio.sleep(30_000)  # the longest anybody stays down
    world.people.replay_defects()
    await _finish(world)
    complaints = await judge(world)
    for supervisor in supervisors:
        if supervisor.done():
            complaints.append(f"the simulation itself broke: {supervisor.exception()!r}")
    return complaints


async def _finish(world: World) -> None:
    """Let time pass, with somebody who looks after what is escalated, until all is closed and out."""
    for days in (0.1, 1, 1, 1, 2, 2, 2, 5, 5, 5, 10, 10, 10, 20, 20, 20, 30, 30, 30, 60, 60):
        world.people.operator_helps()
        await asyncio.sleep(days * _DAY)
        if _is_done(world):
            break
    await asyncio.sleep(600)


def _is_done(world: World) -> bool:
    rows = world.database.rows
    if any(request not in rows or rows[request].phase != Phase.CLOSED for request in world.people.submitted):
        return False
    if any(world.broker.lag().values()):
        return False
    return all(not s.disk.query("SELECT 1 FROM orders WHERE state != 'reported' LIMIT 1") for s in world.connectors.values())


async def _rebalance(world: World) -> None:
    """Deal the orchestrator's partitions again from time to time, as a group does for reasons of its own."""
    every = world.chance.trouble.rebalance_every_seconds
    group = world.broker.groups[world.broker.topics.group("orchestrator")]
    if not every:
        return
    for _ in range(world.chance.trouble.blows):
        await asyncio.sleep(world.chance.dice.uniform(0, 2 * every))
        number = world.chance.strikes("rebalance", 0.7)
        if number and group.members:
            unaware = world.chance.dice.choice([*sorted(group.members), ""])
            world.schedule.add("broker", f"rebalance [#{number}]{f', {unaware} is not told' if unaware else ''}")
            group.deal(unaware)


def state_of(world: World, request: str) -> Any:
    """Return a request's state, for looking at a failing world."""
    return from_bytes(world.database.rows[request].state)
