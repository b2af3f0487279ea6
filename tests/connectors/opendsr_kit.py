"""A subsidiary's server, a clock that is moved by hand, and connectors built against both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connectors.sdk.clock import ManualClock
from connectors.sdk.perform import perform
from connectors.sdk.protocol import Job, Result
from connectors.sdk.standin import serve
from connectors.sdk.testing import ADA, NOW, Person, job_for
from connectors.systems.opendsr.connector import OpenDsrConnector, OpenDsrSettings, build
from connectors.systems.opendsr.standin import DOMAIN, TOKEN, SubsidiaryStandIn
from schemas.outcomes import Accepted
from schemas.vocabulary import IdentifierKind, Right


def planted(person: Person, **more: Any) -> dict[str, Any]:
    """What the stand-in is told of a person."""
    customer = person.identifiers[IdentifierKind.CUSTOMER_ID]
    return {"customer_id": customer, "email": person.email, "fields": {"last_name": person.last_name}, **more}


def job(right: Right, person: Person = ADA, **more: Any) -> Job:
    return job_for(right, person.known_by(IdentifierKind.EMAIL, IdentifierKind.CUSTOMER_ID), **more)


async def to_the_end(connector: OpenDsrConnector, clock: ManualClock, job: Job) -> Result:
    result = await perform(connector, job)
    for _ in range(10):
        if not isinstance(result.outcome, Accepted):
            return result
        assert result.handle is not None
        clock.advance(3600)
        result = await connector.poll(replace(job, now=clock.now()), result.handle)
    raise AssertionError("never completed")


@contextmanager
def inbox() -> Iterator[tuple[str, list[tuple[bytes, dict[str, str]]]]]:
    """A parent's callback address, and what came in there."""
    came: list[tuple[bytes, dict[str, str]]] = []

    async def take(request: Request) -> Response:
        came.append((await request.body(), dict(request.headers)))
        return Response(status_code=202)

    with serve(lambda: Starlette(routes=[Route("/callback", take, methods=["POST"])])) as url:
        yield f"{url}/callback", came


class WithSubsidiary:
    """Tests that talk to the stand-in through a connector, or to it directly."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock(NOW)

    @pytest.fixture
    def standin(self, clock: ManualClock) -> SubsidiaryStandIn:
        return SubsidiaryStandIn(clock)

    @pytest.fixture
    def url(self, standin: SubsidiaryStandIn) -> Iterator[str]:
        with serve(standin) as url:
            yield url

    @pytest.fixture
    async def make(self, standin: SubsidiaryStandIn, url: str, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Any]:
        """Build connectors against the stand-in, with settings of the test's choice."""
        (tmp_path / "ca.pem").write_bytes(standin.authority.root_pem)
        made: list[OpenDsrConnector] = []

        def make(**settings: Any) -> OpenDsrConnector:
            defaults = {
                "base_url": f"{url}/v2",
                "token": TOKEN,
                "processor_domains": (DOMAIN,),
                "ca_file": tmp_path / "ca.pem",
                "signatures": "required",
            }
            made.append(build(OpenDsrSettings(**(defaults | settings)), clock))
            return made[-1]

        yield make
        for connector in made:
            await connector.aclose()
