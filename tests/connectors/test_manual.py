"""Tasks done by people: nothing is done until somebody signs, and what is signed is what is reported."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import re
import stat
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import httpx
import pytest
from pydantic import SecretStr, ValidationError
from sdk_world import World, an_order, until
from test_sdk_cancelling import over

from connectors.sdk.clock import ManualClock
from connectors.sdk.perform import perform
from connectors.sdk.protocol import Exported, Over
from connectors.sdk.standin import serve
from connectors.sdk.testing import ADA, BOB, NOW, ConnectorContract, job_for, traces_in
from connectors.sdk.testing_http import HttpConnectorContract
from connectors.systems.manual.client import Inbox, TaskKeys, write_whole
from connectors.systems.manual.connector import ManualConnector, ManualSettings, build
from connectors.systems.manual.standin import TOKEN, ManualStandIn
from connectors.systems.manual.task import Task, signed, unsafe_subject
from schemas.errors import ConfigurationError, ProtocolViolation, SystemUnavailable
from schemas.outcomes import Fulfilled, NothingHeld, Retained
from schemas.sealed import Sealed, unsafe_reveal
from schemas.subject import FieldChange, SubjectData
from schemas.vocabulary import CancellationReason, IdentifierKind, OutcomeCode, RetentionGround, Right

KEY = base64.b64encode(bytes(range(32))).decode()


def settings_in(folder, **more):
    fields = {"title": "Paper archive", "key": KEY, "outbox": folder / "outbox", "inbox": folder / "inbox"}
    return ManualSettings(**(fields | more))


def by_mail(person):
    return {IdentifierKind.EMAIL: (person.email,)}


class ManualMixin:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path):
        self._folder = tmp_path

    def plant(self, system, person, *, records=1):
        system.cabinet = [sheet for sheet in system.cabinet if sheet["email"] != person.email]
        system.cabinet += [{"email": person.email, "name": person.last_name, "sheet": n} for n in range(records)]

    def holds(self, system, person):
        return any(sheet["email"].lower() == person.email.lower() for sheet in system.cabinet)

    def identifiers(self, connector, person):
        return by_mail(person)

    async def settle(self, connector, system, clock, job, result):
        assert result.outcome.code is not OutcomeCode.FULFILLED or system.open_tasks() == []
        while result.outcome.code is OutcomeCode.ACCEPTED:
            system.work()
            clock.advance(3600)
            result = await connector.poll(replace(job, now=clock.now()), result.handle)
        return result


class TestManualContract(ManualMixin, ConnectorContract):
    """The whole contract, by folders."""

    def open_system(self, clock):
        @contextmanager
        def opened():
            yield ManualStandIn(settings_in(self._folder), clock)

        return opened()

    def connect(self, system):
        return build(settings_in(self._folder))


class TestManualContractByWebhook(ManualMixin, HttpConnectorContract):
    """The whole contract, with tasks posted to a ticket system."""

    def stand_in(self, clock):
        return ManualStandIn(settings_in(self._folder), clock)

    def build(self, base_url, *, timeout_seconds):
        more = {
            "webhook_url": f"{base_url}/tasks",
            "webhook_hosts": ("127.0.0.1",),
            "webhook_token": SecretStr(TOKEN),
            "webhook_private": True,
        }
        return build(settings_in(self._folder, timeout_seconds=timeout_seconds, **more))


@pytest.fixture
def clock():
    return ManualClock(NOW)


@pytest.fixture
def office(tmp_path, clock):
    standin = ManualStandIn(settings_in(tmp_path), clock)
    standin.settings = settings_in(tmp_path)
    return standin


def tasks(office):
    return {path.name: Task.model_validate_json(path.read_bytes()) for path in sorted(office.settings.outbox.glob("*.json"))}


def key_of(office, number):
    return TaskKeys(office.settings.inbox, office.settings.sealing_key).find(number)


def sign(office, number, outcome, **more):
    fields = {"evidence": "ticket_17", "by": "staff.ada", "at": office.clock.now(), "key": key_of(office, number)} | more
    sheet = signed(number, outcome, **fields)
    write_whole(office.settings.inbox, f"{number}.json", sheet.model_dump_json().encode())
    return office.settings.inbox / f"{number}.json"


async def test_nothing_is_done_by_itself(office, clock):
    """However long nobody signs, the order stays accepted with the date that was first promised."""
    connector = build(office.settings)
    job = job_for(Right.ERASURE, by_mail(ADA))
    result = await perform(connector, job)
    for _ in range(40):
        assert result.outcome.code is OutcomeCode.ACCEPTED
        assert result.outcome.expected_by == NOW + timedelta(days=14)
        clock.advance(86400)
        result = await connector.poll(replace(job, now=clock.now()), result.handle)


async def test_a_task_says_what_to_do_and_names_nobody(tmp_path, office):
    """Readable: where, what, by when. Sealed: who, and the new values. Owner and group only."""
    office.settings = settings_in(tmp_path, instructions={"rectification": "Use the red pen."})
    changes = (FieldChange(field="last_name", new="King"),)
    await perform(build(office.settings), job_for(Right.RECTIFICATION, by_mail(ADA), changes=changes))
    ((name, task),) = tasks(office).items()
    assert (task.title, task.right, task.instructions) == ("Paper archive", Right.RECTIFICATION, "Use the red pen.")
    assert (task.requested_at, task.expected_by, task.due_on.isoformat()) == (NOW, NOW + timedelta(days=14), "2026-04-07")
    path = office.settings.outbox / name
    assert not traces_in(path.read_text(), ADA)
    assert "King" not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0
    who = unsafe_subject(task, key_of(office, task.task_id))
    assert (who.identifiers, who.changes) == (by_mail(ADA), changes)


async def test_what_is_signed_is_what_is_reported(office, clock):
    """Outcome, evidence and signer come back, the documents as exports; the task and its reminders are taken away."""
    connector = build(office.settings)
    job = job_for(Right.ACCESS, by_mail(ADA))
    first = await perform(connector, job)
    clock.advance(6 * 86400)
    second = await connector.poll(replace(job, now=clock.now()), first.handle)
    (number,) = {task.task_id for task in tasks(office).values()}
    sign(office, number, Fulfilled(count=2), exports=[Exported("letters", [{"to": ADA.email}])])
    for _ in range(2):
        done = await connector.poll(replace(job, now=clock.now()), second.handle)
        assert done.outcome == Fulfilled(count=2)
        assert done.notes == ("evidence_ticket_17", "signed_by_staff_ada")
        assert [(export.name, export.content) for export in done.exports] == [("letters", [{"to": ADA.email}])]
    assert tasks(office) == {}
    assert not traces_in((office.settings.inbox / f"{number}.json").read_text(), ADA)


async def test_reminders_go_out_once_for_each_interval(office, clock):
    """Polled twice a day, people are reminded every five days and told again what is asked, also after a restart."""
    job = job_for(Right.ERASURE, by_mail(ADA))
    result = await perform(build(office.settings), job)
    sent = []
    for _ in range(22):
        clock.advance(43200)
        result = await build(office.settings).poll(replace(job, now=clock.now()), result.handle)
        sent += [f"day {(clock.now() - NOW).days}"] if result.notes == ("reminder_sent",) else []
    assert sent == ["day 5", "day 10"]
    reminders = {name: task.reminder for name, task in tasks(office).items()}
    assert sorted(reminders.values()) == [0, 1, 2]
    assert [name.endswith(f".reminder-{n}.json") for name, n in reminders.items() if n] == [True, True]


async def test_a_new_attempt_is_a_new_task(office):
    """After a waiver was refused somebody asks again: the old sign-off does not answer the new attempt."""
    connector = build(office.settings)
    first = await perform(connector, job_for(Right.ERASURE, by_mail(ADA)))
    sign(office, first.handle.split("|")[0], NothingHeld())
    assert (await perform(connector, job_for(Right.ERASURE, by_mail(ADA)))).outcome == NothingHeld()
    again = await perform(connector, job_for(Right.ERASURE, by_mail(ADA), attempt=2))
    assert again.outcome.code is OutcomeCode.ACCEPTED
    assert again.handle.split("|")[0] != first.handle.split("|")[0]


def _other_key(sheet):
    return sheet | {"mac": base64.urlsafe_b64encode(b"x" * 32).decode()}


@pytest.mark.parametrize(
    ("spoiled", "field"),
    [
        (_other_key, "the task's key"),
        (lambda sheet: sheet | {"outcome": {"code": "fulfilled", "count": 9}}, "changed"),
        (lambda sheet: sheet | {"by": "someone.else"}, "changed"),
        (lambda sheet: sheet | {"by": "ada@example.org"}, "by"),
        (lambda sheet: sheet | {"evidence": "see my mail"}, "evidence"),
        (lambda sheet: sheet | {"outcome": {"code": "failed", "reason": "rejected"}}, "outcome"),
        (lambda sheet: sheet | {"task_id": "tsk_other"}, "another task"),
        (lambda sheet: {}, "task_id"),
        (lambda sheet: sheet | {"ada@example.org": "erased"}, "outermost"),
    ],
)
async def test_a_sign_off_that_cannot_be_trusted_ends_nothing(office, spoiled, field):
    """Unsigned, changed, incomplete or misfiled: looked at again later, with a remedy and no values; corrected, it counts."""
    connector = build(office.settings)
    job = job_for(Right.ERASURE, by_mail(ADA))
    handle = (await perform(connector, job)).handle
    path = sign(office, handle.split("|")[0], NothingHeld())
    good = path.read_text()
    path.write_text(json.dumps(spoiled(json.loads(good))))
    with pytest.raises(SystemUnavailable, match=field) as caught:
        await connector.poll(job, handle)
    assert caught.value.reason == "rejected"
    assert "example.org" not in str(caught.value)
    assert len(tasks(office)) == 1
    path.write_text(good)
    assert (await connector.poll(job, handle)).outcome == NothingHeld()


async def test_half_a_sign_off_is_looked_at_again(office):
    """A file that is still being copied is not taken for an answer."""
    connector = build(office.settings)
    job = job_for(Right.ERASURE, by_mail(ADA))
    handle = (await perform(connector, job)).handle
    path = sign(office, handle.split("|")[0], NothingHeld())
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(SystemUnavailable):
        await connector.poll(job, handle)


async def test_documents_belong_to_one_task(office):
    """A sealed document moved to another task's sign-off does not open."""
    connector = build(office.settings)
    job = job_for(Right.ACCESS, by_mail(ADA))
    handle = (await perform(connector, job)).handle
    number = handle.split("|")[0]
    other = signed("tsk_other", Fulfilled(count=1), evidence="ticket_1", by="staff.x", at=NOW, key=key_of(office, number),
                   exports=[Exported("a", {"b": 1})])  # fmt: skip
    path = sign(office, number, Fulfilled(count=1), exports=[Exported("a", {"b": 1})])
    given = json.loads(path.read_text()) | {"exports": json.loads(other.model_dump_json())["exports"]}
    path.write_text(json.dumps(given))
    with pytest.raises(SystemUnavailable, match="changed"):
        await connector.poll(job, handle)


def test_a_national_law_is_named():
    """Retained under national law without saying which is refused when it is signed."""
    with pytest.raises(ValidationError, match="detail"):
        signed("tsk_1", Retained(ground=RetentionGround.NATIONAL_LAW), evidence="ticket_1", by="staff.x", at=NOW, key=None)


async def test_what_no_order_waits_for_is_cleared_away(office, clock):
    """Without any order coming: the task of a lost journal, and a sign-off that came late. What cannot be read stays."""
    connector = build(office.settings)
    await perform(connector, job_for(Right.ACCESS, by_mail(ADA)))
    asked = job_for(Right.ERASURE, by_mail(BOB))
    waits = await perform(connector, asked)
    lost = next(task.task_id for task in tasks(office).values() if task.right is Right.ACCESS)
    late = sign(office, "tsk_late", NothingHeld(), key=key_of(office, lost))
    odd = office.settings.inbox / "tsk_odd.json"
    odd.write_text("{")
    for _ in range(10 * 24):
        clock.advance(3600)
        waits = await connector.poll(replace(asked, now=clock.now()), waits.handle)
        await connector.expire(clock.now())
    kept = {path.name for folder in (office.settings.inbox, office.settings.outbox) for path in folder.iterdir()}
    assert not [name for name in kept if lost in name]
    assert (late.exists(), odd.exists()) == (False, True)
    assert {f"{waits.handle.split('|')[0]}{end}" for end in (".key", ".json")} <= kept


async def test_a_process_that_was_long_away_clears_nothing_of_its_own(office, clock):
    """An order whose process stood still for weeks is looked after before anything counts as left behind."""
    asked = job_for(Right.ERASURE, by_mail(BOB))
    waits = await perform(build(office.settings), asked)
    sign(office, waits.handle.split("|")[0], Fulfilled(count=1))
    clock.advance(60 * 86400)
    connector = build(office.settings)
    await connector.expire(clock.now())
    assert (await connector.poll(replace(asked, now=clock.now()), waits.handle)).outcome == Fulfilled(count=1)


def opens(text, *keys):
    """Return whether a seal anywhere in a text opens with one of these keys, or what is derived from them here."""
    purposes = ("manual.task", "manual.export", "manual.task-key", "manual.signoff")
    every = [one for key in keys for one in (key, *map(key.derive, purposes))]
    seals = [json.loads(found) for found in re.findall(r'\{[^{}]*"ciphertext"[^{}]*\}', text)]
    for sealed in seals:
        for key, associated in itertools.product(every, {*re.findall(r"tsk_[0-9a-f]{32}", text)}):
            for bound in (associated, f"{associated}\x1f0"):
                with contextlib.suppress(ProtocolViolation):
                    unsafe_reveal(Sealed.model_validate(sealed), key, associated=bound)
                    return True
    return False


def lying(office):
    """Return every file of the office's folders, path and bytes."""
    found = {}
    for folder in (office.settings.inbox, office.settings.outbox):
        for path in folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # deleted this moment
                found[path] = path.read_bytes()
    return found


def copied(office):
    """Return what lies there, names included, as a copier takes it: everything but the keys of tasks."""
    return "".join(f"{path.name}\n{content.decode()}\n" for path, content in lying(office).items() if path.suffix != ".key")


def an_access(**more):
    subject = SubjectData(identifiers={IdentifierKind.EMAIL: (ADA.email,)})
    return an_order(right=Right.ACCESS, subject=subject, now=NOW, **more)


async def with_people(world, office, number=1):
    """Wait until the office has the task of an order, and the orchestrator knows."""
    await until(lambda: len(world.reports) == 2 * number - 1 and office.open_tasks())
    await world.settled()


async def signed_by_office(world, office, number=1):
    """Let people sign the one task that they have; return its id."""
    await with_people(world, office, number)
    (task,) = office.open_tasks()
    sign(office, task.task_id, Fulfilled(count=1), exports=[Exported("letters", [{"to": ADA.email}])])
    return task.task_id


async def look_again(world):
    await world.settled()
    world.clock.advance(3600)
    await world.settled()


async def test_nothing_opens_once_the_report_is_out(tmp_path, office):
    """After the final report no file is left of the task, and copies of all its papers do not open with DSR_MANUAL_KEY."""
    world = World(tmp_path / "state", build(office.settings))
    async with world.running():
        world.send(an_access())
        await signed_by_office(world, office)
        key = office.settings.sealing_key
        papers = copied(office)
        assert opens("".join(content.decode() for content in lying(office).values()), key), "while it is open, its key opens"
        await look_again(world)
        await until(lambda: [report.outcome.code for report in world.reports] == [OutcomeCode.ACCEPTED, OutcomeCode.FULFILLED])
        await until(lambda: not lying(office))
    assert '"ciphertext"' in papers
    assert not opens(papers, key)


async def test_a_crash_between_report_and_deletion_is_made_up_for(tmp_path, office, monkeypatch):
    """Killed after the broker's ack and before the task was forgotten: the next start does it first, without any order."""

    async def dies(self, over):
        raise asyncio.CancelledError

    world = World(tmp_path / "state", build(office.settings))
    monkeypatch.setattr(ManualConnector, "forget", dies)
    async with world.running(orderly=False):
        world.send(an_access())
        number = await signed_by_office(world, office)
        await look_again(world)
        await until(lambda: [report.outcome.code for report in world.reports][1:] == [OutcomeCode.FULFILLED])
        await world.settled()
    assert (office.settings.inbox / f"{number}.key").exists()
    monkeypatch.undo()
    world.connector = build(office.settings)
    async with world.running():
        await until(lambda: not lying(office))
        await world.settled()
        assert len(world.reports) == 2


async def test_an_order_that_comes_again_makes_no_second_task(tmp_path, office):
    """Redelivered or sent with a new number after its task is gone: the same answer goes out, and nobody is asked again."""
    world = World(tmp_path / "state", build(office.settings))
    async with world.running():
        world.send(an_access())
        await signed_by_office(world, office)
        await look_again(world)
        await until(lambda: len(world.reports) == 2 and not lying(office))
        world.send(an_access(), an_access(attempt=2))
        await until(lambda: len(world.reports) == 3)
        await world.settled()
        assert [report.attempt for report in world.reports] == [1, 1, 2]
        assert all(report.outcome == Fulfilled(count=1) for report in world.reports[1:])
        assert not lying(office)


@pytest.mark.parametrize("reason", CancellationReason)
async def test_the_task_of_an_order_that_is_over_is_forgotten(tmp_path, office, reason):
    """Withdrawn, denied or waived while people have it: the task goes, and no reminder brings the person back."""
    world = World(tmp_path / "state", build(office.settings))
    order = an_access()
    async with world.running():
        world.send(order)
        await with_people(world, office)
        world.keys.over.add(order.order_id)
        world.send(over(order, reason))
        await until(lambda: not lying(office))
        for _ in range(3):
            world.clock.advance(6 * 86400)
            await world.settled()
        assert (lying(office), world.entry()) == ({}, None)


async def test_what_was_signed_before_the_end_is_still_told(tmp_path, office):
    """The word that it is over finds a signed task: what people did is reported, and then forgotten."""
    world = World(tmp_path / "state", build(office.settings))
    order = an_access()
    async with world.running():
        world.send(order)
        await signed_by_office(world, office)
        await world.settled()
        world.keys.over.add(order.order_id)
        world.send(over(order))
        await until(lambda: [report.outcome for report in world.reports][1:] == [Fulfilled(count=1)])
        await until(lambda: not lying(office))


async def test_a_new_number_under_way_keeps_the_task(tmp_path, office):
    """Asked for again while people are at it: the task that lies there is the one whose answer counts."""
    world = World(tmp_path / "state", build(office.settings))
    async with world.running():
        world.send(an_access())
        number = await signed_by_office(world, office)
        (office.settings.inbox / f"{number}.json").rename(tmp_path / "later.json")
        world.send(an_access(attempt=2))
        await until(lambda: len(world.reports) == 2)
        (tmp_path / "later.json").rename(office.settings.inbox / f"{number}.json")
        await look_again(world)
        await until(lambda: [report.outcome for report in world.reports if report.attempt == 2][-1:] == [Fulfilled(count=1)])
        await until(lambda: not lying(office))


async def test_a_failed_deletion_is_tried_again(tmp_path, office, monkeypatch):
    """A folder that does not let go is asked again by the clock; after a day the process ends and says so."""
    world = World(tmp_path / "state", build(office.settings))
    forget = Inbox.forget
    monkeypatch.setattr(Inbox, "forget", refuses)
    async with world.running():
        world.send(an_access())
        await signed_by_office(world, office)
        await look_again(world)
        await until(lambda: len(world.reports) == 2)
        await world.settled()
        assert lying(office)
        monkeypatch.setattr(Inbox, "forget", forget)
        world.clock.advance(15)
        await until(lambda: not lying(office))
        monkeypatch.setattr(Inbox, "forget", refuses)
        world.send(an_order(2, right=Right.ACCESS, now=NOW))
        await signed_by_office(world, office, 2)
        await look_again(world)
        await until(lambda: len(world.reports) == 4)
    async with world.running(orderly=False):
        await world.settled()
        world.clock.advance(86400)
        await until(world.task.done)
    assert "DSR_MANUAL_INBOX" in str(world.failure.exceptions)


def refuses(self, task_ids):
    if list(task_ids):
        raise SystemUnavailable("manual: a finished task cannot be removed: check DSR_MANUAL_INBOX")


async def test_no_link_in_a_shared_folder_is_followed(office, tmp_path):
    """Whoever may write to the inbox cannot have the connector empty or write another file."""
    mine = tmp_path / "mine"
    mine.write_text("dear to me")
    office.settings.inbox.mkdir()
    keys = TaskKeys(office.settings.inbox, office.settings.sealing_key)
    for lay in (lambda path: path.symlink_to(mine), lambda path: path.hardlink_to(mine)):
        lay(office.settings.inbox / "tsk_1.key")
        keys.forget("tsk_1")
        assert not (office.settings.inbox / "tsk_1.key").exists()
    (office.settings.inbox / ".tsk_2.key.tmp").symlink_to(mine)
    with pytest.raises(SystemUnavailable):
        keys.keep("tsk_2", NOW)
    assert mine.read_text() == "dear to me"


async def test_an_outbox_that_takes_nothing_is_retried_later(office):
    """Nothing is accepted before the task lies there whole."""
    office.settings.outbox.write_text("a file where the folder should be")
    connector = build(office.settings)
    with pytest.raises(SystemUnavailable, match="folder"):
        await perform(connector, job_for(Right.ERASURE, by_mail(ADA)))
    with pytest.raises(ConfigurationError, match="DSR_MANUAL_OUTBOX"):
        await connector.check()
    office.settings.outbox.unlink()
    assert (await perform(connector, job_for(Right.ERASURE, by_mail(ADA)))).outcome.code is OutcomeCode.ACCEPTED
    assert await connector.check() == "1 tasks lie in the outbox"


@pytest.mark.parametrize(
    ("url", "hosts", "setting"),
    [
        ("https://tickets.example.org/in", (), "WEBHOOK_HOSTS"),
        ("https://tickets.example.org.evil.invalid/in", ("tickets.example.org",), "WEBHOOK_HOSTS"),
        ("https://tickets.example.org@evil.invalid/in", ("tickets.example.org",), "WEBHOOK_HOSTS"),
        ("http://tickets.example.org/in", ("tickets.example.org",), "WEBHOOK_URL"),
        ("file:///tmp/x", ("",), "WEBHOOK_URL"),
    ],
)
def test_tasks_go_to_listed_hosts_only(tmp_path, url, hosts, setting):
    """A webhook elsewhere, or unencrypted, is a configuration error before anything is sent."""
    with pytest.raises(ConfigurationError, match=setting):
        build(settings_in(tmp_path, webhook_url=url, webhook_hosts=hosts))
    assert build(settings_in(tmp_path, webhook_url="https://tickets.example.org/in", webhook_hosts=("tickets.example.org",)))


async def test_a_ticket_system_gets_reminders_as_such(tmp_path, clock):
    """Each reminder is a message of its own with its number; nothing readable travels."""
    office = ManualStandIn(settings_in(tmp_path), clock)
    with serve(office) as url:
        more = {
            "webhook_url": f"{url}/tasks",
            "webhook_hosts": ("127.0.0.1",),
            "webhook_token": SecretStr(TOKEN),
            "webhook_private": True,
        }
        connector = build(settings_in(tmp_path, **more))
        job = job_for(Right.ERASURE, by_mail(ADA))
        result = await perform(connector, job)
        clock.advance(5 * 86400)
        result = await connector.poll(replace(job, now=clock.now()), result.handle)
        async with httpx.AsyncClient() as client:
            state = (await client.get(f"{url}/__state__")).text
            assert (await client.post(f"{url}/work")).json() == {"signed": 1}
        assert (await connector.poll(replace(job, now=clock.now()), result.handle)).outcome == NothingHeld()
        assert await connector.check() == "tasks go to the webhook on 127.0.0.1, untried"
        posted = "".join(task.model_dump_json() for task in office.tickets.values())
        assert opens(posted, TaskKeys(tmp_path / "inbox", settings_in(tmp_path).sealing_key).find(result.handle.split("|")[0]))
        await connector.forget(Over(job.order_id, job.right, job.attempt))
        assert not opens(posted, settings_in(tmp_path).sealing_key)
        assert list((tmp_path / "inbox").iterdir()) == []
        await connector.aclose()
    assert [task.reminder for task in office.tickets.values()] == [0, 1]
    assert not traces_in(state, ADA)


def run_cli(settings, *words):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DSR_")}
    environment |= {"DSR_MANUAL_TITLE": settings.title, "DSR_MANUAL_KEY": KEY}
    environment |= {"DSR_MANUAL_OUTBOX": str(settings.outbox), "DSR_MANUAL_INBOX": str(settings.inbox)}
    command = [sys.executable, "-m", "connectors.systems.manual.cli", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


async def test_people_read_and_sign_with_the_command(office, tmp_path):
    """List names nobody, show opens the task, sign ends it with what was attached; mistakes are one line and exit 2."""
    connector = build(office.settings)
    job = job_for(Right.ACCESS, by_mail(ADA))
    handle = (await perform(connector, job)).handle
    number = handle.split("|")[0]
    listed = run_cli(office.settings, "list")
    assert number in listed.stdout and not traces_in(listed.stdout, ADA)
    assert ADA.email in run_cli(office.settings, "show", number).stdout
    letters = tmp_path / "letters.json"
    letters.write_text(json.dumps([{"about": ADA.last_name}]))
    words = ["sign", number, "--evidence", "folder_12", "--by", "staff.ada", "--attach", str(letters), "--outcome"]
    for wrong in ('{"code": "done"}', '{"code": "retained"}', "fulfilled"):
        refused = run_cli(office.settings, *words, wrong)
        assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert run_cli(office.settings, *words, '{"code": "fulfilled", "count": 1}').returncode == 0
    done = await connector.poll(job, handle)
    assert (done.outcome, done.notes) == (Fulfilled(count=1), ("evidence_folder_12", "signed_by_staff_ada"))
    assert [(export.name, export.content) for export in done.exports] == [("letters", [{"about": ADA.last_name}])]
    assert run_cli(office.settings, "show", number).returncode == 2


async def test_a_task_that_is_over_is_neither_shown_nor_signed(office):
    """A copy of a task that somebody has put back into the outbox opens no more: one line, exit 2, nothing written."""
    connector = build(office.settings)
    job = job_for(Right.ERASURE, by_mail(ADA))
    number = (await perform(connector, job)).handle.split("|")[0]
    path = office.settings.outbox / f"{number}.json"
    copy = path.read_bytes()
    await connector.forget(Over(job.order_id, job.right, job.attempt))
    assert lying(office) == {}
    path.write_bytes(copy)
    words = ("sign", number, "--evidence", "folder_12", "--by", "staff.ada", "--outcome", '{"code": "nothing_held"}')
    for refused in (run_cli(office.settings, "show", number), run_cli(office.settings, *words)):
        assert (refused.returncode, refused.stdout, len(refused.stderr.splitlines())) == (2, "", 1)
        assert "it is over" in refused.stderr
    assert list(office.settings.inbox.iterdir()) == []


def test_a_missing_key_names_the_variable(monkeypatch):
    """Without title and key the error names both."""
    for name in ("TITLE", "KEY"):
        monkeypatch.delenv(f"DSR_MANUAL_{name}", raising=False)
    with pytest.raises(ConfigurationError, match=r"DSR_MANUAL_KEY: set this variable .*; DSR_MANUAL_TITLE"):
        build()
