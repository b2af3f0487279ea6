"""The log connector on real files: whose lines are found, what is shown, what is rewritten, and what never is."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import gzip
import json
import os
import stat
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import httpx
import pytest

from connectors.sdk.clock import ManualClock
from connectors.sdk.perform import perform
from connectors.sdk.settings import read
from connectors.sdk.standin import serve
from connectors.sdk.testing import ADA, BOB, NOW, ConnectorContract, job_for, traces_in
from connectors.systems.weblogs import client
from connectors.systems.weblogs.connector import WebLogsConnector, WebLogsSettings, build
from connectors.systems.weblogs.standin import COLUMNS, WebLogsStandIn
from schemas.errors import ConfigurationError, CredentialsRefused, SystemRejected, SystemUnavailable
from schemas.vocabulary import IdentifierKind, OutcomeCode, Right

KEY = base64.b64encode(bytes(range(32))).decode()
IP = {ADA.email: "203.0.113.7", BOB.email: "198.51.100.9"}
OLD = "access.log-2026030101"


def connect(folder, **settings):
    return build(WebLogsSettings(folders=(folder,), **({"columns": COLUMNS} | settings)))


def known(person, *kinds):
    every = person.identifiers | {IdentifierKind.IP_ADDRESS: IP[person.email]}
    return {kind: (every[kind],) for kind in kinds or sorted(WebLogsConnector.needs)}


def visit(standin, person, *, days_ago=3.0, file=OLD, **values):
    fields = {
        "ip_address": IP[person.email],
        "cookie_id": person.identifiers[IdentifierKind.COOKIE_ID],
        "account_id": person.identifiers[IdentifierKind.ACCOUNT_ID],
    }
    standin.log(fields | values, file=file, at=standin.clock.now() - timedelta(days=days_ago))


class TestWebLogsContract(ConnectorContract):
    finds_by_email = False

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path):
        self._folder = tmp_path

    def open_system(self, clock):
        @contextmanager
        def opened():
            yield WebLogsStandIn(self._folder, clock)

        return opened()

    def connect(self, system):
        return connect(system.folder)

    def plant(self, system, person, *, records=1):
        for n in range(records):
            visit(system, person, file=(OLD, f"{OLD}.gz", "access.log")[n % 3])

    def holds(self, system, person):
        return bool(traces_in("".join(system.texts().values()), person))

    async def settle(self, connector, system, clock, job, result):
        while result.outcome.code is OutcomeCode.ACCEPTED:
            system.rotate()
            clock.advance(7200)
            result = await connector.poll(replace(job, now=clock.now()), result.handle)
        return result

    def identifiers(self, connector, person):
        return known(person)


@pytest.fixture
def clock():
    return ManualClock(NOW)


@pytest.fixture
def site(tmp_path, clock):
    return WebLogsStandIn(tmp_path, clock)


def job(right, identifiers, clock):
    return job_for(right, identifiers, now=clock.now())


async def test_the_live_file_is_never_rewritten(site, clock):
    """The order is accepted with the date of the rotation; the live file keeps its inode and its bytes until then."""
    visit(site, ADA, days_ago=0.1, file="access.log")
    before = (site.live.stat().st_ino, site.live.read_bytes())
    connector = connect(site.folder)
    erase = job(Right.ERASURE, known(ADA), clock)
    first = await perform(connector, erase)
    assert first.outcome.code is OutcomeCode.ACCEPTED
    assert first.outcome.expected_by == NOW + timedelta(hours=25)
    assert (site.live.stat().st_ino, site.live.read_bytes()) == before
    still = await connector.poll(replace(erase, now=clock.now()), first.handle)
    assert still.outcome == first.outcome
    site.rotate()
    clock.advance(3600)
    done = await connector.poll(replace(erase, now=clock.now()), still.handle)
    assert (done.outcome.code, done.outcome.count) == (OutcomeCode.FULFILLED, 1)
    assert not traces_in("".join(site.texts().values()), ADA)


async def test_a_rotated_file_a_server_may_still_write_to_counts_as_live(site, clock):
    """After a rename the server writes on until it reopens its log: the file is touched only when it has been quiet."""
    visit(site, ADA, days_ago=0.01, file="access.log")
    path = site.rotate()
    before = path.read_bytes()
    connector = connect(site.folder)
    erase = job(Right.ERASURE, known(ADA), clock)
    first = await perform(connector, erase)
    assert first.outcome.code is OutcomeCode.ACCEPTED
    assert path.read_bytes() == before
    clock.advance(3600)
    assert (await connector.poll(replace(erase, now=clock.now()), first.handle)).outcome.code is OutcomeCode.FULFILLED


async def test_what_is_logged_after_the_order_does_not_keep_it_open_for_ever(site, clock):
    """A person who goes on visiting gets an end: lines after the order stay, and a note says so."""
    visit(site, ADA, days_ago=0.1, file="access.log")
    connector = connect(site.folder)
    erase = job(Right.ERASURE, known(ADA), clock)
    first = await perform(connector, erase)
    site.rotate()
    clock.advance(7200)
    visit(site, ADA, days_ago=0.01, file="access.log")
    done = await connector.poll(replace(erase, now=clock.now()), first.handle)
    assert (done.outcome.code, done.outcome.count, done.notes) == (OutcomeCode.FULFILLED, 1, ("lines_after_the_order_stay",))
    assert traces_in(site.live.read_text(), ADA)


async def test_lines_erased_before_the_wait_are_counted_after_it(site, clock):
    """Rotated files are done at once, the live one later: one report counts both."""
    visit(site, ADA)
    visit(site, ADA, days_ago=0.1, file="access.log")
    connector = connect(site.folder)
    erase = job(Right.ERASURE, known(ADA), clock)
    first = await perform(connector, erase)
    assert not traces_in(site.texts()[OLD], ADA)
    site.rotate()
    clock.advance(7200)
    assert (await connector.poll(replace(erase, now=clock.now()), first.handle)).outcome.count == 2


async def test_a_rewritten_file_keeps_everything_but_the_lines(site, clock):
    """Mode, times, other lines to the byte (also bytes that are no text), and compression stay; no copy is left behind."""
    odd = b'192.0.2.1 - - [01/Mar/2026:09:00:00 +0000] "GET /\xff\xfe HTTP/1.1" 200 1 "-" "-" "-" "-"\n'
    for name in (OLD, f"{OLD}.gz"):
        visit(site, ADA, file=name)
        visit(site, BOB, file=name)
        path = site.folder / name
        path.write_bytes(path.read_bytes() + (gzip.compress(odd) if name.endswith(".gz") else odd))
        path.chmod(0o640)
        os.utime(path, (1_772_000_000, 1_772_000_000))
    kept = site.texts()[OLD].splitlines(keepends=True)[1:]
    result = await perform(connect(site.folder), job(Right.ERASURE, known(ADA), clock))
    assert result.outcome.count == 2
    for name in (OLD, f"{OLD}.gz"):
        status = (site.folder / name).stat()
        assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o640, 1_772_000_000)
        assert site.texts()[name].splitlines(keepends=True) == kept
    assert (site.folder / OLD).read_bytes().endswith(odd)
    assert (site.folder / f"{OLD}.gz").read_bytes()[:2] == b"\x1f\x8b"
    assert {path.name for path in site.folder.iterdir()} == {OLD, f"{OLD}.gz", "access.log"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
async def test_a_rewritten_file_keeps_its_owner(site, clock):
    """A log of another user stays that user's."""
    visit(site, ADA)
    os.chown(site.folder / OLD, 4711, 4712)
    await perform(connect(site.folder), job(Right.ERASURE, known(ADA), clock))
    status = (site.folder / OLD).stat()
    assert (status.st_uid, status.st_gid) == (4711, 4712)


@pytest.mark.parametrize("moment", ["before_the_copy", "after_the_copy"])
async def test_a_rotation_in_between_loses_no_line(site, clock, monkeypatch, moment):
    """Numbered rotation moves files under our hands: nothing is overwritten, the order is tried again."""
    visit(site, ADA)
    first, second = site.folder / OLD, site.folder / "access.log-2"

    def rotate():
        first.rename(second)
        visit(site, BOB)

    copy = client.LogFolders._copy

    def copied(self, raw, passing, change):
        copy(self, raw, passing, change)
        rotate()

    with monkeypatch.context() as patch:
        if moment == "after_the_copy":
            patch.setattr(client.LogFolders, "_copy", copied)
        else:
            rewrite = client.LogFolders.rewrite
            patch.setattr(client.LogFolders, "rewrite", lambda *given: (rotate(), rewrite(*given)))
        with pytest.raises(SystemUnavailable, match="rotated"):
            await perform(connect(site.folder), job(Right.ERASURE, known(ADA), clock))
    assert traces_in(first.read_text(), BOB)
    assert (await perform(connect(site.folder), job(Right.ERASURE, known(ADA), clock))).outcome.count == 1
    assert traces_in(first.read_text(), BOB)
    assert not traces_in(second.read_text(), ADA)


async def test_a_full_disk_leaves_the_file_as_it_was(site, clock, monkeypatch):
    """What cannot be written whole is not written: the original stays and no half copy is left."""
    visit(site, ADA)
    before = (site.folder / OLD).read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("connectors.systems.weblogs.client.os.fsync", full)
        with pytest.raises(SystemUnavailable, match="space"):
            await perform(connect(site.folder), job(Right.ERASURE, known(ADA), clock))
    assert (site.folder / OLD).read_bytes() == before
    assert not list(site.folder.glob(".*"))


async def test_what_a_dead_run_left_behind_is_cleared_away(site, clock):
    """A half copy of a killed process goes with the next erasure and is never taken for a log."""
    visit(site, ADA)
    (site.folder / f".{OLD}.dsr-rewriting").write_text("half a copy")
    assert (await perform(connect(site.folder), job(Right.ERASURE, known(ADA), clock))).outcome.count == 1
    assert not list(site.folder.glob(".*"))


async def test_a_rotation_that_holds_its_lock_is_waited_for(site, clock, tmp_path_factory):
    """While logrotate has its state file locked nothing is rewritten."""
    lock = tmp_path_factory.mktemp("state") / "status"
    lock.touch()
    visit(site, ADA)
    connector = connect(site.folder, lock_file=lock)
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(SystemUnavailable, match="at work"):
            await perform(connector, job(Right.ERASURE, known(ADA), clock))
    assert (await perform(connector, job(Right.ERASURE, known(ADA), clock))).outcome.count == 1


async def test_the_surest_identifier_decides_whose_line_it_is(site, clock):
    """A line from the person's address with somebody else's account or cookie is not the person's, and stays."""
    visit(site, ADA)
    visit(site, ADA, account_id="-")
    visit(site, ADA, account_id="-", cookie_id="-")
    visit(site, BOB, ip_address=IP[ADA.email])
    visit(site, BOB, ip_address=IP[ADA.email], account_id="-")
    visit(site, ADA, account_id="acct-somebody")
    result = await perform(connect(site.folder), job(Right.ERASURE, known(ADA), clock))
    assert (result.outcome.count, result.notes) == (3, ("found_by_ip_address_alone",))
    left = site.texts()[OLD].splitlines()
    assert [("acct-somebody" in line, bool(traces_in(line, BOB))) for line in left] == [
        (False, True),
        (False, True),
        (True, False),
    ]


@pytest.mark.parametrize("spelling", ["2001:DB8:0:0:0:0:0:7", "2001:db8::7", "::ffff:203.0.113.7", "203.0.113.7"])
async def test_another_spelling_of_an_address_is_the_same_address(site, clock, spelling):
    """IPv6 has many spellings, and IPv4 may come wrapped in it; lists of forwarded addresses are searched too."""
    written = "2001:db8::7" if "DB8" in spelling.upper() else "203.0.113.7"
    site.log({"ip_address": f"{written}, 192.0.2.1"}, file=OLD, at=NOW - timedelta(days=2))
    asked = {IdentifierKind.IP_ADDRESS: (spelling,)}
    result = await perform(connect(site.folder), job(Right.ACCESS, asked, clock))
    assert [line["ip_address"] for line in result.exports[0].content] == [f"{written}, [redacted]"]


async def test_access_leaves_out_what_may_be_others(site, clock):
    """Found by address alone, other identifiers in the line are hidden; mail addresses in pages always are."""
    visit(site, ADA, account_id="acct-unknown", request="GET /find?mail=bob.bystander%40example.org&x=1 HTTP/1.1")
    by_address = await perform(connect(site.folder), job(Right.ACCESS, known(ADA, IdentifierKind.IP_ADDRESS), clock))
    (line,) = by_address.exports[0].content
    assert (line["ip_address"], line["cookie_id"], line["account_id"]) == (IP[ADA.email], "[redacted]", "[redacted]")
    assert line["request"] == "GET /find?mail=[address]&x=1 HTTP/1.1"
    assert (line["file"], by_address.notes) == (OLD, ("found_by_ip_address_alone",))
    asked = known(ADA, IdentifierKind.COOKIE_ID)
    (line,) = (await perform(connect(site.folder), job(Right.ACCESS, asked, clock))).exports[0].content
    assert (line["ip_address"], line["cookie_id"], line["account_id"]) == (
        IP[ADA.email],
        asked[IdentifierKind.COOKIE_ID][0],
        "[redacted]",
    )


@pytest.mark.parametrize(
    ("erase_by", "address", "account"),
    [("truncate", "203.0.113.0", "-"), ("hash", "h-", "h-")],
)
async def test_a_line_may_stay_without_the_person(site, clock, erase_by, address, account):
    """Truncated or hashed, the line stays for statistics; queries go; a repetition finds nobody; the note says how."""
    visit(site, ADA, request="GET /find?name=Ada HTTP/1.1", referer="https://www.example.org/?q=Ada")
    connector = connect(site.folder, erase_by=erase_by, key=KEY)
    result = await perform(connector, job(Right.ERASURE, known(ADA), clock))
    assert (result.outcome.count, result.notes) == (1, (f"lines_kept_by_{erase_by}",))
    line = build(WebLogsSettings(folders=(site.folder,), columns=COLUMNS))._columns.parse(site.texts()[OLD])
    assert line.values["ip_address"].startswith(address)
    assert line.values["account_id"].startswith(account)
    assert (line.values["request"], line.values["referer"]) == ("GET /find HTTP/1.1", "https://www.example.org/")
    assert "Ada" not in site.texts()[OLD] and not traces_in(site.texts()[OLD], ADA)
    again = await perform(connector, job(Right.ERASURE, known(ADA), clock))
    assert again.outcome.code is OutcomeCode.NOTHING_HELD


async def test_young_lines_are_kept_for_a_ground_until_a_date(site, clock):
    """Older lines go, younger ones stay with ground and date, also in the live file; on that date they go too."""
    visit(site, ADA, days_ago=40)
    visit(site, ADA, days_ago=20)
    visit(site, ADA, days_ago=5, file="access.log")
    connector = connect(site.folder, kept_days=30, kept_ground="art17_3_e", kept_detail="security of the site")
    outcome = (await perform(connector, job(Right.ERASURE, known(ADA), clock))).outcome
    assert (outcome.code, outcome.ground, outcome.detail) == (OutcomeCode.RETAINED, "art17_3_e", "security of the site")
    assert (outcome.count, outcome.fulfilled, outcome.until.isoformat()) == (2, 1, "2026-03-31")
    site.rotate()
    clock.advance((outcome.until - NOW.date()).days * 86400)
    later = await perform(connector, job(Right.ERASURE, known(ADA), clock))
    assert (later.outcome.code, later.outcome.count) == (OutcomeCode.FULFILLED, 2)


async def test_an_address_alone_finds_nobody_where_it_must_not(site, clock):
    """Where many share an address the order is not_applicable; with an account it is done, by account only."""
    visit(site, ADA)
    visit(site, ADA, account_id="-", cookie_id="-")
    connector = connect(site.folder, ip_address_suffices=False)
    alone = await perform(connector, job(Right.ERASURE, known(ADA, IdentifierKind.IP_ADDRESS), clock))
    assert alone.outcome.reason == "identifier_missing"
    assert (await perform(connector, job(Right.ERASURE, known(ADA), clock))).outcome.count == 1
    assert IP[ADA.email] in site.texts()[OLD]


async def test_a_kind_without_a_column_is_said_so(site, clock):
    """The plain combined format has no account: such an order is not_applicable, never nothing_held."""
    plain = connect(site.folder, columns=COLUMNS[:9])
    result = await perform(plain, job(Right.ERASURE, known(ADA, IdentifierKind.ACCOUNT_ID), clock))
    assert result.outcome.reason == "identifier_missing"


async def test_columns_that_do_not_fit_are_never_taken_for_absence(site, clock):
    """Wrong columns or a foreign line that names the person: refused, and the setting is named."""
    visit(site, BOB)
    with pytest.raises(SystemRejected, match="DSR_WEBLOGS_COLUMNS"):
        await perform(connect(site.folder, columns=COLUMNS[:9]), job(Right.ERASURE, known(ADA), clock))
    with (site.folder / OLD).open("a") as file:
        file.write("something quite different\n\n")
    result = await perform(connect(site.folder), job(Right.ERASURE, known(ADA), clock))
    assert result.outcome.code is OutcomeCode.NOTHING_HELD
    with (site.folder / OLD).open("a") as file:
        file.write(f"panic while serving {IP[ADA.email]}, see above\n")
    os.utime(site.folder / OLD, (0, 0))
    with pytest.raises(SystemRejected, match="DSR_WEBLOGS_COLUMNS") as caught:
        await perform(connect(site.folder), job(Right.ERASURE, known(ADA), clock))
    assert IP[ADA.email] not in str(caught.value)


async def test_a_damaged_compressed_log_is_refused(site, clock):
    """Half a compressed file may hide lines: a person must look."""
    visit(site, ADA, file=f"{OLD}.gz")
    path = site.folder / f"{OLD}.gz"
    path.write_bytes(path.read_bytes()[:-12])
    for right in (Right.ACCESS, Right.ERASURE):
        with pytest.raises(SystemRejected, match="damaged"):
            await perform(connect(site.folder), job(right, known(ADA), clock))


async def test_links_are_not_followed_and_other_names_are_noted(site, clock, tmp_path_factory):
    """A symbolic link is passed over; a second hard link keeps the old bytes, and the report says so."""
    outside = tmp_path_factory.mktemp("outside") / "access.log-1"
    visit(site, ADA)
    os.link(site.folder / OLD, outside)
    (site.folder / "access.log-9").symlink_to(outside)
    result = await perform(connect(site.folder), job(Right.ERASURE, known(ADA), clock))
    assert (result.outcome.count, result.notes) == (1, ("other_names_of_files_by_hand",))
    assert traces_in(outside.read_text(), ADA)


async def test_an_address_that_is_none_is_refused(site, clock):
    """A typing error in an address is not absence."""
    with pytest.raises(SystemRejected, match="ip_address"):
        await perform(connect(site.folder), job(Right.ACCESS, {IdentifierKind.IP_ADDRESS: ("203.0.113",)}, clock))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_a_log_that_may_not_be_read_is_the_owners_to_open(site, clock):
    """Without the right to read, the owner is told."""
    visit(site, ADA)
    (site.folder / OLD).chmod(0)
    with pytest.raises(CredentialsRefused):
        await perform(connect(site.folder), job(Right.ACCESS, known(ADA), clock))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"FOLDERS": None}, "DSR_WEBLOGS_FOLDERS"),
        ({"KEPT_DAYS": "30"}, "KEPT_GROUND"),
        ({"ERASE_BY": "hash"}, "KEY"),
        ({"COLUMNS": '["ip_address"]'}, "time"),
        ({"COLUMNS": '["time", "request"]'}, "none of"),
        ({"COLUMNS": '["time", "time"]'}, "DSR_WEBLOGS_COLUMNS"),
    ],
)
def test_a_wrong_setting_names_itself(tmp_path, monkeypatch, settings, name):
    """Each mistake is a configuration error before any file is opened."""
    monkeypatch.setenv("DSR_WEBLOGS_FOLDERS", f'["{tmp_path}"]')
    for key, value in settings.items():
        if value is None:
            monkeypatch.delenv(f"DSR_WEBLOGS_{key}")
        else:
            monkeypatch.setenv(f"DSR_WEBLOGS_{key}", value)
    with pytest.raises(ConfigurationError, match=name):
        build()


async def test_check_counts_files_and_tells_of_other_columns(site):
    """The owner sees that files are readable and that the columns fit."""
    visit(site, ADA)
    assert await connect(site.folder).check() == "2 log files readable"
    assert "other columns" in await connect(site.folder, columns=COLUMNS[:9]).check()
    with pytest.raises(ConfigurationError, match="DSR_WEBLOGS_FOLDERS"):
        await connect(site.folder / "absent").check()


def test_the_stand_in_logs_visits_and_rotates(tmp_path, monkeypatch):
    """Over HTTP: a visit is logged as a server does, and seeding rotates; the connector finds both."""
    monkeypatch.setenv("DSR_WEBLOGS_FOLDERS", f'["{tmp_path}"]')
    monkeypatch.setenv("DSR_WEBLOGS_COLUMNS", json.dumps(COLUMNS))
    with serve(WebLogsStandIn(read(WebLogsSettings).folders[0])) as url:
        headers = {"x-forwarded-for": "203.0.113.7", "cookie": f"visitor={ADA.identifiers[IdentifierKind.COOKIE_ID]}"}
        assert httpx.get(f"{url}/pricing", headers=headers).status_code == 200
        httpx.post(f"{url}/__seed__", json={"rotate": True, "lines": [{"ip_address": "203.0.113.7"}]})
        assert len(httpx.get(f"{url}/__state__").json()["state"]["files"]) == 2
    asked = known(ADA, IdentifierKind.IP_ADDRESS, IdentifierKind.COOKIE_ID)
    result = asyncio.run(perform(build(), job_for(Right.ACCESS, asked)))
    assert [line["request"] for line in result.exports[0].content] == ["GET /pricing HTTP/1.1", "GET /index.html HTTP/1.1"]
