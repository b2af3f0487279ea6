"""Running a target: so many seeded inputs, and what it did wrong.

Room rules: a finding says how to get it again; it never holds the input itself.
"""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass
from random import Random

from tests.fuzz.mutate import CANARY, mutated
from tests.fuzz.target import Target

__all__ = ["Finding", "Report", "fuzz"]

#: One input may not keep a decoder busy for longer: a slow one is a way to stop the worker.
SLOW_SECONDS = 5.0


@dataclass(frozen=True)
class Finding:
    """One input a target could not take. `input_of(target, seed)` gives the bytes again."""

    target: str
    seed: int
    what: str

    def __str__(self) -> str:
        return f"{self.target} seed {self.seed}: {self.what}"


@dataclass(frozen=True)
class Report:
    """What came of one target."""

    target: str
    inputs: int
    taken: int
    findings: tuple[Finding, ...]


def input_of(target: Target, seed: int) -> bytes:
    """Return the input of a seed."""
    return mutated(target.seeds, Random(f"{target.name}/{seed}"))


def fuzz(target: Target, *, first: int = 0, inputs: int | None = None, seconds: float | None = None) -> Report:
    """Give the target inputs from the seed `first` on, so many or for so long."""
    findings: list[Finding] = []
    taken, seed, until = 0, first, time.monotonic() + (seconds or 1e9)
    while (inputs is None or seed < first + inputs) and time.monotonic() < until:
        what = _one(target, input_of(target, seed))
        taken += what is None
        if what:
            findings.append(Finding(target.name, seed, what))
        seed += 1
    return Report(target.name, seed - first, taken, tuple(findings))


def _one(target: Target, data: bytes) -> str | None:
    """Return what is wrong, an empty text for a lawful refusal, None if the input was taken."""
    began = time.perf_counter()
    verdict: str | None = None
    try:
        target.run(data)
    except target.allowed as refusal:
        told = "".join(traceback.format_exception(refusal))
        verdict = "the refusal repeats the input" if target.is_silent and CANARY in told else ""
    except Exception as error:  # noqa: BLE001 - finding these is the point
        verdict = f"{type(error).__name__} at {_where(error)}"
    if time.perf_counter() - began > SLOW_SECONDS:
        return f"took {time.perf_counter() - began:.1f} s"
    return verdict


def _where(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}"
