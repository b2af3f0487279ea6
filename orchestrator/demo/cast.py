"""What the demo must know of a system: how to start it, how to plant people in it, and how to see what became of them.

Room rules: shapes only; the systems themselves stand in `parts`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.demo.people import Person
from schemas.vocabulary import Right

__all__ = ["Place", "Record", "Role", "canonical", "everyone", "owned", "written"]

#: One thing that a system holds, as JSON-able data.
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where one system lives: the stand-in's address, a folder of the vendor's own, and a key of the two processes."""

    url: str
    folder: Path
    key: str


def everyone(_: Person) -> bool:
    """Tell that the system knows everybody."""
    return True


def nothing(_: Iterable[Record]) -> list[Record]:
    """Return what an erasure leaves, which is nothing."""
    return []


def unchanged(record: Record) -> Record:
    """Return the record."""
    return record


def _no_settings(_: Place) -> dict[str, str]:
    return {}


def _no_tallies(_: Any) -> dict[str, int]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """One system's part.

    `settings` is the connector's environment, `standin_settings` the stand-in's (which is not up yet: its `url` is empty).
    `partner` names a system whose stand-in this one shares. `holds` says who is planted, `seed` how, as a body of
    `/__seed__`; `switches` are set before. `records` takes what `/__state__` shows apart; with `asks`, a path is asked for each
    person instead, and the answer is that person's record.

    What must be there afterwards: `erased` of the records before, `fields` (our field -> path) with a new value, `silent` paths
    after an objection or an unsubscribe. `neutral` takes what nobody can foretell out of a record. `tallies` are numbers beside
    the records, and `moves` what each right adds to them for each person held.
    """

    connector: str
    code: str
    seed: Callable[[Sequence[Person]], Any]
    settings: Callable[[Place], dict[str, str]]
    standin_settings: Callable[[Place], dict[str, str]] = _no_settings
    partner: str | None = None
    switches: Mapping[str, Any] = field(default_factory=dict)
    holds: Callable[[Person], bool] = everyone
    records: Callable[[Any], list[Record]] | None = None
    asks: Callable[[Person], str] | None = None
    erased: Callable[[Iterable[Record]], list[Record]] = nothing
    neutral: Callable[[Record], Record] = unchanged
    fields: Mapping[str, str] = field(default_factory=dict)
    silent: Mapping[Right, Mapping[str, Any]] = field(default_factory=dict)
    tallies: Callable[[Any], dict[str, int]] = _no_tallies
    moves: Mapping[Right, Mapping[str, int]] = field(default_factory=dict)
    #: A file of the stand-in that the connector needs: path there -> name in the vendor's folder.
    fetches: Mapping[str, str] = field(default_factory=dict)
    #: Whoever objects is taken out.
    gone_after_objection: bool = False
    #: The vendor takes any order and does not say whether it knew the person.
    cannot_tell: bool = False
    #: A path that is posted to all the time: the people who work there.
    staff: str | None = None


def canonical(record: Record) -> str:
    """Return the one text of a record."""
    return json.dumps(record, sort_keys=True, ensure_ascii=False)


def owned(records: Iterable[Record], people: Iterable[Person]) -> dict[str, list[Record]]:
    """Return records by the alias of whom they name; those that name nobody stand under the empty alias."""
    found: dict[str, list[Record]] = {}
    marks = [(person.alias, (*person.secrets, *person.hashes)) for person in people]
    for record in records:
        text = canonical(record)
        alias = next((alias for alias, secrets in marks if any(secret in text for secret in secrets)), "")
        found.setdefault(alias, []).append(record)
    return found


def written(record: Record, values: Mapping[str, Any]) -> Record:
    """Return the record with these values at their paths (`a.b`); a path whose beginning is not there is left out."""
    copy: Record = json.loads(canonical(record))
    for path, value in values.items():
        *outer, last = path.split(".")
        inner: Any = copy
        for name in outer:
            inner = inner.get(name) if isinstance(inner, dict) else None
        if isinstance(inner, dict) and last in inner:
            inner[last] = value
    return copy
