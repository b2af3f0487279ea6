"""A record that ends the process without a word: lives that end so make the next one careful, and it finds the culprit."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
from test_guards_conflict import SetClock, record_of
from test_shell_pipeline import TOPICS, Broker, CountingStore, inbox_on, passes
from worker_kit import request

from orchestrator.ports import Change, Record
from orchestrator.shell import work
from orchestrator.shell.care import CARE, Care
from orchestrator.shell.inbox import Fatal, Inbox
from orchestrator.shell.translate import Arrival, SetAside, Translator
from schemas.errors import StoreUnavailable

LIVES = 3
ASKED = [request(email=f"person-{number}@example.org") for number in range(3)]
RECORDS = [record_of(one, number) for number, one in enumerate(ASKED)]
FIRST, DEADLY, LAST = RECORDS


class Killed(BaseException):
    """Stands for the end of the process: nothing of ours runs after it."""


class DeadlyTranslator(Translator):
    """Ends the process at one record."""

    def read(self, record: Record) -> Arrival | SetAside:
        if record.key == DEADLY.key:
            raise Killed
        return super().read(record)


class LookingStore(CountingStore):
    """Looks what is in hand whenever something is saved."""

    in_hand: int = 0

    async def commit(self, change: Change) -> int | None:
        self.in_hand += len(self.database.deaths)
        return await super().commit(change)


async def life(
    store: CountingStore, clock: SetClock, folder: Path, records: Sequence[Record], kind: type[Translator] = Translator
) -> Broker:
    """Live once: begin, take these in, and end in order if that is possible. Return what it published to."""
    broker = Broker(acknowledges=True)
    care = Care(store, clock, "w1", lives=LIVES)
    inbox = inbox_on(store, broker, clock, folder, care, kind)
    await care.begin()
    await inbox.process(records)
    await care.end()
    return broker


async def careful(store: CountingStore, folder: Path) -> Inbox:
    """Return the inbox of a life after two that ended without a word."""
    clock = SetClock()
    for _ in range(2):
        await Care(store, clock, "w1").begin()
    care = Care(store, clock, "w1")
    await care.begin()
    return inbox_on(store, Broker(acknowledges=True), clock, folder, care)


async def ended(store: CountingStore, clock: SetClock, folder: Path, kind: type[Translator]) -> int:
    """Live until a life ends in order; return how many did not."""
    for count in range(20):
        try:
            await life(store, clock, folder, RECORDS, kind)
        except (Killed, Fatal):
            clock.at += timedelta(seconds=5)
        else:
            return count
    raise AssertionError("they end for ever")


async def test_a_life_is_careful_after_two_that_ended_without_a_word() -> None:
    """For a minute; one that ended in order, or was long, starts the count anew, and other workers count for themselves."""
    store, clock = CountingStore(), SetClock()

    async def begun(worker: str = "w1") -> Care:
        care = Care(store, clock, worker, lives=LIVES)
        await care.begin()
        return care

    assert [(await begun()).is_on for _ in range(4)] == [False, False, True, True]
    assert not (await begun("w2")).is_on
    care = await begun()
    clock.at += CARE
    assert not care.is_on
    await care.end()
    assert [(await begun()).is_on for _ in range(3)] == [False, False, True]
    clock.at += timedelta(minutes=10)
    assert [(await begun()).is_on for _ in range(2)] == [False, True]


async def test_care_can_be_switched_off() -> None:
    """Then a record that kills the process ends its worker life after life."""
    store, clock = CountingStore(), SetClock()
    for _ in range(4):
        care = Care(store, clock, "w1", after=0)
        await care.begin()
        assert not care.is_on


async def test_the_culprit_alone_is_set_aside(tmp_path: Path) -> None:
    """Two lives that know of nothing, three that end with it in hand; the next does not try it, and does everything else."""
    store, clock = LookingStore(), SetClock()
    with capture_logs() as lines:
        assert await ended(store, clock, tmp_path, DeadlyTranslator) == 2 + LIVES
    assert {row.subject_request_id for row in store.database.rows.values()} == {
        ASKED[0].subject_request_id, ASKED[2].subject_request_id
    }  # fmt: skip
    assert list(store.database.refusals) == [DEADLY.refusal()]
    (died,) = store.database.deaths.values()
    assert (died.count, died.silent) == (0, LIVES), "what was in hand and did no harm is taken back"
    (met,) = [line for line in lines if line["event"] == "defect_met"]
    assert met["action"] == "the record is set aside" and met["offset"] == DEADLY.offset
    for _ in range(2):  # killed before it could commit
        await Care(store, clock, "w1", lives=LIVES).begin()
    broker = await life(store, clock, tmp_path, RECORDS, DeadlyTranslator)
    assert not broker.topics, "it was set aside once"


async def test_what_is_in_hand_is_let_go_before_it_is_saved(tmp_path: Path) -> None:
    """A save or a publication may take long, and whoever is killed in it has no culprit."""
    store, clock = LookingStore(), SetClock()
    for _ in range(2):
        await Care(store, clock, "w1", lives=LIVES).begin()
    broker = await life(store, clock, tmp_path, RECORDS)
    assert len(store.saved) == len(RECORDS) and store.in_hand == 0
    assert set().union(*broker.keys) == {record.key for record in RECORDS}
    assert TOPICS.quarantine not in broker.topics and not store.database.deaths


async def test_a_moment_that_comes_meanwhile_lets_nothing_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweeper takes a turn while a record waits for its own: the record is still in hand when it is decided."""
    store = CountingStore()
    inbox = await careful(store, tmp_path)
    await inbox.process([FIRST])
    decide, held = work.decide, []

    def looking(state: Any, given: Any, *context: Any) -> Any:
        held.append((type(given.message).__name__, len(store.database.deaths)))
        return decide(state, given, *context)

    monkeypatch.setattr(work, "decide", looking)
    await inbox._turn.acquire()
    waking = asyncio.create_task(inbox.wake([ASKED[0].subject_request_id]))
    await passes()
    taking = asyncio.create_task(inbox.process([LAST]))
    await passes()
    inbox._turn.release()
    await asyncio.gather(waking, taking)
    assert held == [("Wake", 1), ("SubmitRequest", 1)]


async def test_nothing_is_decided_after_a_record_that_could_not_be_saved(tmp_path: Path) -> None:
    """Also where each is taken alone: what was given meanwhile must not overtake it."""
    store = CountingStore()
    inbox = await careful(store, tmp_path)
    commit = store.commit

    async def gone(_change: Change) -> int | None:
        raise StoreUnavailable("gone")

    store.commit = gone  # type: ignore[method-assign] # a store that went away for a moment
    with pytest.raises(Fatal, match="stayed away"):
        await inbox.take_in([FIRST], decided=asyncio.Event())
    store.commit = commit  # type: ignore[method-assign] # and came back
    with pytest.raises(Fatal, match="before this one"):
        await inbox.take_in([LAST], decided=asyncio.Event())
    assert not store.database.rows


async def test_an_exception_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends a careful life by an exception was in hand as well: it is one end, not two."""
    store, clock = CountingStore(), SetClock()
    decide = work.decide

    def defective(state, given, *context):
        if getattr(given.message, "subject_request_id", "") == ASKED[1].subject_request_id:
            raise ZeroDivisionError
        return decide(state, given, *context)

    monkeypatch.setattr(work, "decide", defective)
    with capture_logs():
        assert await ended(store, clock, tmp_path, Translator) == LIVES
    assert [(died.count, died.silent) for died in store.database.deaths.values()] == [(LIVES, 0)]
