"""What Intercom can do for a data subject: access, rectification, completion, erasure, objection, unsubscribe.

Room rules: decisions only, HTTP lives in `client`; every method may be repeated at any point.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, ClassVar

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from connectors.sdk.amending import is_as_named
from connectors.sdk.protocol import Exported, Job, Result, Throttle
from connectors.sdk.settings import ConnectorSettings, read
from connectors.sdk.work import remember
from connectors.systems.intercom.client import Contact, Conversation, IntercomClient, Merged
from connectors.systems.intercom.fullname import PARTS, with_parts
from schemas.errors import SystemRejected, SystemUnavailable
from schemas.outcomes import Fulfilled, NothingHeld
from schemas.subject import FieldChange
from schemas.vocabulary import IdentifierKind, Right

__all__ = ["IntercomConnector", "IntercomSettings", "build"]

_NOTE_MERGED = "merged_into_another_contact"
_REDACTED = "[redacted]"


class IntercomSettings(ConnectorSettings):
    """How to reach the workspace: `DSR_INTERCOM_*`."""

    model_config = SettingsConfigDict(env_prefix="DSR_INTERCOM_")

    base_url: Annotated[str, Field(description="https://api.eu.intercom.io for workspaces in the EU, api.au for Australia")] = (
        "https://api.intercom.io"
    )
    token: Annotated[SecretStr, Field(description="Access token: read, write and delete contacts and conversations")]
    version: Annotated[
        str,
        Field(
            pattern=r"^2\.(1[3-9]|[2-9]\d)$",
            description="2.13 or later: older versions have no call that deletes a conversation, and 404 would read as absence",
        ),
    ] = "2.16"
    page_size: Annotated[int, Field(ge=1, le=150)] = 50
    timeout_seconds: Annotated[float, Field(gt=0)] = 30.0
    calls_per_second: Annotated[float, Field(gt=0, description="Intercom's lowest published limit is 1000 a minute")] = 15.0
    newsletter_ids: Annotated[
        tuple[str, ...], Field(description="Opt-out subscription types that are the newsletter; none: every mail is ended")
    ] = ()
    verify_erasure: Annotated[bool, Field(description="Read each contact back after its deletion")] = True
    destroyed_after_days: Annotated[
        int, Field(ge=0, description="For so many days Intercom can bring a deleted contact back; then it is destroyed")
    ] = 7
    fields: Annotated[
        Mapping[str, str], Field(description="Our field -> Intercom's; custom_attributes.x for an attribute of the workspace")
    ] = {"name": "name", "email": "email", "phone": "phone"}


class IntercomConnector:
    """One Intercom workspace."""

    name: ClassVar[str] = "intercom"
    rights: ClassVar[frozenset[Right]] = frozenset(
        {Right.ACCESS, Right.RECTIFICATION, Right.COMPLETION, Right.ERASURE, Right.OBJECTION, Right.UNSUBSCRIBE}
    )
    needs: ClassVar[frozenset[IdentifierKind]] = frozenset({IdentifierKind.EMAIL, IdentifierKind.ACCOUNT_ID})
    yields: ClassVar[frozenset[IdentifierKind]] = frozenset({IdentifierKind.ACCOUNT_ID})

    def __init__(self, settings: IntercomSettings) -> None:
        self._settings = settings
        self.throttle = Throttle(concurrent=4, per_second=settings.calls_per_second)
        self._client = IntercomClient(
            settings.base_url,
            settings.token.get_secret_value(),
            version=settings.version,
            page_size=settings.page_size,
            timeout_seconds=settings.timeout_seconds,
        )

    async def check(self) -> str:
        """Ask whose token it is: proves the token. Scopes show only when used."""
        return f"token of type {await self._client.me()} accepted, version {self._settings.version} asked for"

    async def aclose(self) -> None:
        """Close the client."""
        await self._client.aclose()

    async def poll(self, job: Job, handle: str) -> Result:
        """Refuse: no call made here leaves a job running."""
        del job, handle
        raise SystemRejected("intercom starts no jobs that could be asked after")

    async def access(self, job: Job) -> Result:
        """Export each contact with what hangs on it, and every conversation without other contacts' words."""
        contacts, notes = await self._find(job)
        if not contacts:
            return Result(NothingHeld(), notes=notes)
        exports = []
        for number, contact in enumerate(contacts, 1):
            attached = await self._client.attached(contact.id)
            exports.append(Exported(f"contact-{number}", {**contact.body, **attached}))
        conversations = await self._conversations(contacts)
        if conversations:
            ours = frozenset(contact.id for contact in contacts)
            exports.append(Exported("conversations", [_shown(conversation, ours) for conversation in conversations]))
        if any(conversation.total_parts > len(conversation.parts) for conversation in conversations):
            notes = (*notes, "older_parts_by_hand")
        count = len(contacts) + len(conversations)
        return Result(Fulfilled(count=count), yielded=_found_in(contacts), exports=tuple(exports), notes=notes)

    async def rectify(self, job: Job) -> Result:
        """Replace wrong values. A value other than the one the person named is left for a person to look at."""
        return await self._change(job)

    async def complete(self, job: Job) -> Result:
        """Fill empty fields. A field that already holds something else is left for a person to look at."""
        return await self._change(job)

    async def erase(self, job: Job) -> Result:
        """Delete the conversations, then the contacts: without the contact its conversations would no longer be found.

        In a conversation with other contacts only the person's own parts are blanked; the others keep theirs.
        """
        contacts, notes = await self._find(job)
        found = _found_in(contacts)
        await remember(found)
        ours = frozenset(contact.id for contact in contacts)
        conversations = await self._conversations(contacts)
        erased = sum([await self._erase_conversation(conversation, ours) for conversation in conversations])
        if any(conversation.contacts - ours for conversation in conversations):
            notes = (*notes, "group_conversations_redacted")
        for contact in contacts:
            erased += await self._client.delete_contact(contact.id)
            if self._settings.verify_erasure and isinstance(await self._client.contact(contact.id), Contact):
                raise SystemUnavailable("intercom still shows a deleted contact", reason="verification_failed")
        if not erased:
            return Result(NothingHeld(), yielded=found, notes=notes)
        destroyed_on = job.now.date() + timedelta(days=self._settings.destroyed_after_days)
        return Result(Fulfilled(count=erased, effective_by=destroyed_on), yielded=found, notes=notes)

    async def object(self, job: Job) -> Result:
        """Take every contact of the person off all mail."""
        return await self._silence(job, ())

    async def unsubscribe(self, job: Job) -> Result:
        """Take every contact of the person off the newsletter."""
        return await self._silence(job, self._settings.newsletter_ids)

    async def _find(self, job: Job) -> tuple[list[Contact], tuple[str, ...]]:
        """Return every contact of the person, users and leads, and notes on what was left alone."""
        asked = [("email", value) for email in job.every(IdentifierKind.EMAIL) for value in _spellings(email)]
        asked += [("external_id", value) for value in job.every(IdentifierKind.ACCOUNT_ID)]
        ids: dict[str, None] = {}
        for name, value in asked:
            async for contact_id in self._client.search_contacts(name, value):
                ids[contact_id] = None
        found: dict[str, Contact] = {}
        notes: dict[str, None] = {}
        for contact_id in ids:
            contact = await self._client.contact(contact_id)
            if isinstance(contact, Merged):
                contact = await self._surviving(contact)
                if contact is None or not _is_of(contact, job):
                    # What it was merged into may be somebody else's by now: an erasure could not be taken back.
                    notes |= dict.fromkeys((_NOTE_MERGED,) if contact is not None else ())
                    continue
            if contact is not None:
                found[contact.id] = contact
        return list(found.values()), tuple(notes)

    async def _surviving(self, merged: Merged) -> Contact | None:
        """Follow merges to the contact that is left; raise if they run in a circle."""
        seen: set[str] = set()
        while True:
            if merged.into in seen:
                raise SystemRejected("intercom: merged contacts point at each other")
            seen.add(merged.into)
            contact = await self._client.contact(merged.into)
            if not isinstance(contact, Merged):
                return contact
            merged = contact

    async def _conversations(self, contacts: list[Contact]) -> list[Conversation]:
        ids: dict[str, None] = {}
        for contact in contacts:
            async for conversation_id in self._client.conversation_ids(contact.id):
                ids[conversation_id] = None
        read = [await self._client.conversation(conversation_id) for conversation_id in ids]
        return [conversation for conversation in read if conversation is not None]

    async def _erase_conversation(self, conversation: Conversation, ours: frozenset[str]) -> bool:
        if not conversation.contacts - ours:
            return await self._client.delete_conversation(conversation.id)
        for part in conversation.parts:
            if _author(part) in ours and not part.get("redacted"):
                await self._client.redact(conversation.id, part_id=str(part.get("id")))
        source = conversation.source
        if _author(source) in ours and not source.get("redacted"):
            await self._client.redact(conversation.id, source_id=str(source.get("id")))
        if conversation.total_parts > len(conversation.parts):
            raise SystemRejected(
                "intercom shows only the newest parts of a group conversation: blank the person's older ones by hand, "
                "then retry once the conversation was closed or deleted"
            )
        return True

    async def _change(self, job: Job) -> Result:
        contacts, notes = await self._find(job)
        known = [change for change in job.changes if change.field in self._settings.fields or change.field in PARTS]
        if len(known) < len(job.changes):
            notes = (*notes, "some_fields_not_held")
        found = _found_in(contacts)
        if not contacts or not known:
            return Result(NothingHeld(), yielded=found, notes=notes)
        # All decided before the first is written: a refusal must not leave half of it done.
        wanted = [(contact, self._values(job, contact, known)) for contact in contacts]
        for contact, values in wanted:
            if values:
                await self._client.update(contact.id, values)
        return Result(Fulfilled(count=len(contacts)), yielded=found, notes=notes)

    def _values(self, job: Job, contact: Contact, changes: list[FieldChange]) -> dict[str, Any]:
        """Return what to send for a contact: only what differs and may be changed."""
        fields = self._settings.fields
        values: dict[str, Any] = {}
        parts = {change.field: change for change in changes if change.field not in fields}
        held_name = contact.text("name")
        if parts and not held_name.strip() and set(parts) < set(PARTS):
            raise SystemRejected("intercom holds no name for this contact: send name, or both of its parts")
        if parts and (whole := with_parts(held_name, parts)) != held_name:
            # The digest of an old part was looked at when the name was divided.
            _may_change(job, held_name, FieldChange(field="name", new=whole))
            values["name"] = whole
        for change in changes:
            target = fields.get(change.field)
            if target is not None and contact.text(target) != change.new:
                _may_change(job, contact.text(target), change)
                _set(values, target, change.new)
        return values

    async def _silence(self, job: Job, lists: tuple[str, ...]) -> Result:
        contacts, notes = await self._find(job)
        if not contacts:
            return Result(NothingHeld(), notes=notes)
        was_on = False
        for contact in contacts:
            if lists:
                for number in lists:
                    was_on = await self._client.opt_out(contact.id, number) or was_on
            elif contact.body.get("unsubscribed_from_emails") is not True:
                was_on = await self._client.update(contact.id, {"unsubscribed_from_emails": True}) or was_on
        notes = notes if was_on else (*notes, "already_unsubscribed")
        return Result(Fulfilled(count=len(contacts)), yielded=_found_in(contacts), notes=notes)


def _spellings(email: str) -> list[str]:
    """Return the forms under which an address may be stored: no public page says whether search minds the case."""
    plain = unicodedata.normalize("NFC", email.strip())
    return list(dict.fromkeys((plain.lower(), plain)))


def _is_of(contact: Contact, job: Job) -> bool:
    emails = {_spellings(email)[0] for email in job.every(IdentifierKind.EMAIL)}
    held = contact.text("email")
    return (bool(held) and _spellings(held)[0] in emails) or contact.text("external_id") in job.every(IdentifierKind.ACCOUNT_ID)


def _found_in(contacts: list[Contact]) -> dict[IdentifierKind, tuple[str, ...]]:
    ids = tuple(dict.fromkeys(c.text("external_id") for c in contacts if c.text("external_id") and c.text("role") == "user"))
    return {IdentifierKind.ACCOUNT_ID: ids} if ids else {}


def _author(part: Mapping[str, Any]) -> str | None:
    author = part.get("author")
    return str(author.get("id")) if isinstance(author, Mapping) else None


def _shown(conversation: Conversation, ours: frozenset[str]) -> dict[str, Any]:
    """Return a conversation for the person: staff by role, other contacts' words and names left out (GDPR Art. 15(4))."""
    others = conversation.contacts - ours
    entries = [_part_shown(part, ours, others) for part in (conversation.source, *conversation.parts)]
    body = conversation.body
    kept = {name: body[name] for name in ("title", "created_at", "updated_at", "state", "conversation_rating") if name in body}
    return {**kept, "entries": entries, "other_participants": len(others)}


def _part_shown(part: Mapping[str, Any], ours: frozenset[str], others: frozenset[str]) -> dict[str, Any]:
    author = part.get("author")
    kind = author.get("type") if isinstance(author, Mapping) else None
    who = "you" if _author(part) in ours else "another participant" if _author(part) in others else str(kind or "unknown")
    shown = {name: part[name] for name in ("created_at", "part_type", "subject", "url", "body") if part.get(name) is not None}
    return {"by": who, **shown} | ({"body": _REDACTED} if who == "another participant" else {})


def _may_change(job: Job, held: str, change: FieldChange) -> None:
    if job.right is Right.COMPLETION and held.strip():
        raise SystemRejected(f"intercom already holds a {change.field}: this is a rectification")
    if not is_as_named(held, change):
        raise SystemRejected(f"intercom holds another {change.field} than the person named")


def _set(values: dict[str, Any], target: str, value: str) -> None:
    outer, _, inner = target.partition(".")
    if inner:
        values.setdefault(outer, {})[inner] = value
    else:
        values[outer] = value


def build(settings: IntercomSettings | None = None) -> IntercomConnector:
    """Build the connector, from the environment unless settings are given. Raises `ConfigurationError`."""
    return IntercomConnector(settings or read(IntercomSettings))
