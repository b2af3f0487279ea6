"""HubSpot's API as typed calls: contacts (CRM v3) and communication preferences (v3 and v4).

Sources: HubSpot/HubSpot-public-api-spec-collection, `CRM/Contacts` v3 and `Communication Preferences/Subscriptions` v3, v4.

Room rules: HTTP shapes only, no decisions; no identity in an error (operations are codes).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from connectors.sdk.http import Answer, Policy, new_client, retry_after_header, segment, send
from schemas.errors import SystemRejected

__all__ = ["Contact", "HubSpotClient", "Subscription"]

#: HubSpot promises no Retry-After: `policyName` of the 429 says which window is full, and a window has a known length.
_WINDOW_SECONDS: Mapping[str, float] = {"SECONDLY": 1.0, "TEN_SECONDLY_ROLLING": 10.0, "DAILY": 3600.0}
_GONE = frozenset({404, 410})
_BATCH = 100


@dataclass(frozen=True, slots=True)
class Contact:
    """One contact: its id and properties. `repr` shows the class only, the id being a pseudonym of a person."""

    id: str = field(repr=False)
    properties: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Subscription:
    """One mailing list and whether the address is on it."""

    id: str
    is_subscribed: bool


def _retry_after(answer: Answer) -> float | None:
    said = retry_after_header(answer)
    if said is not None:
        return said
    try:
        policy = answer.object().get("policyName")
    except SystemRejected:
        return None
    return _WINDOW_SECONDS.get(policy) if isinstance(policy, str) else None


_POLICY = Policy(retry_after=_retry_after)


class HubSpotClient:
    """One account. Every method raises `schemas.errors.ConnectorError` and is safe to repeat."""

    def __init__(self, base_url: str, token: str, *, objects_path: str, properties_path: str, timeout_seconds: float) -> None:
        self._http: httpx.AsyncClient = new_client(
            base_url, headers={"authorization": f"Bearer {token}"}, timeout_seconds=timeout_seconds
        )
        self._objects = objects_path
        self._properties = properties_path

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def property_names(self) -> tuple[str, ...]:
        """Return the names of all contact properties: an access export must ask for each by name."""
        answer = await self._send("GET", self._properties, "properties_list")
        return tuple(answer.text_of(item, "name") for item in answer.objects("results"))

    async def contact(self, key: str, properties: Iterable[str], *, by_email: bool = False) -> Contact | None:
        """Return a contact by id or primary address, None if there is none. Reads the record itself, not the search index."""
        params = {"properties": ",".join(properties), "archived": "false"}
        if by_email:
            params["idProperty"] = "email"
        answer = await self._send("GET", f"{self._objects}/{segment(key)}", "contact_read", expect={200} | _GONE, params=params)
        return None if answer.status in _GONE else _contact(answer.object(), answer)

    async def search(
        self, groups: list[dict[str, Any]], properties: Iterable[str], *, page_size: int
    ) -> AsyncIterator[Contact]:
        """Yield the contacts in any of the filter groups, page by page.

        The search index lags behind the records by some seconds to a minute: absence here does not imply absence.
        """
        after = "0"  # the published description requires it of the first page too
        while True:
            body: dict[str, Any] = {"filterGroups": groups, "properties": list(properties), "limit": page_size, "sorts": []}
            body["after"] = after
            answer = await self._send("POST", f"{self._objects}/search", "contacts_search", json=body)
            for item in answer.objects("results"):
                yield _contact(item, answer)
            following = _next(answer)
            if following is None:
                return
            if following == after:
                raise SystemRejected("contacts_search: the next page is this page")
            after = following

    async def read(self, ids: list[str], properties: Iterable[str]) -> list[Contact]:
        """Return contacts by id, those gone meanwhile left out; by POST, since all property names do not fit a URL."""
        found: list[Contact] = []
        for start in range(0, len(ids), _BATCH):
            inputs = [{"id": key} for key in ids[start : start + _BATCH]]
            body = {"inputs": inputs, "properties": list(properties), "propertiesWithHistory": []}
            answer = await self._send("POST", f"{self._objects}/batch/read", "contacts_read", expect={200, 207}, json=body)
            found += [_contact(item, answer) for item in answer.objects("results")]
            _only_gone(answer)
        return found

    async def update(self, changes: Mapping[str, Mapping[str, str]]) -> int:
        """Set properties of contacts by id; return how many contacts were changed (those gone meanwhile are left out)."""
        done = 0
        inputs = [{"id": key, "properties": dict(values)} for key, values in changes.items()]
        for start in range(0, len(inputs), _BATCH):
            body = {"inputs": inputs[start : start + _BATCH]}
            answer = await self._send("POST", f"{self._objects}/batch/update", "contacts_update", expect={200, 207}, json=body)
            done += len(answer.objects("results"))
            _only_gone(answer)
        return done

    async def gdpr_delete(self, contact_id: str) -> bool:
        """Erase a contact for good; False if it was already gone.

        Success does not imply that the bytes are gone: HubSpot purges within 30 days and offers no way to ask.
        """
        body = {"objectId": contact_id}
        answer = await self._send("POST", f"{self._objects}/gdpr-delete", "contact_erase", expect={200, 204} | _GONE, json=body)
        return answer.status not in _GONE

    async def subscriptions(self, email: str) -> tuple[Subscription, ...]:
        """Return all subscriptions of an address (v3)."""
        path = f"/communication-preferences/v3/status/email/{segment(email)}"
        answer = await self._send("GET", path, "subscriptions_read", expect={200, 404})
        if answer.status == 404:
            return ()
        return tuple(
            Subscription(answer.text_of(item, "id"), answer.text_of(item, "status") == "SUBSCRIBED")
            for item in answer.objects("subscriptionStatuses")
        )

    async def unsubscribe_v3(self, email: str, subscription_id: str) -> bool:
        """Take an address off one list; False if HubSpot answers 400, as it does when the address is already off."""
        body = {
            "emailAddress": email,
            "subscriptionId": subscription_id,
            "legalBasis": "LEGITIMATE_INTEREST_CLIENT",
            "legalBasisExplanation": "The data subject objected",
        }
        path = "/communication-preferences/v3/unsubscribe"
        answer = await self._send("POST", path, "subscription_end", expect={200, 400}, json=body)
        if answer.status == 200:
            answer.object()
        return answer.status == 200

    async def unsubscribe_v4(self, email: str, subscription_id: str) -> bool:
        """Take an address off one list (v4); False if it was off already."""
        path = f"/communication-preferences/v4/statuses/{segment(email)}"
        body = {"channel": "EMAIL", "statusState": "UNSUBSCRIBED", "subscriptionId": int(subscription_id)}
        answer = await self._send("POST", path, "subscription_end", json=body)
        return _has_changed(answer)

    async def unsubscribe_all(self, email: str) -> bool:
        """Take an address off all marketing mail (v4); False if it was off already."""
        path = f"/communication-preferences/v4/statuses/{segment(email)}/unsubscribe-all"
        answer = await self._send("POST", path, "subscriptions_end_all", params={"channel": "EMAIL", "verbose": "true"})
        return _has_changed(answer)

    async def _send(
        self,
        method: Literal["GET", "POST"],
        path: str,
        operation: str,
        *,
        expect: Iterable[int] = (200,),
        params: Mapping[str, str] | None = None,
        json: Any = None,
    ) -> Answer:
        name = f"hubspot_{operation}"
        return await send(
            self._http, method, path, operation=name, expect=frozenset(expect), policy=_POLICY, params=params, json=json
        )


def _has_changed(answer: Answer) -> bool:
    results = answer.objects("results")
    return any(item.get("setStatusSuccessReason") != "NO_STATUS_CHANGE" for item in results)


def _contact(item: Mapping[str, Any], answer: Answer) -> Contact:
    properties = item.get("properties")
    if not isinstance(properties, dict):
        raise SystemRejected(f"{answer.operation}: a contact has no properties")
    return Contact(answer.text_of(item, "id"), {key: str(value) for key, value in properties.items() if value is not None})


def _only_gone(answer: Answer) -> None:
    """Let pass a 207 whose errors say that records are gone; raise for any other."""
    if answer.status == 207 and any(item.get("category") != "OBJECT_NOT_FOUND" for item in answer.objects("errors")):
        raise SystemRejected(f"{answer.operation}: some contacts were refused")


def _next(answer: Answer) -> str | None:
    paging = answer.object().get("paging")
    following = paging.get("next") if isinstance(paging, dict) else None
    after = following.get("after") if isinstance(following, dict) else None
    return None if after is None else str(after)
