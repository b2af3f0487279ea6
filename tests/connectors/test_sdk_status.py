"""Whoever only looks at a connector leaves nothing behind."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from connectors.sdk.protocol import Throttle
from connectors.sdk.quota import SqlQuota, quota_file
from connectors.sdk.status import StatusSettings, _remaining

NOW = datetime(2026, 3, 5, 9, tzinfo=UTC)


async def test_a_quota_that_nobody_used_is_whole_and_makes_no_file(tmp_path: Path) -> None:
    """Before the first call the day's whole quota is left; after one, one less."""
    settings, throttle = StatusSettings(state_dir=tmp_path), Throttle(per_day=5)
    assert await _remaining(settings, "crm", throttle, NOW) == 5
    assert not quota_file(tmp_path, "crm").exists()
    with SqlQuota.in_folder(tmp_path, "crm") as quota:
        assert await quota.use("2026-03-05", 5)
    assert await _remaining(settings, "crm", throttle, NOW) == 4
    assert await _remaining(settings, "crm", Throttle(), NOW) is None
