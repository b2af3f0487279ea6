"""The outside systems: slow, throttled, down, forgetful of having answered; and the connectors that speak to them.

A vendor outlives every process of ours. It remembers what was really done to it, so that in the end the reports can be held
against the truth.

Room rules: a connector gets its system's moods, never the schedule's secrets; no two vendors share anything.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, ClassVar

from connectors.sdk.protocol import Exported, Job, Result, Throttle
from connectors.sdk.work import remember, take_turn
from schemas.errors import CredentialsRefused, SystemRejected, SystemUnavailable, Throttled
from schemas.outcomes import Accepted, Fulfilled, NothingHeld, Retained
from schemas.registry import System
from schemas.vocabulary import IdentifierKind, RetentionGround, Right
from tests.simulation.chance import Chance
from tests.simulation.clockwork import instant_of
from tests.simulation.company import client_id
from tests.simulation.life import Life

__all__ = ["SimConnector", "Vendor", "VendorJob"]

#: A journal remembers for somewhat longer what came of an order, in microseconds; who asks later may start another job.
_REMEMBERED = timedelta(days=40) // timedelta(microseconds=1)


@dataclass(slots=True)
class VendorJob:
    """Work that the vendor does in its own time."""

    handle: str
    order_id: str
    done_at: int
    fails: bool
    #: Our journal has the handle, and had so many reports before: nobody may start another one without a reason any more.
    stored_after: int | None = None
    #: We were told that it failed, or have given it up as our own defect.
    is_over: bool = False
    #: Since when its effect could be seen, in microseconds.
    seen_at: int | None = None


@dataclass(slots=True)
class Vendor:
    """One outside system."""

    system: System
    chance: Chance
    is_asynchronous: bool
    throttle: Throttle
    retains: bool
    #: Calls that took effect, by order.
    effects: Counter[str] = field(default_factory=Counter)
    #: Erased persons, by whom; whoever is not here is held.
    erased: dict[str, str] = field(default_factory=dict)
    jobs: dict[str, VendorJob] = field(default_factory=dict)
    #: Orders under which the person's record, and with it the identifier that others need, was destroyed.
    destroyed: set[str] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)

    def begin(self, order_id: str, now: int) -> VendorJob:
        """Start a job."""
        for job in self.jobs.values():
            is_forgotten = job.seen_at is not None and now - job.seen_at > _REMEMBERED
            if job.order_id == order_id and job.stored_after is not None and not job.is_over and not is_forgotten:
                self.complaints.append(
                    f"{self.system.id} was asked to start a second job for {order_id} while {job.handle} runs"
                )
        dice = self.chance.dice
        span = 60 if self.chance.healed else dice.choice((60, 7200, 200_000, 900_000))
        handle = f"job-{len(self.jobs) + 1}"
        self.jobs[handle] = VendorJob(
            handle, order_id, now + round(dice.uniform(1, span) * 1e6), not self.chance.healed and dice.random() < 0.1
        )
        return self.jobs[handle]


class SimConnector:
    """A connector as a life runs it."""

    name: ClassVar[str] = "simulated"

    def __init__(self, vendor: Vendor, life: Life) -> None:
        self.rights = frozenset(vendor.system.rights)
        self.needs = frozenset(need.kind for need in vendor.system.needs)
        self.yields = frozenset(vendor.system.yields)
        self.throttle = vendor.throttle
        self._vendor = vendor
        self._life = life
        self.access = self.rectify = self.complete = self.erase = self._do
        self.restrict = self.export = self.object = self.unsubscribe = self._do

    async def check(self) -> str:
        """Say that all is well."""
        return "simulated"

    async def aclose(self) -> None:
        """Nothing is open."""

    async def _do(self, job: Job) -> Result:
        await take_turn()
        await self._call(f"calling {self._vendor.system.id}")
        vendor, person = self._vendor, self._person(job)
        if vendor.is_asynchronous:
            started = vendor.begin(job.order_id, self._life.loop.micros)
            self._life.say(f"  {vendor.system.id} starts {started.handle} for {job.order_id[:10]}")
            await self._answer()
            return self._accepted(started)
        if vendor.system.yields and person not in vendor.erased:
            await remember(self._found(person))
        result = self._effect(job, person)
        await self._answer()
        return result

    async def poll(self, job: Job, handle: str) -> Result:
        """Ask after a job."""
        vendor = self._vendor
        started = vendor.jobs[handle]
        await take_turn()
        await self._call(f"asking after {handle}", started)
        if started.done_at > self._life.loop.micros:
            return self._accepted(started)
        if started.fails:
            started.is_over = True
            raise SystemRejected("the simulated job failed", reason="job_failed")
        person = self._person(job)
        if vendor.system.yields and person not in vendor.erased:
            await remember(self._found(person))
        result = self._effect(job, person)
        started.seen_at = started.seen_at or self._life.loop.micros
        await self._answer()
        return result

    def _person(self, job: Job) -> str:
        kinds = [kind for kind in self.needs if job.every(kind)]
        return job.every(kinds[0])[0]

    def _found(self, person: str) -> dict[IdentifierKind, tuple[str, ...]]:
        return {IdentifierKind.GA_CLIENT_ID: (client_id(person),)}

    async def _call(self, where: str, job: VendorJob | None = None) -> None:
        await self._life.step(where)
        chance = self._vendor.chance
        if not chance.strikes("vendor", chance.trouble.vendor):
            return
        error = self._mood()
        if job is not None and not isinstance(error, SystemUnavailable | Throttled):
            job.is_over = True  # as the runtime understands it: not a failure of the road
        self._life.say(f"  {where}: {type(error).__name__} [#{chance.numbers[-1]}]")
        raise error

    def _mood(self) -> Exception:
        dice = self._vendor.chance.dice
        roll = dice.random()
        if roll < 0.55:
            return SystemUnavailable("the simulated system is down")
        if roll < 0.8:
            return Throttled("the simulated system wants less", retry_after_seconds=dice.choice((None, 5.0, 900.0)))
        if roll < 0.9:
            return SystemRejected("the simulated system does not want that")
        if roll < 0.95:
            return CredentialsRefused("the simulated system knows no such key")
        return KeyError("a defect of the connector")

    async def _answer(self) -> None:
        """The effect has happened; the answer may be lost."""
        await self._life.step("waiting for the answer", lambda: SystemUnavailable("the simulated answer was lost"), factor=3)

    def _accepted(self, job: VendorJob) -> Result:
        lie = self._vendor.chance.dice.choice((1.0, 1.0, 0.3))
        expected = instant_of(self._life.loop.micros + max(60_000_000, round((job.done_at - self._life.loop.micros) * lie)))
        return Result(Accepted(expected_by=expected), handle=job.handle)

    def _effect(self, job: Job, person: str) -> Result:
        vendor = self._vendor
        vendor.effects[job.order_id] += 1
        held = person not in vendor.erased
        self._life.say(f"  {vendor.system.id} does {job.right} for {job.order_id[:10]}{'' if held else ', holds nothing'}")
        if not held:
            return Result(NothingHeld())
        yielded: dict[IdentifierKind, tuple[str, ...]] = self._found(person) if vendor.system.yields else {}
        if job.right is Right.ERASURE:
            if vendor.retains:
                until = date(2026, 3, 5) + timedelta(days=120)
                return Result(Retained(ground=RetentionGround.LEGAL_OBLIGATION, until=until, count=1), yielded=yielded)
            vendor.erased[person] = job.order_id
            vendor.destroyed.add(job.order_id)
            return Result(Fulfilled(count=1), yielded=yielded)
        exports: tuple[Any, ...] = ()
        if job.right in {Right.ACCESS, Right.PORTABILITY}:
            exports = (Exported("record", {"email": person, "street": "Simulated-Street"}),)
        return Result(Fulfilled(count=1), yielded=yielded, exports=exports)
