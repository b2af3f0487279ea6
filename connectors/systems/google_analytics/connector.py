"""Google Analytics: ask for the deletion of one visitor, and say by when Google will have purged it.

Room rules: nothing here claims more than Google promises: a request is taken now, and its effect has a date, not a proof.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints
from pydantic_settings import SettingsConfigDict

from connectors.sdk.grant_settings import GrantSettings
from connectors.sdk.oauth import GrantedToken, StaticToken, Token
from connectors.sdk.protocol import Job, Result, Throttle
from connectors.sdk.settings import read
from connectors.systems.google_analytics.client import (
    DAY_ZONE,
    DELETION_SCOPE,
    EDIT_SCOPE,
    GoogleAnalyticsClient,
    IdType,
)
from schemas.errors import CredentialsRefused, SystemRejected
from schemas.outcomes import Fulfilled, NotApplicable
from schemas.subject import in_form
from schemas.vocabulary import IdentifierForm, IdentifierKind, NotApplicableReason, Right

__all__ = [
    "GoogleAnalyticsConnector",
    "GoogleAnalyticsSettings",
    "GoogleAnalyticsUserDataConnector",
    "build",
    "client_id",
    "user_provided_email",
    "user_provided_phone",
]

Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s]+$")]
_DAY = 86400
#: `GA1.2.111.222`, the value of the `_ga` cookie: version, depth of the domain, then the client id.
_COOKIE = re.compile(r"GA\d\.\d+(?:-\d+)?\.(.+)")
_DOTS_IGNORED = frozenset({"gmail.com", "googlemail.com"})
_E164 = re.compile(r"\+[1-9]\d{6,14}")
#: What holds for every deletion here.
_ALWAYS = ("aggregates_and_exports_stay", "existence_not_confirmed", "later_visits_not_covered")


class GoogleAnalyticsSettings(GrantSettings):
    """Which property, with whose consent, and what about it no public page promises: `DSR_GOOGLE_ANALYTICS_*`."""

    model_config = SettingsConfigDict(env_prefix="DSR_GOOGLE_ANALYTICS_")

    property_id: Annotated[str, Field(pattern=r"^\d{1,20}$", description="GA4 property, digits only")]
    web_property_id: Annotated[
        str, Field(pattern=r"^(UA-\d+-\d+)?$", description="Universal Analytics property, switched off in 2024; empty: none")
    ] = ""
    deletion_url: Url = "https://www.googleapis.com/analytics/v3"
    admin_url: Url = "https://analyticsadmin.googleapis.com/v1alpha"
    token_url: Url = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address, not a secret
    timeout_seconds: Annotated[float, Field(gt=0)] = 30.0
    user_provided_data: Annotated[
        bool, Field(description="Also delete by mail address and telephone number: only if the property collects those")
    ] = False
    purge_horizon_seconds: Annotated[
        int, Field(ge=0, description="From a request to the end of the deletion run that takes it: two months, rounded up")
    ] = 63 * _DAY
    client_id_pattern: Annotated[re.Pattern[str], Field(description="What a client id of this website looks like")] = (
        re.compile(r"\d{1,20}\.\d{1,20}|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
    )
    calls_per_day: Annotated[int, Field(ge=1, description="Per Google Cloud project and per property")] = 500
    calls_per_second: Annotated[float, Field(gt=0)] = 1.5

    @property
    def properties(self) -> tuple[dict[str, str], ...]:
        """Return each property in the form in which a deletion request names it."""
        ga4, ua = {"propertyId": self.property_id}, {"webPropertyId": self.web_property_id}
        return (ga4, ua) if self.web_property_id else (ga4,)


class GoogleAnalyticsConnector:
    """One property, by the ids that the website gave the visitor."""

    name: ClassVar[str] = "google_analytics"
    rights: ClassVar[frozenset[Right]] = frozenset({Right.ERASURE})
    needs: ClassVar[frozenset[IdentifierKind]] = frozenset({IdentifierKind.GA_CLIENT_ID, IdentifierKind.GA_USER_ID})
    yields: ClassVar[frozenset[IdentifierKind]] = frozenset()

    def __init__(self, settings: GoogleAnalyticsSettings) -> None:
        self._settings = settings
        self._client = GoogleAnalyticsClient(
            settings.deletion_url, settings.admin_url, timeout_seconds=settings.timeout_seconds
        )
        self._token: Token = (
            StaticToken(settings.access_token.get_secret_value())
            if settings.access_token is not None
            else GrantedToken(self._client.http, settings.token_url, settings.grant, policy=self._client.policy)
        )
        self.throttle = Throttle(
            concurrent=1, per_second=settings.calls_per_second, per_day=settings.calls_per_day, day_zone=DAY_ZONE
        )

    async def check(self) -> str:
        """Return one line on token and quota. Raises `CredentialsRefused` for a refused grant or a missing scope.

        Google has no harmless call under the deletion scope: a static token is proven by the first erasure only.
        """
        scopes = await self._token.scopes()
        needed = {DELETION_SCOPE} | ({EDIT_SCOPE} if self._settings.user_provided_data else set())
        if scopes is not None and needed - scopes:
            lacking = ", ".join(sorted(scope.rpartition("/")[2] for scope in needed - scopes))
            raise CredentialsRefused(f"token: the grant lacks the scope {lacking}: consent again with it")
        proof = "token unproven before the first erasure" if scopes is None else "token and scopes granted"
        return f"property {self._settings.property_id}: {proof}, {self._settings.calls_per_day} calls a day"

    async def erase(self, job: Job) -> Result:
        """Ask for the deletion of every id of the person (GDPR Art. 17).

        `Fulfilled` carries `effective_by`: taken irrevocably, purged by the end of that date (UTC), and nobody confirms it.
        It does not imply that Google held anything, nor that reports, exports and later visits are touched.
        """
        foreign = ("identifier_not_in_vendor_form",) if self._has_foreign(job) else ()
        requested = await self._request(job)
        if not requested:
            return Result(NotApplicable(reason=NotApplicableReason.IDENTIFIER_MISSING), notes=foreign)
        horizon = timedelta(seconds=self._settings.purge_horizon_seconds)
        effective_by = (max(requested) + horizon).date()
        return Result(Fulfilled(count=len(requested), effective_by=effective_by), notes=(*_ALWAYS, *foreign))

    async def poll(self, job: Job, handle: str) -> Result:
        """Refuse: Google offers no call to ask after a deletion."""
        del job, handle
        raise SystemRejected("google_analytics starts no jobs that could be asked after")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _request(self, job: Job) -> list[datetime]:
        """Ask for every deletion, one after the other, and return when Google took each."""
        visitors = [(*visitor, prop) for visitor in self._visitors(job) for prop in self._settings.properties]
        delete, user_data = self._client.delete_visitor, self._client.delete_user_provided_data
        taken = [await delete(self._token, id_type, visitor, prop) for id_type, visitor, prop in visitors]
        return taken + [await user_data(self._token, value, self._settings.property_id) for value in self._user_data(job)]

    def _client_ids(self, job: Job) -> list[str]:
        return [client_id(value) for value in job.every(IdentifierKind.GA_CLIENT_ID)]

    def _is_own(self, value: str) -> bool:
        return self._settings.client_id_pattern.fullmatch(value) is not None

    def _visitors(self, job: Job) -> list[tuple[IdType, str]]:
        clients = [(IdType.CLIENT_ID, value) for value in self._client_ids(job) if self._is_own(value)]
        people = [(IdType.USER_ID, value) for value in job.every(IdentifierKind.GA_USER_ID)]
        return list(dict.fromkeys(clients + people))

    def _has_foreign(self, job: Job) -> bool:
        """Tell whether some value cannot be one under which this property ever stored anything."""
        return not all(self._is_own(value) for value in self._client_ids(job))

    def _user_data(self, job: Job) -> Iterable[str]:
        del job
        return ()


class GoogleAnalyticsUserDataConnector(GoogleAnalyticsConnector):
    """The same, for a property that collects user-provided data: also by mail address and telephone number."""

    needs: ClassVar[frozenset[IdentifierKind]] = GoogleAnalyticsConnector.needs | {IdentifierKind.EMAIL, IdentifierKind.PHONE}

    def _user_data(self, job: Job) -> Iterable[str]:
        emails = (user_provided_email(value) for value in job.every(IdentifierKind.EMAIL))
        phones = (user_provided_phone(value) for value in job.every(IdentifierKind.PHONE))
        return dict.fromkeys(value for value in (*emails, *phones) if value is not None)

    def _has_foreign(self, job: Job) -> bool:
        phones = (user_provided_phone(value) for value in job.every(IdentifierKind.PHONE))
        return super()._has_foreign(job) or any(phone is None for phone in phones)


def client_id(value: str) -> str:
    """Return the client id in a `_ga` cookie's value (`GA1.2.111.222` -> `111.222`); a bare client id stays as it is."""
    found = _COOKIE.fullmatch(value.strip())
    return found[1] if found else value.strip()


def user_provided_email(value: str) -> str:
    """Return an address as Google normalises it: lower case, no spaces, and no dots before the @ of a Gmail address."""
    local, at, domain = "".join(value.lower().split()).rpartition("@")
    return f"{local.replace('.', '') if domain in _DOTS_IGNORED else local}{at}{domain}"


def user_provided_phone(value: str) -> str | None:
    """Return a number as Google normalises it (E.164), None for a national number: Google stores none of those."""
    number = in_form(value, IdentifierForm.E164)
    return number if _E164.fullmatch(number) else None


def build(settings: GoogleAnalyticsSettings | None = None) -> GoogleAnalyticsConnector:
    """Build the connector, from the environment unless settings are given. Raises `ConfigurationError`."""
    settings = settings or read(GoogleAnalyticsSettings)
    kind = GoogleAnalyticsUserDataConnector if settings.user_provided_data else GoogleAnalyticsConnector
    return kind(settings)
