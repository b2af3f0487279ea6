"""The key desk of a worker on a real broker: what asking takes of it, and that nobody may ask without end."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from worker_kit import SPEAKERS, SYSTEMS, settings_for, signing, worker

from connectors.sdk.clock import SystemClock
from connectors.sdk.keys import HttpOrderKeys, KeysUnavailable, order_keys_client
from orchestrator.bench.desk import DESK_CASES, measure_desk
from orchestrator.demo.keyring import Keyring
from schemas.order_keys import PATH

pytestmark = pytest.mark.kafka


async def test_a_small_run_has_a_row_for_each_size_of_question(kafka_bootstrap: str, tmp_path: Path) -> None:
    """Every key is given, and a question for many takes less of the worker than as many questions."""
    rows = await measure_desk(kafka_bootstrap, tmp_path, orders=600, questions=40)
    assert [(row.orders_per_question, row.at_once) for row in rows] == list(DESK_CASES)
    assert [row.questions for row in rows] == [40, 40, 2, 2]
    for row in rows:
        assert row.cpu_ms > 0
        assert 0 < row.p50_ms <= row.p99_ms
    assert rows[2].cpu_ms < 500 * rows[0].cpu_ms


async def test_a_connector_that_asks_without_end_is_told_to_wait(fresh_kafka, tmp_path: Path) -> None:
    """As often as the worker's setting says: beyond it its keys are not to be had for the moment, and that is counted."""
    topics = await fresh_kafka.create(*SYSTEMS)
    keyring = Keyring(tmp_path / "keys", SPEAKERS)
    settings = settings_for(
        tmp_path, fresh_kafka.bootstrap, topics, key_questions_per_second=0.01, http_port=0, **signing(keyring)
    )
    async with worker(settings) as running, order_keys_client(None) as client:
        signer = keyring.key("system:crm")
        keys = HttpOrderKeys("crm", [running.http.url], client, SystemClock(), prefix=topics.prefix, signer=signer)
        await keys.check()
        with pytest.raises(KeysUnavailable, match=r"HTTP 429 too_many: ask 0\.01 times a second at most"):
            await keys.check()
        refused = await client.post(running.http.url + PATH, content=b"{}")
        assert refused.status_code == httpx.codes.TOO_MANY_REQUESTS
        counted = "dsr_order_keys_questions_refused_total", {"reason": "too_many"}
        assert running.metrics.registry.get_sample_value(*counted) == 2
