"""The pages of a connector over real HTTP: who is shown its metrics."""

from __future__ import annotations

import httpx
import pytest
from prometheus_client import CollectorRegistry

from connectors.sdk.health import app, served
from connectors.sdk.metrics import ConnectorMetrics
from schemas.metrics import CONNECTOR_ORDERS
from schemas.page_readers import PageReaders
from schemas.vocabulary import Right

TOKEN = "0123456789abcdef" * 2
COUNTED = 'dsr_connector_orders_total{right="erasure",system="crm"} 3.0'


@pytest.fixture
def registry() -> CollectorRegistry:
    """Return metrics that say something."""
    registry = CollectorRegistry()
    ConnectorMetrics(registry).count(CONNECTOR_ORDERS, 3, system="crm", right=Right.ERASURE)
    return registry


@pytest.mark.parametrize(("token", "host"), [(TOKEN, "127.0.0.1"), (TOKEN, "0.0.0.0"), (None, "0.0.0.0")])
async def test_a_stranger_is_shown_a_status_alone(registry: CollectorRegistry, token: str | None, host: str) -> None:
    """401 with the challenge and no word from `/metrics`; probes are answered as ever."""
    readers = PageReaders(token, host)
    async with served(app(registry, lambda: False, readers), host="127.0.0.1", port=0) as port, httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{port}"
        for headers in ({}, {"authorization": f"Bearer {TOKEN}0"}, {"authorization": f"Basic {TOKEN}"}):
            answer = await client.get(f"{url}/metrics", headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"], answer.content) == (401, "Bearer", b"")
            assert (await client.get(f"{url}/healthz", headers=headers)).status_code == 200
            assert (await client.get(f"{url}/readyz", headers=headers)).status_code == 503
        shown = await client.get(f"{url}/metrics", headers={"authorization": f"Bearer {TOKEN}"})
        assert (shown.status_code, COUNTED in shown.text) == ((200, True) if token else (401, False))


async def test_without_a_token_this_machine_is_shown_everything(registry: CollectorRegistry) -> None:
    """Nothing has to be set on a laptop."""
    async with served(app(registry, lambda: True), host="127.0.0.1", port=0) as port, httpx.AsyncClient() as client:
        assert COUNTED in (await client.get(f"http://127.0.0.1:{port}/metrics")).text
