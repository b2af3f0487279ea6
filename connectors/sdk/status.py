"""What `dsr-connector status` shows: how far a connector is, read from its journal, whether it runs or not.

Room rules: reads only; counts, dates and codes, nothing of an order's content.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from connectors.sdk.forecast import Pace, forecast
from connectors.sdk.journal import OrderState, reading
from connectors.sdk.protocol import Throttle
from connectors.sdk.quota import SqlQuota, quota_file
from connectors.sdk.settings import ConnectorSettings

__all__ = ["DueDate", "Status", "StatusSettings", "lines", "read_status"]


class StatusSettings(ConnectorSettings):
    """The settings of the connector's process that say where it keeps its books."""

    model_config = SettingsConfigDict(env_prefix="DSR_")

    state_dir: Path = Path(".dsr")
    quota_url: SecretStr | None = None


class DueDate(BaseModel):
    """Orders of one legal due date that wait or are worked on, and when the last of them is done at this pace.

    `late`: some of them are done after that day has ended at the controller's seat.
    """

    model_config = ConfigDict(frozen=True)

    due_on: date
    orders: int
    done_by: datetime
    late: bool


class Status(BaseModel):
    """One connector's state.

    `quota_remaining` is None without a daily limit; `measured_orders` is 0 while the pace is assumed.
    """

    model_config = ConfigDict(frozen=True)

    system: str
    at: datetime
    waiting: int
    working: int
    polling: int
    reported: Annotated[int, Field(description="Orders answered and still remembered")]
    oldest_taken_at: datetime | None
    next_due_at: datetime | None
    quota_remaining: int | None
    paused_until: datetime | None
    measured_orders: int
    due_dates: tuple[DueDate, ...]

    @property
    def needs_somebody(self) -> bool:
        """Tell whether orders will be late, or the system is left alone."""
        return self.paused_until is not None or any(one.late for one in self.due_dates)


async def read_status(settings: StatusSettings, system: str, now: datetime) -> Status:
    """Read it. Raises `ConfigurationError` if there is no such journal, `StoreUnavailable` if it cannot be read."""
    with reading(settings.state_dir / f"{system}.journal.sqlite") as page:
        pace, throttle = page.pace() or (Pace(), Throttle())
        pause = page.pause()
        counts = {state: page.count(state) for state in OrderState}
        oldest, upcoming, waiting = page.oldest_taken_at(), page.next_due_at(), page.in_turn()
    remaining = await _remaining(settings, system, throttle, now)
    paused_until = pause.until if pause is not None and pause.until > now else None
    due_dates = forecast(waiting, throttle, pace, paused_until or now, remaining)
    return Status(
        system=system,
        at=now,
        waiting=counts[OrderState.WAITING],
        working=counts[OrderState.WORKING],
        polling=counts[OrderState.POLLING],
        reported=counts[OrderState.REPORTED],
        oldest_taken_at=oldest,
        next_due_at=upcoming,
        quota_remaining=remaining,
        paused_until=paused_until,
        measured_orders=pace.orders,
        due_dates=tuple(DueDate(due_on=d.due_on, orders=d.orders, done_by=d.done_by, late=d.is_late) for d in due_dates),
    )


async def _remaining(settings: StatusSettings, system: str, throttle: Throttle, now: datetime) -> int | None:
    if throttle.per_day is None:
        return None
    url = settings.quota_url
    if url is None and not quota_file(settings.state_dir, system).exists():
        return throttle.per_day  # nothing was called yet; whoever only looks makes no file
    quota = SqlQuota.in_folder(settings.state_dir, system) if url is None else SqlQuota(url.get_secret_value(), system)
    with quota:
        return max(0, throttle.per_day - await quota.used(now.astimezone(ZoneInfo(throttle.day_zone)).date().isoformat()))


def lines(status: Status) -> Iterator[str]:
    """Return the table people read; moments are in UTC."""
    yield f"{status.system} at {_moment(status.at)}"
    for name in ("waiting", "working", "polling", "reported"):
        yield f"  {name:<16}{getattr(status, name)}"
    yield f"  {'oldest':<16}{_moment(status.oldest_taken_at, 'none')}"
    yield f"  {'next due':<16}{_moment(status.next_due_at, 'none')}"
    yield f"  {'quota remaining':<16}{'no daily limit' if status.quota_remaining is None else status.quota_remaining}"
    yield f"  {'left alone':<16}{'no' if status.paused_until is None else 'until ' + _moment(status.paused_until)}"
    yield f"  {'pace':<16}{_measured(status.measured_orders)}"
    if status.due_dates:
        yield f"\n  {'due on':<12}{'orders':>8}  done by"
    for one in status.due_dates:
        yield f"  {one.due_on.isoformat():<12}{one.orders:>8}  {_moment(one.done_by)}{'  LATE' if one.late else ''}"


def _measured(orders: int) -> str:
    return f"of {orders} order{'s' * (orders != 1)}" if orders else "assumed, nothing measured"


def _moment(at: datetime | None, otherwise: str = "") -> str:
    return otherwise if at is None else at.strftime("%Y-%m-%d %H:%M:%S")
