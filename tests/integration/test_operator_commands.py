"""`dsr` as a privacy officer uses it: each command as a process of its own, against a real worker on a real broker."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from worker_kit import KEY, World, answer, settings_for, worker

from connectors.sdk.clock import SystemClock
from connectors.sdk.keys import HttpOrderKeys, order_keys_client
from orchestrator.demo.keyring import Keyring
from schemas.ids import report_id
from schemas.orders import FulfilmentOrder
from schemas.outcomes import Failed
from schemas.reports import FulfilmentReport
from schemas.vocabulary import FailureReason

pytestmark = pytest.mark.kafka
ROOT = Path(__file__).resolve().parents[2]
PERSON = "someone@example.org"
ACTOR = "ops:privacy-office"


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Desk:
    """A terminal, and what the systems answer: `silent` ones do not, `failing` ones fail."""

    env: dict[str, str]
    world: World
    silent: set[str] = field(default_factory=set)
    failing: set[str] = field(default_factory=set)
    printed: list[str] = field(default_factory=list)

    def respond(self, order: FulfilmentOrder) -> FulfilmentReport | None:
        if order.system in self.silent:
            return None
        if order.system in self.failing:
            failed = {
                "report_id": report_id(order.order_id, order.attempt, "failed"),
                "outcome": Failed(reason=FailureReason.CREDENTIALS_REFUSED),
            }
            return answer(order).model_copy(update=failed)
        return answer(order)

    async def run(self, *command: str, stdin: str = "") -> Done:
        ended = await asyncio.to_thread(
            subprocess.run, [sys.executable, *command], env=self.env, cwd=ROOT, input=stdin, capture_output=True, text=True,
            timeout=90,
        )  # fmt: skip
        done = Done(ended.returncode, ended.stdout, ended.stderr)
        assert "Traceback" not in done.err, done.err
        self.printed += [done.out, done.err]
        return done

    async def dsr(self, *arguments: str, code: int = 0, stdin: str = "") -> Done:
        done = await self.run("-m", "orchestrator.cli", *arguments, stdin=stdin)
        assert done.code == code, f"{arguments}: {done}"
        return done

    async def submit(
        self, *more: str, code: int = 0, verified: bool = True, right: str = "erasure", email: str = PERSON
    ) -> str:
        how = ("--verified", "login:substantial") if verified else ("--unverified",)
        done = await self.dsr("submit", "--right", right, "--email", "-", *how, *more, "--json", code=code, stdin=email)
        return str(done.json["subject_request_id"])

    async def until(self, request: str, **wanted: object) -> dict[str, Any]:
        """Ask for the status until it says so."""
        async with asyncio.timeout(60):
            while True:
                done = await self.run("-m", "orchestrator.cli", "status", request, "--json")
                if done.code == 0 and all(done.json[name] == value for name, value in wanted.items()):
                    return dict(done.json)


def on_a_terminal(arguments: tuple[str, ...], env: dict[str, str]) -> bytes:
    """Return what `dsr` shows on a standard error that is a terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "orchestrator.cli", *arguments]
    shown = b""
    with subprocess.Popen(command, env={**env, "TERM": "xterm"}, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=theirs):
        os.close(theirs)
        with contextlib.suppress(OSError):  # how a terminal tells that the other end is gone
            while more := os.read(ours, 4096):
                shown += more
    os.close(ours)
    return shown


@contextlib.asynccontextmanager
async def at_work(fresh_kafka: Any, tmp_path: Path, **changes: object) -> AsyncIterator[Desk]:
    topics = await fresh_kafka.create("crm", "newsletter", "accounts")
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics, **changes)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DSR_")}
    ours = {
        "DSR_KAFKA_BOOTSTRAP": fresh_kafka.bootstrap,
        "DSR_TOPIC_PREFIX": topics.prefix,
        "DSR_KEY_ENCRYPTION_KEY": KEY,
    }
    portal = Keyring(tmp_path / "keys", ["portal:website"]).file("portal:website")
    ours |= {"DSR_SIGNATURES": "off", "DSR_SIGNING_KEY_FILE": str(portal)}
    async with World(fresh_kafka.bootstrap, topics).running() as world, worker(settings) as running:
        ours["DSR_INTAKE_KEYS"] = f"{running.http.url}/v1/intake-keys"
        desk = Desk({**kept, **ours, "DSR_ACTOR": ACTOR, "PYTHONPATH": str(ROOT)}, world)
        world.respond = desk.respond
        yield desk
    assert PERSON not in "".join(desk.printed), "a command has printed the person"


@pytest.fixture
async def desk(fresh_kafka: Any, tmp_path: Path) -> AsyncIterator[Desk]:
    async with at_work(fresh_kafka, tmp_path) as made:
        yield made


def systems(document: dict[str, Any]) -> dict[str, str]:
    return {system["system"]: system["phase"] for system in document["systems"]}


async def test_submit_waits_for_the_confirmation(desk: Desk) -> None:
    """`submit --wait` prints the id and the plain text; `status`, `show` and `list` tell the same afterwards."""
    done = await desk.dsr(
        "submit", "--right", "rectification", "--email", "-", "--set", "first_name=Robin", "--language", "nl",
        "--verified", "login:substantial", "--wait", "60", stdin=PERSON,
    )  # fmt: skip
    request, text = done.out.split("\n", 1)
    assert re.fullmatch(r"[0-9a-f-]{36}", request)
    assert text.startswith("U vroeg ons op")
    status = (await desk.dsr("status", request, "--json")).json
    assert (status["phase"], status["result"], status["in_time"], status["awaited"]) == ("closed", "fulfilled", True, [])
    assert systems(status) == {"crm": "settled", "accounts": "settled", "newsletter": "settled"}
    outcomes = {system["system"]: system["outcome"] for system in status["systems"]}
    assert outcomes == {"crm": "fulfilled", "accounts": "fulfilled", "newsletter": "not_applicable"}
    shown = (await desk.dsr("show", request, "--history", "--language", "en")).out
    assert "received from portal website: rectification, due on " in shown
    assert "crm: fulfilled" in shown and "closed: fulfilled, in time" in shown and "You asked us on" in shown
    document = (await desk.dsr("show", request, "--json")).json
    assert document["confirmation"]["confirmation_id"] == status["confirmation_id"]
    assert [entry["sequence"] for entry in document["history"]] == list(range(1, len(document["history"]) + 1))
    assert "0 of 1 requests" in (await desk.dsr("list")).out
    closed = (await desk.dsr("list", "--phase", "closed", "--json")).json
    assert [one["subject_request_id"] for one in closed["requests"]] == [request]
    assert closed["journal_records"] >= 3


async def test_show_tells_when_keys_were_given(desk: Desk) -> None:
    """By system: first, last and how often, from the log of releases; a request whose keys nobody asked for has none."""
    desk.failing.add("accounts")
    request = await desk.submit("--wait", "1", code=3)
    how = ("--right", "erasure", "--email", "-", "--verified", "login:substantial", "--wait", "1", "--json")
    other = str((await desk.dsr("submit", *how, code=3, stdin="somebody@example.org")).json["subject_request_id"])
    assert "no system was given a key" in (await desk.dsr("show", request, "--keys")).out
    assert (await desk.dsr("show", request, "--keys", "--json")).json["keys"] == []
    assert "keys" not in (await desk.dsr("show", request, "--json")).json
    asked = {request, other}
    await desk.world.until(lambda: {one.subject_request_id for one in desk.world.orders if one.system == "accounts"} == asked)
    orders = [one for one in desk.world.orders if one.system == "accounts" and one.attempt == 1]
    async with order_keys_client(None) as client:
        for fetched in (orders, [one for one in orders if one.subject_request_id == request]):
            url = desk.env["DSR_INTAKE_KEYS"].removesuffix("/v1/intake-keys")
            prefix = desk.env["DSR_TOPIC_PREFIX"]
            keys = HttpOrderKeys("accounts", [url], client, SystemClock(), prefix=prefix, signer=None)
            assert await keys.fetch(fetched) == {}
    for one, times in ((request, 2), (other, 1)):
        given = (await desk.dsr("show", one, "--keys", "--json")).json["keys"]
        assert [(key["system"], key["kid"], key["worker"]) for key in given] == [("accounts", "", "w1")] * times
    shown = (await desk.dsr("show", request, "--keys")).out
    assert re.search(r"accounts +\d{4}-\d\d-\d\d [0-9:]{8} +\d{4}-\d\d-\d\d [0-9:]{8} +2 +no key: signatures are off", shown), (
        shown
    )


async def test_submit_says_what_is_wrong_with_a_request(desk: Desk) -> None:
    """What the worker sets aside is exit 1 with its remedy, for `submit --wait` and later for `status`."""
    done = await desk.dsr(
        "submit", "--right", "erasure", "--email", "-", "--portal", "nowhere", "--unverified", "--wait", "30", "--json",
        stdin=PERSON, code=1,
    )  # fmt: skip
    assert done.json["answer"] == "rejected"
    assert done.json["refused"]["code"] == "unknown_portal"
    assert "website" in done.json["refused"]["remedy"]
    later = await desk.dsr("status", done.json["subject_request_id"], code=1)
    assert "unknown_portal" in later.err
    nobody = await desk.dsr("status", "00000000-0000-4000-8000-000000000000", code=1)
    assert "no such request" in nobody.err


async def test_a_failed_system_waits_for_a_decision(desk: Desk) -> None:
    """`status` says who must decide what; retry too early, a waiver of a stranger and one of a settled system are refused."""
    desk.failing.add("accounts")
    request = await desk.submit("--wait", "1", code=3)
    await desk.until(request, phase="active")
    async with asyncio.timeout(30):
        while systems(status := await desk.until(request))["accounts"] != "escalated":
            pass
    assert [wait for wait in status["awaited"] if f"dsr retry {request} accounts" in wait], status["awaited"]
    listed = (await desk.dsr("list", "--right", "erasure")).out
    assert "a decision on accounts" in listed and request in listed
    again = (await desk.dsr("retry", request, "accounts", "--reason", "The token was renewed", "--json")).json
    assert (again["answer"], again["phase"]) == ("accepted", "active")
    assert any("asked again" in fact for fact in again["facts"])
    refused = await desk.dsr("waive", request, "crm", "--reason", "Not needed", code=1)
    assert "refused, nothing has changed" in refused.out and "answered already" in refused.out
    unknown = await desk.dsr("waive", request, "hotjar", "--reason", "Not needed", "--json", code=1)
    assert unknown.json["refused"]["code"] == "unknown_system"
    assert "crm, newsletter, accounts" in unknown.json["refused"]["remedy"]
    waived = await desk.dsr("waive", request, "accounts", "--reason", "The account was closed by hand")
    assert "Waive: accepted; the request is closed" in waived.out
    late = await desk.dsr("retry", request, "accounts", "--reason", "Once more", code=1)
    assert "illegal_move" in late.out
    closed = await desk.until(request, phase="closed", result="fulfilled_with_exceptions")
    assert closed["awaited"] == []
    today = datetime.now(UTC).date()
    confirmed = (await desk.dsr("confirmations", "--since", today.isoformat())).out
    assert "waived: accounts" in confirmed and "1 of 1 confirmations; 0 late" in confirmed
    assert "0 of 1" in (await desk.dsr("confirmations", "--since", (today + timedelta(days=1)).isoformat())).out
    assert (await desk.dsr("confirmations", "--late", "--json")).json == []


async def test_attention_names_what_waits_and_the_command_that_helps(desk: Desk) -> None:
    """What the core writes of a failure and of a report after the end is what `list --attention` shows."""
    desk.failing.add("accounts")
    request = await desk.submit("--wait", "1", code=3)
    async with asyncio.timeout(30):
        while systems(await desk.until(request)).get("accounts") != "escalated":
            pass
    (waits,) = (await desk.dsr("list", "--attention", "--json")).json["attention"]
    assert (waits["system"], waits["reason"]) == ("accounts", "order_failed")
    assert waits["why"] == "accounts failed (credentials_refused)"
    command = waits["helps"].removesuffix("...").split()[1:]
    desk.failing.clear()
    await desk.dsr(*command, "The token was renewed")
    await desk.until(request, phase="closed")
    assert (await desk.dsr("list", "--attention", "--json")).json["attention"] == []
    order = next(order for order in desk.world.orders if order.system == "crm")
    desk.failing.add("crm")
    late = desk.respond(order)
    assert late is not None
    await desk.world.publish(late)
    async with asyncio.timeout(30):
        while not (found := (await desk.dsr("list", "--attention", "--json")).json["attention"]):
            pass
    assert [(one["phase"], one["reason"], one["why"]) for one in found] == [
        ("closed", "late_report", "crm reported failed after fulfilled")
    ]
    assert (await desk.dsr("list")).out.startswith("0 of 1 requests")


async def test_hold_extend_resume(desk: Desk) -> None:
    """A hold stops what was not sent, an extension moves the due date, a resumption sends the rest."""
    desk.silent.add("crm")
    request = await desk.submit()
    before = await desk.until(request, phase="active")
    review = (datetime.now(UTC).date() + timedelta(days=9)).isoformat()
    held = await desk.dsr("hold", request, "--kind", "legal_hold", "--review-on", review, "--reason", "Proceedings", "--json")
    assert held.json["answer"] == "accepted"
    status = await desk.until(request, on_hold={"kind": "legal_hold", "review_on": review})
    assert f"dsr resume {request}" in status["awaited"][0]
    assert "hold (legal_hold)" in (await desk.dsr("list")).out
    twice = await desk.dsr("hold", request, "--kind", "fee", "--review-on", review, "--reason", "A fee", code=1)
    assert "resume it first" in twice.out
    told = datetime.now(UTC).isoformat()
    extended = ("--because", "complexity", "--notice-sent-at", told, "--reason", "Many systems")
    await desk.dsr("extend", request, *extended)
    due = date.fromisoformat((await desk.until(request))["due_on"])
    assert due > date.fromisoformat(before["due_on"]) + timedelta(days=50)
    due -= timedelta(days=9)
    await desk.dsr("extend", request, *extended, "--until", due.isoformat())
    assert (await desk.until(request))["due_on"] == due.isoformat()
    ahead = (datetime.now(UTC) + timedelta(days=3)).isoformat()
    early = ("--because", "complexity", "--notice-sent-at", ahead, "--reason", "Many systems")
    assert "still to come" in (await desk.dsr("extend", request, *early, code=1)).out
    await desk.dsr("resume", request, "--reason", "The proceedings have ended")
    assert "not on hold" in (await desk.dsr("resume", request, "--reason", "Once more", code=1)).out
    nothing = await desk.dsr("list", "--overdue", "--json")
    assert nothing.json["requests"] == []
    ahead_of = (due + timedelta(days=1)).isoformat()
    assert len((await desk.dsr("list", "--due-before", ahead_of, "--json")).json["requests"]) == 1
    assert (await desk.dsr("list", "--due-before", due.isoformat(), "--json")).json["requests"] == []


async def test_one_decision_for_all_that_wait_for_a_system(desk: Desk) -> None:
    """First it says which requests, then each is asked again, or closed without the system; who is on hold is left alone."""
    desk.failing.add("crm")
    asked = sorted([await desk.submit(email=f"person-{number}@example.org") for number in range(3)])
    for request in asked:
        while "credentials_refused" not in str((await desk.until(request))["systems"]):  # noqa: ASYNC110 - a command tells nobody
            await asyncio.sleep(0.1)
    review = (datetime.now(UTC).date() + timedelta(days=9)).isoformat()
    await desk.dsr("hold", asked[0], "--kind", "legal_hold", "--review-on", review, "--reason", "Proceedings")
    why = ("--reason", "The new token works")
    shown = await desk.dsr("retry-all", "crm", "--dry-run", "--json", *why)
    assert sorted(one["subject_request_id"] for one in shown.json["requests"]) == asked[1:]
    assert {(one["order"], one["reason"], one["answer"]) for one in shown.json["requests"]} == {
        ("escalated", "credentials_refused", None)
    }
    assert (await desk.dsr("retry-all", "crm", "--failed", "unavailable", "--dry-run", "--json", *why)).json["requests"] == []
    assert "no request has fax in its plan" in (await desk.dsr("retry-all", "fax", *why, code=2)).err
    desk.failing.clear()
    done = await desk.dsr("retry-all", "crm", *why)
    assert "2 of 2 requests decided" in done.out
    for request in asked[1:]:
        closed = await desk.until(request, phase="closed")
        assert closed["result"] == "fulfilled"
    assert "0 of 0 requests decided" in (await desk.dsr("retry-all", "crm", *why)).out
    ended = await desk.dsr("waive-all", "crm", "--reason", "Out of use", "--json")
    assert [(one["subject_request_id"], one["answer"]) for one in ended.json["requests"]] == [(asked[0], "accepted")]


async def test_a_decision_for_all_that_nobody_carries_out(desk: Desk) -> None:
    """No time is given here: it says so, and what is on the bus is carried out later."""
    desk.silent.add("crm")
    request = await desk.submit()
    await desk.until(request, phase="active")
    late = await desk.dsr("waive-all", "crm", "--unanswered", "--wait", "0", "--reason", "Out of use", code=3)
    assert "no answer yet" in late.out and "0 of 1 requests decided" in late.out
    assert (await desk.until(request, phase="closed"))["result"] == "fulfilled_with_exceptions"


async def test_identity_approve_add_and_too_late(desk: Desk) -> None:
    """Who asks is confirmed by the portal that filed; what irreversible orders have begun is neither taken back nor refused."""
    desk.silent.update(("crm", "newsletter"))
    request = await desk.submit(verified=False)
    status = await desk.until(request, phase="verifying")
    assert "portal website must say by " in status["awaited"][0]
    foreign = await desk.dsr("identity", request, "--confirmed", "passport:high", "--portal", "elsewhere", code=1)
    assert "foreign_portal" in foreign.out
    await desk.dsr("identity", request, "--confirmed", "passport:high")
    again = await desk.dsr("identity", request, "--confirmed", "passport:high")
    assert "ConfirmIdentity: the identity is confirmed already, the request is active; nothing was published" in again.out
    other = await desk.dsr("identity", request, "--refused", "not_the_person", "--json", code=1)
    assert (other.json["answer"], other.json["phase"], other.json["place"]) == ("too_late", "active", None)
    foreign = await desk.dsr("identity", request, "--confirmed", "passport:high", "--portal", "elsewhere", code=1)
    assert "foreign_portal" in foreign.out
    approved = await desk.dsr("approve", request, "--reason", "Checked", "--actor", "ops:colleague")
    assert "approved by ops:colleague: Checked" in approved.out
    assert "in the plan already" in (await desk.dsr("add", request, "crm", "--reason", "Please", code=1)).out
    late = await desk.dsr("withdraw", request, "--reason", "Asked by telephone", "--json", code=1)
    assert late.json["answer"] == "too_late"
    assert "started already" in (await desk.dsr("deny", request, "--ground", "excessive", "--reason", "Late", code=1)).out


async def test_withdraw_and_deny(desk: Desk) -> None:
    """A request is taken back, and taken back again without harm; another one is refused; a stranger's is closed."""
    desk.silent.update(("crm", "newsletter"))
    request = await desk.submit(right="access")
    await desk.until(request, phase="active")
    taken_back = await desk.dsr("withdraw", request, "--reason", "Asked by telephone", "--json")
    assert (taken_back.json["answer"], taken_back.json["phase"]) == ("accepted", "closed")
    again = await desk.dsr("withdraw", request, "--reason", "Asked by telephone", "--json")
    assert again.json["answer"] == "already"
    assert "illegal_move" in (await desk.dsr("approve", request, "--reason", "Late", code=1)).out

    denied = await desk.submit(right="access")
    await desk.until(denied, phase="active")
    done = await desk.dsr("deny", denied, "--ground", "excessive", "--reason", "The third this week")
    assert "Deny: accepted; the request is closed" in done.out and "refused (excessive)" in done.out
    assert "illegal_move" in (await desk.dsr("deny", denied, "--ground", "excessive", "--reason", "Again", code=1)).out
    stranger = await desk.submit(verified=False, right="objection")
    await desk.until(stranger, phase="verifying")
    said = await desk.dsr("identity", stranger, "--refused", "not_the_person", "--right", "objection", "--json")
    assert str(said.json["place"]).startswith(desk.world.topics.urgent_requests)
    assert (await desk.until(stranger, phase="closed"))["result"] == "identity_not_confirmed"
    repeated = await desk.dsr("identity", stranger, "--refused", "not_the_person", "--right", "objection", "--json")
    assert repeated.json["answer"] == "already"
    late = await desk.dsr("identity", stranger, "--confirmed", "passport:high", "--right", "objection", code=1)
    assert "the request is closed already (identity_not_confirmed)" in late.out


async def test_who_filed_a_request_cannot_approve_it(desk: Desk) -> None:
    """Four eyes: the refusal says to ask a colleague."""
    desk.silent.update(("crm", "newsletter"))
    request = await desk.submit("--actor", "ops:filer")
    await desk.until(request, phase="active")
    refused = await desk.dsr("approve", request, "--actor", "ops:filer", "--reason", "It is fine", "--json", code=1)
    assert refused.json["refused"]["code"] == "four_eyes"


async def test_without_a_worker_a_command_says_that_nobody_answered(fresh_kafka: Any, tmp_path: Path) -> None:
    """Exit 3: the command stays on the bus, and is carried out when a worker comes."""
    async with at_work(fresh_kafka, tmp_path) as desk:
        desk.silent.add("crm")
        request = await desk.submit()
        await desk.until(request, phase="active")
    done = await desk.dsr(
        "hold", request, "--kind", "fee", "--review-on", "2999-01-01", "--reason", "Fee", "--wait", "1", code=3
    )
    assert "will be carried out" in done.out and not done.err
    keys = str(ROOT / "tests" / "commands" / "intake-keys.json")
    for command, says in (
        (("retry", request, "crm", "--reason", "Once more", "--wait", "1"), b"waiting for the answer, up to 1 s"),
        (("submit", "--right", "access", "--email", PERSON, "--unverified", "--wait", "1"), b"waiting for its confirmation"),
    ):
        shown = await asyncio.to_thread(on_a_terminal, command, {**desk.env, "DSR_INTAKE_KEYS": keys})
        assert says in shown and PERSON.encode() not in shown
    silent = World(fresh_kafka.bootstrap, fresh_kafka.topics)
    silent.respond = lambda _order: None  # an answer would close the request before anybody sees it on hold
    async with (
        silent.running(),
        worker(settings_for(tmp_path, fresh_kafka.bootstrap, fresh_kafka.topics)),
    ):
        assert (await desk.until(request, phase="active", on_hold={"kind": "fee", "review_on": "2999-01-01"}))["on_hold"]


async def test_the_example_portals_are_confirmed(desk: Desk) -> None:
    """`docs/examples/portal.py` prints its confirmation; `portal_sync.py` prints an id that is confirmed as well."""
    done = await desk.run("docs/examples/portal.py", PERSON)
    assert done.code == 0, done.err
    assert '"type":"StatusEvent"' in done.out and '"result":"fulfilled"' in done.out
    filed = await desk.run("docs/examples/portal_sync.py", PERSON)
    assert filed.code == 0, filed.err
    await desk.until(filed.out.strip(), phase="closed", result="fulfilled")


async def test_the_example_portal_ends_when_its_record_is_set_aside(desk: Desk) -> None:
    """Nothing else will ever be said of it: the reason is the last line, and nobody waits for a confirmation."""
    program = (
        "import asyncio, sys; sys.path.insert(0, 'docs/examples'); import portal;"
        " portal.SIGNER, build = None, portal.build_request;"
        " portal.build_request = lambda *given, **more: build(*given, **more | {'portal': 'elsewhere'});"
        " asyncio.run(portal.main(sys.argv[1]))"
    )
    done = await desk.run("-c", program, PERSON)
    assert done.code == 0, done.err
    assert '"rejected":"unknown_portal"' in done.out.splitlines()[-1]
