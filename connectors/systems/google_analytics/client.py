"""The two Google calls that delete one visitor.

Sources: developers.google.com/analytics/devguides/config/userdeletion/v3; discovery documents `analytics.v3` and
`analyticsadmin.v1alpha`.

Room rules: HTTP shapes only; no token and no identity in an error, a log or a `repr`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

from connectors.sdk.http import Answer, Policy, new_client, retry_after_header, segment
from connectors.sdk.oauth import Token, send_as
from schemas.errors import SystemRejected

__all__ = [
    "DAY_ZONE",
    "DELETION_SCOPE",
    "EDIT_SCOPE",
    "GoogleAnalyticsClient",
    "IdType",
]

#: Scope of the User Deletion API.
DELETION_SCOPE = "https://www.googleapis.com/auth/analytics.user.deletion"
#: Scope of the Admin API's call.
EDIT_SCOPE = "https://www.googleapis.com/auth/analytics.edit"
#: Where a day of quota begins.
DAY_ZONE = "America/Los_Angeles"

_DAILY = frozenset({"dailyLimitExceeded", "quotaExceeded"})
_THROTTLING = _DAILY | {"userRateLimitExceeded", "rateLimitExceeded", "RESOURCE_EXHAUSTED"}


class IdType(StrEnum):
    """Kinds of visitor id (`id.type` of a user deletion request)."""

    CLIENT_ID = "CLIENT_ID"
    USER_ID = "USER_ID"


def _reasons(answer: Answer) -> frozenset[str]:
    """Return the reason codes of an error body: `errors[].reason` (v3) and `status` (Admin API)."""
    try:
        error = json.loads(answer.content)["error"]
        found = {error.get("status"), *(entry.get("reason") for entry in error.get("errors", ()))}
    except (ValueError, TypeError, KeyError, AttributeError):
        return frozenset()
    return frozenset(reason for reason in found if isinstance(reason, str))


def _is_throttled(answer: Answer) -> bool:
    """Tell quota from permission: Google answers both with 403."""
    return answer.status == 429 or (answer.status == 403 and bool(_reasons(answer) & _THROTTLING))


def _retry_after(answer: Answer) -> float | None:
    """Return the seconds to wait: as the header says, or until the next day of quota if today's is used up."""
    said = retry_after_header(answer)
    if said is not None or not _reasons(answer) & _DAILY:
        return said
    try:
        sent = parsedate_to_datetime(answer.headers.get("date", "")).astimezone(ZoneInfo(DAY_ZONE))
    except (ValueError, TypeError):
        return None
    midnight = (sent + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    # As UTC: two local times of one zone subtract as if no clock had been put forward in between.
    return (midnight.astimezone(UTC) - sent.astimezone(UTC)).total_seconds()


class GoogleAnalyticsClient:
    """One property. Both calls are safe to repeat: a second request for the same visitor replaces the first."""

    def __init__(self, deletion_url: str, admin_url: str, *, timeout_seconds: float) -> None:
        self.http = new_client(deletion_url, timeout_seconds=timeout_seconds, connections=2)
        self._admin_url = admin_url.rstrip("/")
        self.policy = Policy(throttled=_is_throttled, retry_after=_retry_after, total_seconds=2 * timeout_seconds)

    async def delete_visitor(self, token: Token, id_type: IdType, visitor: str, prop: Mapping[str, str]) -> datetime:
        """Ask for one visitor's deletion (User Deletion API v3) and return the instant before which data goes.

        `prop` is `{"propertyId": ...}` or `{"webPropertyId": ...}`. The answer does not imply that the visitor was known.
        """
        body = {"kind": "analytics#userDeletionRequest", "id": {"type": id_type.value, "userId": visitor}, **prop}
        return await self._requested(token, "/userDeletion/userDeletionRequests:upsert", "visitor.delete", body)

    async def delete_user_provided_data(self, token: Token, value: str, property_id: str) -> datetime:
        """Ask for the deletion of what came in with one mail address or telephone number (Admin API v1alpha)."""
        url = f"{self._admin_url}/properties/{segment(property_id)}:submitUserDeletion"
        return await self._requested(token, url, "user_data.delete", {"userProvidedData": value})

    async def aclose(self) -> None:
        """Close the connections."""
        await self.http.aclose()

    async def _requested(self, token: Token, url: str, operation: str, body: Mapping[str, Any]) -> datetime:
        answer = await send_as(token, self.http, "POST", url, operation=operation, policy=self.policy, json=body)
        text = answer.object().get("deletionRequestTime")
        try:
            requested_at = datetime.fromisoformat(text) if isinstance(text, str) else None
        except ValueError:
            requested_at = None
        if requested_at is None or requested_at.tzinfo is None:
            raise SystemRejected(f"{operation}: the answer has no deletionRequestTime: nothing was promised")
        return requested_at.astimezone(UTC)
