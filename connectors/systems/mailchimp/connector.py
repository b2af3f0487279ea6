"""Mailchimp: read, correct, silence and delete one person in every audience of the account.

Room rules: a person is looked up by hash in each audience in turn, archived members included: the vendor's own search is
not known to find those. One job makes one call at a time, so that jobs times one stays under the vendor's ten connections.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, SecretStr, StringConstraints, model_validator
from pydantic_settings import SettingsConfigDict

from connectors.sdk.amending import is_as_named
from connectors.sdk.protocol import Exported, Job, Result, Throttle
from connectors.sdk.settings import ConnectorSettings, read
from connectors.systems.mailchimp.client import ComplianceState, MailchimpClient, MemberPart, subscriber_hash
from schemas.errors import SystemRejected, SystemUnavailable
from schemas.outcomes import Fulfilled, NothingHeld
from schemas.subject import FieldChange
from schemas.vocabulary import FailureReason, IdentifierKind, Right

__all__ = ["MailchimpConnector", "MailchimpSettings", "build"]

_DATA_CENTRE = re.compile(r"-([a-z]{2,4}\d{1,3})$")
#: A merge tag, or a part of an address tag.
_MergeTag = Annotated[str, StringConstraints(pattern=r"^[A-Z0-9_]{1,10}(?:\.[a-z0-9]{1,10})?$")]
#: The merge tags of a new audience, under the names that requests use.
_MERGE_FIELDS: Mapping[str, str] = {
    "first_name": "FNAME",
    "last_name": "LNAME",
    "phone": "PHONE",
    "street": "ADDRESS.addr1",
    "postal_code": "ADDRESS.zip",
    "city": "ADDRESS.city",
    "country": "ADDRESS.country",
}

#: Statuses under which nothing is sent.
_SILENT = frozenset({"unsubscribed", "cleaned", "archived"})
#: SMS statuses under which something may be sent.
_SMS_ON = frozenset({"subscribed", "pending"})
_LINKS = "_links"


class MailchimpSettings(ConnectorSettings):
    """Where the account lives and how it is spoken to, and what about it no public page promises: `DSR_MAILCHIMP_*`."""

    model_config = SettingsConfigDict(env_prefix="DSR_MAILCHIMP_")

    api_key: Annotated[SecretStr, Field(description="API key; its end names the data centre, as in `...-us21`")]
    base_url: Annotated[str, Field(description="Empty: `https://<data centre>.api.mailchimp.com/3.0`")] = ""
    timeout_seconds: Annotated[float, Field(gt=0, le=120, description="One read; the vendor itself stops after 120 s")] = 60.0
    connections: Annotated[int, Field(ge=1, le=10, description="Simultaneous connections; the vendor allows 10 per user")] = 8
    page_size: Annotated[int, Field(ge=1, le=1000, description="`count` of a page; the vendor allows 1000")] = 1000
    newsletter_lists: Annotated[
        tuple[str, ...], Field(description="Audiences that a newsletter's unsubscribe link speaks of; empty: all")
    ] = ()
    fields: Annotated[Mapping[str, _MergeTag], Field(description="Our field -> merge tag, or part of an address tag")] = (
        _MERGE_FIELDS
    )
    unsubscribe_archived: Annotated[
        bool, Field(description="Also unsubscribe archived members, who are sent nothing but may be taken back (unverified)")
    ] = True
    verify_erasure: Annotated[bool, Field(description="Read every member back after deletion; it must be gone")] = True

    @model_validator(mode="after")
    def _knows_its_address(self) -> Self:
        if not self.base_url and not _DATA_CENTRE.search(self.api_key.get_secret_value()):
            raise ValueError("api_key does not end in a data centre (`-us21`): give the whole key, or set base_url")
        return self

    @property
    def address(self) -> str:
        """Return the base URL, from the setting or from the key's data centre."""
        if self.base_url:
            return self.base_url.rstrip("/")
        found = _DATA_CENTRE.search(self.api_key.get_secret_value())
        assert found is not None
        return f"https://{found[1]}.api.mailchimp.com/3.0"


@dataclass(frozen=True, slots=True)
class _Found:
    """One record of the person: audience, hash, and the member as it was read."""

    list_id: str
    member: str = field(repr=False)
    data: Mapping[str, Any] = field(repr=False)

    @property
    def status(self) -> str:
        return str(self.data["status"])

    @property
    def has_sms(self) -> bool:
        return self.data.get("sms_subscription_status") in _SMS_ON


class MailchimpConnector:
    """One Mailchimp account."""

    name: ClassVar[str] = "mailchimp"
    rights: ClassVar[frozenset[Right]] = frozenset(
        {Right.ACCESS, Right.RECTIFICATION, Right.COMPLETION, Right.ERASURE, Right.OBJECTION, Right.UNSUBSCRIBE}
    )
    needs: ClassVar[frozenset[IdentifierKind]] = frozenset({IdentifierKind.EMAIL})
    yields: ClassVar[frozenset[IdentifierKind]] = frozenset()

    def __init__(self, settings: MailchimpSettings) -> None:
        self._settings = settings
        self._client = MailchimpClient(
            settings.address,
            settings.api_key.get_secret_value(),
            page_size=settings.page_size,
            timeout_seconds=settings.timeout_seconds,
            connections=settings.connections,
        )
        self.throttle = Throttle(concurrent=settings.connections)

    async def check(self) -> str:
        """Return one line on key and audiences. Raises `CredentialsRefused` if the key is not accepted."""
        await self._client.ping()
        count = len(await self._audiences(self._settings.newsletter_lists))
        scope = "named as newsletter" if self._settings.newsletter_lists else "in the account"
        return f"API key accepted, {count} audience{'' if count == 1 else 's'} {scope}"

    async def access(self, job: Job) -> Result:
        """Export every member record with its activity, events, notes and tags: one document per audience (GDPR Art. 15)."""
        exports = [await self._export(number, found) for number, found in enumerate(await self._find(job), start=1)]
        if not exports:
            return Result(NothingHeld())
        return Result(Fulfilled(count=len(exports)), exports=tuple(exports))

    async def rectify(self, job: Job) -> Result:
        """Set fields to the values named, also over a wrong one (GDPR Art. 16, first sentence)."""
        return await self._amend(job, overwrite=True)

    async def complete(self, job: Job) -> Result:
        """Fill empty fields; one that holds another value is for a person to look at (GDPR Art. 16, second sentence)."""
        return await self._amend(job, overwrite=False)

    async def erase(self, job: Job) -> Result:
        """Delete the person permanently from every audience (GDPR Art. 17).

        Silenced everywhere first: if a later step fails, at least no mail goes out meanwhile. Does not reach e-commerce
        customers, other accounts, and files exported earlier.
        """
        found = await self._find(job)
        if not found:
            return Result(NothingHeld())
        for one in found:
            if one.status not in _SILENT:
                await self._silence(one)
        for one in found:
            await self._client.delete_permanently(one.list_id, one.member)
        if self._settings.verify_erasure:
            await self._verify_gone(found)
        return Result(Fulfilled(count=len(found)), notes=("reimport_blocked_by_vendor", "campaign_statistics_anonymised_later"))

    async def object(self, job: Job) -> Result:
        """Send no more direct marketing, in any audience and over SMS too (GDPR Art. 21(2)-(3))."""
        return await self._silence_all(await self._find(job), with_sms=True)

    async def unsubscribe(self, job: Job) -> Result:
        """Take the person off the newsletter: the audiences of `newsletter_lists`, or all."""
        return await self._silence_all(await self._find(job, self._settings.newsletter_lists), with_sms=False)

    async def poll(self, job: Job, handle: str) -> Result:
        """Never called: no call here starts a vendor's job. Raises `SystemRejected`."""
        del job, handle
        raise SystemRejected("mailchimp starts no jobs that could be asked after")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _find(self, job: Job, only: Collection[str] = ()) -> list[_Found]:
        hashes = dict.fromkeys(subscriber_hash(address) for address in job.every(IdentifierKind.EMAIL))
        found = []
        for list_id in await self._audiences(only):
            for member in hashes:
                data = await self._client.member(list_id, member)
                if data is not None:
                    found.append(_Found(list_id, member, data))
        return found

    async def _audiences(self, only: Collection[str] = ()) -> tuple[str, ...]:
        """Return all audiences, or those of `only`: a misspelt one holds nobody, which must not pass for absence."""
        every = await self._client.list_ids()
        if unknown := set(only) - set(every):
            raise SystemRejected(f"DSR_MAILCHIMP_NEWSLETTER_LISTS: the account has no audience {min(unknown)}")
        return tuple(list_id for list_id in every if not only or list_id in only)

    async def _export(self, number: int, found: _Found) -> Exported:
        content: dict[str, Any] = {"list_id": found.list_id, "member": _without_links(found.data)}
        for part in MemberPart:
            rows = await self._client.part(found.list_id, found.member, part)
            content[part.value] = [_without_links(row) for row in rows]
        return Exported(name=f"{number:02d}-audience-{found.list_id}", content=content)

    async def _silence(self, found: _Found, *, with_sms: bool = False) -> bool:
        """Unsubscribe one member; False if the vendor says that the address silenced itself."""
        change = {"status": "unsubscribed"}
        if with_sms and found.has_sms:
            change["sms_subscription_status"] = "unsubscribed"
        try:
            after = await self._client.update(found.list_id, found.member, change)
        except ComplianceState:
            if "sms_subscription_status" in change:
                raise
            return False
        if after is not None and after["status"] not in _SILENT:
            raise SystemRejected("member.update: the member is still mailed: unsubscribe it in the vendor's audience view")
        if after is not None and with_sms and after.get("sms_subscription_status") in _SMS_ON:
            raise SystemRejected("member.update: the member still gets SMS: end that in the vendor's audience view")
        return True

    async def _silence_all(self, found: list[_Found], *, with_sms: bool) -> Result:
        if not found:
            return Result(NothingHeld())
        notes = set()
        for one in found:
            is_left = one.status == "archived" and not self._settings.unsubscribe_archived
            if is_left:
                notes.add("archived_left_archived")
            is_silent = is_left or one.status == "unsubscribed"
            if is_silent and not (with_sms and one.has_sms):
                continue
            if not await self._silence(one, with_sms=with_sms):
                notes.add("silent_by_compliance_state")
        return Result(Fulfilled(count=len(found)), notes=tuple(sorted(notes)))

    async def _verify_gone(self, found: list[_Found]) -> None:
        for one in found:
            if await self._client.member(one.list_id, one.member) is not None:
                raise SystemUnavailable(
                    "member.read: still held after permanent deletion", reason=FailureReason.VERIFICATION_FAILED
                )

    async def _amend(self, job: Job, *, overwrite: bool) -> Result:
        known = [change for change in job.changes if change.field == "email" or change.field in self._settings.fields]
        notes = {"some_fields_not_held"} if len(known) < len(job.changes) else set()
        found = await self._find(job) if known else []
        # All bodies first: a value that the person did not mean stops the whole before anything is written.
        bodies = [_Amendment(one, self._settings.fields, overwrite=overwrite) for one in found]
        for body in bodies:
            for change in known:
                body.add(change)
            notes |= body.notes
        count = sum([await self._write(body) for body in bodies]) + await self._already_moved(known, found)
        if not count:
            return Result(NothingHeld(), notes=tuple(sorted(notes)))
        return Result(Fulfilled(count=count), notes=tuple(sorted(notes)))

    async def _write(self, amendment: _Amendment) -> bool:
        """Send what differs; tell whether the member is now as asked."""
        if not amendment.patch:
            return amendment.is_as_asked
        after = await self._client.update(amendment.found.list_id, amendment.found.member, amendment.patch)
        if after is not None and not amendment.shows_in(after):
            raise SystemRejected(
                "member.update: a field kept its old value: correct it in the vendor's audience view",
                reason=FailureReason.VERIFICATION_FAILED,
            )
        return after is not None

    async def _already_moved(self, changes: list[FieldChange], found: list[_Found]) -> int:
        """Count audiences that know the person under the new address only: an earlier attempt has moved them.

        They are not written to: that attempt's one call changed address and fields together.
        """
        new = [change.new for change in changes if change.field == "email"]
        if not new:
            return 0
        seen = {one.list_id for one in found}
        rest = [list_id for list_id in await self._client.list_ids() if list_id not in seen]
        return len([list_id for list_id in rest if await self._client.member(list_id, subscriber_hash(new[-1])) is not None])


class _Amendment:
    """The one PATCH body of a member, built from the changes that concern it."""

    def __init__(self, found: _Found, tags: Mapping[str, str], *, overwrite: bool) -> None:
        self.found = found
        self.patch: dict[str, Any] = {}
        self.notes: set[str] = set()
        self.is_as_asked = False
        self._tags = tags
        self._overwrite = overwrite

    def add(self, change: FieldChange) -> None:
        """Take in one change. Raises `SystemRejected` if the value held is not the one the person meant."""
        held = self._held(change.field)
        if held is None:
            self.notes.add("some_fields_not_held")
        elif held == change.new or (change.field == "email" and held.lower() == change.new.strip().lower()):
            self.is_as_asked = True
        elif held.strip() and not self._overwrite:
            raise SystemRejected(f"field {change.field}: already filled with another value: this is a rectification")
        elif not is_as_named(held, change):
            raise SystemRejected(f"field {change.field}: holds another value than the one to be replaced: compare, then retry")
        else:
            self._write(change)
            self.is_as_asked = True

    def shows_in(self, after: Mapping[str, Any]) -> bool:
        """Tell whether every field sent has left its old value; the vendor may write numbers in a form of its own."""
        before = self.found.data
        moved = "email_address" not in self.patch or after["email_address"] != before["email_address"]
        tags = self.patch.get("merge_fields", {})
        return moved and all(after["merge_fields"].get(tag) != before["merge_fields"][tag] for tag in tags)

    def _held(self, name: str) -> str | None:
        """Return the value held, "" if empty, None if this audience has no such field."""
        if name == "email":
            return str(self.found.data["email_address"])
        tag, _, part = self._tags[name].partition(".")
        fields = self.found.data["merge_fields"]
        if tag not in fields:
            return None
        value = fields[tag]
        if part:
            # An empty address is "", a filled one an object of its parts.
            value = value.get(part, "") if isinstance(value, Mapping) else ""
        return str(value)

    def _write(self, change: FieldChange) -> None:
        if change.field == "email":
            self.patch["email_address"] = change.new.strip()
            return
        tag, _, part = self._tags[change.field].partition(".")
        fields = self.patch.setdefault("merge_fields", {})
        if part:
            held = self.found.data["merge_fields"][tag]
            fields.setdefault(tag, dict(held) if isinstance(held, Mapping) else {})[part] = change.new
        else:
            fields[tag] = change.new


def _without_links(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key != _LINKS}


def build(settings: MailchimpSettings | None = None) -> MailchimpConnector:
    """Build from settings, or from the environment (`DSR_MAILCHIMP_*`). Raises `ConfigurationError`, naming the setting."""
    return MailchimpConnector(settings or read(MailchimpSettings))
