"""The child's intake key: from its page over HTTP, or from a file that its people gave us.

Room rules: one question and its answer; a set that should be signed and is not is refused.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from connectors.sdk.clock import Clock
from connectors.sdk.settings import content_of
from schemas.errors import ConfigurationError, ProtocolViolation, SystemRejected, SystemUnavailable
from schemas.intake import KEY_SET_TYP, IntakePublicKey
from schemas.portal import intake_key
from schemas.trust import Trust
from schemas.vocabulary import FailureReason

__all__ = ["ChildKeys"]

_VARIABLE = "DSR_FEDERATION_INTAKE_KEYS"
#: As long as the page says that it is fresh.
_FRESH = timedelta(hours=1)
_SECONDS = 10.0


class ChildKeys:
    """Implements `KeySource`. A file is read each time, so that its people can replace it; a page is asked once an hour."""

    def __init__(self, place: str, clock: Clock, trust: Trust | None) -> None:
        """With `trust` a page must be signed by the child's orchestrator. Raises `ConfigurationError` for a page in clear."""
        self._place = place
        self._clock = clock
        self._trust = trust
        self._last: tuple[datetime, IntakePublicKey] | None = None
        if "://" in place and trust is None and urlsplit(place).scheme != "https":
            raise ConfigurationError(f"{_VARIABLE}: use https, or have signatures on, so that the set is signed")

    async def current(self) -> IntakePublicKey:
        """Return the key to seal to now."""
        now = self._clock.now()
        if "://" not in self._place:
            text = content_of(Path(self._place), _VARIABLE).decode("utf-8", "replace")
            # Whoever may write this file may write the trust file beside it: an unsigned one is as good.
            return self._read(text, None if text.lstrip().startswith("{") else self._trust, now)
        if self._last is None or now >= self._last[0] + _FRESH:
            self._last = (now, self._read(await self._fetched(), self._trust, now))
        return self._last[1]

    async def _fetched(self) -> str:
        accept = f"application/{KEY_SET_TYP if self._trust else 'jwk-set+json'}"
        try:
            async with httpx.AsyncClient(timeout=_SECONDS) as client:
                answer = await client.get(self._place, headers={"accept": accept})
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise SystemUnavailable(f"the child's intake keys could not be fetched ({type(error).__name__})") from None
        if answer.status_code != 200:
            raise SystemUnavailable(f"the child's page of intake keys answered {answer.status_code}")
        return answer.text

    def _read(self, text: str, trust: Trust | None, now: datetime) -> IntakePublicKey:
        try:
            return intake_key(text, trust=trust, at=now)
        except (ProtocolViolation, ConfigurationError) as error:
            reason = FailureReason.VERIFICATION_FAILED
            raise SystemRejected(f"the child's intake keys are not to be believed: {error}", reason=reason) from None
