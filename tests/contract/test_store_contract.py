"""What `orchestrator.ports.Store` promises, on every database it runs on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy

from orchestrator.adapters.sql import schema
from orchestrator.adapters.sql.store import SqlStore, make_engine
from orchestrator.ports import Change, Conflict, Deaths, Gate, OutRecord, Refusal, Row, ServiceKey, Store, Wanted
from schemas.errors import ConfigurationError
from tests.simulation.store import Database, SimStore

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
A, B, C = (f"00000000-0000-4000-8000-00000000000{n}" for n in "abc")
PERSON = "p" * 64


_DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]
on_databases = pytest.mark.parametrize("url", _DATABASES, indirect=True)


@pytest.fixture(params=[*_DATABASES, "simulated"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of an empty database, or the word for the simulation's store in memory."""
    if request.param == "simulated":
        return "simulated"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.sqlite'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    """Give a store with today's schema."""
    if url == "simulated":
        yield SimStore(Database())
        return
    engine = make_engine(url)
    schema.upgrade(engine)
    opened = SqlStore(engine)
    yield opened
    await opened.aclose()


@pytest.fixture
async def other(url: str, store: Store) -> AsyncIterator[Store]:
    """Give a second worker's store on the same database."""
    if isinstance(store, SimStore):
        yield SimStore(store.database)
        return
    opened = SqlStore(make_engine(url))
    yield opened
    await opened.aclose()


def row(request: str, version: int = 0, **columns: object) -> Row:
    given: dict[str, object] = {"state": f"{request}@{version}".encode(), "phase": "active", "right": "erasure"}
    return Row(request, version, **{**given, **columns})  # type: ignore[arg-type] # columns of a row


def change(*rows: Row, worker: str = "w1", now: datetime = NOW, **parts: object) -> Change:
    return Change(worker=worker, now=now, rows=list(rows), **parts)  # type: ignore[arg-type] # parts of a change


def record(number: int) -> OutRecord:
    return OutRecord("t.journal.v1", A.encode(), f"value {number}".encode(), [("dsr-type", b"JournalEntry"), ("empty", b"")])


async def test_a_saved_row_comes_back_whole_and_one_version_on(store: Store) -> None:
    """Every column returns as it was saved, instants to the microsecond in UTC, and the version counts saves."""
    saved = row(
        A, person=PERSON, wake_at=NOW, due_at=NOW + timedelta(days=30), received_at=NOW, awaited="crm:sent,mail:waiting"
    )
    await store.commit(change(saved))
    loaded = await store.load([A, B])
    assert loaded == {A: replace(saved, version=1)}
    assert loaded[A].wake_at is not None and loaded[A].wake_at.tzinfo is UTC
    await store.commit(change(replace(loaded[A], state=b"two", wake_at=None)))
    assert await store.load([A]) == {A: replace(saved, version=2, state=b"two", wake_at=None)}


async def test_more_rows_than_one_statement_takes(store: Store) -> None:
    """Sets far beyond a statement's parameters are saved, loaded and forgotten like small ones."""
    requests = [f"{n:08d}-0000-4000-8000-000000000000" for n in range(1_203)]
    await store.commit(change(*(row(r) for r in requests), sealed=dict.fromkeys(requests, b"sealed")))
    assert set(await store.load(requests)) == set(requests) == set(await store.identities(requests))
    await store.commit(change(forgotten=requests[1:]))
    assert set(await store.identities(requests)) == {requests[0]}


async def siblings_of(store: Store, *persons: str) -> tuple[Mapping[str, Sequence[Row]], Mapping[str, int]]:
    """Return the open requests of each person, and the version of each one's group."""
    known = await store.know(Wanted(persons=frozenset(persons)))
    return known.groups, known.group_versions


async def refused_in(store: Store, spans: Mapping[tuple[str, int], tuple[int, int]]) -> frozenset[Refusal]:
    """Return what was refused among these offsets."""
    return (await store.know(Wanted(spans=spans))).refusals


async def test_what_a_batch_needs_is_known_at_once(store: Store) -> None:
    """Rows asked for; the group of one of them; identities asked for and of whatever has an order waiting, groups included."""
    await store.commit(
        change(
            row(A, person=PERSON, awaited="crm:sent"),
            row(B, person=PERSON, awaited="crm:sent,mail:waiting"),
            row(C, awaited="crm:sent"),
            sealed={A: b"a", B: b"b", C: b"c"},
            subjects={PERSON: 0},
        )
    )
    known = await store.know(Wanted(requests=frozenset({A, C}), companions=frozenset({A}), identities=frozenset({C})))
    assert set(known.rows) == {A, C}
    assert {request.subject_request_id for request in known.groups[PERSON]} == {A, B}
    assert known.group_versions[PERSON] > 0
    assert known.identities == {B: b"b", C: b"c"}
    assert known.refusals == frozenset()
    nothing = await store.know(Wanted())
    assert not (nothing.rows or nothing.groups or nothing.identities or nothing.refusals)


async def test_more_than_one_statement_takes_is_known_as_well(store: Store) -> None:
    """As many requests as a large batch has."""
    ids = [f"{number:08d}-0000-4000-8000-000000000000" for number in range(1201)]
    await store.commit(change(*map(row, ids), sealed=dict.fromkeys(ids, b"x")))
    known = await store.know(Wanted(requests=frozenset(ids), identities=frozenset(ids)))
    assert len(known.rows) == len(known.identities) == 1201


@pytest.mark.parametrize("stale", [0, 1, 3])
async def test_a_version_that_is_not_the_stored_one_conflicts_and_saves_nothing(store: Store, stale: int) -> None:
    """One wrong version spoils the whole transaction: rows, identities, groups, outbox, and what was out of it."""
    first = await store.commit(change(row(A), records=[record(1)]))
    await store.commit(change(row(A, 1), row(C)))
    assert first is not None
    spoiled = change(
        *(row(A, stale), row(B), row(C, 1)),
        sealed={B: b"sealed"},
        subjects={PERSON: 0},
        records=[record(2)],
        published=[first],
    )
    with pytest.raises(Conflict):
        await store.commit(spoiled)
    loaded = await store.load([A, B, C])
    assert {request: found.version for request, found in loaded.items()} == {A: 2, C: 1}
    assert await store.identities([B]) == {}
    assert (await siblings_of(store, PERSON))[1] == {PERSON: 0}
    assert [batch.outbox_id for batch in await store.unpublished("w1", NOW)] == [first]


async def test_a_request_that_two_workers_insert_is_saved_once(store: Store, other: Store) -> None:
    """Both see no row; the second to save gets a conflict."""
    await store.commit(change(row(A)))
    with pytest.raises(Conflict):
        await other.commit(change(row(A, state=b"mine")))
    assert (await store.load([A]))[A].state == f"{A}@0".encode()


async def test_of_two_commits_at_the_same_time_one_conflicts(store: Store, other: Store) -> None:
    """However often two workers save the same two rows at once, each version is given once."""
    for version in range(10):
        pair = change(row(A, version), row(B, version)), change(row(B, version), row(A, version))
        results = await asyncio.gather(store.commit(pair[0]), other.commit(pair[1]), return_exceptions=True)
        assert sorted(type(result) for result in results if result is not None) == [Conflict]
    assert {found.version for found in (await store.load([A, B])).values()} == {10}


async def test_two_that_looked_at_one_person_cannot_both_save(store: Store, other: Store) -> None:
    """Different requests of one person: whoever decided without seeing the other's must decide again."""
    assert await siblings_of(store, PERSON) == ({PERSON: []}, {PERSON: 0})
    both = (
        store.commit(change(row(A, person=PERSON), subjects={PERSON: 0})),
        other.commit(change(row(B, person=PERSON), subjects={PERSON: 0})),
    )
    results = await asyncio.gather(*both, return_exceptions=True)
    assert [type(result) for result in results if result is not None] == [Conflict]
    rows, versions = await siblings_of(store, PERSON)
    assert len(rows[PERSON]) == 1 and versions[PERSON] > 0
    lost = B if rows[PERSON][0].subject_request_id == A else A
    await other.commit(change(row(lost, person=PERSON), subjects=dict(versions)))
    assert [len(found) for found in (await siblings_of(store, PERSON))[0].values()] == [2]


async def test_identities_are_counted_by_what_wrapped_their_key(store: Store) -> None:
    """By the name at the beginning of each."""
    first, second = (b'{"kid":"kek-%08x","nonce":"","ciphertext":""}\n{}' % number for number in (1, 2))
    assert await store.wrapped_by() == {}
    await store.commit(change(row(A), row(B), row(C), sealed={A: first, B: second, C: first}))
    assert await store.wrapped_by() == {"kek-00000001": 2, "kek-00000002": 1}


async def test_siblings_are_the_open_requests_oldest_first(store: Store) -> None:
    """Closed and unverified requests of the person, and other people's, are not among them."""
    verifying, closed = "00000000-0000-4000-8000-00000000000d", "00000000-0000-4000-8000-00000000000e"
    await store.commit(
        change(
            row(A, person=PERSON, received_at=NOW),
            row(B, person=PERSON, received_at=NOW - timedelta(microseconds=1)),
            row(C, person="q" * 64, received_at=NOW),
            row(verifying, person=PERSON, phase="verifying"),
            row(closed, person=PERSON, phase="closed"),
        )
    )
    rows, _ = await siblings_of(store, PERSON, "nobody")
    assert {person: [r.subject_request_id for r in found] for person, found in rows.items()} == {PERSON: [B, A], "nobody": []}


async def test_a_group_is_deleted_when_its_last_request_has_left(store: Store) -> None:
    """The keyed hash of a person stays as long as any request carries it, and no longer."""
    await store.commit(change(row(A, person=PERSON), row(B, person=PERSON), subjects={PERSON: 0}))
    await store.commit(change(row(A, 1), left_subjects={PERSON}))
    assert (await siblings_of(store, PERSON))[1][PERSON] > 0
    await store.commit(change(row(B, 1), left_subjects={PERSON}))
    assert (await siblings_of(store, PERSON))[1] == {PERSON: 0}


async def test_who_looked_at_an_earlier_group_cannot_save(store: Store) -> None:
    """A group that ended and began again in between is not the one that was looked at."""
    await store.commit(change(row(A, person=PERSON), subjects={PERSON: 0}))
    seen = (await siblings_of(store, PERSON))[1]
    await store.commit(change(row(A, 1), left_subjects={PERSON}))
    again = change(row(B, person=PERSON), subjects={PERSON: 0})
    again.now += timedelta(microseconds=1)
    await store.commit(again)
    with pytest.raises(Conflict):
        await store.commit(change(row(C, person=PERSON), subjects=dict(seen)))


async def test_identities_are_stored_replaced_and_forgotten(store: Store) -> None:
    """A request's sealed identity is there until it is forgotten; then the row is gone, and repeating is harmless."""
    await store.commit(change(row(A), row(B), sealed={A: b"first", B: b"other"}))
    await store.commit(change(row(A, 1), sealed={A: b"second"}))
    assert await store.identities([A, B, C]) == {A: b"second", B: b"other"}
    for _ in range(2):
        await store.commit(change(forgotten=[A]))
        assert await store.identities([A, B]) == {B: b"other"}


async def test_service_keys_are_kept_once_and_destroyed_for_ever(store: Store, other: Store) -> None:
    """The first of two workers that add a name wins; what is destroyed keeps its name and never its key."""
    first = ServiceKey("intake-2", "intake", NOW, b"public", b"wrapped")
    older = ServiceKey("grouping", "grouping", NOW - timedelta(days=1), None, b"secret")
    await store.add_service_key(first)
    await other.add_service_key(replace(first, wrapped=b"another", public=b"another", created_at=NOW + timedelta(days=1)))
    await other.add_service_key(older)
    assert await store.service_keys() == [older, first] == await other.service_keys()
    gone_at = NOW + timedelta(days=40)
    for at in (gone_at, gone_at + timedelta(days=1)):
        await store.destroy_service_key("intake-2", at)
        assert await other.service_keys() == [older, replace(first, wrapped=None, destroyed_at=gone_at)]
    await store.add_service_key(first)
    assert (await store.service_keys())[1].wrapped is None
    await store.destroy_service_key("unknown", NOW)


async def test_identities_are_read_page_by_page(store: Store) -> None:
    """Behind a request, by id, no more than asked for, until there are none."""
    await store.commit(change(sealed={C: b"c", A: b"a", B: b"b"}))
    assert list((await store.identities_after("", 2)).items()) == [(A, b"a"), (B, b"b")]
    assert await store.identities_after(B, 2) == {C: b"c"}
    assert await store.identities_after(C, 2) == {}


async def test_an_exchange_puts_nothing_over_what_was_saved_meanwhile(store: Store, other: Store) -> None:
    """Only where the very old bytes stand: changed, forgotten, destroyed and unknown ones stay as they are."""
    await store.commit(change(sealed={A: b"old", B: b"old"}))
    for kid in ("grouping", "intake-1"):
        await store.add_service_key(ServiceKey(kid, "any", NOW, b"public", b"old"))
    await other.commit(change(sealed={B: b"saved"}))
    await other.destroy_service_key("intake-1", NOW)
    pair = b"old", b"new"
    assert await store.exchange(dict.fromkeys((A, B, C), pair), dict.fromkeys(("grouping", "intake-1", "none"), pair)) == 2
    assert await other.identities([A, B, C]) == {A: b"new", B: b"saved"}
    assert {key.kid: key.wrapped for key in await other.service_keys()} == {"grouping": b"new", "intake-1": None}
    await other.commit(change(forgotten=[A]))
    assert await store.exchange({A: (b"new", b"newer")}, {}) == 0 == await store.exchange({}, {})
    assert await other.identities([A]) == {}


async def test_more_is_exchanged_than_one_statement_takes(store: Store) -> None:
    """A set far beyond a statement's parameters is exchanged and counted like a small one."""
    requests = [f"{n:08d}-0000-4000-8000-000000000000" for n in range(1_203)]
    await store.commit(change(sealed=dict.fromkeys(requests, b"old")))
    assert await store.exchange(dict.fromkeys(requests, (b"old", b"new")), {}) == 1_203
    assert set((await store.identities(requests)).values()) == {b"new"}


async def test_due_is_what_has_come_the_longest_overdue_first(store: Store) -> None:
    """The very moment counts as come; no more than the limit; what never wakes is never due."""
    at = {A: NOW, B: NOW - timedelta(days=400), C: NOW + timedelta(microseconds=1)}
    sleeper = "00000000-0000-4000-8000-00000000000f"
    await store.commit(change(*(row(request, wake_at=when) for request, when in at.items()), row(sleeper)))
    assert await store.due(NOW, 10) == [B, A]
    assert await store.due(NOW, 1) == [B]
    assert await store.due(NOW - timedelta(days=500), 10) == []


async def test_the_outbox_is_saved_with_the_states_and_kept_until_out(store: Store) -> None:
    """Batches come back in order, record by record as saved, and are gone when named as published, directly or by a save."""
    ids = [await store.commit(change(row(request), records=[record(n), record(n + 10)])) for n, request in enumerate((A, B))]
    assert None not in ids and ids == sorted(ids)  # type: ignore[type-var] # not None
    kept = await store.unpublished("w1", NOW)
    assert [(batch.outbox_id, batch.worker, batch.records) for batch in kept] == [
        (ids[n], "w1", (record(n), record(n + 10))) for n in range(2)
    ]
    await store.published([ids[0]])  # type: ignore[list-item] # not None
    assert [batch.outbox_id for batch in await store.unpublished("w1", NOW)] == [ids[1]]
    assert await store.commit(change(row(C), published=[ids[1]])) is None  # type: ignore[list-item] # not None
    assert await store.unpublished("w1", NOW) == []
    await store.published([])


async def test_an_outbox_id_is_never_given_twice(store: Store) -> None:
    """A batch that takes the place of one that is out is another batch: naming the old one as published leaves it alone."""
    first = await store.commit(change(row(A), records=[record(1)]))
    assert first is not None
    second = await store.commit(change(row(A, 1), records=[record(2)], published=[first]))
    await store.published([first])
    assert [batch.outbox_id for batch in await store.unpublished("w1", NOW)] == [second]


async def test_unpublished_are_ones_own_and_the_old_ones_of_others(store: Store) -> None:
    """Another worker's batch is left to it until it is so old that its writer must have died."""
    own = await store.commit(change(row(A), records=[record(1)]))
    theirs = await store.commit(change(row(B), worker="w2", records=[record(2)]))
    assert [batch.outbox_id for batch in await store.unpublished("w1", NOW)] == [own]
    assert [batch.outbox_id for batch in await store.unpublished("w1", NOW + timedelta(microseconds=1))] == [own, theirs]
    assert [batch.worker for batch in await store.unpublished("", NOW + timedelta(seconds=1))] == ["w1", "w2"]
    assert await store.unpublished("", NOW - timedelta(days=36_500)) == []


def refusal(offset: int, partition: int = 0, content: str = "d" * 64) -> Refusal:
    return Refusal("t.commands.v1", partition, offset, content)


async def test_refusals_are_found_by_partition_and_offset(store: Store) -> None:
    """Both ends of a span belong to it; other partitions, other topics and offsets outside do not."""
    kept = [refusal(n) for n in (3, 4, 5, 6)] + [refusal(4, partition=1), Refusal("t.reports.v1", 0, 4, "e" * 64)]
    await store.commit(change(row(A), refusals=kept))
    assert await refused_in(store, {("t.commands.v1", 0): (4, 5)}) == {refusal(4), refusal(5)}
    both: dict[tuple[str, int], tuple[int, int]] = {("t.commands.v1", 1): (0, 2**40), ("t.reports.v1", 0): (4, 4)}
    assert await refused_in(store, both) == set(kept[4:])
    assert await refused_in(store, {("t.commands.v1", 2): (0, 9)}) == await refused_in(store, {}) == set()


async def test_deaths_are_counted_by_record_and_forgotten_with_the_refusals(store: Store, other: Store) -> None:
    """Each life counts once, whoever's it was; other content at the same offset is another record; the last moment is kept."""
    assert await store.deaths() == {}
    await store.add_deaths([], NOW)
    await store.add_deaths([refusal(1), refusal(2)], NOW)
    later = NOW + timedelta(days=1, microseconds=1)
    await other.add_deaths([refusal(1), refusal(1, content="e" * 64)], later)
    found = {refusal(1): Deaths(2, later), refusal(2): Deaths(1, NOW), refusal(1, content="e" * 64): Deaths(1, later)}
    assert await store.deaths() == found == await other.deaths()
    await store.forget_refusals(later)
    assert await other.deaths() == {name: died for name, died in found.items() if name != refusal(2)}


async def test_a_life_that_did_not_end_is_taken_back(store: Store) -> None:
    """One fewer without a word at that record, and none of the others; what has none left is forgotten."""
    await store.add_deaths([refusal(1)], NOW)
    later = NOW + timedelta(seconds=1)
    for held in (refusal(1), refusal(2), refusal(2)):
        await store.hold(held, later)
    assert await store.deaths() == {refusal(1): Deaths(1, later, 1), refusal(2): Deaths(0, later, 2)}
    await store.add_deaths([refusal(2)], NOW)
    for held in (refusal(1), refusal(1), refusal(2), refusal(3)):
        await store.spare(held)
    assert await store.deaths() == {refusal(1): Deaths(1, later), refusal(2): Deaths(1, NOW, 1)}
    await store.hold(refusal(3), NOW)
    await store.spare(refusal(3))
    assert refusal(3) not in await store.deaths()


async def test_lives_that_did_not_end_in_order_are_counted(store: Store, other: Store) -> None:
    """One after the other and soon after each other, of this worker alone; an orderly end, or a long life, starts anew."""
    minute = timedelta(minutes=1)

    async def begin(worker: str, at: datetime) -> int:
        return await store.begin_life(worker, at, soon=10 * minute)

    assert [await begin("w1", NOW + n * minute) for n in range(3)] == [0, 1, 2]
    assert await other.begin_life("w2", NOW, 10 * minute) == 0
    assert await begin("w1", NOW + 12 * minute) == 1
    assert await begin("w1", NOW + 13 * minute) == 2
    await other.end_life("w1")
    assert await begin("w1", NOW + 14 * minute) == 0
    assert await begin("w2", NOW + minute) == 1
    await store.end_life("nobody")


async def test_a_refusal_that_is_stored_conflicts_and_saves_nothing(store: Store, other: Store) -> None:
    """Of two workers that refuse one record, one saves; other content at the same offset is another record."""
    await store.commit(change(refusals=[refusal(7)], records=[record(1)]))
    with pytest.raises(Conflict):
        await other.commit(change(row(B), refusals=[refusal(8), refusal(7)], records=[record(2)]))
    assert await store.load([B]) == {}
    assert await refused_in(store, {("t.commands.v1", 0): (0, 9)}) == {refusal(7)}
    await other.commit(change(refusals=[refusal(7, content="e" * 64)]))
    assert await refused_in(store, {("t.commands.v1", 0): (7, 7)}) == {refusal(7), refusal(7, content="e" * 64)}


async def test_a_request_taken_for_unknown_conflicts_if_it_is_there(store: Store, other: Store) -> None:
    """Nothing of it is saved then; of one that is really unknown nothing is left, and it can be inserted."""
    await store.commit(change(row(B), absent={A}, refusals=[refusal(1)]))
    assert set(await store.load([A, B])) == {B}
    with pytest.raises(Conflict):
        await other.commit(change(row(C), absent={A, B}, refusals=[refusal(2)]))
    assert set(await store.load([A, B, C])) == {B}
    assert await refused_in(store, {("t.commands.v1", 0): (0, 9)}) == {refusal(1)}
    await store.commit(change(row(A), absent={A}, refusals=[refusal(3)]))
    assert (await store.load([A]))[A].version == 1


async def test_of_inserting_a_request_and_taking_it_for_unknown_one_waits(store: Store, other: Store) -> None:
    """At the same moment: either order is right, and then it is there."""
    for n in range(10):
        request = f"{n:08d}-0000-4000-8000-000000000000"
        both = store.commit(change(row(request))), other.commit(change(absent={request}, refusals=[refusal(n)]))
        inserted, refused = await asyncio.gather(*both, return_exceptions=True)
        assert inserted is None and (refused is None or isinstance(refused, Conflict))
        assert set(await store.load([request])) == {request}


async def test_old_refusals_are_forgotten(store: Store) -> None:
    """What was saved before the moment is gone; what was saved at it stays."""
    await store.commit(change(refusals=[refusal(1)], now=NOW - timedelta(microseconds=1)))
    await store.commit(change(refusals=[refusal(2)]))
    for _ in range(2):
        await store.forget_refusals(NOW)
        assert await refused_in(store, {("t.commands.v1", 0): (0, 9)}) == {refusal(2)}


async def test_the_gate_is_one_for_all_workers(store: Store, other: Store) -> None:
    """Ordinary at first, then as whoever was last has set it."""
    assert await store.gate() == Gate()
    await store.set_gate(Gate(shut_at=NOW, at_most=1000))
    assert await other.gate() == Gate(NOW, 1000)
    await other.set_gate(Gate(open_until=NOW + timedelta(hours=1)))
    assert await store.gate() == Gate(None, None, NOW + timedelta(hours=1))


async def test_registries_are_kept_by_digest(store: Store, other: Store) -> None:
    """Keeping one twice, or from two workers at once, is harmless; the first body stands."""
    await asyncio.gather(*(one.keep_registry("d" * 64, b"body") for one in (store, other, store)))
    await other.keep_registry("e" * 64, b"next")
    assert await store.registries() == {"d" * 64: b"body", "e" * 64: b"next"}


async def test_the_census_counts_what_is_open(store: Store) -> None:
    """By phase and right, the oldest of each phase, by days left in buckets, by system awaited; closed ones only wake."""
    days = {"overdue": -0.001, "0-2": 2.99, "3-7": 3.0, "8-14": 14.99, "15+": 15.0}
    rows = [
        row(
            f"{n:08d}-0000-4000-8000-000000000000",
            due_at=NOW + timedelta(days=left),
            received_at=NOW - timedelta(days=n),
            awaited="crm:sent,mail:waiting" if n else "",
        )
        for n, left in enumerate(days.values())
    ]
    rows.append(row(A, phase="verifying", right="access", received_at=None))
    rows.append(row(B, phase="closed", due_at=NOW, received_at=NOW - timedelta(days=99), wake_at=NOW, awaited="crm:sent"))
    await store.commit(change(*rows, records=[record(1)]))
    census = await store.census(NOW)
    assert census.open_requests == {("active", "erasure"): 5, ("verifying", "access"): 1}
    assert census.oldest == {"active": NOW - timedelta(days=4)}
    assert census.due == {**{("erasure", bucket): 1 for bucket in days}, ("access", "15+"): 1}
    assert census.awaited == {("crm", "sent"): 4, ("mail", "waiting"): 4}
    assert (census.outbox, census.due_wakes) == (1, 1)


async def test_the_census_tells_keys_that_are_old_or_left_over(store: Store) -> None:
    """A key is old by the age of its request, to the very moment, and left over when the request is closed."""
    limit = timedelta(days=30)
    rows = [
        row(A, received_at=NOW - limit),
        row(B, received_at=NOW - limit - timedelta(microseconds=1)),
        row(C, received_at=NOW - timedelta(days=90), phase="closed"),
    ]
    await store.commit(change(*rows, sealed=dict.fromkeys((A, B, C), b"sealed")))
    assert (await store.census(NOW, limit)).keys == {"current": 1, "old": 1, "left_over": 1}
    await store.commit(change(forgotten=[B, C]))
    assert (await store.census(NOW, limit)).keys == {"current": 1, "old": 0, "left_over": 0}


async def test_the_census_of_an_empty_store_is_empty(store: Store) -> None:
    """No request, no count."""
    census = await store.census(NOW)
    assert not (census.open_requests or census.oldest or census.due or census.awaited or census.outbox or census.due_wakes)


@on_databases
async def test_upgrading_again_changes_nothing(store: Store, url: str) -> None:
    """What is saved survives another upgrade, and the revision stays."""
    await store.commit(change(row(A)))
    engine = make_engine(url)
    assert schema.upgrade(engine) == schema.upgrade(engine) == schema.check(engine)
    engine.dispose()
    assert set(await store.load([A])) == {A}


@on_databases
@pytest.mark.parametrize("statement", ["DELETE FROM alembic_version", "UPDATE alembic_version SET version_num = '9999'"])
async def test_another_revision_is_refused_with_the_remedy(store: Store, url: str, statement: str) -> None:
    """A store without a revision, or with a later release's, is not touched: the message says what to run."""
    engine = make_engine(url)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text(statement))
    with pytest.raises(ConfigurationError, match="dsr store upgrade"):
        schema.check(engine)
    engine.dispose()


async def test_a_store_answers_a_ping(store: Store) -> None:
    """`ping` returns while the database answers."""
    await store.ping()


@on_databases
async def test_the_tables_are_those_that_the_migrations_make(store: Store, url: str) -> None:
    """The statements' tables and the migrated database have the same columns, and the columns that are searched an index."""
    from orchestrator.adapters.sql.tables import metadata  # noqa: PLC0415 - only this test looks at them

    engine = make_engine(url)
    with closing(engine.raw_connection()):
        inspector = sqlalchemy.inspect(engine)
        for table in metadata.tables.values():
            found = {column["name"]: column["nullable"] for column in inspector.get_columns(table.name)}
            assert found == {column.name: bool(column.nullable) for column in table.columns}
            assert {index["name"] for index in inspector.get_indexes(table.name)} == {index.name for index in table.indexes}
    engine.dispose()


def _files_of(url: str) -> bytes:
    """Return every byte that SQLite keeps of a database: file, write-ahead log, shared memory."""
    path = Path(sqlalchemy.make_url(url).database or "")
    return b"".join(found.read_bytes() for found in sorted(path.parent.glob(f"{path.name}*")))


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("lives", [1, 2])
async def test_what_was_forgotten_is_in_no_file_of_sqlite(store: SqlStore, other: SqlStore, url: str, lives: int) -> None:
    """After a request is closed and scrubbed, file and log hold no trace of its seal, its group or its order.

    The second life is told nothing: it scrubs what an earlier one forgot and did not live to scrub.
    """
    batch = await store.commit(change(row(A, person=PERSON), sealed={A: b"sealed-" * 300}, records=[record(1)]))
    assert batch is not None
    traces = (b"sealed-", PERSON.encode(), b"value 1")
    assert all(trace in _files_of(url) for trace in traces)
    closed = change(row(A, 1, phase="closed"), forgotten=[A], left_subjects={PERSON}, published=[batch])
    await store.commit(closed)
    await (store if lives == 1 else other).scrub()
    assert not [trace for trace in traces if trace in _files_of(url)]
    assert (await store.load([A]))[A].phase == "closed"


async def test_scrubbing_is_harmless(store: Store) -> None:
    """With nothing to forget, or twice, it changes nothing."""
    await store.commit(change(row(A), sealed={A: b"sealed"}))
    await store.scrub()
    await store.scrub()
    assert await store.identities([A]) == {A: b"sealed"}
