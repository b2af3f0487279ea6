"""What a run's account means: violations, a table for people, one line for machines.

Room rules: counts; starts nothing and asks nobody.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from statistics import median
from typing import Any

from tests.chaos.run import Account, Plan

__all__ = ["as_json", "as_lines", "violations"]


def violations(account: Account) -> list[str]:
    """Return what is broken, one sentence each; empty when all is well."""
    found = account.found
    said = [f"audit {one['invariant']}: {one['meaning']} ({one['topic']} {one['offset']})" for one in found["violations"]]
    if account.lost:
        said.append(f"{len(account.lost)} requests have no confirmation")
    if account.doubled:
        said.append(f"{len(account.doubled)} requests have confirmations that differ")
    if found["inputs_not_processed_yet"]:
        said.append(f"{found['inputs_not_processed_yet']} inputs were never processed")
    if found["requests"]["closed"] != len(account.asked):
        said.append(f"the journal has closed {found['requests']['closed']} requests of {len(account.asked)}")
    if (again := found["published_again"]["batches"]) > (ends := _ends(account)):
        said.append(f"a batch was published again {again} times, though workers ended or were held up only {ends} times")
    if account.readable:
        said.append(f"somebody can be read in {len(account.readable)} places: {account.readable[0]}")
    if account.swayed:
        said.append(f"{len(account.swayed)} requests were answered by forged words")
    aside, wanted = account.set_aside, account.poison | account.forged.keys()
    if unseen := account.poison - aside.keys():
        said.append(f"{len(unseen)} poison records were not set aside")
    if unseen := account.forged.keys() - aside.keys():
        said.append(f"{len(unseen)} forged records were not set aside")
    if good := aside.keys() - wanted:
        said.append(f"{len(good)} records were set aside that are neither poison nor forged")
    if wrong := [value for value, code in account.forged.items() if value in aside and aside[value] != {code}]:
        said.append(f"{len(wrong)} forged records were set aside with another code than theirs")
    said += [f"{hit.who}: {hit.kind}" for hit in account.hits if hit.kind == "stop took too long"]
    return said


def _ends(account: Account) -> int:
    """Return how often a worker's life was cut short, or so held up that another adopted its batch: each may double one.

    A server that goes away holds up every worker for longer than adopting waits here; alone, nobody adopts.
    """
    hits = [hit for hit in account.hits if "SIGTERM" not in hit.kind]
    ended = sum(name.startswith("worker") for hit in hits for name in hit.who.split("+"))
    held_up = sum(hit.who in {"broker", "postgresql"} for hit in hits) * account.workers if account.workers > 1 else 0
    return ended + held_up


def _waits(account: Account) -> Iterator[tuple[str, float, float]]:
    """Yield each hit's kind, seconds to the next first confirmation, and to one on every partition."""
    by_partition: dict[int, list[float]] = defaultdict(list)
    for at, partition in sorted(account.progress):
        by_partition[partition].append(at)
    for hit in account.hits:
        after = [next((at - hit.at for at in times if at > hit.at), None) for times in by_partition.values()]
        known = [seconds for seconds in after if seconds is not None]
        if known and len(known) == len(after):
            yield hit.kind, min(known), max(known)


def _duplicates(account: Account) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for topic, count in account.found["duplicates"].items():
        counts[topic.split(".")[1]] += count
    return dict(sorted(counts.items()))


def as_lines(plan: Plan, account: Account) -> Iterator[str]:
    """Yield the table."""
    waits = defaultdict(list)
    for kind, first, everywhere in _waits(account):
        waits[kind].append((first, everywhere))
    yield f"{'what went down':<38}{'times':>6}{'next confirmed':>18}{'on all partitions':>20}"
    yield f"{'':<38}{'':>6}{'p50 / max, s':>18}{'p50 / max, s':>20}"
    for kind, times in sorted(Counter(hit.kind for hit in account.hits).items()):
        yield f"{kind:<38}{times:>6}{_spread([w[0] for w in waits[kind]]):>18}{_spread([w[1] for w in waits[kind]]):>20}"
    flat = [wait for kind in waits for wait in waits[kind]]
    yield f"{'all':<38}{len(account.hits):>6}{_spread([w[0] for w in flat]):>18}{_spread([w[1] for w in flat]):>20}"
    yield ""
    yield f"requests                         {len(account.asked)} ({plan.store}, {plan.workers} worker(s), seed {plan.seed})"
    yield f"lost                             {len(account.lost)}"
    yield f"distinct confirmations doubled   {len(account.doubled)}"
    doubled = ", ".join(f"{topic} {count}" for topic, count in _duplicates(account).items())
    yield f"duplicate records                {doubled or 'none'}"
    again = account.found["published_again"]
    yield (
        f"batches published again          {again['batches']} after {_ends(account)} ends and delays of workers,"
        f" the largest of {again['largest']} journal entries"
    )
    yield f"poison                           {len(account.poison)}, records in quarantine {account.found['quarantined']}"
    yield f"the connectors' last life        {account.keys}"
    codes = ", ".join(f"{code} {count}" for code, count in sorted(Counter(account.forged.values()).items()))
    yield f"forged                           {codes or 'none: signatures are off'}"
    yield f"all confirmed after the load     {account.heal_seconds:.1f} s"
    broken = violations(account)
    yield f"violations                       {len(broken)}"
    yield from (f"  {line}" for line in broken)


def _spread(seconds: list[float]) -> str:
    return f"{median(seconds):.1f} / {max(seconds):.1f}" if seconds else "-"


def as_json(plan: Plan, account: Account, control_lost: int | None) -> dict[str, Any]:
    """Return the figures, flat. Seconds are None when no hit was followed by enough confirmations."""
    waits = list(_waits(account))
    first, everywhere = [w[1] for w in waits], [w[2] for w in waits]
    return {
        "clean": not violations(account) and control_lost != 0,
        "seed": plan.seed,
        "store": plan.store,
        "workers": plan.workers,
        "minutes": plan.minutes,
        "requests": len(account.asked),
        "lost": len(account.lost),
        "confirmations_doubled": len(account.doubled),
        "violations": len(violations(account)),
        "hits": dict(sorted(Counter(hit.kind for hit in account.hits).items())),
        "duplicates": _duplicates(account),
        "batches_published_again": account.found["published_again"]["batches"],
        "largest_published_again": account.found["published_again"]["largest"],
        "worker_ends": _ends(account),
        "poison": len(account.poison),
        "keys": account.keys,
        "forged": dict(sorted(Counter(account.forged.values()).items())),
        "quarantined": account.found["quarantined"],
        "next_confirmed_p50_seconds": round(median(first), 2) if first else None,
        "next_confirmed_max_seconds": round(max(first), 2) if first else None,
        "all_partitions_p50_seconds": round(median(everywhere), 2) if everywhere else None,
        "all_partitions_max_seconds": round(max(everywhere), 2) if everywhere else None,
        "heal_seconds": round(account.heal_seconds, 1),
        "control_lost": control_lost,
    }
