"""A process that calls a system as often as its quota lets it, until the day is used up: `NAME URL QUOTA_URL RATE PER_DAY`."""

from __future__ import annotations

import asyncio
import sys

import httpx

from connectors.sdk.clock import SystemClock
from connectors.sdk.protocol import Throttle
from connectors.sdk.quota import SqlQuota
from connectors.sdk.throttle import Gate, QuotaExhausted


async def _main(name: str, url: str, quota_url: str, per_second: str, per_day: str) -> None:
    limits = Throttle(per_second=float(per_second) or None, per_day=int(per_day) or None)
    with SqlQuota(quota_url, "crm") as book:
        gate = Gate(limits, SystemClock(), book)
        async with httpx.AsyncClient(base_url=url) as client:
            try:
                while True:
                    await gate.turn()
                    await client.get("/call", params={"by": name})
            except QuotaExhausted:
                return


asyncio.run(_main(*sys.argv[1:]))
