"""The health pages over real HTTP."""

import asyncio
import signal
import socket

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.adapters.metrics import WorkerMetrics
from orchestrator.gateway.health import health_app, serve
from schemas.metrics import ORDERS_SENT, OUTBOX
from schemas.page_readers import PageReaders
from schemas.vocabulary import Right

TOKEN = "0123456789abcdef" * 2
#: What does not let in where there is a token.
STRANGERS = ({}, {"authorization": f"Bearer {TOKEN}0"}, {"authorization": f"Basic {TOKEN}"}, {"authorization": TOKEN})


async def get(url: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=5) as client:
        return await client.get(url, headers=headers)


async def test_everything_well_is_200_on_a_port_of_the_systems_choice():
    """With all checks content both pages answer 200, on the port that was reported."""
    app = health_app(CollectorRegistry(), alive={"loop": lambda: None}, ready={"store": lambda: None})
    async with serve(app, "127.0.0.1", 0) as at:
        assert at.port > 0
        for page in ("healthz", "readyz"):
            answer = await get(f"{at.url}/{page}")
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_reasons_are_told_by_name():
    """A failing check makes 503 and its reason stands under its name; the other page is not touched by it."""

    async def topics() -> str | None:
        return "topic dsr.requests.v1 is missing"

    app = health_app(CollectorRegistry(), alive={}, ready={"topics": topics, "store": lambda: None})
    async with serve(app, "127.0.0.1", 0) as at:
        answer = await get(f"{at.url}/readyz")
        assert answer.status_code == 503
        assert answer.json() == {"status": "failing", "reasons": {"topics": "topic dsr.requests.v1 is missing"}}
        assert (await get(f"{at.url}/healthz")).status_code == 200


async def test_a_broken_or_silent_check_fails_without_its_text():
    """A check that raises or hangs is a failing one; what a library said does not reach the page."""

    def broken() -> None:
        raise RuntimeError("select * from person where email = 'canary@example.org'")

    async def silent() -> None:
        await asyncio.Event().wait()

    app = health_app(CollectorRegistry(), alive={"store": broken, "broker": silent}, ready={}, check_seconds=0.05)
    async with serve(app, "127.0.0.1", 0) as at:
        answer = await get(f"{at.url}/healthz")
        assert answer.json()["reasons"] == {
            "store": "the check itself failed: RuntimeError",
            "broker": "no answer within 0.05 s",
        }
        assert "canary" not in answer.text


async def test_metrics_are_readable_by_prometheus():
    """`/metrics` exposes what was counted, in the text format."""
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    metrics.count(ORDERS_SENT, 2, system="crm", right=Right.ERASURE)
    metrics.set(OUTBOX, 7)
    async with serve(health_app(registry, alive={}, ready={}), "127.0.0.1", 0) as at:
        answer = await get(f"{at.url}/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        values = {
            (s.name, tuple(s.labels.items())): s.value
            for family in text_string_to_metric_families(answer.text)
            for s in family.samples
        }
        assert values[("dsr_orders_sent_total", (("right", "erasure"), ("system", "crm")))] == 2
        assert values[("dsr_outbox_records", ())] == 7
        open_metrics = await get(f"{at.url}/metrics", accept="application/openmetrics-text; version=1.0.0")
        assert open_metrics.text.endswith("# EOF\n")


async def test_a_taken_port_is_an_error_at_once():
    """The address in use is told to the caller, not found out by the first probe."""
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError):
        async with serve(health_app(CollectorRegistry(), alive={}, ready={}), "127.0.0.1", taken.getsockname()[1]):
            pytest.fail("must not get here")


async def test_no_page_is_kept_or_shown_inside_another():
    """Whatever is asked, an error too; and nothing says what serves it."""
    async with serve(health_app(CollectorRegistry(), alive={}, ready={}), "127.0.0.1", 0) as at:
        for page in ("metrics", "healthz", "readyz", "nothing-here"):
            answer = await get(f"{at.url}/{page}")
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers.get("cache-control") == (None if answer.status_code == 404 else "no-store")
            assert not {"server", "strict-transport-security"} & set(answer.headers)


async def test_signals_stay_with_the_process_and_the_port_is_given_back():
    """Serving changes no signal handler, and after the block the port is free."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    async with serve(health_app(CollectorRegistry(), alive={}, ready={}), "127.0.0.1", 0) as at:
        await get(f"{at.url}/healthz")
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    with pytest.raises(httpx.ConnectError):
        await get(f"{at.url}/healthz")


async def test_metrics_are_for_whoever_has_the_token():
    """On a loopback address too: others get 401 with the challenge and no word, no number."""
    registry = CollectorRegistry()
    WorkerMetrics(registry).set(OUTBOX, 7)
    app = health_app(registry, alive={}, ready={}, readers=PageReaders(TOKEN, "127.0.0.1"))
    async with serve(app, "127.0.0.1", 0) as at:
        for headers in STRANGERS:
            answer = await get(f"{at.url}/metrics", **headers)
            assert (answer.status_code, answer.headers["www-authenticate"], answer.content) == (401, "Bearer", b"")
            assert answer.headers["cache-control"] == "no-store"
        assert "dsr_outbox_records 7.0" in (await get(f"{at.url}/metrics", authorization=f"bearer {TOKEN}")).text


async def test_reasons_are_for_whoever_has_the_token():
    """A probe without it learns the status, which is all it acts on."""
    wrong = {"store": lambda: "no answer from db-7"}
    app = health_app(CollectorRegistry(), alive=wrong, ready=wrong, readers=PageReaders(TOKEN, "127.0.0.1"))
    async with serve(app, "127.0.0.1", 0) as at:
        for page in ("healthz", "readyz"):
            for headers in STRANGERS:
                answer = await get(f"{at.url}/{page}", **headers)
                assert (answer.status_code, answer.json()) == (503, {"status": "failing"})
            told = (await get(f"{at.url}/{page}", authorization=f"Bearer {TOKEN}")).json()
            assert told == {"status": "failing", "reasons": {"store": "no answer from db-7"}}


async def test_without_a_token_others_than_this_machine_are_shown_a_status_alone():
    """Nobody is let in, whatever he sends, on an address that others reach."""
    wrong = {"store": lambda: "no answer from db-7"}
    app = health_app(CollectorRegistry(), alive={}, ready=wrong, readers=PageReaders(None, "0.0.0.0"))
    async with serve(app, "127.0.0.1", 0) as at:
        for headers in (*STRANGERS, {"authorization": "Bearer"}, {"authorization": "Bearer None"}):
            assert (await get(f"{at.url}/metrics", **headers)).status_code == 401
            answer = await get(f"{at.url}/readyz", **headers)
            assert (answer.status_code, answer.json()) == (503, {"status": "failing"})
        assert (await get(f"{at.url}/healthz")).json() == {"status": "ok"}


async def test_who_asks_often_does_not_make_the_checks_run_often():
    """Those who ask at once share one run, and so do those who ask within the time after it; then there is the next."""
    ran, going = 0, asyncio.Event()

    async def store() -> str | None:
        nonlocal ran
        ran += 1
        await going.wait()
        return None if ran == 1 else "gone"

    app = health_app(CollectorRegistry(), alive={}, ready={"store": store}, kept_seconds=1.0)
    async with serve(app, "127.0.0.1", 0) as at:
        asked = [asyncio.create_task(get(f"{at.url}/readyz")) for _ in range(20)]
        await asyncio.sleep(0.2)
        going.set()
        assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}
        assert (await get(f"{at.url}/readyz")).status_code == 200
        assert ran == 1
        await asyncio.sleep(1.1)
        assert (await get(f"{at.url}/readyz")).status_code == 503
        assert ran == 2


async def test_a_caller_who_goes_away_takes_nobodys_answer_with_him():
    """The run that several wait for goes on when the first of them is cancelled."""
    going = asyncio.Event()

    async def store() -> None:
        await going.wait()

    app = health_app(CollectorRegistry(), alive={}, ready={"store": store})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://worker") as client:
        first, second = (asyncio.create_task(client.get("/readyz")) for _ in range(2))
        await asyncio.sleep(0.1)
        first.cancel()
        await asyncio.sleep(0.1)
        going.set()
        assert (await second).status_code == 200
