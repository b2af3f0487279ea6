"""What may go wrong in one simulated world, and the seeded dice that decide when it does.

Every disturbance has a number. A run can be repeated with some of them left out, which is how a failing schedule is made short.

Room rules: all randomness of the simulation comes from here, from one seed.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TypeVar

__all__ = ["Chance", "Trouble"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Trouble:
    """How rough a world is: probabilities per await of a port, and how many heavy blows there are in all."""

    crash: float
    stall: float
    fault: float
    long_delay: float
    blows: int
    vendor: float
    rebalance_every_seconds: float

    @classmethod
    def of(cls, dice: random.Random) -> Trouble:
        """Draw one: calm, bumpy or rough."""
        calm = dice.random() < 0.08
        if calm:
            return cls(0, 0, 0, dice.choice((0, 0.02)), 0, 0, 0)
        return cls(
            crash=dice.choice((0, 0.004, 0.012, 0.03)),
            stall=dice.choice((0, 0.002, 0.006)),
            fault=dice.choice((0, 0.004, 0.015, 0.04)),
            long_delay=dice.choice((0, 0.01, 0.05)),
            blows=dice.choice((1, 2, 3, 3, 5, 8)),
            vendor=dice.choice((0.1, 0.3, 0.6)),
            rebalance_every_seconds=dice.choice((0, 3, 30, 3600)),
        )


@dataclass(slots=True)
class Chance:
    """The dice of one run. `without` are disturbances, by number, that are left out."""

    dice: random.Random
    trouble: Trouble
    without: frozenset[int] = frozenset()
    #: Nothing goes wrong any more.
    healed: bool = False
    happened: Counter[str] = field(default_factory=Counter)
    numbers: list[int] = field(default_factory=list)
    _count: int = 0
    _blows: int = 0

    def strikes(self, kind: str, probability: float, *, is_blow: bool = False) -> int:
        """Return the disturbance's number if it happens now, else 0."""
        if self.healed or probability <= 0 or self.dice.random() >= probability:
            return 0
        if is_blow and self._blows >= self.trouble.blows:
            return 0
        self._count += 1
        self._blows += is_blow
        if self._count in self.without:
            return 0
        self.happened[kind] += 1
        self.numbers.append(self._count)
        return self._count

    def delay(self) -> float:
        """Return how long a port takes, in seconds: mostly nothing, sometimes long."""
        roll = self.dice.random()
        if roll < 0.45:
            return 0.0
        if not self.healed and roll > 1 - self.trouble.long_delay:
            self.happened["long delay"] += 1
            return self.dice.uniform(2.0, 40.0)
        return self.dice.uniform(0.0005, 0.05) if roll < 0.9 else self.dice.uniform(0.05, 1.5)
