"""The map of cookies on a real database, and the website that tells browsers to forget."""

from __future__ import annotations

import asyncio
import base64
import os
import stat
import threading
from contextlib import contextmanager
from datetime import date, timedelta

import httpx
import pytest

from connectors.sdk.clock import ManualClock
from connectors.sdk.perform import perform
from connectors.sdk.standin import serve
from connectors.sdk.testing import ADA, BOB, NOW, ConnectorContract, job_for, traces_in
from connectors.sdk.work import entered
from connectors.systems.cookies.browser import CookieNames, instructions
from connectors.systems.cookies.connector import CookiesSettings, build
from connectors.systems.cookies.standin import CookiesStandIn
from schemas.errors import ConfigurationError, SystemUnavailable
from schemas.vocabulary import IdentifierKind, OutcomeCode, Right

KEY = base64.b64encode(bytes(range(32))).decode()
ANALYTICS = (IdentifierKind.GA_CLIENT_ID, IdentifierKind.HOTJAR_USER_ID)
NEXT_VISIT = "browser_copy_expires_on_next_visit"


def settings_in(folder, **more):
    return CookiesSettings(**({"url": f"sqlite:///{folder}/map/cookies.sqlite", "key": KEY} | more))


def visit_of(person, *, cookie=None, log_in=True):
    ids = {kind.value: person.identifiers[kind] for kind in ANALYTICS}
    ids |= {"account_id": person.identifiers[IdentifierKind.ACCOUNT_ID], "email": person.email} if log_in else {}
    return {"cookie_id": cookie or person.identifiers[IdentifierKind.COOKIE_ID], **ids}


class CookiesMixin:
    kind = IdentifierKind.EMAIL

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path):
        self._settings = settings_in(tmp_path)

    def open_system(self, clock):
        @contextmanager
        def opened():
            yield CookiesStandIn(self._settings, clock)

        return opened()

    def connect(self, system):
        return build(self._settings)

    def plant(self, system, person, *, records=1):
        system.map.drop_marks(date.max, 1)
        for n in range(records):
            system.visit(visit_of(person, cookie=f"{person.identifiers[IdentifierKind.COOKIE_ID]}-{n}" if n else None))

    def holds(self, system, person):
        return bool(system.map.find(person.known_by(self.kind)))

    def identifiers(self, connector, person):
        return person.known_by(self.kind)


class TestCookiesContractByAddress(CookiesMixin, ConnectorContract):
    """The whole contract for people found by their address."""


class TestCookiesContractByCookie(CookiesMixin, ConnectorContract):
    """The whole contract for people who bring their cookie."""

    kind = IdentifierKind.COOKIE_ID
    finds_by_email = False
    keeps_several = False


@pytest.fixture
def clock():
    return ManualClock(NOW)


@pytest.fixture
def site(tmp_path, clock):
    standin = CookiesStandIn(settings_in(tmp_path), clock)
    standin.settings = settings_in(tmp_path)
    return standin


async def run(site, right, person=ADA, kind=IdentifierKind.ACCOUNT_ID, **more):
    return await perform(build(site.settings), job_for(right, person.known_by(kind), **more))


async def test_erasure_yields_what_analytics_systems_need_and_says_what_it_did_not_do(site):
    """Cookie and analytics ids come back, remembered before the map forgets them; the browser's copy is honestly noted."""
    site.visit(visit_of(ADA))
    remembered = []

    class Notebook:
        async def take_turn(self):
            return

        async def remember(self, found):
            assert site.map.counts() == (1, 0)
            remembered.append(found)

    with entered(Notebook()):
        result = await run(site, Right.ERASURE)
    expected = {kind: (ADA.identifiers[kind],) for kind in (*ANALYTICS, IdentifierKind.COOKIE_ID)}
    assert remembered == [result.yielded] == [expected]
    assert (result.outcome.code, result.outcome.count, result.notes) == (OutcomeCode.FULFILLED, 1, (NEXT_VISIT,))
    assert site.map.counts() == (0, 1)


def test_the_next_answer_ends_the_cookies_and_later_visits_are_not_filed(site):
    """Over HTTP: before, nothing; after an erasure the browser is told to forget, again and again, and is filed no more."""
    cookie = {"cookie_id": ADA.identifiers[IdentifierKind.COOKIE_ID]}
    sent = {"cookie": "visitor=x; _ga=1; _ga_AB12=2; _hjSessionUser_7=3; language=nl"}
    with serve(site) as url:
        assert httpx.post(f"{url}/visits", json=visit_of(ADA)).json() == {"filed": True}
        before = httpx.get(f"{url}/opt-out", params=cookie, headers=sent)
        assert (before.json(), "set-cookie" in before.headers) == ({"opt_out": False, "expire": []}, False)
        asyncio.run(run(site, Right.ERASURE))
        for _ in range(2):
            after = httpx.get(f"{url}/opt-out", params=cookie, headers=sent)
            assert after.json() == {"opt_out": True, "expire": ["visitor", "_ga", "_ga_AB12", "_hjSessionUser_7", "_gid"]}
        headers = after.headers.get_list("set-cookie")
        assert headers[0] == "visitor=; Max-Age=0; Path=/; Secure; SameSite=Lax"
        assert headers[-1].startswith("dsr_opt_out=1; Max-Age=34560000;")
        assert httpx.post(f"{url}/visits", json=visit_of(ADA)).json() == {"filed": False}
        assert httpx.get(f"{url}/opt-out", params={"cookie_id": "cookie-of-nobody"}).json()["opt_out"] is False
        assert httpx.get(f"{url}/__state__").json()["state"] == {"browsers": 0, "marked_and_not_seen": 0}


def test_a_browser_forgets_only_what_was_asked_and_where_it_was_set():
    """Cookies of other purposes stay; the domain is the one they were set on."""
    headers = instructions(CookieNames(("_ga*", "visitor"), "example.org", "no"), ["_ga", "basket"])
    assert [header.partition("=")[0] for header in headers] == ["_ga", "visitor", "no"]
    assert all("; Domain=example.org" in header for header in headers)


async def test_an_objection_keeps_the_map_for_a_later_erasure(site):
    """After an objection nothing new is filed, and an erasure still finds and yields what was."""
    site.visit(visit_of(ADA))
    first = await run(site, Right.OBJECTION)
    again = await run(site, Right.OBJECTION)
    assert (first.notes, again.notes) == ((NEXT_VISIT,), (NEXT_VISIT, "already_marked"))
    assert first.yielded[IdentifierKind.GA_CLIENT_ID] == (ADA.identifiers[IdentifierKind.GA_CLIENT_ID],)
    assert site.visit(visit_of(ADA)) is False
    shown = (await run(site, Right.ACCESS)).exports[0].content
    assert shown[0]["to_forget_since"] == "2026-03-05"
    assert (await run(site, Right.ERASURE)).outcome.count == 1


async def test_a_cookie_nobody_filed_is_ended_all_the_same(site):
    """The person brings a cookie that the map does not have: nothing held, and the browser is told at its next visit."""
    result = await run(site, Right.ERASURE, kind=IdentifierKind.COOKIE_ID)
    assert (result.outcome.code, result.notes) == (OutcomeCode.NOTHING_HELD, (NEXT_VISIT,))
    assert site.map.is_marked(ADA.identifiers[IdentifierKind.COOKIE_ID], NOW.date())


async def test_a_shared_browser_loses_only_the_persons_tie(site):
    """Two accounts log in on one browser: access yields no ids that are another's too, erasure leaves the other's tie."""
    site.visit(visit_of(ADA))
    site.visit(visit_of(BOB, cookie=ADA.identifiers[IdentifierKind.COOKIE_ID]))
    shown = await run(site, Right.ACCESS)
    assert (shown.yielded, shown.notes) == ({}, ("shared_browser",))
    assert shown.exports[0].content[0]["used_by_others_too"] is True
    erased = await run(site, Right.ERASURE)
    assert "shared_browser" in erased.notes
    assert IdentifierKind.GA_CLIENT_ID in erased.yielded
    for kind in (IdentifierKind.ACCOUNT_ID, IdentifierKind.EMAIL):
        assert (await run(site, Right.ACCESS, kind=kind)).outcome.code is OutcomeCode.NOTHING_HELD
    left = await run(site, Right.ACCESS, BOB)
    assert (left.outcome.count, left.exports[0].content[0]["used_by_others_too"]) == (1, False)


async def test_a_shared_browser_named_by_its_cookie_goes(site):
    """Whoever holds the cookie holds the browser: the whole entry goes, for everybody."""
    site.visit(visit_of(ADA))
    site.visit(visit_of(BOB, cookie=ADA.identifiers[IdentifierKind.COOKIE_ID]))
    assert (await run(site, Right.ERASURE, kind=IdentifierKind.COOKIE_ID)).outcome.count == 1
    assert (await run(site, Right.ACCESS, BOB)).outcome.code is OutcomeCode.NOTHING_HELD


async def test_one_person_under_two_identifiers_shares_nothing(site):
    """Account and address recorded together are one person, also when a later log-in shows only one of them."""
    site.visit(visit_of(ADA))
    site.visit({"cookie_id": ADA.identifiers[IdentifierKind.COOKIE_ID], "email": ADA.email.upper()})
    for kind in (IdentifierKind.ACCOUNT_ID, IdentifierKind.EMAIL):
        assert (await run(site, Right.ACCESS, kind=kind)).exports[0].content[0]["used_by_others_too"] is False


async def test_ids_add_up_over_visits(site):
    """A browser that got a new analytics id keeps both: each names a part of its past."""
    site.visit(visit_of(ADA))
    site.visit(visit_of(ADA) | {"ga_client_id": "1.2"})
    found = (await run(site, Right.ERASURE)).yielded[IdentifierKind.GA_CLIENT_ID]
    assert found == tuple(sorted((ADA.identifiers[IdentifierKind.GA_CLIENT_ID], "1.2")))


async def test_no_identity_lies_readable_on_the_disk(site):
    """Neither ids nor persons nor marks can be read from the file; it is for its owner only."""
    site.visit(visit_of(ADA))
    await run(site, Right.OBJECTION)
    path = site.map._file
    assert not traces_in(path.read_bytes().decode("latin-1"), ADA)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await run(site, Right.ERASURE)
    assert {entry.name for entry in path.parent.iterdir()} == {path.name}


async def test_marks_end_when_no_browser_can_hold_the_cookie_any_more(site):
    """After the longest life of a cookie the hash goes too."""
    site.visit(visit_of(ADA))
    await run(site, Right.ERASURE)
    late = NOW + timedelta(days=401)
    await run(site, Right.ERASURE, BOB, now=late)
    assert not site.map.is_marked(ADA.identifiers[IdentifierKind.COOKIE_ID], late.date())


def test_visits_at_the_same_moment_are_all_filed(site):
    """The website's workers and the connector write at once: nothing is lost and nothing is filed twice."""
    site.visit(visit_of(ADA))
    threads = [threading.Thread(target=site.visit, args=(visit_of(ADA) | {"ga_client_id": f"1.{n}"},)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (browser,) = site.map.find(ADA.known_by(IdentifierKind.EMAIL))
    assert len(browser.ids[IdentifierKind.GA_CLIENT_ID]) == 9


@pytest.mark.postgres
async def test_the_same_on_postgresql(tmp_path, clock, postgres_url):
    """A website on several hosts shares a PostgreSQL database: filed, found, ended, not filed again."""
    settings = settings_in(tmp_path, url=postgres_url)
    site = CookiesStandIn(settings, clock)
    site.settings = settings
    site.visit(visit_of(ADA))
    site.visit(visit_of(BOB))
    assert (await run(site, Right.ACCESS)).outcome.count == 1
    assert (await run(site, Right.ERASURE)).outcome.count == 1
    assert site.visit(visit_of(ADA)) is False
    assert site.map.counts() == (1, 1)


async def test_another_key_finds_nobody(tmp_path, site):
    """The database alone is not enough."""
    site.visit(visit_of(ADA))
    stranger = build(settings_in(tmp_path, key=base64.b64encode(b"x" * 32).decode()))
    result = await perform(stranger, job_for(Right.ACCESS, ADA.known_by(IdentifierKind.ACCOUNT_ID)))
    assert result.outcome.code is OutcomeCode.NOTHING_HELD


async def test_a_database_that_is_away_is_retried_later(tmp_path):
    """Nobody listens on the port: SystemUnavailable."""
    connector = build(settings_in(tmp_path, url="postgresql+psycopg://dsr@127.0.0.1:1/none?connect_timeout=2"))
    with pytest.raises(SystemUnavailable, match="DSR_COOKIES_URL"):
        await perform(connector, job_for(Right.ACCESS, ADA.known_by(IdentifierKind.EMAIL)))


async def test_wrong_settings_name_themselves(tmp_path, monkeypatch):
    """No key, no URL, no file, or a file that is no database: each names its setting."""
    monkeypatch.delenv("DSR_COOKIES_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="DSR_COOKIES_KEY: set this variable"):
        build()
    for url in ("nonsense", "sqlite://", "nosuch://x/y"):
        with pytest.raises(ConfigurationError, match="DSR_COOKIES_URL"):
            build(settings_in(tmp_path, url=url))
    (tmp_path / "map").mkdir()
    (tmp_path / "map" / "cookies.sqlite").write_bytes(os.urandom(4096))
    with pytest.raises(ConfigurationError, match="DSR_COOKIES_URL"):
        await build(settings_in(tmp_path)).check()
