"""Tasks done by people: nothing is done until somebody signs, and what is signed is what is reported."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import httpx
import pytest
from pydantic import SecretStr, ValidationError

from connectors.sdk.clock import ManualClock
from connectors.sdk.perform import perform
from connectors.sdk.protocol import Exported
from connectors.sdk.standin import serve
from connectors.sdk.testing import ADA, BOB, NOW, ConnectorContract, job_for, traces_in
from connectors.sdk.testing_http import HttpConnectorContract
from connectors.systems.manual.client import write_whole
from connectors.systems.manual.connector import ManualSettings, build
from connectors.systems.manual.standin import TOKEN, ManualStandIn
from connectors.systems.manual.task import Task, signed, unsafe_subject
from schemas.errors import ConfigurationError, SystemUnavailable
from schemas.outcomes import Fulfilled, NothingHeld, Retained
from schemas.subject import FieldChange
from schemas.vocabulary import IdentifierKind, OutcomeCode, RetentionGround, Right

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


def sign(office, number, outcome, **more):
    fields = {"evidence": "ticket_17", "by": "staff.ada", "at": office.clock.now(), "key": office.settings.sealing_key} | more
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
    who = unsafe_subject(task, office.settings.sealing_key)
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
        (_other_key, "DSR_MANUAL_KEY"),
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
    other = signed("tsk_other", Fulfilled(count=1), evidence="ticket_1", by="staff.x", at=NOW, key=office.settings.sealing_key,
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


async def test_old_sign_offs_are_cleared_away(office, clock):
    """After some weeks a sign-off has served: it goes with the next order, and what cannot be read stays for a person."""
    old = sign(office, "tsk_old", NothingHeld())
    odd = office.settings.inbox / "tsk_odd.json"
    odd.write_text("{")
    clock.advance(44 * 86400)
    await perform(build(office.settings), job_for(Right.ACCESS, by_mail(BOB), now=clock.now()))
    assert old.exists()
    clock.advance(2 * 86400)
    await perform(build(office.settings), job_for(Right.ACCESS, by_mail(BOB), now=clock.now()))
    assert (old.exists(), odd.exists()) == (False, True)


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


def test_a_missing_key_names_the_variable(monkeypatch):
    """Without title and key the error names both."""
    for name in ("TITLE", "KEY"):
        monkeypatch.delenv(f"DSR_MANUAL_{name}", raising=False)
    with pytest.raises(ConfigurationError, match=r"DSR_MANUAL_KEY: set this variable .*; DSR_MANUAL_TITLE"):
        build()
