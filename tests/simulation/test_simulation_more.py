"""More worlds, and large ones: a file of its own, so that they run beside the others."""

from __future__ import annotations

import pytest

from tests.simulation.run import run

pytestmark = [pytest.mark.slow, pytest.mark.long]

FIRST, END, CHUNK = 1000, 2000, 50
LARGE, LARGE_CHUNK = 40, 8


def _broken(seeds: range, *, large: bool) -> list[str]:
    replay = " LARGE=1" if large else ""
    results = (run(seed, large=large) for seed in seeds)
    return [f"make simulate SEED={result.seed}{replay}: {result.complaints}" for result in results if not result.is_clean]


@pytest.mark.parametrize("first", range(FIRST, END, CHUNK))
def test_more_worlds_end_well(first: int) -> None:
    """A thousand worlds end with every request confirmed once, rightly, with nothing lost, doubled or in clear."""
    assert _broken(range(first, first + CHUNK), large=False) == []


@pytest.mark.parametrize("first", range(0, LARGE, LARGE_CHUNK))
def test_large_worlds_end_well(first: int) -> None:
    """The same with four systems, up to fifteen requests of five people, and up to half a year."""
    assert _broken(range(first, first + LARGE_CHUNK), large=True) == []
