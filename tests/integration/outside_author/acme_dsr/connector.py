"""Acme: `POST /jobs` starts an erasure, `GET /jobs/{id}` tells how far it is."""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar

from pydantic_settings import SettingsConfigDict

from connectors.sdk.http import new_client, send
from connectors.sdk.protocol import Job, Result, Throttle
from connectors.sdk.settings import ConnectorSettings, read
from schemas.outcomes import Accepted, Fulfilled
from schemas.vocabulary import IdentifierKind, Right


class AcmeSettings(ConnectorSettings):
    model_config = SettingsConfigDict(env_prefix="DSR_ACME_")
    base_url: str
    calls_per_second: float | None = None


class AcmeConnector:
    name: ClassVar[str] = "acme"
    rights: ClassVar[frozenset[Right]] = frozenset({Right.ERASURE})
    needs: ClassVar[frozenset[IdentifierKind]] = frozenset({IdentifierKind.EMAIL})
    yields: ClassVar[frozenset[IdentifierKind]] = frozenset()

    def __init__(self, settings: AcmeSettings) -> None:
        self._client = new_client(settings.base_url)
        self.throttle = Throttle(concurrent=4, per_second=settings.calls_per_second)

    async def check(self) -> str:
        return "ready"

    async def aclose(self) -> None:
        await self._client.aclose()

    async def erase(self, job: Job) -> Result:
        body = {"email": job.every(IdentifierKind.EMAIL)[0]}
        key = {"idempotency-key": job.order_id}
        answer = await send(self._client, "POST", "/jobs", operation="job_start", expect={201}, json=body, headers=key)
        return Result(Accepted(expected_by=job.now + timedelta(minutes=5)), handle=answer.object()["id"])

    async def poll(self, job: Job, handle: str) -> Result:
        answer = await send(self._client, "GET", f"/jobs/{handle}", operation="job_read")
        if answer.object()["done"]:
            return Result(Fulfilled(count=1))
        return Result(Accepted(expected_by=job.now + timedelta(minutes=5)), handle=handle)


def build() -> AcmeConnector:
    return AcmeConnector(read(AcmeSettings))
