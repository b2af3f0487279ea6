"""The registry's teams stand on the page of a worker that runs."""

import sys
from pathlib import Path

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
from worker_kit import REGISTRY, SYSTEMS, settings_for, worker

pytestmark = pytest.mark.kafka


async def test_a_worker_says_whose_each_active_system_is(fresh_kafka, tmp_path: Path) -> None:
    """One series per active system; a planned one has none, and an owner that may be a person is not named."""
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics)
    planned = "  - {id: chat, title: Chat, role: processor, owner: Support, status: planned}\n"
    settings.registry.write_text(REGISTRY.replace("owner: Marketing", "owner: robin@example.org") + planned)
    async with worker(settings) as running, httpx.AsyncClient(base_url=running.http.url, trust_env=False) as page:
        shown = [line for line in (await page.get("/metrics")).text.splitlines() if line.startswith("dsr_system_info")]
    assert sorted(shown) == [
        'dsr_system_info{owner="IT",system="accounts"} 1.0',
        'dsr_system_info{owner="Sales",system="crm"} 1.0',
        'dsr_system_info{owner="not_shown",system="newsletter"} 1.0',
    ]
