"""The page with the intake keys, over real HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx
import pytest
from starlette.applications import Starlette

from orchestrator.gateway.health import serve
from orchestrator.gateway.intake_keys import PATH, intake_keys_route
from schemas.errors import ProtocolViolation
from schemas.intake import IntakeKey, IntakeKeySet
from schemas.trust import ORCHESTRATOR, SigningKey, Trust

NOW = datetime(2026, 3, 5, 9, 0, tzinfo=UTC)
SIGNER = SigningKey.new(ORCHESTRATOR)
TRUST = Trust.of(SIGNER)


class At:
    def __init__(self) -> None:
        self.at = NOW

    def now(self) -> datetime:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


def key_set(*kids: str) -> IntakeKeySet:
    return IntakeKeySet(keys=tuple(IntakeKey(kid, kid.encode() * 32).public for kid in kids))


async def get(url: str, accept: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=5) as client:
        return await client.get(url, headers={"accept": accept})


async def test_portals_get_the_set_plain_or_signed() -> None:
    """Public keys only, the current one first, with its media type and how long it is fresh."""
    clock, keys = At(), key_set("b", "a")
    app = Starlette(routes=[intake_keys_route(lambda: keys, clock, SIGNER)])
    async with serve(app, "127.0.0.1", 0) as at:
        for accept in ("*/*", "application/json", "application/jwk-set+json"):
            plain = await get(at.url + PATH, accept)
            assert plain.headers["content-type"] == "application/jwk-set+json"
            assert plain.headers["cache-control"] == "public, max-age=3600"
            assert plain.headers["vary"] == "accept"
            assert IntakeKeySet.from_json(plain.content) == keys
            assert {name for key in plain.json()["keys"] for name in key} == {"kty", "crv", "x", "kid", "use", "alg"}
        signed = await get(at.url + PATH, "application/jwk-set+jwt, application/jwk-set+json;q=0.1")
        assert signed.headers["content-type"] == "application/jwk-set+jwt"
        assert IntakeKeySet.from_signed(signed.text, TRUST, at=NOW) == keys
        assert (await httpx.AsyncClient().post(at.url + PATH)).status_code == 405


async def test_one_signature_serves_many_until_the_set_changes_or_a_minute_is_over() -> None:
    """Asking again and again costs no signature; a new key is told at once; an old signature is not believed for ever."""
    clock, sets = At(), [key_set("a")]
    app = Starlette(routes=[intake_keys_route(lambda: sets[0], clock, SIGNER)])
    async with serve(app, "127.0.0.1", 0) as at:

        async def signed() -> str:
            return (await get(at.url + PATH, "application/jwk-set+jwt")).text

        first = await signed()
        clock.at += timedelta(seconds=59)
        assert await signed() == first
        sets[0] = key_set("b", "a")
        assert IntakeKeySet.from_signed(await signed(), TRUST, at=clock.at).current.kid == "b"
        second = await signed()
        clock.at += timedelta(seconds=60)
        assert await signed() != second
        with pytest.raises(ProtocolViolation, match="signature_expired"):
            IntakeKeySet.from_signed(first, TRUST, at=NOW + timedelta(days=1))


async def test_without_signatures_the_signed_form_is_refused() -> None:
    """A portal that wants a signature is not given a set without one."""
    app = Starlette(routes=[intake_keys_route(lambda: key_set("a"), At(), None)])
    async with serve(app, "127.0.0.1", 0) as at:
        assert (await get(at.url + PATH, "application/jwk-set+jwt")).status_code == 406
        assert (await get(at.url + PATH, "*/*")).status_code == 200
