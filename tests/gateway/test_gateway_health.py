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
from schemas.vocabulary import Right


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
