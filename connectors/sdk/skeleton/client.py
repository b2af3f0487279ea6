"""Skeleton's API as typed calls.

Sources: name the vendor's page here.

Room rules: HTTP shapes only, no decisions; no identity in an error (operations are codes).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from connectors.sdk.http import Answer, new_client, segment, send
from schemas.errors import SystemRejected

__all__ = ["Person", "SkeletonClient"]

_GONE = frozenset({404, 410})


@dataclass(frozen=True, slots=True)
class Person:
    """One record. `repr` shows the class only."""

    id: str = field(repr=False)
    body: Mapping[str, Any] = field(repr=False)


class SkeletonClient:
    """One account. Every method raises `schemas.errors.ConnectorError` and is safe to repeat."""

    def __init__(self, base_url: str, token: str, *, timeout_seconds: float) -> None:
        self._http = new_client(base_url, headers={"authorization": f"Bearer {token}"}, timeout_seconds=timeout_seconds)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def prove_credentials(self) -> None:
        """Make a call that touches nobody."""
        await send(self._http, "GET", "/me", operation="skeleton_me")

    async def people(self, email: str) -> list[Person]:
        """Return every record with this address."""
        answer = await send(self._http, "GET", "/people", operation="skeleton_find", params={"email": email})
        found = answer.object().get("people")
        if not isinstance(found, list):
            raise SystemRejected(f"{answer.operation}: the answer has no list people")
        return [_person(item, answer) for item in found]

    async def silence(self, person_id: str) -> bool:
        """Send the person no more mail; False if the record is gone."""
        return await self._write("PATCH", person_id, "skeleton_silence", {200}, {"subscribed": False})

    async def delete(self, person_id: str) -> bool:
        """Delete a record; False if it was already gone."""
        return await self._write("DELETE", person_id, "skeleton_delete", {204}, None)

    async def _write(self, method: str, person_id: str, operation: str, expect: set[int], body: Any) -> bool:
        path = f"/people/{segment(person_id)}"
        answer = await send(self._http, method, path, operation=operation, expect=expect | _GONE, json=body)
        return answer.status not in _GONE


def _person(item: Any, answer: Answer) -> Person:
    if not isinstance(item, dict) or not isinstance(item.get("id"), str) or not isinstance(item.get("email"), str):
        raise SystemRejected(f"{answer.operation}: an entry is no person")
    return Person(item["id"], item)
