"""`python -m tests.fuzz --seconds 10 [--only NAME] [--first SEED]`: feed every decoder damaged input.

Room rules: prints; exit status 1 if anything was found.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.fuzz.run import fuzz
from tests.fuzz.targets import targets


def main() -> int:
    """Run what the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Feed every decoder damaged input.")
    parser.add_argument("--seconds", type=float, default=10.0, help="per decoder")
    parser.add_argument("--only", default="", help="decoders whose name begins so")
    parser.add_argument(
        "--first", type=int, default=time.time_ns() // 1_000_000 % 10**9, help="first seed; by default new ones"
    )
    given = parser.parse_args()
    found = 0
    print(f"{'decoder':<28} {'inputs':>9} {'taken':>8} {'found':>6}")
    for target in targets():
        if not target.name.startswith(given.only):
            continue
        report = fuzz(target, first=given.first, seconds=given.seconds)
        print(f"{target.name:<28} {report.inputs:>9,} {report.taken:>8,} {len(report.findings):>6}", flush=True)
        for finding in report.findings[:5]:
            print(f"  {finding}")
        found += len(report.findings)
    print(f"fuzz: {found} findings, seeds from {given.first}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
