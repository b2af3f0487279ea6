"""Processes that live and die: every await of a port passes through `Life.step`, and may not come back.

A crash ends every task of the process at once. From that moment on its ports are dead: whatever its `finally` blocks try
reaches nothing, as after a power cut.

Room rules: knows ports by their labels only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from datetime import datetime
from typing import Any

from tests.simulation.chance import Chance
from tests.simulation.clockwork import VirtualLoop, instant_of, micros_of

__all__ = ["Crashed", "Life", "LifeClock", "Process", "Schedule", "track_tasks"]


class Crashed(BaseException):
    """The process this ran in is dead. Not an `Exception`: nothing in the product may catch it."""


class Schedule:
    """What happened, in order: the time, which process, and what."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.lines: list[tuple[int, str, str]] = []

    def add(self, who: str, what: str) -> None:
        """Write a line."""
        self.lines.append((self._loop.micros, who, what))

    def text(self) -> list[str]:
        """Return the lines as a person reads them."""
        return [f"{instant_of(micros):%m-%d %H:%M:%S.%f} {who:<12} {what}" for micros, who, what in self.lines]


_CURRENT: ContextVar[Life | None] = ContextVar("simulated_life", default=None)


def track_tasks(loop: VirtualLoop) -> None:
    """Make every task know the life it was started in, so that a crash finds all of them."""

    def factory(loop: Any, coroutine: Any, **more: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **more)
        life = _CURRENT.get()
        if life is not None:
            life.tasks.append(task)
        return task

    loop.set_task_factory(factory)  # type: ignore[arg-type] # accepts a plain callable


class Life:
    """One process from start to death."""

    def __init__(self, name: str, number: int, loop: VirtualLoop, chance: Chance, schedule: Schedule) -> None:
        self.name = name
        self.number = number
        self.loop = loop
        self.chance = chance
        self.schedule = schedule
        self.alive = True
        self.tasks: list[asyncio.Task[Any]] = []
        self.ended: asyncio.Future[str] = loop.create_future()
        self._stalled_until = 0
        #: Told when the process is stopped by the operating system for so many seconds.
        self.on_stall: Callable[[float], None] = lambda _seconds: None

    def say(self, what: str) -> None:
        """Write into the schedule."""
        self.schedule.add(self.name, what)

    def crash(self, why: str) -> None:
        """Die now."""
        if self.alive:
            self.alive = False
            self.say(f"††† dies: {why}")
            self.ended.set_result(why)

    def check(self) -> None:
        """Raise if this process is dead."""
        if not self.alive:
            raise Crashed

    def may_crash(self, where: str) -> None:
        """Die here, perhaps. Raises `Crashed`."""
        self.check()
        number = self.chance.strikes("crash", self.chance.trouble.crash, is_blow=True)
        if number:
            self.crash(f"killed {where} [#{number}]")
            raise Crashed

    async def step(self, where: str, fault: Callable[[], BaseException] | None = None, factor: float = 1.0) -> None:
        """Await a port: may take long, be stopped for a while, fail with `fault`, or be the last thing the process does."""
        self.may_crash(where)
        chance = self.chance
        if chance.strikes("stall", chance.trouble.stall, is_blow=True):
            seconds = chance.dice.uniform(2.0, 60.0)
            self._stalled_until = self.loop.micros + round(seconds * 1e6)
            self.say(f"stopped for {seconds:.1f} s {where} [#{chance.numbers[-1]}]")
            self.on_stall(seconds)
        delay = chance.delay()
        if delay:
            await asyncio.sleep(delay)
        stopped = self._stalled_until - self.loop.micros
        if stopped > 0 and not chance.healed:
            await asyncio.sleep(stopped / 1e6)
        self.check()
        if fault is not None and chance.strikes("fault", chance.trouble.fault * factor):
            error = fault()
            self.say(f"{where}: {type(error).__name__} [#{chance.numbers[-1]}]")
            raise error

    @property
    def stalled_until(self) -> int:
        """Return the moment until which the operating system does not run it."""
        return 0 if self.chance.healed else self._stalled_until


class LifeClock:
    """Both sides' `Clock`. `doze_for` names waits that may end late, by their length in seconds, and what makes them useful."""

    def __init__(
        self,
        life: Life,
        *,
        doze_for: float | None = None,
        useful: Callable[[], int | None] = lambda: None,
        until_useful: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._life = life
        self._doze_for = doze_for
        self._useful = useful
        self._until_useful = until_useful

    def now(self) -> datetime:
        """Return the simulated instant."""
        return instant_of(self._life.loop.micros)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        self._life.check()
        if seconds == self._doze_for:
            await self._life.loop.doze(seconds, self._awake(self._useful))
        else:
            await asyncio.sleep(max(0.0, seconds))
        self._life.check()

    async def sleep_until(self, moment: datetime) -> None:
        """Wait for a moment."""
        self._life.check()
        seconds = (micros_of(moment) - self._life.loop.micros) / 1e6
        await self._life.loop.doze(seconds, self._awake(self._until_useful))
        self._life.check()

    def _awake(self, useful: Callable[[], int | None]) -> Callable[[], int | None]:
        def moment() -> int | None:
            found = useful()
            return None if found is None else max(found, self._life.stalled_until)

        return moment


class Process:
    """Starts a life, buries it, starts the next one."""

    def __init__(
        self, name: str, loop: VirtualLoop, chance: Chance, schedule: Schedule, run: Callable[[Life], Coroutine[Any, Any, None]]
    ) -> None:
        self.name = name
        self.lives = 0
        self.life: Life | None = None
        self._loop = loop
        self._chance = chance
        self._schedule = schedule
        self._run = run
        self.on_death: Callable[[Life], None] = lambda _life: None

    async def supervise(self) -> None:
        """Run for ever."""
        while True:
            self.lives += 1
            life = self.life = Life(self.name, self.lives, self._loop, self._chance, self._schedule)
            life.say(f"starts, life {self.lives}")
            token = _CURRENT.set(life)
            task = asyncio.create_task(self._live(life))
            _CURRENT.reset(token)
            try:
                await life.ended
            finally:
                life.alive = False
                await _bury([task, *life.tasks])
            self.on_death(life)
            await asyncio.sleep(self._downtime())

    def _downtime(self) -> float:
        dice = self._chance.dice
        if self._chance.healed:
            return 2.0
        return dice.choice(
            (dice.uniform(0.5, 5.0), dice.uniform(0.5, 5.0), dice.uniform(20.0, 300.0), dice.uniform(300.0, 20_000.0))
        )

    async def _live(self, life: Life) -> None:
        try:
            await self._run(life)
        except asyncio.CancelledError:
            raise
        except Crashed:
            life.crash("killed")
        except BaseException as error:  # noqa: BLE001 - whatever ends a process ends it; the schedule says what it was
            life.crash("killed" if _is_only_crashes(error) else f"ended by {_names(error)}")
        else:
            life.crash("returned")


def _is_only_crashes(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_is_only_crashes(one) for one in error.exceptions)
    return isinstance(error, Crashed)


def _names(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "+".join(_names(one) for one in error.exceptions)
    return f"{type(error).__name__}({error})"


async def _bury(tasks: list[asyncio.Task[Any]]) -> None:
    """Cancel until all are dead; what they raise on the way reaches nobody."""
    for _ in range(20):
        open_ = [task for task in tasks if not task.done()]
        if not open_:
            break
        for task in open_:
            task.cancel()
        await asyncio.sleep(0)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()
    assert all(task.done() for task in tasks), "a task outlives its process"
