"""LinkedIn's versioned Marketing API as typed calls: audiences (DMP segments) and their users.

Sources: learn.microsoft.com/en-us/linkedin/marketing/matched-audiences, "DMP Segments", "DMP Segment Users" and "List Uploads";
api-evangelist/linkedin `openapi/linkedin-user-streaming-api-openapi.yml` and `linkedin-dmp-segments-api-openapi.yml`.

Room rules: HTTP shapes only, no decisions; no token and no identity in an error, a log or a `repr`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from connectors.sdk.http import Answer, Policy, new_client, segment
from connectors.sdk.oauth import Grant, GrantedToken, StaticToken, Token, send_as
from schemas.errors import SystemRejected, SystemUnavailable

__all__ = ["Audience", "Dialect", "LinkedInClient", "RefreshGrant"]

_RETIRED = 426


@dataclass(frozen=True, slots=True)
class RefreshGrant:
    """A refresh grant and where it is redeemed."""

    grant: Grant
    token_url: str


@dataclass(frozen=True, slots=True)
class Dialect:
    """How the API is spoken to: its monthly version (YYYYMM), the name of a hashed address, the size of a page."""

    version: str
    id_type: str
    page_size: int


@dataclass(frozen=True, slots=True)
class Audience:
    """One matched audience, as far as its type tells what it holds."""

    id: str
    type: str
    source: str
    status: str


class LinkedInClient:
    """One application. Every method is safe to repeat."""

    def __init__(
        self, base_url: str, credentials: StaticToken | RefreshGrant, dialect: Dialect, *, timeout_seconds: float
    ) -> None:
        headers = {"linkedin-version": dialect.version, "x-restli-protocol-version": "2.0.0"}
        self._http = new_client(base_url, headers=headers, timeout_seconds=timeout_seconds)
        self._policy = Policy(total_seconds=2 * timeout_seconds)
        self._dialect = dialect
        self._token: Token = (
            credentials
            if isinstance(credentials, StaticToken)
            else GrantedToken(self._http, credentials.token_url, credentials.grant, policy=self._policy)
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def audiences(self, account_id: str) -> list[Audience]:
        """Return every audience of an advertising account, whatever its type and status.

        Raises `SystemUnavailable` if the list changed while it was read: one could have slipped past.
        """
        found: dict[str, Audience] = {}
        start, total = 0, None
        while True:
            answer = await self._page(account_id, start)
            items, said = _elements(answer), _total(answer)
            if start and said != total:
                raise SystemUnavailable(f"{answer.operation}: the list changed while it was read")
            total = said
            for item in items:
                audience = _audience(item, answer)
                found[audience.id] = audience
            start += len(items)
            if not items or (total is not None and start >= total):
                return list(found.values())

    async def has_audience(self, audience_id: str) -> bool:
        """Tell whether an audience is there."""
        path = f"/rest/dmpSegments/{segment(audience_id)}"
        return (await self._send("GET", path, "audience_read", expect={200, 404})).status == 200

    async def remove(self, audience_id: str, hashes: Sequence[str]) -> list[int] | None:
        """Take people out of an audience and return the status of each, None if the audience answers 404.

        A status of 2xx implies that the removal was taken, not that the person was a member: membership cannot be read.
        """
        elements = [{"action": "REMOVE", "userIds": [{"idType": self._dialect.id_type, "idValue": value}]} for value in hashes]
        answer = await self._send(
            "POST",
            f"/rest/dmpSegments/{segment(audience_id)}/users",
            "users_remove",
            expect={200, 201, 207, 404},
            json={"elements": elements},
            headers={"x-restli-method": "BATCH_CREATE"},
        )
        if answer.status == 404:
            return None
        statuses = [item.get("status") for item in _elements(answer)]
        if len(statuses) != len(hashes) or not all(isinstance(s, int) and not isinstance(s, bool) for s in statuses):
            raise SystemRejected(f"{answer.operation}: the answer does not have a status for each person")
        return [int(status) for status in statuses if status is not None]

    async def _page(self, account_id: str, start: int) -> Answer:
        account = segment(f"urn:li:sponsoredAccount:{account_id}")
        # Written out: the vendor wants the colons of the URN encoded, which a query built from parameters leaves as they are.
        path = f"/rest/dmpSegments?q=account&account={account}&start={start}&count={self._dialect.page_size}"
        return await self._send("GET", path, "audiences_list")

    async def _send(
        self,
        method: str,
        path: str,
        operation: str,
        *,
        expect: Collection[int] = frozenset({200}),
        json: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        name = f"linkedin_{operation}"
        answer = await send_as(
            self._token,
            self._http,
            method,
            path,
            operation=name,
            expect={*expect, _RETIRED},
            policy=self._policy,
            json=json,
            headers=headers,
        )
        if answer.status == _RETIRED:
            raise SystemRejected(f"{name}: this version of the API is switched off: set a newer DSR_LINKEDIN_API_VERSION")
        return answer


def _elements(answer: Answer) -> list[dict[str, Any]]:
    value = answer.object().get("elements")
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise SystemRejected(f"{answer.operation}: the answer has no list elements")
    return value


def _total(answer: Answer) -> int | None:
    paging = answer.object().get("paging")
    total = paging.get("total") if isinstance(paging, dict) else None
    return total if isinstance(total, int) and not isinstance(total, bool) else None


def _audience(item: Mapping[str, Any], answer: Answer) -> Audience:
    number = item.get("id")
    if isinstance(number, bool) or not isinstance(number, str | int):
        raise SystemRejected(f"{answer.operation}: an audience has no id")
    texts = (str(item.get(name) or "").upper() for name in ("type", "sourcePlatform", "status"))
    return Audience(str(number), *texts)
