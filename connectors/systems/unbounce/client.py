"""Unbounce's API v0.4 as typed calls: pages, their leads, and requests to delete leads.

Sources: the vendor's `unbounce-api-v0.4.raml` with its schemas and examples, as kept in api-evangelist/unbounce.

Room rules: HTTP shapes only, no decisions; no identity in an error (operations are codes).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from connectors.sdk.http import Answer, Policy, new_client, segment, send
from connectors.sdk.oauth import Grant, GrantedToken, RefreshTokenFile, StaticToken, Token, send_as
from schemas.errors import CredentialsRefused, SystemRejected, SystemUnavailable

__all__ = ["ApiKey", "Credentials", "Deletion", "Lead", "OAuthGrant", "Page", "UnbounceClient"]

#: A list that is shorter than before moves under a reader; after so many new beginnings somebody else should wait.
_MAX_BEGINNINGS = 5
#: The vendor answers an ended access token with 403 ("bad or expired Access Token").
_STALE = frozenset({401, 403})


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key: may read everything, and by the vendor's page may not delete."""

    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class OAuthGrant:
    """A refresh grant, where it is redeemed, and the file that keeps the newest refresh token, if any."""

    grant: Grant
    token_url: str
    file: RefreshTokenFile | None = None


#: How calls are authorised.
Credentials = ApiKey | OAuthGrant | StaticToken


@dataclass(frozen=True, slots=True)
class Page:
    """A landing page, pop-up or sticky bar. `is_listed`: it came from the list of pages, and not from a setting alone."""

    id: str
    name: str
    is_listed: bool = True


@dataclass(frozen=True, slots=True)
class Lead:
    """One submitted form. `repr` shows the class only."""

    id: str = field(repr=False)
    form: Mapping[str, Any] = field(repr=False)
    body: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Deletion:
    """A request to delete leads of one page, and how far it is."""

    id: str = field(repr=False)
    status: str
    deleted: int


class UnbounceClient:
    """One account. Every method but `request_deletion` is safe to repeat."""

    def __init__(
        self,
        base_url: str,
        credentials: Credentials,
        *,
        accept: str,
        page_size: int,
        short_page_ends: bool,
        timeout_seconds: float,
    ) -> None:
        basic = (credentials.key, "") if isinstance(credentials, ApiKey) else None
        self._http = new_client(base_url, headers={"accept": accept}, auth=basic, timeout_seconds=timeout_seconds)
        self._policy = Policy(total_seconds=2 * timeout_seconds)
        self._page_size = page_size
        self._short_page_ends = short_page_ends
        self._token: Token | None = None
        if isinstance(credentials, OAuthGrant):
            self._token = GrantedToken(
                self._http, credentials.token_url, credentials.grant, policy=self._policy, file=credentials.file
            )
        elif isinstance(credentials, StaticToken):
            self._token = credentials

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def pages(self) -> list[Page]:
        """Return all pages that the credentials may see. Pop-ups and sticky bars are not known to be among them."""
        found: dict[str, Page] = {}
        async for item in self._walk("/pages", "pages", "pages_list"):
            page = Page(_text(item, "id", "pages_list"), str(item.get("name", "")))
            found[page.id] = page
        return list(found.values())

    async def has_page(self, page_id: str) -> bool:
        """Tell whether a page is there."""
        return (await self._send("GET", f"/pages/{segment(page_id)}", "page_read", expect={200, 404})).status == 200

    async def leads(self, page_id: str) -> AsyncIterator[Lead]:
        """Yield all leads of a page, oldest first; one may come twice. Raises `SystemRejected` if there is no such page."""
        async for item in self._walk(f"/pages/{segment(page_id)}/leads", "leads", "leads_list"):
            form = item.get("form_data")
            if not isinstance(form, dict):
                raise SystemRejected("unbounce_leads_list: a lead has no form_data")
            yield Lead(_text(item, "id", "leads_list"), form, item)

    async def has_lead(self, page_id: str, lead_id: str) -> bool:
        """Tell whether a lead is there."""
        path = f"/pages/{segment(page_id)}/leads/{segment(lead_id)}"
        return (await self._send("GET", path, "lead_read", expect={200, 404, 410})).status == 200

    async def request_deletion(self, page_id: str, lead_ids: Sequence[str]) -> Deletion:
        """Start the deletion of leads. Repeated, it starts another one, which finds less.

        Raises `CredentialsRefused`: only the account's owner may delete, and not with an API key.
        """
        if not lead_ids:
            raise ValueError("name the leads to delete: the vendor's body could also mean all leads of the page")
        path, body = f"/pages/{segment(page_id)}/lead_deletion_request", {"lead_ids": list(lead_ids)}
        try:
            answer = await self._send("POST", path, "leads_delete", expect={200, 201, 202}, json=body)
        except CredentialsRefused:
            if self._token is not None:
                raise
        else:
            return _deletion(answer)
        raise CredentialsRefused("unbounce_leads_delete: refused with an API key: set up OAuth as the account's owner")

    async def deletion(self, page_id: str, deletion_id: str) -> Deletion | None:
        """Return how far a deletion is, None if the page knows none of that id."""
        path = f"/pages/{segment(page_id)}/lead_deletion_request/{segment(deletion_id)}"
        answer = await self._send("GET", path, "deletion_read", expect={200, 404})
        return None if answer.status == 404 else _deletion(answer)

    async def _walk(self, path: str, key: str, operation: str) -> AsyncIterator[dict[str, Any]]:
        """Yield a whole collection by offset, oldest first.

        Each next page begins with the last entry of the one before. If it does not, something was deleted meanwhile and what
        followed has moved up past the reader, who begins again.
        """
        for _ in range(_MAX_BEGINNINGS):
            offset, anchor = 0, None
            while True:
                items = await self._page(path, key, operation, offset)
                is_last = self._short_page_ends and len(items) < self._page_size
                if anchor is not None:
                    if not items or _text(items[0], "id", operation) != anchor:
                        break
                    items = items[1:]
                for item in items:
                    yield item
                if not items or is_last:
                    return
                offset += len(items) - (anchor is None)
                anchor = _text(items[-1], "id", operation)
        raise SystemUnavailable(f"unbounce_{operation}: the list kept moving while it was read")

    async def _page(self, path: str, key: str, operation: str, offset: int) -> list[dict[str, Any]]:
        params = {"limit": self._page_size, "offset": offset, "sort_order": "asc"}
        answer = await self._send("GET", path, operation, params=params)
        items = answer.object().get(key)
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise SystemRejected(f"{answer.operation}: the answer has no list {key}")
        return items

    async def _send(
        self,
        method: str,
        path: str,
        operation: str,
        *,
        expect: Collection[int] = frozenset({200}),
        params: Mapping[str, Any] | None = None,
        json: Any = None,
    ) -> Answer:
        name = f"unbounce_{operation}"
        if self._token is None:
            return await send(
                self._http, method, path, operation=name, expect=expect, policy=self._policy, params=params, json=json
            )
        return await send_as(
            self._token,
            self._http,
            method,
            path,
            operation=name,
            expect=expect,
            policy=self._policy,
            stale=_STALE,
            params=params,
            json=json,
        )


def _text(item: Mapping[str, Any], name: str, operation: str) -> str:
    value = item.get(name)
    if not isinstance(value, str) or not value:
        raise SystemRejected(f"unbounce_{operation}: an entry has no {name}")
    return value


def _deletion(answer: Answer) -> Deletion:
    body = answer.object()
    status, deleted = body.get("status"), body.get("total_leads_deleted", 0)
    if not isinstance(status, str) or isinstance(deleted, bool) or not isinstance(deleted, int | float):
        raise SystemRejected(f"{answer.operation}: the answer has no status or no total_leads_deleted")
    return Deletion(_text(body, "id", "deletion"), status, int(deleted))
