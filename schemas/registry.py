"""The registry: the systems that hold personal data, the portals, and the controller they all answer to.

One file describes them (`deploy/registry/*.yaml`); `orchestrator.adapters.registry_file` reads it and points at the line
of a mistake. The same value is frozen, by version, into every plan.

Room rules: data and its own consistency; no file is read here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from schemas.base import Record
from schemas.blobs import BlobKey
from schemas.ids import PortalId, SystemId, digest
from schemas.subject import Need
from schemas.vocabulary import IdentifierKind, Language, Right, Role

__all__ = ["Controller", "Portal", "Registry", "System", "find_cycle"]

_Title = Annotated[str, StringConstraints(min_length=2, max_length=80)]


class Controller(Record):
    """Who is answerable (GDPR Art. 4(7)), and which calendar and law count the days."""

    title: _Title
    zone: Annotated[str, Field(description="IANA zone of the seat: legal dates are local dates there")]
    calendar: Annotated[str, Field(description="Holiday calendar, see docs/deadlines.md")]
    regime: Annotated[str, Field(description="Default rule family, for instance eu.gdpr")] = "eu.gdpr"
    languages: tuple[Language, ...] = (Language.EN, Language.NL)


class Portal(Record):
    """Who may publish requests."""

    id: PortalId
    title: _Title
    owner: _Title
    blob_key: Annotated[
        BlobKey | None,
        Field(description="Public key (JWK) that access results are sealed to; without it access and portability fail"),
    ] = None


class System(Record):
    """One place where personal data lives, and what its connector can do there."""

    id: SystemId
    title: _Title
    role: Role
    owner: Annotated[_Title, Field(description="The team that is told when it fails")]
    connector: Annotated[str | None, Field(description="Name of the connector; none yet: marked so and not planned")] = None
    rights: Annotated[tuple[Right, ...], Field(description="Rights the connector fulfils here")] = ()
    holds: Annotated[tuple[str, ...], Field(description="Categories of data, for people to read")] = ()
    needs: Annotated[
        tuple[Need, ...], Field(description="Any one of these identifiers is enough; all known ones are sent")
    ] = ()
    yields: Annotated[tuple[IdentifierKind, ...], Field(description="Identifiers found here that others may need")] = ()
    after: Annotated[tuple[SystemId, ...], Field(description="Systems that must settle first, for the same request")] = ()
    patience: Annotated[timedelta, Field(description="How long an order may stay without any report")] = timedelta(days=3)
    cooling_off: Annotated[timedelta, Field(description="Wait before an irreversible order leaves")] = timedelta(0)
    irreversible: Annotated[tuple[Right, ...], Field(description="Rights that cannot be undone here")] = (Right.ERASURE,)
    four_eyes: Annotated[bool, Field(description="Irreversible orders need an approval by someone else than the filer")] = False
    status: Literal["active", "planned"] = "active"

    @property
    def is_planned_for(self) -> bool:
        """Tell whether requests are sent there at all."""
        return self.connector is not None and self.status == "active"


def find_cycle(after: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the first circle in `after` as a path that ends where it began; empty if there is none.

    Every name in a value must be a key.
    """
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for nxt in after[node]:
            found = visit(nxt, [*path, node])
            if found:
                return found
        done.add(node)
        return []

    return next((found for node in after if (found := visit(node, []))), [])


class Registry(Record):
    """All of it, checked: ids unique, `after` known and acyclic, needs met by something."""

    version: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,40}$")]
    controller: Controller
    portals: tuple[Portal, ...]
    systems: tuple[System, ...]

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        for field, ids in (
            ("systems", [s.id for s in self.systems]),
            ("portals", [p.id for p in self.portals]),
        ):
            doubled = {i for i in ids if ids.count(i) > 1}
            if doubled:
                raise ValueError(f"{field}: id {min(doubled)!r} stands twice")
        known = {s.id for s in self.systems}
        for system in self.systems:
            for other in system.after:
                if other not in known:
                    raise ValueError(f"systems.{system.id}.after: no system {other!r}; known are {', '.join(sorted(known))}")
        cycle = find_cycle({s.id: s.after for s in self.systems})
        if cycle:
            raise ValueError(f"systems.after: runs in a circle: {' -> '.join(cycle)}")
        return self

    @cached_property
    def by_id(self) -> dict[str, System]:
        """Return the systems by id."""
        return {s.id: s for s in self.systems}

    @cached_property
    def portal_ids(self) -> frozenset[str]:
        """Return the ids of the portals."""
        return frozenset(p.id for p in self.portals)

    def blob_key(self, portal: str) -> BlobKey | None:
        """Return the key that results for a portal are sealed to; None if it has none or is not known any more."""
        return self._blob_keys.get(portal)

    @cached_property
    def _blob_keys(self) -> dict[str, BlobKey | None]:
        return {portal.id: portal.blob_key for portal in self.portals}

    @cached_property
    def content_digest(self) -> str:
        """Return the SHA-256 of the registry's content: two files of one version with different content are noticed."""
        return digest(self.model_dump_json().encode())

    def active(self) -> Iterator[System]:
        """Yield the systems that requests are sent to."""
        return (s for s in self.systems if s.is_planned_for)
