"""Is the store as new as the journal, and what is done if it is not: it was restored from a backup, or fell back to a replica.

Everything in the journal was saved before it was published. So a request whose row is missing, or behind its newest entry, has
lost what happened since; going on from there would fork its chain, and confirm a second time what was closed.

Room rules: compares and catches up; decides nothing about a right or an outcome.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from orchestrator.core.state import UNLINKED, RequestState, evolve, from_bytes
from orchestrator.ports import Change, Store
from orchestrator.shell.work import row_of
from schemas.confirmations import Confirmation
from schemas.errors import ConfigurationError
from schemas.ids import digest
from schemas.journal import JournalEntry
from schemas.vocabulary import Language, Phase, Right

__all__ = ["Behind", "Head", "behind", "catch_up", "check_not_behind", "head_of"]

_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Head:
    """A request's newest entry in the journal, and what its first one says of it if that was read."""

    entry: JournalEntry
    content: str
    received: JournalEntry | None = None


@dataclass(frozen=True, slots=True)
class Behind:
    """Requests by what the restore did to them: closed since, gone on since, accepted since."""

    closed: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.closed or self.open or self.missing)


def head_of(known: Head | None, value: bytes) -> Head:
    """Return the head with one more record of the request taken in."""
    entry = JournalEntry.model_validate_json(value)
    first = entry if entry.sequence == 1 else None
    if known is None:
        return Head(entry, digest(value), first)
    if entry.sequence <= known.entry.sequence:
        return Head(known.entry, known.content, known.received or first)
    return Head(entry, digest(value), known.received or first)


async def behind(store: Store, heads: Mapping[str, Head]) -> Behind:
    """Return the requests that the store knows less of than these heads. Raises `StoreUnavailable`."""
    closed: list[str] = []
    still_open: list[str] = []
    missing: list[str] = []
    for names in _some(sorted(heads)):
        rows = await store.load(names)
        for name in names:
            row = rows.get(name)
            if row is None:
                missing.append(name)
            elif from_bytes(row.state).journal_sequence < heads[name].entry.sequence:
                (closed if heads[name].entry.phase is Phase.CLOSED else still_open).append(name)
    return Behind(tuple(closed), tuple(still_open), tuple(missing))


async def check_not_behind(store: Store, newest: Iterable[bytes]) -> None:
    """Refuse a store that is older than the journal's newest records. Raises `ConfigurationError`."""
    heads: dict[str, Head] = {}
    for value in newest:
        try:
            entry = JournalEntry.model_validate_json(value)
        except ValidationError:  # nothing that this release could have written: `dsr audit` judges it
            continue
        heads[entry.subject_request_id] = head_of(heads.get(entry.subject_request_id), value)
    found = await behind(store, heads)
    if found:
        count = len(found.closed) + len(found.open) + len(found.missing)
        raise ConfigurationError(
            f"the store is older than the journal: {count} requests of its newest entries are behind there, so it was restored"
            " from a backup, or is another one. Stop all workers, then see `dsr store reconcile` (docs/operations.md)"
        )


async def catch_up(
    store: Store, heads: Mapping[str, Head], found: Behind, confirmations: Mapping[str, str], now: datetime
) -> None:
    """Bring the store to where the journal is, as far as that can be known without anybody's identity.

    What closed since is closed again, with the confirmation that was published, and its key destroyed. What is open goes on
    behind the newest entry; what was reported since is asked for again. What is missing is closed without a confirmation: its
    identity is gone, and its id is not taken a second time. Raises `StoreUnavailable`, and `Conflict` if a worker runs.
    """
    for names in _some([*found.closed, *found.open, *found.missing]):
        rows = await store.load(names)
        change = Change(worker="reconcile", now=now)
        for name in names:
            row, head = rows.get(name), heads[name]
            state = _unknown(name, head) if row is None else from_bytes(row.state)
            ends = row is None or head.entry.phase is Phase.CLOSED
            after = evolve(state, journal_sequence=head.entry.sequence, journal_head=head.content)
            if ends:
                after = _ended(after, head, confirmations.get(name))
                change.forgotten.append(name)
                if state.person is not None:
                    change.left_subjects.add(state.person)
            change.rows.append(row_of(after, 0 if row is None else row.version))
        await store.commit(change)
    await store.scrub()


def _ended(state: RequestState, head: Head, confirmation: str | None) -> RequestState:
    result = None if confirmation is None else Confirmation.model_validate_json(confirmation).result
    return evolve(
        state,
        phase=Phase.CLOSED,
        **UNLINKED,
        hold=None,
        next_status_at=None,
        wake_at=None,
        closed_at=head.entry.at,
        confirmation=confirmation,
        result=result,
    )


def _unknown(name: str, head: Head) -> RequestState:
    """Return what the journal says of a request that the store has lost; its content is nobody's, so its id is refused."""
    said = {} if head.received is None else head.received.facts[0].details
    at = head.entry.at if head.received is None else head.received.at
    return RequestState(
        subject_request_id=name,
        portal=str(said.get("portal", "unknown")),
        right=Right(said.get("right", Right.ERASURE)),
        phase=Phase.CLOSED,
        language=Language.EN,
        content="",
        source="",
        submitted_at=at,
        received_at=at,
    )


def _some(names: list[str]) -> Iterable[list[str]]:
    for start in range(0, len(names), _AT_ONCE):
        yield names[start : start + _AT_ONCE]
