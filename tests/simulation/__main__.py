"""`python -m tests.simulation --seed N`, or `--seeds A..B`: run worlds, print the schedule that broke one.

Room rules: prints; exit status 1 if any seed fails.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from functools import partial

from tests.simulation.run import Run, outcome_of, run

_TELL_SECONDS = 10.0


def main() -> int:
    """Run what the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Simulate the whole product.")
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--seed", type=int, help="one world; its schedule is printed if it fails")
    group.add_argument("--seeds", help="A..B: all worlds from A up to and without B")
    parser.add_argument("--large", action="store_true", help="all four systems and up to fifteen requests")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes for --seeds; all cores by default")
    parser.add_argument("--full", action="store_true", help="print the schedule of a clean world as well")
    given = parser.parse_args()
    if given.seed is not None:
        return _one(given.seed, large=given.large, full=given.full)
    first, _, end = given.seeds.partition("..")
    return _many(range(int(first), int(end)), large=given.large, jobs=given.jobs)


def _one(seed: int, *, large: bool, full: bool) -> int:
    result = run(seed, large=large)
    if result.is_clean:
        if full:
            print("\n".join(result.lines))
        print(f"seed {seed}: clean; {_told(result)}; schedule {result.digest[:16]}")
        return 0
    shortest = shorten(result, large=large)
    print("\n".join(shortest.lines))
    kept = ", ".join(f"#{number}" for number in shortest.disturbances) or "none"
    print(f"\nseed {seed}: {len(result.disturbances)} disturbances, of which {len(shortest.disturbances)} are needed: {kept}")
    for complaint in shortest.complaints:
        print(f"  BROKEN  {complaint}")
    return 1


def _told(result: Run) -> str:
    happened = ", ".join(f"{count} {kind}" for kind, count in sorted(result.happened.items())) or "nothing went wrong"
    return f"{result.requests} requests in {result.virtual_days:.0f} days; {happened}"


def shorten(result: Run, *, large: bool, tries: int = 60) -> Run:
    """Leave out disturbances as long as the world still breaks in the same way; return the shortest that was found."""
    best, without, kind = result, frozenset[int](), _kind(result)
    for number in list(result.disturbances)[-tries:]:
        shorter = run(result.seed, large=large, without=without | {number})
        if _kind(shorter) == kind:
            best, without = shorter, without | {number}
    return best


def _kind(result: Run) -> str:
    """Return the first complaint without the names and numbers in it."""
    return "".join(letter for letter in (result.complaints or [""])[0] if letter.isalpha() and letter not in "abcdef")


def _many(seeds: range, *, large: bool, jobs: int) -> int:
    started, happened, failed, requests, days = time.monotonic(), Counter[str](), [], 0, 0.0
    told_at = started
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for done, result in enumerate(pool.imap(partial(outcome_of, large=large), seeds, chunksize=5), 1):
            happened.update(result.happened)
            requests += result.requests
            days += result.virtual_days
            if not result.is_clean:
                failed.append(result.seed)
                again = f"make simulate SEED={result.seed}{' LARGE=1' if large else ''}"
                print(f"seed {result.seed}: {result.complaints[0]}  ({again})", flush=True)
            if time.monotonic() - told_at > _TELL_SECONDS:
                told_at = time.monotonic()
                print(f"{done} of {len(seeds)} worlds", file=sys.stderr, flush=True)
    seconds = time.monotonic() - started
    print(
        f"{len(seeds)} worlds in {seconds:.0f} s ({len(seeds) / seconds:.1f} a second): {requests} requests,"
        f" {days / 365:.0f} years; " + ", ".join(f"{count} {kind}" for kind, count in happened.most_common())
    )
    print(f"{len(failed)} failed" if failed else "all clean")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
