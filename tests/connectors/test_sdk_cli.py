"""`dsr-connector` as a person types it: words, exit codes, and no value of anybody's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from uuid import UUID

import httpx
import pytest
from opendsr_kit import WithSubsidiary
from sdk_world import an_order

from connectors.sdk.breaker import Pause
from connectors.sdk.cli import _job
from connectors.sdk.clock import ManualClock, SystemClock
from connectors.sdk.forecast import Pace
from connectors.sdk.journal import Journal
from connectors.sdk.loader import build_connector, build_standin, names, standin_settings
from connectors.sdk.perform import perform
from connectors.sdk.protocol import Throttle
from connectors.sdk.standin import serve
from connectors.systems.hubspot.standin import TOKEN
from schemas.errors import ConfigurationError
from schemas.vocabulary import IdentifierKind, OutcomeCode, Right

EMAIL = "ada.lovelace@example.org"
COMMAND = [sys.executable, "-c", "from connectors.sdk.cli import main; main()"]


def environment(**settings):
    return {name: value for name, value in os.environ.items() if not name.startswith("DSR_")} | settings


def call(*arguments, piped="", **settings):
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(**settings),
        input=piped,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def hubspot():
    standin = build_standin("hubspot")
    standin.add(email=EMAIL, lastname="Lovelace-Testcase", ga_client_id="1357.2468")
    with serve(standin) as url:
        standin.settings = {"DSR_HUBSPOT_BASE_URL": url, "DSR_HUBSPOT_TOKEN": TOKEN}
        yield standin


def test_list_shows_every_connector_of_the_package():
    """Names as folders are called."""
    assert call("list").stdout.split() == names()
    assert "hubspot" in names()


def test_check_says_one_line(hubspot):
    """Fit: exit code 0."""
    result = call("check", "hubspot", **hubspot.settings)
    assert (result.returncode, result.stdout) == (0, "hubspot: 18 contact properties readable\n")


def test_check_tells_refused_credentials_from_a_wrong_setting(hubspot):
    """1 for a token the system refuses, 2 for one that is not set; neither is shown."""
    refused = call("check", "hubspot", **hubspot.settings | {"DSR_HUBSPOT_TOKEN": "pat-secret"})
    missing = call("check", "hubspot")
    assert (refused.returncode, missing.returncode) == (1, 2)
    assert refused.stderr.startswith("CredentialsRefused: ")
    assert "pat-secret" not in refused.stderr
    assert "Traceback" not in refused.stderr + missing.stderr


def test_a_start_with_refused_credentials_ends_in_one_sentence(hubspot, tmp_path):
    """The sentence is the last line: nothing that was opened is left to complain after it."""
    settings = {
        "DSR_HUBSPOT_TOKEN": "pat-secret",
        "DSR_KAFKA_BOOTSTRAP": "127.0.0.1:1",
        "DSR_KEYS_URL": "http://127.0.0.1:1",
        "DSR_SIGNATURES": "off",
        "DSR_STATE_DIR": str(tmp_path),
    }
    refused = call("run", "hubspot", "--system", "crm", **hubspot.settings | settings)
    assert refused.returncode == 1
    said = (refused.stdout + refused.stderr).splitlines()
    assert [line for line in said if line.startswith("CredentialsRefused: ")] == said[-1:]
    assert not [line for line in said if '"level":"error"' in line.replace(" ", "") or "Unclosed" in line or "withheld" in line]


def test_try_shows_counts_and_no_values(hubspot):
    """A dry access: how many, which kinds, which documents."""
    result = call("try", "hubspot", "--identity", f"email={EMAIL}", **hubspot.settings)
    assert result.returncode == 0, result.stderr
    assert '"code":"fulfilled","count":1' in result.stdout
    assert "yields: 1 x ga_client_id" in result.stdout
    assert not [word for word in (EMAIL, "Lovelace-Testcase", "1357.2468") if word in result.stdout + result.stderr]


def test_try_changes_nothing_without_really(hubspot):
    """An erasure needs --really."""
    without = call("try", "hubspot", "--identity", f"email={EMAIL}", "--right", "erasure", **hubspot.settings)
    assert without.returncode == 2
    assert hubspot.holding(EMAIL)
    call("try", "hubspot", "--identity", f"email={EMAIL}", "--right", "erasure", "--really", **hubspot.settings)
    assert not hubspot.holding(EMAIL)


def test_the_same_try_is_the_same_request_and_another_is_another():
    """The id follows from identity, right and day: a repetition is the same to the byte, all else has another id."""
    ada, bob = {IdentifierKind.EMAIL: (EMAIL,)}, {IdentifierKind.EMAIL: ("bob@example.org",)}
    first, again = _job(Right.ACCESS, ada), _job(Right.ACCESS, ada)
    assert (first.subject_request_id, first.received_at) == (again.subject_request_id, again.received_at)
    others = {_job(right, who).subject_request_id for right, who in ((Right.ERASURE, ada), (Right.ACCESS, bob))}
    assert len(others | {first.subject_request_id}) == 3
    assert UUID(first.subject_request_id).version == 4


class TestTryOfASubsidiary(WithSubsidiary):
    @pytest.fixture
    def clock(self):
        return ManualClock(SystemClock().now())

    async def test_trying_two_rights_and_one_of_them_again(self, make):
        """A processor that remembers ids (OpenDSR) takes each try, and a repetition as the request that it knows."""
        connector = make()
        for right in (Right.ACCESS, Right.ERASURE, Right.ACCESS):
            result = await perform(connector, _job(right, {IdentifierKind.EMAIL: (EMAIL,)}))
            assert result.outcome.code in {OutcomeCode.ACCEPTED, OutcomeCode.NOTHING_HELD}


def test_a_value_may_be_piped_in(hubspot):
    """A line for each `-`, shown nowhere, and no warning of how it is read; none: said so."""
    both = ("--identity", "email=-", "--identity", "account_id=-")
    result = call("try", "hubspot", *both, piped=f"{EMAIL}\na-17\n", **hubspot.settings)
    assert (result.returncode, result.stderr) == (0, "")
    assert '"code":"fulfilled","count":1' in result.stdout
    assert EMAIL not in result.stdout
    short = call("try", "hubspot", *both, piped=f"{EMAIL}\n", **hubspot.settings)
    assert (short.returncode, "account_id=- reads a line" in short.stderr) == (2, True)
    assert EMAIL not in short.stdout + short.stderr


@pytest.mark.parametrize(
    "arguments", [("try", "nothing", "--identity", "email=-"), ("run", "nothing", "--system", "crm"), ("standin", "nothing")]
)
def test_a_name_that_nobody_knows_is_said_before_all_else(arguments):
    """No value is asked for and no other setting complained of; what `new` made has to be installed."""
    result = call(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("ConfigurationError: no connector of that name; known are ")
    assert "pip install -e FOLDER" in line


def test_a_system_that_is_down_is_named_by_its_setting():
    """Which address does not answer: the variable, and nothing of its value, which may hold credentials."""
    address = "http://me:canary@127.0.0.1:1/canary?key=canary"
    result = call("check", "hubspot", DSR_HUBSPOT_BASE_URL=address, DSR_HUBSPOT_TOKEN=TOKEN)
    assert result.returncode == 1
    assert "ConnectError: nobody answers at the address in DSR_HUBSPOT_BASE_URL" in result.stderr
    assert "canary" not in result.stderr and "127.0.0.1" not in result.stderr
    described = call("check", "declarative", DSR_DECLARATIVE_FILE="brevo", DSR_BREVO_BASE_URL=address, DSR_BREVO_API_KEY="k")
    assert "nobody answers at the address in DSR_BREVO_BASE_URL" in described.stderr


def test_each_command_shows_how_it_is_typed():
    """Its own help has an example."""
    for command in ("list", "run", "check", "status", "try", "standin", "new", "docs"):
        assert f"dsr-connector {command}" in " ".join(call(command, "--help").stdout.partition("Example: ")[2].split()), command


def test_try_names_the_kinds_there_are():
    """A kind nobody knows: the message lists the known ones."""
    result = call("try", "hubspot", "--identity", "shoe=41")
    assert result.returncode == 2
    assert "crm_contact_id" in result.stderr


def test_run_without_a_key_names_the_variable():
    """Nothing starts without DSR_KEYS_URL: what it is, what it may look like and where to read are in the line."""
    result = call("run", "hubspot", "--system", "crm", DSR_HUBSPOT_TOKEN=TOKEN)
    assert result.returncode == 2
    assert "DSR_KEYS_URL: set this variable (Where orders' keys are given out: base URLs of the workers" in result.stderr
    assert "for instance http://127.0.0.1:9464); see connectors/README.md" in result.stderr


@pytest.mark.parametrize("name", ["nothing", "../hubspot", "os", "hubspot.client"])
def test_a_name_that_is_no_connector(name):
    """A name is a folder or an entry point, never a path or another module."""
    with pytest.raises(ConfigurationError, match="known are"):
        build_standin(name)


@pytest.mark.parametrize("name", ["eventbrite", "hotjar", "mailchimp", "unbounce"])
async def test_a_connector_speaks_to_its_standin_by_what_is_exported(name, monkeypatch):
    """Base URL and credentials of whatever name, and what must be set beside them."""
    with serve(build_standin(name)) as url:
        for variable, value in standin_settings(name, url).items():
            monkeypatch.setenv(variable, value)
        connector = build_connector(name)
        assert await connector.check()
        await connector.aclose()


def test_where_a_standin_has_no_single_address_nothing_is_exported():
    """A described system's variables are named in its file; a mailbox is no URL."""
    assert standin_settings("declarative", "http://127.0.0.1:1") == {}
    assert standin_settings("mailbox", "127.0.0.1:1") == {}


def test_standin_serves_until_it_is_ended():
    """Started, seeded, switched, looked at and healed over HTTP, as another language's test would."""
    with subprocess.Popen([*COMMAND, "standin", "hubspot"], env=environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            url, exported = process.stdout.readline().strip(), process.stdout.readline().split()
            settings = dict(word.split("=", 1) for word in exported[1:])
            assert (exported[0], settings) == ("export", {"DSR_HUBSPOT_BASE_URL": url, "DSR_HUBSPOT_TOKEN": TOKEN})
            assert call("check", "hubspot", **settings).returncode == 0
            with httpx.Client(base_url=url) as client:
                client.post("/__seed__", json={"contacts": [{"email": EMAIL}]}).raise_for_status()
                fault = {"kind": "status", "status": 503, "times": 1}
                client.post("/__control__", json={"faults": [fault], "switches": {"page_size": 1}}).raise_for_status()
                reading = {"url": "/crm/v3/properties/contacts", "headers": {"authorization": f"Bearer {TOKEN}"}}
                assert [client.get(**reading).status_code for _ in range(2)] == [503, 200]
                client.post("/__control__", json={"rate_limit": {"requests": 1, "per_seconds": 60}}).raise_for_status()
                assert [client.get(**reading).status_code for _ in range(2)] == [200, 429]
                client.delete("/__control__").raise_for_status()
                assert client.get(**reading).status_code == 200
                assert client.post("/__clock__", json={"advance_seconds": 1}).status_code == 409
                state = client.get("/__state__").json()
            assert state["counts"] == {"GET /crm/v3/properties/contacts": 6}
            assert [contact["email"] for contact in state["state"]["contacts"].values()] == [EMAIL]
        finally:
            process.terminate()


def waiting(folder, *, due_in_days, throttle, paused=False):
    """Leave a journal with 30 orders, as a connector does, and return an environment that names it."""
    now = SystemClock().now()
    with Journal(folder / "crm.journal.sqlite") as journal, journal.transaction() as page:
        for number in range(30):
            page.insert(an_order(number, due_on=(now + timedelta(days=due_in_days)).date()), now)
        page.keep_pace(Pace(1.0, 1.0, 20), throttle)
        if paused:
            page.keep_pause(Pause(3, now + timedelta(hours=1)))
    return {"DSR_STATE_DIR": str(folder)}


def test_status_says_by_when_all_is_done(tmp_path):
    """In time: 0, with a table for people and the same as JSON; the journal may be open elsewhere meanwhile."""
    where = waiting(tmp_path, due_in_days=20, throttle=Throttle(per_day=10))
    with Journal(tmp_path / "crm.journal.sqlite"):
        table, machine = call("status", "crm", **where), call("status", "crm", "--json", **where)
    assert (table.returncode, machine.returncode) == (0, 0), table.stderr
    for line in ("waiting         30", "quota remaining 10", "left alone      no", "pace            of 20 orders"):
        assert line in table.stdout
    assert "LATE" not in table.stdout
    found = json.loads(machine.stdout)
    assert (found["waiting"], found["due_dates"][0]["orders"], found["due_dates"][0]["late"]) == (30, 30, False)


def test_status_tells_what_needs_somebody_by_its_exit_code(tmp_path):
    """1 for orders that will be late and for a system left alone, 2 where there is no journal, 70 for one it cannot read."""
    late = call("status", "crm", **waiting(tmp_path / "late", due_in_days=1, throttle=Throttle(per_day=10)))
    assert (late.returncode, "  LATE" in late.stdout) == (1, True)
    paused = call("status", "crm", **waiting(tmp_path / "paused", due_in_days=20, throttle=Throttle(), paused=True))
    assert (paused.returncode, "left alone      until" in paused.stdout) == (1, True)
    absent = call("status", "crm", DSR_STATE_DIR=str(tmp_path))
    assert (absent.returncode, "DSR_STATE_DIR" in absent.stderr) == (2, True)
    (tmp_path / "crm.journal.sqlite").write_bytes(b"no database at all, but long enough to be looked at" * 40)
    assert call("status", "crm", DSR_STATE_DIR=str(tmp_path)).returncode == 70
    assert "dsr-connector status crm" in " ".join(call("status", "--help").stdout.split())
