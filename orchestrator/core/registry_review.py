"""What a registry means before it is used: its stages, what it leaves open, and what a new version changes.

Room rules: pure functions of registries; they describe, `plan` decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from schemas.blobs import EXPORTING
from schemas.registry import Registry, System
from schemas.topics import orders_topic
from schemas.vocabulary import IdentifierKind, Right

__all__ = ["Change", "changes", "open_ends", "stages"]

#: What people know about themselves and portals ask for; the other kinds must be found by some system.
_ASKED_FOR = frozenset({IdentifierKind.EMAIL, IdentifierKind.PHONE, IdentifierKind.CUSTOMER_ID, IdentifierKind.ACCOUNT_ID})

_FROZEN = "open requests keep the plan they were accepted with"


_KEYLESS = (
    "is missing: access and portability for this portal end as failed (results_key_missing) in every system; make a key with "
    "`dsr blobs key` at the portal, and put its public half here"
)


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between two versions, and what it means for requests that are open."""

    field: str
    change: str
    open_requests: str


def stages(registry: Registry) -> tuple[tuple[System, ...], ...]:
    """Return the systems that requests are sent to, by the earliest moment each may start.

    Those of the first stage wait for nothing; each later one waits for at least one of the stage before. `after` a system
    that is not planned counts for nothing, as in a plan.
    """
    active = {system.id: system for system in registry.active()}
    depth: dict[str, int] = {}

    def of(system: System) -> int:
        if system.id not in depth:
            depth[system.id] = 1 + max((of(active[before]) for before in system.after if before in active), default=-1)
        return depth[system.id]

    last = max(map(of, active.values()), default=-1)
    return tuple(tuple(s for s in active.values() if depth[s.id] == n) for n in range(last + 1))


def open_ends(registry: Registry) -> Iterator[tuple[str, str]]:
    """Yield what is lawful to leave open but should be known: the field and what follows from it."""
    active = {system.id: system for system in registry.active()}
    for system in registry.systems:
        place = f"systems.{system.id}"
        if system.id not in active:
            yield place, "has no connector in use: no request is sent there, somebody must see to it by hand"
        if system.id in active and not system.rights:
            yield f"{place}.rights", "lists no right: every request ends there as not_applicable"
        idle = [before for before in system.after if system.id in active and before not in active]
        if idle:
            yield f"{place}.after", f"names {_listed(idle)}, which no request is sent to: not waited for"
        if system.is_planned_for and not system.needs:
            yield f"{place}.needs", "names none: every identifier that is known of the person is sent there"
        yield from _unfindable(system, registry)
    offered = {right for system in active.values() for right in system.rights}
    for portal in registry.portals:
        if portal.blob_key is None and offered & EXPORTING:
            yield f"portals.{portal.id}.blob_key", _KEYLESS
    for right in Right:
        if right not in offered:
            yield "systems", f"no system with a connector fulfils {right}: every such request ends as not_fulfilled"


def _unfindable(system: System, registry: Registry) -> Iterator[tuple[str, str]]:
    kinds = [need.kind for need in system.needs]
    if not kinds or _ASKED_FOR & set(kinds):
        return
    place = f"systems.{system.id}.needs"
    sources = [s for s in registry.systems if s.id != system.id and set(s.yields) & set(kinds)]
    if not sources:
        yield place, f"{_listed(kinds)}: yielded by no system, so only a portal that knows it can reach this one"
    elif not _before(system, registry) & {s.id for s in sources}:
        yield f"systems.{system.id}.after", f"waits for none of {_listed(s.id for s in sources)}, which yield what it needs"
    elif system.is_planned_for and not any(s.is_planned_for for s in sources):
        yield place, f"{_listed(kinds)}: yielded only by {_listed(s.id for s in sources)}, which no request is sent to"


def _before(system: System, registry: Registry) -> set[str]:
    found: set[str] = set()
    todo = list(system.after)
    while todo:
        other = todo.pop()
        if other not in found:
            found.add(other)
            todo.extend(registry.by_id[other].after)
    return found


def _listed(words: Iterable[str]) -> str:
    return ", ".join(map(str, words))


def changes(old: Registry, new: Registry) -> Iterator[Change]:
    """Yield every difference from `old` to `new`. What is the same in another order is no difference, but for `languages`."""
    yield from _controller(old, new)
    for portal in sorted(old.portal_ids | new.portal_ids):
        if portal not in new.portal_ids:
            yield Change(f"portals.{portal}", "removed", "what it publishes from now on is quarantined as unknown_portal")
        elif portal not in old.portal_ids:
            yield Change(f"portals.{portal}", "added", "none: it has no requests yet")
        elif old.blob_key(portal) != new.blob_key(portal):
            yield _rekeyed(portal, old, new)
    for before in old.systems:
        now = new.by_id.get(before.id)
        if now is None:
            yield _vanished(before, "removed")
        else:
            yield from _system(before, now)
    yield from (_appeared(system, "added") for system in new.systems if system.id not in old.by_id)


def _rekeyed(portal: str, old: Registry, new: Registry) -> Change:
    before, now = ((key.kid if key else "none") for key in (old.blob_key(portal), new.blob_key(portal)))
    meaning = "orders that leave from now on carry the new key; keep the old private key until what is sealed to it has expired"
    return Change(f"portals.{portal}.blob_key", f"{before} -> {now}", meaning)


def _controller(old: Registry, new: Registry) -> Iterator[Change]:
    for name, before, now in _differences(old.controller, new.controller):
        meaning = f"{_FROZEN}; dates already told to people do not move"
        if name == "languages":
            meaning = "confirmations still to come are written in the new ones"
        if name == "title":
            meaning = "confirmations still to come bear the new name"
        yield Change(f"controller.{name}", f"{_word(before)} -> {_word(now)}", meaning)


def _appeared(system: System, how: str) -> Change:
    if not system.is_planned_for:
        return Change(f"systems.{system.id}", f"{how}, without a connector", "none: no request is sent there")
    return Change(
        f"systems.{system.id}",
        f"{how}, {orders_topic(system.id)} must exist",
        "do not go there; single ones can be sent with the command Add",
    )


def _vanished(system: System, how: str) -> Change:
    if not system.is_planned_for:
        return Change(f"systems.{system.id}", how, "none: no request was sent there")
    return Change(
        f"systems.{system.id}",
        how,
        f"still wait for it: keep its connector and {orders_topic(system.id)} until none is open, or waive it in each",
    )


def _system(before: System, now: System) -> Iterator[Change]:
    if before.is_planned_for and not now.is_planned_for:
        yield _vanished(before, "no longer in use")
    if now.is_planned_for and not before.is_planned_for:
        yield _appeared(now, "now in use")
    switched = before.is_planned_for != now.is_planned_for
    for name, was, is_now in _differences(before, now):
        if switched and name in ("connector", "status"):
            continue
        field = f"systems.{now.id}.{name}"
        if isinstance(was, tuple) and isinstance(is_now, tuple):
            gone, came = [x for x in was if x not in is_now], [x for x in is_now if x not in was]
            parts = [f"-{_word(x)}" for x in gone] + [f"+{_word(x)}" for x in came]
            if parts:
                yield Change(field, " ".join(parts), _meaning(name, now))
        else:
            yield Change(field, f"{_word(was)} -> {_word(is_now)}", _meaning(name, now))


def _differences(before: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    for name in type(now).model_fields:
        was, is_now = getattr(before, name), getattr(now, name)
        if was != is_now:
            yield name, was, is_now


def _meaning(field: str, now: System) -> str:
    match field:
        case "holds":
            return "none: for people to read"
        case "connector":
            return f"{orders_topic(now.id)} is read by the new connector, also for orders already sent"
        case "rights" | "needs" | "yields" | "after":
            return f"{_FROZEN}; keep the old and the new way working until none of them is open"
        case _:
            return _FROZEN


def _word(value: Any) -> str:
    if value is None:
        return "none"
    if hasattr(value, "kind"):
        return f"{value.kind}({value.form})"
    if isinstance(value, tuple):
        return f"[{_listed(map(_word, value))}]"
    return str(value)
