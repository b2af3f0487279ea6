"""The blows of a chaos run as data: who is hit, how, when and why, drawn from a seed.

Room rules: pure; the same seed gives the same schedule, and nothing here touches a process.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from orchestrator.shell.points import PointName

__all__ = ["POINTS", "Blow", "How", "draw"]

#: `SIGKILL`: gone at once. `SIGTERM`: stops in order. `SIGSTOP`: sleeps, then SIGCONT (a zombie). `STOP`: a server in order.
How = Literal["SIGKILL", "SIGTERM", "SIGSTOP", "STOP"]

#: At which passing of a point an armed worker dies; a commit is rarer than a batch.
POINTS: dict[PointName, tuple[int, int]] = {
    name: (1, 3) if name.endswith("_commit") else (1, 12) for name in get_args(PointName)
}
_FIRST_SECONDS = 4.0
#: Longer than the workers' session timeout, so that a zombie's partitions move while it sleeps.
_SLEEP_SECONDS = 9.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Blow:
    """One blow: `at_seconds` after the start of the load; what was hit stays away, or asleep, for `lasts_seconds`.

    With `arm` (`point:number`) the next life of a killed worker dies by itself at that passing of that point.
    """

    at_seconds: float
    who: tuple[str, ...]
    how: How
    why: str
    lasts_seconds: float = 0.0
    arm: str | None = None

    @property
    def kind(self) -> str:
        """Return what it counts as in the table."""
        who = "all workers" if len(self.who) > 1 else self.who[0].rsplit("-", 1)[0]
        return f"{who} {self.how}"


def _deck(chance: random.Random, workers: tuple[str, ...], *, postgresql: bool) -> list[Blow]:
    """Return one of each kind of blow, shuffled."""

    def blow(who: tuple[str, ...], how: How, why: str, lasts: float = 0.0, arm: str | None = None) -> Blow:
        return Blow(at_seconds=0, who=who, how=how, why=why, lasts_seconds=lasts, arm=arm)

    def one() -> tuple[str, ...]:
        return (chance.choice(workers),)

    deck = [
        blow(one(), "SIGKILL", "and its next life dies between two steps", arm=f"{point}:{chance.randint(*within)}")
        for point, within in POINTS.items()
    ]
    deck += [
        blow(one(), "SIGKILL", "a power cut at no particular moment"),
        blow(one(), "SIGTERM", "a deployment"),
        blow(one(), "SIGSTOP", "a machine that freezes and comes back with an old belief", _SLEEP_SECONDS),
        blow(("connectors",), "SIGKILL", "orders are delivered again, reports are sent again"),
        blow(("connectors",), "SIGKILL", "away for a while: a backlog", chance.uniform(2, 4)),
        blow(("broker",), "SIGKILL", "the bus is cut", chance.uniform(0.5, 3)),
        blow(("broker",), "STOP", "a rolling upgrade of the bus", chance.uniform(0.5, 3)),
    ]
    if postgresql:
        deck += [
            blow(("postgresql",), "STOP", "a restart of the store", chance.uniform(0.5, 3)),
            blow(("postgresql",), "SIGKILL", "the store recovers from its log", chance.uniform(0.5, 3)),
        ]
    if len(workers) > 1:
        deck.append(blow(workers, "SIGKILL", "a rack: nobody is left to take over"))
    chance.shuffle(deck)
    return deck


def _endless(chance: random.Random, workers: tuple[str, ...], *, postgresql: bool) -> Iterator[Blow]:
    while True:
        yield from _deck(chance, workers, postgresql=postgresql)


def draw(
    seed: int, seconds: float, workers: tuple[str, ...], *, postgresql: bool, at_most: int | None = None
) -> tuple[Blow, ...]:
    """Return the blows of a run of so many seconds, in time order, each after the end of the one before.

    Every kind comes once before any comes again. With `at_most`, that many at equal distances.
    """
    chance = random.Random(seed)
    blows: list[Blow] = []
    at = _FIRST_SECONDS
    for blow in _endless(chance, workers, postgresql=postgresql):
        if at > seconds - _FIRST_SECONDS / 2 or len(blows) == at_most:
            return tuple(blows)
        blows.append(
            Blow(
                at_seconds=round(at, 2),
                who=blow.who,
                how=blow.how,
                why=blow.why,
                lasts_seconds=blow.lasts_seconds,
                arm=blow.arm,
            )
        )
        pause = chance.uniform(4.5, 8) if at_most is None else (seconds - _FIRST_SECONDS) / at_most - blow.lasts_seconds
        at += blow.lasts_seconds + max(pause, 1.0)
    raise AssertionError("the deck is endless")
