"""One contract for both stores of results, and what only a bucket can do wrong."""

from __future__ import annotations

import asyncio
import json
import secrets
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from pydantic import SecretStr
from sdk_world import EMAIL, NOW, PORTAL, Scripted, World, an_order, until
from structlog.testing import capture_logs

from connectors.sdk.attempts import Limits
from connectors.sdk.blob_stores import BlobSettings, BlobStores
from connectors.sdk.breaker import PauseRule
from connectors.sdk.clock import ManualClock
from connectors.sdk.protocol import Exported, Result
from connectors.sdk.retry import Backoff
from connectors.sdk.s3 import Bucket
from connectors.sdk.sigv4 import SigV4
from connectors.sdk.standin import Fault, closed_port_url, serve
from schemas.blobs import BlobPlace, open_result
from schemas.errors import ConfigurationError, CredentialsRefused, SystemRejected, SystemUnavailable
from schemas.ids import digest
from schemas.outcomes import Fulfilled
from schemas.vocabulary import Right
from tests.s3_kit import BUCKET, KEY_ID, REGION, SECRET, S3StandIn, s3proxy

SHEET = Exported("contact", {"email": EMAIL, "name": "Zoë"})


@pytest.fixture
def s3():
    """A bucket on a port."""
    standin = S3StandIn()
    with serve(standin) as url:
        standin.url = url
        yield standin


def settings(url: str, **changes) -> BlobSettings:
    given = {"endpoint": url, "bucket": BUCKET, "region": REGION, "access_key_id": KEY_ID, "secret_access_key": SECRET}
    return BlobSettings(**given | {"private": True} | changes)


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    """The address of an S3 server that we did not write."""
    with s3proxy(tmp_path_factory.mktemp("s3proxy")) as url:
        yield url


@pytest.fixture(params=["folder", "bucket", "bucket without conditions", pytest.param("S3Proxy", marks=pytest.mark.long)])
async def stores(request, tmp_path, s3):
    """Stores of results, of each kind."""
    bare = request.param == "bucket without conditions"
    s3.switches["knows_conditions"] = not bare
    chosen = BlobSettings() if request.param == "folder" else settings(s3.url, conditional_put=not bare)
    if request.param == "S3Proxy":
        chosen = settings(request.getfixturevalue("product"), prefix=secrets.token_hex(8))
    stores = BlobStores(chosen, tmp_path, kept_days=30)
    yield stores
    await stores.aclose()


def access(number: int = 1, **changes):
    return an_order(number, right=Right.ACCESS, **changes)


async def test_what_is_kept_is_read_back_sealed(stores):
    """Reference, digest and size are those of the stored bytes; only the portal's key opens them."""
    store, order = stores.of("crm"), access()
    kept = await store.keep(order, 0, SHEET, NOW)
    stored = await store.read(kept.reference)
    assert (kept.sha256, kept.size, kept.kid) == (digest(stored), len(stored), PORTAL.kid)
    assert kept.expires_at == NOW + timedelta(days=30) and EMAIL.encode() not in stored
    opened = open_result(stored, kept, PORTAL, BlobPlace(order.subject_request_id, "crm", order.order_id))
    assert json.loads(opened) == {"name": SHEET.name, "content": SHEET.content}


async def test_a_repeat_leaves_something_to_read(stores):
    """The same document kept twice: what the later reference names is there as it says."""
    store, order = stores.of("crm"), access()
    await store.keep(order, 0, SHEET, NOW)
    again = await store.keep(order, 0, SHEET, NOW)
    assert digest(await store.read(again.reference)) == again.sha256


async def test_without_a_key_nothing_is_kept(stores):
    """No key in the order: refused, and nothing lies there."""
    with pytest.raises(SystemRejected) as refused:
        await stores.of("crm").keep(access(blob_key=None), 0, SHEET, NOW)
    assert refused.value.reason == "results_key_missing"
    assert await stores.systems() == []


async def test_expired_days_go_and_others_stay(stores):
    """On its last day a document is there; the day after it is gone, and a later one is not."""
    store = stores.of("crm")
    early = [await store.keep(access(n), index, SHEET, NOW) for n in (1, 2) for index in (0, 1, 2)]
    late = await store.keep(access(), 0, SHEET, NOW + timedelta(days=1))
    last = early[0].expires_at.date()
    assert await store.expire(last) == 0
    assert None not in [await store.read(kept.reference) for kept in early]
    assert await store.expire(last + timedelta(days=1)) == 1
    assert {await store.read(kept.reference) for kept in early} == {None}
    assert await store.read(late.reference) is not None
    assert await store.expire(last + timedelta(days=1)) == 0


async def test_drop_takes_one_order_of_one_system(stores):
    """What is kept for an order goes, over all days; the neighbours stay; a second drop finds nothing."""
    order, store = access(1), stores.of("crm")
    for at in (NOW, NOW + timedelta(days=1)):
        await store.keep(order, 0, SHEET, at)
        await store.keep(order, 1, SHEET, at)
    stays = [await store.keep(access(2), 0, SHEET, NOW), await stores.of("chat").keep(order, 0, SHEET, NOW)]
    assert await stores.systems() == ["chat", "crm"]
    assert (await store.drop(order.order_id), await store.drop(order.order_id)) == (4, 0)
    assert await store.read(stays[0].reference) and await stores.of("chat").read(stays[1].reference)


async def test_a_reference_never_leads_out(stores):
    """Another name than the store gives is refused before anything is read; one that it could have given is not there."""
    store = stores.of("crm")
    for reference in ("../secret", "2026-01-01/../1-0.sealed", "/etc/hostname", "2026-01-01/x/1-0", "x"):
        with pytest.raises(ConfigurationError):
            await store.read(reference)
    kept = await store.keep(access(), 0, SHEET, NOW)
    await store.drop(access().order_id)
    assert await store.read(kept.reference) is None


async def test_a_fit_store_passes_its_check(stores):
    """Nothing is said of a store that does what is promised."""
    await stores.of("crm").check()


async def bucket(url: str, **changes):
    stores = BlobStores(settings(url, **changes), None, kept_days=30)
    return stores, stores.of("crm")


async def test_a_lost_answer_does_not_store_twice(s3):
    """The put was done and its answer lost: the repeat hears 412 and is content; one object lies there, as reported."""
    stores, store = await bucket(s3.url)
    s3.fail(Fault("lost", status=503, method="PUT"))
    kept = await store.keep(access(), 0, SHEET, NOW)
    await stores.aclose()
    assert [status for _, status in s3.puts] == [200, 412]
    assert [digest(held) for held in s3.objects.values()] == [kept.sha256]


@pytest.mark.parametrize("status", [409, 429, 500, 503])
async def test_trouble_is_tried_again_and_then_said(s3, status):
    """Twice in a row is overcome; a third time is an unavailable store, never a throttle of the system."""
    stores, store = await bucket(s3.url)
    if status != 409:
        s3.fail(Fault(times=2, status=status))
        await store.keep(access(), 0, SHEET, NOW)
    s3.fail(Fault(times=3, status=status))
    with pytest.raises(SystemUnavailable):
        await store.keep(access(2), 0, SHEET, NOW)
    await stores.aclose()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"secret_access_key": "another"}, CredentialsRefused),
        ({"access_key_id": "AKIDOTHER"}, CredentialsRefused),
        ({"region": "us-east-1"}, CredentialsRefused),
        ({"bucket": "another-bucket"}, SystemRejected),
        ({"private": False}, SystemRejected),
    ],
)
async def test_wrong_settings_are_refused_and_show_no_secret(s3, changes, error):
    """The check, a put and a read each refuse; no message holds key or secret."""
    stores, store = await bucket(s3.url, **changes)
    reference = f"2026-04-04/{access().order_id}/1-0.{'0' * 64}.sealed"
    for call in (store.check(), store.keep(access(), 0, SHEET, NOW), store.read(reference)):
        with pytest.raises(error) as refused:
            await call
        assert KEY_ID not in str(refused.value) and SECRET not in str(refused.value)
    await stores.aclose()
    assert not s3.objects


@pytest.mark.long
async def test_a_product_checks_what_our_stand_in_checks(product):
    """S3Proxy refuses another secret and lacks the other bucket: what it takes from us, it has checked."""
    for changes, error in (
        ({"secret_access_key": "another"}, CredentialsRefused),
        ({"bucket": "another-bucket"}, SystemRejected),
    ):
        stores, store = await bucket(product, **changes)
        with pytest.raises(error):
            await store.keep(access(), 0, SHEET, NOW)
        await stores.aclose()


async def test_a_clock_that_is_off_is_refused(s3):
    """A signature lives for 15 minutes."""
    stores = BlobStores(settings(s3.url), None, clock=ManualClock(datetime.now(UTC) - timedelta(minutes=20)))
    with pytest.raises(CredentialsRefused):
        await stores.of("crm").check()
    await stores.aclose()


@pytest.mark.parametrize("encoding", ["nobodys", "utf-7", "idna"])
async def test_an_answer_in_an_encoding_that_cannot_be_read_is_refused(encoding):
    """What a proxy puts before the store is said to be no XML, like any other page of its."""
    page = f'<?xml version="1.0" encoding="{encoding}"?><ListBucketResult/>'.encode()
    async with httpx.AsyncClient(
        transport=httpx.MockTransport(lambda _: httpx.Response(200, content=page)), base_url="http://127.0.0.1"
    ) as client:
        with pytest.raises(SystemRejected, match="is not XML"):
            await Bucket(client, "dsr-results", ManualClock(NOW)).folders("crm/")


@pytest.mark.parametrize("said", ["Enabled", "Suspended"])
async def test_a_bucket_with_versions_is_refused(s3, said):
    """What is deleted there stays: the connector does not start. A store that does not tell is only warned about."""
    stores, store = await bucket(s3.url)
    s3.switches["versioning"] = said
    with pytest.raises(ConfigurationError, match="DSR_BLOBS_BUCKET"):
        await store.check()
    s3.switches["versioning"] = None
    await store.check()
    await stores.aclose()


async def test_a_store_without_conditions_says_so(s3):
    """501 to If-None-Match is not taken for a success."""
    s3.switches["knows_conditions"] = False
    stores, store = await bucket(s3.url)
    with pytest.raises(SystemUnavailable):
        await store.keep(access(), 0, SHEET, NOW)
    await stores.aclose()


@pytest.mark.parametrize(
    "half", [{"endpoint": "https://s3.example.org"}, {"bucket": BUCKET}, {"access_key_id": None}, {"secret_access_key": None}]
)
def test_half_a_bucket_is_a_wrong_setting(half):
    """Never folders by mistake."""
    chosen = (
        BlobSettings(**half) if len(half) == 1 and None not in half.values() else settings("https://s3.example.org", **half)
    )
    with pytest.raises(ConfigurationError, match="DSR_BLOBS_"):
        BlobStores(chosen, None)


def test_settings_never_show_their_secrets():
    """Neither repr nor dump."""
    shown = f"{settings('https://s3.example.org')!r} {settings('https://s3.example.org').model_dump()}"
    assert KEY_ID not in shown and SECRET not in shown


async def test_a_store_that_is_down_blames_no_system(s3, tmp_path):
    """The store fails: the order waits, the system is not left alone; the store is back: the person's data is kept."""
    limits = Limits(retry=Backoff(10, 3600), poll=Backoff(10, 3600), max_tries=5, pause=PauseRule(1, Backoff(30, 900)))
    world = World(tmp_path, Scripted(*[Result(Fulfilled(count=1), exports=(SHEET,))] * 3), limits=limits)
    clock = ManualClock(datetime.now(UTC))
    stores = BlobStores(settings(s3.url), tmp_path, kept_days=30, clock=clock)
    world.blobs = stores.of("crm")
    s3.fail(Fault(times=3, status=503, method="PUT"))

    async def goes_on():
        while not world.reports:
            await asyncio.sleep(0.02)
            clock.advance(0.5)
            world.clock.advance(5)

    with capture_logs() as said:
        async with world.running():
            world.send(access())
            await asyncio.wait_for(goes_on(), 30)
            (report,) = world.reports
    await stores.aclose()
    assert len(world.connector.jobs) == 2
    events = {line["event"] for line in said}
    assert "results_not_kept" in events and "system_left_alone" not in events
    assert [digest(held) for held in s3.objects.values()] == [report.results[0].sha256]


async def test_refused_by_the_store_is_a_persons_task(s3, tmp_path):
    """Wrong credentials of the store: the order fails at once with that reason, and nothing is told of results."""
    stores = BlobStores(settings(s3.url, secret_access_key="another"), tmp_path, kept_days=30)
    world = World(tmp_path, Scripted(Result(Fulfilled(count=1), exports=(SHEET,))))
    world.blobs = stores.of("crm")
    async with world.running():
        world.send(access())
        (report,) = await world.reported(1)
    await stores.aclose()
    assert report.outcome.reason == "credentials_refused" and report.results == ()


async def test_a_store_that_cannot_expire_for_a_day_ends_the_process(tmp_path):
    """For a day it is tried again, orders go on; then the process ends: data is kept longer than the person was told."""
    world = World(tmp_path, Scripted())
    tries = []

    async def fails(today):
        tries.append(today)
        raise SystemUnavailable("results_list: answered 503")

    world.blobs.expire = fails
    with pytest.raises(ExceptionGroup) as ended:  # noqa: PT012 - it ends while the clock moves
        async with world.running():
            await until(lambda: tries)
            world.clock.advance(3600)
            await until(lambda: len(tries) > 1)
            await world.settled()
            assert not world.task.done()
            world.clock.advance(86_400)
            await until(world.task.done)
    assert ended.group_contains(SystemUnavailable)


async def test_nobody_there(tmp_path):
    """A closed port is an unavailable store."""
    with closed_port_url() as url:
        stores, store = await bucket(url)
        with pytest.raises(SystemUnavailable):
            await store.check()
        await stores.aclose()


# Examples of https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
EXAMPLES = [
    ("GET", "/test.txt", {"Range": "bytes=0-9"}, b"", "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"),
    ("PUT", "/test$file.text", {"Date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
     b"Welcome to Amazon S3.", "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"),
    ("GET", "/?lifecycle", {}, b"", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
    ("GET", "/?max-keys=2&prefix=J", {}, b"", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "headers", "content", "signature"), EXAMPLES)
def test_signatures_are_those_of_the_published_examples(method, path, headers, content, signature):
    """Object with a range, object to put, a parameter without value, a list."""
    signs = SigV4(
        SecretStr("AKIAIOSFODNN7EXAMPLE"), SecretStr("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"), region="us-east-1",
        clock=ManualClock(datetime(2013, 5, 24, tzinfo=UTC)),
    )  # fmt: skip
    request = httpx.Request(method, f"https://examplebucket.s3.amazonaws.com{path}", headers=headers, content=content)
    next(signs.auth_flow(request))
    assert request.headers["authorization"].endswith(f"Signature={signature}")


async def test_a_store_that_never_comes_to_an_end_is_refused():
    """A page that leads to itself is said, not read for ever."""
    page = b"<ListBucketResult><NextContinuationToken>on</NextContinuationToken></ListBucketResult>"
    async with httpx.AsyncClient(
        transport=httpx.MockTransport(lambda _: httpx.Response(200, content=page)), base_url="http://127.0.0.1"
    ) as client:
        with pytest.raises(SystemRejected, match="the same page again"):
            await Bucket(client, "results", ManualClock(NOW)).folders("")
