"""The stand-in subsidiary's people, and what each right does to them.

Room rules: plain data and pure changes of it; nothing here is reachable from production code paths.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any

__all__ = ["RIGHTS", "Person", "Work", "matches", "perform"]

#: Rights that the extension adds to access, portability and erasure.
RIGHTS = frozenset({"rectification", "completion", "restriction", "objection", "unsubscribe"})
_FLAGS = {"restriction": ("restricted", True), "objection": ("marketing", False), "unsubscribe": ("newsletter", False)}


@dataclass(slots=True)
class Person:
    """One person with `records` of data, `kept` of which must stay until `keep_until` (an ISO date)."""

    customer_id: str
    email: str
    fields: dict[str, str] = field(default_factory=dict)
    records: int = 1
    kept: int = 0
    keep_until: str | None = None
    marketing: bool = True
    newsletter: bool = True
    restricted: bool = False

    def shown(self) -> dict[str, Any]:
        """Return everything, as JSON-able data."""
        return asdict(self)


@dataclass(slots=True)
class Work:
    """What a request came to: a count, an export for access, and an outcome where OpenDSR has no word for it."""

    count: int = 0
    export: list[dict[str, Any]] | None = None
    outcome: dict[str, Any] | None = None

    @property
    def has_failed(self) -> bool:
        """Tell whether a person must look."""
        return self.outcome is not None and self.outcome["code"] == "failed"


def matches(person: Person, identities: Iterable[Mapping[str, str]]) -> bool:
    """Tell whether one of the identities is this person's."""
    return any(_is(person, identity) for identity in identities)


def _is(person: Person, identity: Mapping[str, str]) -> bool:
    is_email = identity["identity_type"] == "email"
    own = person.email.lower() if is_email else person.customer_id
    value, form = identity["identity_value"], identity.get("identity_format", "raw")
    if form == "raw":
        return own == (value.lower() if is_email else value)
    return hashlib.new(form, own.encode(), usedforsecurity=False).hexdigest() == value


def perform(people: list[Person], right: str, changes: Iterable[Mapping[str, str]], today: date) -> Work:
    """Do what a right asks for to these people."""
    count = sum(person.records + person.kept for person in people)
    if right in {"access", "portability"}:
        return Work(count, export=[person.shown() for person in people] if people else None)
    if right == "erasure":
        return _erase(people, today)
    if right in {"rectification", "completion"}:
        return _write(people, list(changes), only_empty=right == "completion")
    for person in people:
        name, value = _FLAGS[right]
        setattr(person, name, value)
    return Work(len(people))


def _erase(people: list[Person], today: date) -> Work:
    kept, erased, ends = 0, 0, []
    for person in people:
        if person.kept and person.keep_until is not None and date.fromisoformat(person.keep_until) >= today:
            kept += person.kept
            ends.append(person.keep_until)
        else:
            erased += person.kept
            person.kept = 0
        erased += person.records
        person.records, person.fields = 0, {}
    if not kept:
        return Work(erased)
    outcome = {"code": "retained", "ground": "art17_3_b", "until": max(ends), "count": kept, "fulfilled": erased}
    return Work(erased, outcome=outcome)


def _write(people: list[Person], changes: list[Mapping[str, str]], *, only_empty: bool) -> Work:
    for person in people:
        for change in changes:
            current = person.fields.get(change["field"], "")
            if current in {"", change["new"]}:
                continue
            digest = hashlib.sha256(current.encode()).hexdigest()
            if only_empty or change.get("old_sha256", digest) != digest:
                return Work(outcome={"code": "failed", "reason": "rejected"})
    for person in people:
        person.fields |= {change["field"]: change["new"] for change in changes}
    return Work(len(people))
