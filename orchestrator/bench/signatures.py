"""What signing and verifying cost a record, by how many are published together.

Room rules: measures `schemas.signatures` alone, in one process: no broker, no store.
"""

from __future__ import annotations

import timeit
from datetime import UTC, datetime

from schemas.signatures import Verifier, leaf_of, sign_all
from schemas.trust import ORCHESTRATOR, SigningKey, Trust

__all__ = ["main", "measured"]

_VALUE_BYTES = 600
_ROUNDS = 5
_RECORDS = 2000


def measured(together: int) -> tuple[float, float, int]:
    """Return microseconds a record to sign and to verify, and the header's bytes; the best of some rounds."""
    key, at = SigningKey.new(ORCHESTRATOR), datetime.fromtimestamp(0, UTC)
    trust, value = Trust.of(key), b"v" * _VALUE_BYTES
    keys = [b"%036d" % number for number in range(together)]

    def leaves() -> list[bytes]:
        return [leaf_of("JournalEntry", "journal", one, value) for one in keys]

    headers = sign_all(leaves(), key)

    def verify() -> None:
        verifier = Verifier(trust)
        for leaf, header in zip(leaves(), headers, strict=True):
            verifier.verify(leaf, header, principal=ORCHESTRATOR, at=at)

    times = max(1, _RECORDS // together)
    scale = 1e6 / times / together
    signing = min(timeit.repeat(lambda: sign_all(leaves(), key), number=times, repeat=_ROUNDS)) * scale
    return signing, min(timeit.repeat(verify, number=times, repeat=_ROUNDS)) * scale, len(headers[-1])


def main() -> None:
    """Print the table as Markdown: `python -m orchestrator.bench.signatures`."""
    print("| published together | sign, us a record | verify, us a record | header, bytes |\n| --- | --- | --- | --- |")
    for together in (1, 100, 1000):
        signing, verifying, size = measured(together)
        print(f"| {together} | {signing:.1f} | {verifying:.1f} | {size} |")


if __name__ == "__main__":
    main()
