"""Whoever only looks at a connector leaves nothing behind."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from sdk_world import an_order

from connectors.sdk.forecast import Pace
from connectors.sdk.journal import Journal
from connectors.sdk.protocol import Throttle
from connectors.sdk.quota import SqlQuota, quota_file
from connectors.sdk.status import StatusSettings, _remaining, lines, read_status

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


@pytest.mark.parametrize(("measured", "said"), [(0, "assumed, nothing measured"), (1, "of 1 order"), (2, "of 2 orders")])
async def test_a_pace_is_said_in_its_number(tmp_path: Path, measured: int, said: str) -> None:
    """One order is one order."""
    with Journal(tmp_path / "crm.journal.sqlite") as journal, journal.transaction() as page:
        page.insert(an_order(), NOW)
        page.keep_pace(Pace(orders=measured), Throttle())
    status = await read_status(StatusSettings(state_dir=tmp_path), "crm", NOW)
    assert f"  {'pace':<16}{said}" in list(lines(status))
