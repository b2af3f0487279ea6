"""The proof: every stand-in is asked what it holds, before and after, and the difference is exactly what was confirmed.

Who asked for nothing is compared byte for byte. Who asked is compared with the records of before, changed as the right and the
confirmed outcome say, byte for byte as well: an erasure that left something, a correction that touched another field and an
unsubscribe that did not happen all show.

Room rules: reads over HTTP; believes no report.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from orchestrator.demo.cast import Record, Role, canonical, owned, written
from orchestrator.demo.people import STRANGER, Person
from orchestrator.demo.story import Scene
from schemas.confirmations import Confirmation
from schemas.outcomes import NotApplicable
from schemas.registry import Registry
from schemas.subject import CHANGING
from schemas.vocabulary import NotApplicableReason, OutcomeCode, RequestResult, Right

__all__ = ["Act", "Holdings", "Proof", "compare", "look", "ratings"]

#: Outcomes after which the system must have done what the right asks for.
_DONE = frozenset({OutcomeCode.FULFILLED, OutcomeCode.RETAINED, OutcomeCode.NOTIFIED, OutcomeCode.NOTHING_HELD})
_EXCEPTIONS = frozenset({OutcomeCode.RETAINED, OutcomeCode.NOTIFIED, OutcomeCode.WAIVED})


@dataclass(frozen=True, slots=True)
class Holdings:
    """What one system holds: records by alias (the empty one: nobody's), as canonical text, and its tallies."""

    records: Mapping[str, list[Record]]
    tallies: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Act:
    """A request of the story with its end."""

    scene: Scene
    confirmation: Confirmation


@dataclass(slots=True)
class Proof:
    """What was looked at, by kind, and every deviation as one sentence (aliases, no values)."""

    checked: Counter[str] = field(default_factory=Counter)
    deviations: list[str] = field(default_factory=list)


async def look(roles: Mapping[str, Role], urls: Mapping[str, str], people: Iterable[Person]) -> dict[str, Holdings]:
    """Ask every stand-in what it holds."""
    known = [person for person in people if person.alias != STRANGER]
    async with httpx.AsyncClient(timeout=20) as client:
        found = await asyncio.gather(*(_look(client, role, urls[system], known) for system, role in roles.items()))
    return dict(zip(roles, found, strict=True))


async def _look(client: httpx.AsyncClient, role: Role, url: str, people: list[Person]) -> Holdings:
    answer = await client.get(f"{url}/__state__")
    state = answer.raise_for_status().json()["state"]
    if role.asks is None:
        assert role.records is not None, "a role says how its records are seen"
        return Holdings(owned(map(role.neutral, role.records(state)), people), role.tallies(state))
    records: dict[str, list[Record]] = {}
    for person in filter(role.holds, people):
        told: Any = (await client.get(f"{url}{role.asks(person)}")).raise_for_status().json()
        records[person.alias] = [role.neutral(told)]
    return Holdings(records, role.tallies(state))


def compare(
    registry: Registry,
    roles: Mapping[str, Role],
    people: Mapping[str, Person],
    *,
    before: Mapping[str, Holdings],
    after: Mapping[str, Holdings],
    acts: Iterable[Act],
) -> Proof:
    """Return whether everything is as it must be."""
    acts, proof = list(acts), Proof()
    for system, role in roles.items():
        offered = registry.by_id[system].rights
        expected = {alias: list(records) for alias, records in before[system].records.items()}
        tallies, touched = Counter(before[system].tallies), {}
        for act in acts:
            right = act.scene.right
            if act.scene.duplicate or not _was_done(act, system) or right not in offered or not role.holds(_who(people, act)):
                continue
            alias = act.scene.alias
            expected[alias] = _expected(role, act.scene, expected.get(alias, []))
            tallies.update(role.moves.get(right, {}))
            touched[alias] = right
        _judge(proof, system, touched, expected, after[system].records)
        for name in tallies:
            if tallies[name] != after[system].tallies.get(name):
                found = after[system].tallies.get(name)
                proof.deviations.append(f"{system}: {found} {name}, {tallies[name]} must be there")
    return proof


def _who(people: Mapping[str, Person], act: Act) -> Person:
    return people[act.scene.alias]


def _was_done(act: Act, system: str) -> bool:
    """Tell whether the system says that it did, or had nothing to do; `compare` then looks whether that is so."""
    if act.scene.alias == STRANGER or act.confirmation.result is RequestResult.WITHDRAWN:
        return False
    return any(one.system == system and one.outcome.code in _DONE for one in act.confirmation.systems)


def _expected(role: Role, scene: Scene, records: list[Record]) -> list[Record]:
    if scene.right is Right.ERASURE or (scene.right is Right.OBJECTION and role.gone_after_objection):
        return role.erased(records)
    values: Mapping[str, Any] = role.silent.get(scene.right, {})
    if scene.right in CHANGING:
        values = {role.fields[name]: new for name, new in scene.changes.items() if name in role.fields}
    return [written(record, values) for record in records]


_WORDS = {
    Right.ERASURE: "erased", Right.RECTIFICATION: "corrected", Right.COMPLETION: "completed", Right.OBJECTION: "silenced",
    Right.UNSUBSCRIBE: "unsubscribed", Right.ACCESS: "untouched", Right.PORTABILITY: "untouched",
}  # fmt: skip


def _judge(
    proof: Proof,
    system: str,
    touched: Mapping[str, Right],
    expected: Mapping[str, list[Record]],
    found: Mapping[str, list[Record]],
) -> None:
    for alias in sorted(expected.keys() | found.keys()):
        wanted, there = (Counter(map(canonical, side.get(alias, []))) for side in (expected, found))
        right = touched.get(alias)
        word = _WORDS[right] if right is not None else "untouched"
        if wanted == there:
            proof.checked[word] += 1
            continue
        what = f"{(there - wanted).total()} records are not as they must be, {(wanted - there).total()} are missing"
        proof.deviations.append(f"{system}: {alias or 'nobody in particular'} is not {word}: {what}")


def ratings(roles: Mapping[str, Role], acts: Iterable[Act]) -> Iterator[str]:
    """Yield a sentence for each request that did not end as the story has it."""
    acts = list(acts)
    for act in acts:
        scene, told = act.scene, act.confirmation
        name = f"{scene.alias}, {scene.right.value}"
        if told.result is not _result(act):
            yield f"{name}: ended as {told.result.value}"
        if not told.in_time:
            yield f"{name}: not in time"
        outcomes = {one.system: one.outcome.code for one in told.systems}
        yield from (
            f"{name}: {system} says {outcomes.get(system)}, the story says {code.value}"
            for system, code in scene.outcomes.items()
            if outcomes.get(system) is not code
        )
        known = {system for system, role in roles.items() if not role.cannot_tell}
        holding = sorted(s for s in known if outcomes.get(s) in {OutcomeCode.FULFILLED, OutcomeCode.RETAINED})
        if scene.alias == STRANGER and holding:
            yield f"{name}: {', '.join(holding)} say that they know this person"
        changed = {change.kind for change in told.changes}
        missing = _changes_of(scene) - changed
        if missing:
            yield f"{name}: the confirmation does not show that it was {', '.join(sorted(missing))}"
    twice = [act for act in acts if any(act.scene.duplicate and other.scene.alias == act.scene.alias for other in acts)]
    yield from (
        f"{act.scene.alias}: asked twice, and no confirmation names the request that was executed"
        for act in twice
        if not any(o.confirmation.executed_request for o in acts if o.scene.alias == act.scene.alias)
    )


def _result(act: Act) -> RequestResult:
    """Return the result that the story and the systems' answers call for."""
    if act.scene.withdrawn:
        return RequestResult.WITHDRAWN
    outcomes = [one.outcome for one in act.confirmation.systems]
    unsearched = any(isinstance(o, NotApplicable) and o.reason is NotApplicableReason.IDENTIFIER_MISSING for o in outcomes)
    if unsearched or any(outcome.code in _EXCEPTIONS for outcome in outcomes):
        return RequestResult.FULFILLED_WITH_EXCEPTIONS
    return RequestResult.FULFILLED


def _changes_of(scene: Scene) -> set[str]:
    retried = {"retried"} if scene.retried or scene.waived else set()
    return retried | ({"extended", "waived"} if scene.waived else set())
