"""What HubSpot can do for a data subject: access, rectification, completion, erasure, objection, unsubscribe.

Room rules: decisions only, HTTP lives in `client`; every method may be repeated at any point.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Annotated, ClassVar, Literal

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from connectors.sdk.amending import completes, rectifies
from connectors.sdk.protocol import Exported, Job, Result, Throttle
from connectors.sdk.settings import ConnectorSettings, read
from connectors.sdk.work import remember
from connectors.systems.hubspot.client import Contact, HubSpotClient
from schemas.errors import SystemRejected, SystemUnavailable
from schemas.outcomes import Fulfilled, NothingHeld
from schemas.subject import FieldChange
from schemas.vocabulary import IdentifierKind, Right

__all__ = ["HubSpotConnector", "HubSpotSettings", "build"]

_ADDITIONAL = "hs_additional_emails"
#: Tells whether a field that differs is to be changed; raises `SystemRejected` where a person must decide.
_Decide = Callable[[str, FieldChange], bool]


class HubSpotSettings(ConnectorSettings):
    """How to reach the account, and what about it no public page promises."""

    model_config = SettingsConfigDict(env_prefix="DSR_HUBSPOT_")

    base_url: str = "https://api.hubapi.com"
    token: Annotated[SecretStr, Field(description="Private-app token: contacts read and write, communication preferences")]
    objects_path: Annotated[str, Field(description="Path of contacts; newer accounts use dated ones")] = (
        "/crm/v3/objects/contacts"
    )
    properties_path: str = "/crm/v3/properties/contacts"
    page_size: Annotated[int, Field(ge=1, le=200)] = 100
    timeout_seconds: Annotated[float, Field(gt=0)] = 30.0
    calls_per_second: Annotated[
        float, Field(gt=0, description="Search allows 4 a second, and of an order's calls at most every other one is a search")
    ] = 8.0
    subscriptions_api: Annotated[Literal["v3", "v4"], Field(description="v4 is idempotent and covers all marketing")] = "v4"
    newsletter_ids: Annotated[
        tuple[int, ...], Field(description="Subscription types that are the newsletter; none: every marketing mail")
    ] = ()
    verify_erasure: Annotated[bool, Field(description="Read each contact back after its erasure")] = True
    purge_days: Annotated[int, Field(ge=0, description="Within so many days HubSpot purges an erased contact")] = 30
    ga_client_id_property: str = "ga_client_id"
    hotjar_user_id_property: str = "hotjar_user_id"
    account_id_property: str = "account_id"
    fields: Annotated[Mapping[str, str], Field(description="Our field -> HubSpot property")] = {
        "first_name": "firstname",
        "last_name": "lastname",
        "email": "email",
        "phone": "phone",
        "mobile_phone": "mobilephone",
        "street": "address",
        "postal_code": "zip",
        "city": "city",
        "country": "country",
        "company": "company",
        "job_title": "jobtitle",
    }


class HubSpotConnector:
    """One HubSpot account."""

    name: ClassVar[str] = "hubspot"
    rights: ClassVar[frozenset[Right]] = frozenset(
        {Right.ACCESS, Right.RECTIFICATION, Right.COMPLETION, Right.ERASURE, Right.OBJECTION, Right.UNSUBSCRIBE}
    )
    needs: ClassVar[frozenset[IdentifierKind]] = frozenset({IdentifierKind.EMAIL, IdentifierKind.CRM_CONTACT_ID})
    yields: ClassVar[frozenset[IdentifierKind]] = frozenset(
        {
            IdentifierKind.CRM_CONTACT_ID,
            IdentifierKind.GA_CLIENT_ID,
            IdentifierKind.HOTJAR_USER_ID,
            IdentifierKind.ACCOUNT_ID,
        }
    )

    def __init__(self, settings: HubSpotSettings) -> None:
        self._settings = settings
        self.throttle = Throttle(concurrent=4, per_second=settings.calls_per_second)
        self._client = HubSpotClient(
            settings.base_url,
            settings.token.get_secret_value(),
            objects_path=settings.objects_path,
            properties_path=settings.properties_path,
            timeout_seconds=settings.timeout_seconds,
        )
        self._yielding = {
            IdentifierKind.GA_CLIENT_ID: settings.ga_client_id_property,
            IdentifierKind.HOTJAR_USER_ID: settings.hotjar_user_id_property,
            IdentifierKind.ACCOUNT_ID: settings.account_id_property,
        }

    async def check(self) -> str:
        """Read the property names: proves the token and the read scope. Write scopes show only when used."""
        names = await self._client.property_names()
        lacking = sorted(set(self._yielding.values()) - set(names))
        return f"{len(names)} contact properties readable" + (f"; not defined: {', '.join(lacking)}" if lacking else "")

    async def aclose(self) -> None:
        """Close the client."""
        await self._client.aclose()

    async def poll(self, job: Job, handle: str) -> Result:
        """Refuse: no call of HubSpot's leaves a job running."""
        del job, handle
        raise SystemRejected("hubspot starts no jobs that could be asked after")

    async def access(self, job: Job) -> Result:
        """Export every property of every contact, and the subscriptions of their addresses."""
        held = await self._find(job, self._working_properties())
        contacts = (
            await self._client.read([contact.id for contact in held], await self._client.property_names()) if held else []
        )
        if not contacts:
            return Result(NothingHeld())
        exports = [Exported(f"contact-{i}", dict(contact.properties)) for i, contact in enumerate(contacts, 1)]
        lists = {email: await self._client.subscriptions(email) for email in _addresses(contacts)}
        exports.append(Exported("subscriptions", {e: {s.id: s.is_subscribed for s in entries} for e, entries in lists.items()}))
        return Result(
            Fulfilled(count=len(contacts)),
            yielded=self._found_in(contacts),
            exports=tuple(exports),
            notes=("engagements_by_hand",),
        )

    async def rectify(self, job: Job) -> Result:
        """Replace wrong values. A value other than the one the person named is left for a person to look at."""
        return await self._change(job, rectifies)

    async def complete(self, job: Job) -> Result:
        """Fill empty fields. A field that already holds something else is left for a person to look at."""
        return await self._change(job, completes)

    async def erase(self, job: Job) -> Result:
        """Delete each contact for good (gdpr-delete), never archive: an archived contact can be restored for 90 days.

        Goes by id, and never by address for somebody who is not held: that would only store the address there.
        """
        contacts = await self._find(job, self._working_properties())
        found = self._found_in(contacts)
        await remember(found)
        erased = 0
        for contact in contacts:
            erased += await self._client.gdpr_delete(contact.id)
            if self._settings.verify_erasure and await self._client.contact(contact.id, ("hs_object_id",)) is not None:
                raise SystemUnavailable("hubspot still shows an erased contact", reason="verification_failed")
        if not erased:
            return Result(NothingHeld(), yielded=found)
        return Result(
            Fulfilled(count=erased, effective_by=job.now.date() + timedelta(days=self._settings.purge_days)),
            yielded=found,
            notes=("address_on_vendor_blocklist", "anonymous_analytics_stay"),
        )

    async def object(self, job: Job) -> Result:
        """Take every address of the person off all marketing mail."""
        return await self._unsubscribe(job, ())

    async def unsubscribe(self, job: Job) -> Result:
        """Take every address of the person off the newsletter."""
        return await self._unsubscribe(job, tuple(str(number) for number in self._settings.newsletter_ids))

    async def _find(self, job: Job, properties: tuple[str, ...]) -> list[Contact]:
        """Return every contact of the person: by id, by primary address, and by additional address.

        The first two read the records themselves; only the third depends on the search index, which lags.
        """
        wanted = tuple(dict.fromkeys((*properties, "email", _ADDITIONAL)))
        found: dict[str, Contact] = {}
        for contact_id in job.every(IdentifierKind.CRM_CONTACT_ID):
            contact = await self._client.contact(contact_id, wanted)
            if contact is not None:
                found[contact.id] = contact
        for email in dict.fromkeys(_normal(value) for value in job.every(IdentifierKind.EMAIL)):
            contact = await self._client.contact(email, wanted, by_email=True)
            if contact is not None:
                found[contact.id] = contact
            groups = [_filter("email", "EQ", email), _filter(_ADDITIONAL, "CONTAINS_TOKEN", email)]
            async for hit in self._client.search(groups, wanted, page_size=self._settings.page_size):
                # A token search may match parts of an address: only the whole address counts.
                if email in _addresses([hit]):
                    found.setdefault(hit.id, hit)
        return list(found.values())

    def _working_properties(self) -> tuple[str, ...]:
        return (*self._settings.fields.values(), *self._yielding.values())

    def _found_in(self, contacts: list[Contact]) -> dict[IdentifierKind, tuple[str, ...]]:
        found = {IdentifierKind.CRM_CONTACT_ID: tuple(contact.id for contact in contacts)}
        for kind, name in self._yielding.items():
            values = (contact.properties.get(name, "").strip() for contact in contacts)
            found[kind] = tuple(dict.fromkeys(value for value in values if value))
        return {kind: values for kind, values in found.items() if values}

    async def _change(self, job: Job, decide: _Decide) -> Result:
        contacts = await self._find(job, self._working_properties())
        held = [change for change in job.changes if change.field in self._settings.fields]
        notes = ("some_fields_not_held",) if len(held) < len(job.changes) else ()
        found = self._found_in(contacts)
        if not contacts or not held:
            return Result(NothingHeld(), yielded=found, notes=notes)
        changes: dict[str, dict[str, str]] = {}
        for contact in contacts:
            for change in held:
                name = self._settings.fields[change.field]
                current = contact.properties.get(name, "")
                if current != change.new and decide(current, change):
                    changes.setdefault(contact.id, {})[name] = change.new
        if changes:
            await self._client.update(changes)
        return Result(Fulfilled(count=len(contacts)), yielded=found, notes=notes)

    async def _unsubscribe(self, job: Job, lists: tuple[str, ...]) -> Result:
        contacts = await self._find(job, self._working_properties())
        if not contacts:
            return Result(NothingHeld())
        off = self._off_v4 if self._settings.subscriptions_api == "v4" else self._off_v3
        changed = [await off(email, lists) for email in _addresses(contacts)]
        notes = () if any(changed) else ("already_unsubscribed",)
        return Result(Fulfilled(count=len(changed)), yielded=self._found_in(contacts), notes=notes)

    async def _off_v4(self, email: str, lists: tuple[str, ...]) -> bool:
        if not lists:
            return await self._client.unsubscribe_all(email)
        return any([await self._client.unsubscribe_v4(email, number) for number in lists])

    async def _off_v3(self, email: str, lists: tuple[str, ...]) -> bool:
        """Call only for what is still subscribed; a 400 is believed to mean "already off" only after looking again."""
        wanted = [s.id for s in await self._client.subscriptions(email) if s.is_subscribed and (not lists or s.id in lists)]
        refused = [number for number in wanted if not await self._client.unsubscribe_v3(email, number)]
        if refused and any(s.is_subscribed and s.id in refused for s in await self._client.subscriptions(email)):
            raise SystemRejected("hubspot refused to end a subscription that is still on")
        return len(refused) < len(wanted)


def _normal(email: str) -> str:
    return unicodedata.normalize("NFC", email.strip()).lower()


def _filter(name: str, operator: str, value: str) -> dict[str, list[dict[str, str]]]:
    return {"filters": [{"propertyName": name, "operator": operator, "value": value}]}


def _addresses(contacts: list[Contact]) -> list[str]:
    texts = (f"{c.properties.get('email', '')};{c.properties.get(_ADDITIONAL, '')}" for c in contacts)
    return list(dict.fromkeys(_normal(part) for text in texts for part in text.split(";") if part.strip()))


def build(settings: HubSpotSettings | None = None) -> HubSpotConnector:
    """Build the connector, from the environment unless settings are given. Raises `ConfigurationError`."""
    return HubSpotConnector(settings or read(HubSpotSettings))
