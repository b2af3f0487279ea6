"""Whatever only people can do: an order becomes a task, and nothing but a signed-off answer ends it.

Room rules: nothing here is ever done by itself; silence is `accepted`, never `fulfilled`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from connectors.sdk.passing_on import PassesOn
from connectors.sdk.protocol import Job, Result, Throttle
from connectors.sdk.settings import ConnectorSettings, read
from connectors.systems.manual.client import Inbox, Outbox, OutboxFolder, Webhook
from connectors.systems.manual.task import SignOff, Task, sealed_subject, task_id, unsafe_exports
from schemas.errors import ProtocolViolation, SystemUnavailable
from schemas.outcomes import Accepted
from schemas.sealed import SealingKey
from schemas.subject import SubjectData
from schemas.vocabulary import IdentifierKind, Right

__all__ = ["ManualConnector", "ManualSettings", "build"]

_NOT_A_CODE = re.compile(r"[^a-z0-9]+")


class ManualSettings(ConnectorSettings):
    """Who is asked, how, and for how long: `DSR_MANUAL_*`."""

    model_config = SettingsConfigDict(env_prefix="DSR_MANUAL_")

    title: Annotated[str, Field(min_length=2, max_length=80, description="Where it is to be done, for people to read")]
    instructions: Annotated[Mapping[Right, str], Field(description="What to do for each right, for people to read")] = {}
    key: Annotated[SecretStr, Field(description="Base64 of 32 bytes; whoever opens tasks and signs off needs it too")]
    outbox: Annotated[Path, Field(description="Folder for tasks, if there is no webhook")] = Path(".dsr/manual/outbox")
    inbox: Annotated[Path, Field(description="Folder from which sign-offs are read")] = Path(".dsr/manual/inbox")
    webhook_url: Annotated[str | None, Field(description="Post tasks there instead of writing them to the outbox")] = None
    webhook_hosts: Annotated[tuple[str, ...], Field(description="Hosts that tasks may be posted to, as a JSON list")] = ()
    webhook_private: Annotated[
        bool, Field(description="The webhook may be at a private address, and then http as well: a ticket system in house")
    ] = False
    webhook_token: Annotated[SecretStr | None, Field(description="Sent as a bearer token")] = None
    timeout_seconds: Annotated[float, Field(gt=0)] = 30.0
    done_within_days: Annotated[int, Field(ge=1, description="When people have promised to be done")] = 14
    remind_after_days: Annotated[int, Field(ge=1, description="A reminder goes out every so many days")] = 5
    kept_days: Annotated[int, Field(ge=1, description="How long a sign-off stays in the inbox after it was signed")] = 45

    @property
    def sealing_key(self) -> SealingKey:
        """Return the key, named `manual`. Raises `ConfigurationError`."""
        return SealingKey.from_base64("manual", self.key.get_secret_value())

    def open_outbox(self) -> Outbox:
        """Return the way out. Raises `ConfigurationError` for a webhook whose host is not allowed."""
        if self.webhook_url is None:
            return OutboxFolder(self.outbox)
        token = None if self.webhook_token is None else self.webhook_token.get_secret_value()
        return Webhook(
            self.webhook_url,
            hosts=self.webhook_hosts,
            token=token,
            timeout_seconds=self.timeout_seconds,
            private=self.webhook_private,
        )


class ManualConnector(PassesOn):
    """One place where people do the work."""

    name: ClassVar[str] = "manual"
    needs: ClassVar[frozenset[IdentifierKind]] = frozenset(IdentifierKind)
    yields: ClassVar[frozenset[IdentifierKind]] = frozenset()

    def __init__(self, settings: ManualSettings) -> None:
        self._settings = settings
        self._key = settings.sealing_key
        self._outbox = settings.open_outbox()
        self._inbox = Inbox(settings.inbox, self._key)
        self.throttle = Throttle(concurrent=4)

    async def check(self) -> str:
        """Return one line on where tasks go. Whether anybody looks at them shows in the reminders."""
        await asyncio.to_thread(self._inbox.check)
        return await self._outbox.check()

    async def aclose(self) -> None:
        """Close the way out."""
        await self._outbox.aclose()

    async def poll(self, job: Job, handle: str) -> Result:
        """Look for the sign-off; until it is there, remind at each interval and stay `Accepted` with the first date."""
        _, asked_at, reminded = handle.split("|")
        return await self._look(job, datetime.fromisoformat(asked_at), int(reminded))

    async def pass_on(self, job: Job) -> Result:
        """Write the task for people, or find what they said to it."""
        await asyncio.to_thread(self._inbox.drop_before, job.now - timedelta(days=self._settings.kept_days))
        given = await asyncio.to_thread(self._inbox.find, self._id(job))
        if given is None:
            await self._outbox.hand_over(self._task(job, job.now, 0))
        return await self._look(job, job.now, 0)

    async def _look(self, job: Job, asked_at: datetime, reminded: int) -> Result:
        number = self._id(job)
        given = await asyncio.to_thread(self._inbox.find, number)
        if given is not None:
            result = self._answered(given)
            await self._outbox.withdraw(number)
            return result
        due = (job.now - asked_at) // timedelta(days=self._settings.remind_after_days)
        if due > reminded:
            await self._outbox.hand_over(self._task(job, asked_at, due))
        notes = ("reminder_sent",) if due > reminded else ()
        handle = f"{number}|{asked_at.isoformat()}|{max(due, reminded)}"
        return Result(Accepted(expected_by=self._expected_by(asked_at)), handle=handle, notes=notes)

    def _answered(self, given: SignOff) -> Result:
        try:
            exports = unsafe_exports(given, self._key)
        except ProtocolViolation:
            raise SystemUnavailable("manual: a document cannot be opened: sign again", reason="rejected") from None
        who = _NOT_A_CODE.sub("_", given.by)
        return Result(given.outcome, exports=exports, notes=(f"evidence_{given.evidence}", f"signed_by_{who}"))

    @staticmethod
    def _id(job: Job) -> str:
        return task_id(job.order_id, job.right, job.attempt)

    def _expected_by(self, asked_at: datetime) -> datetime:
        return asked_at + timedelta(days=self._settings.done_within_days)

    def _task(self, job: Job, asked_at: datetime, reminder: int) -> Task:
        number = self._id(job)
        who = SubjectData(identifiers=dict(job.identifiers), changes=job.changes)
        return Task(
            task_id=number,
            title=self._settings.title,
            right=job.right,
            instructions=self._settings.instructions.get(job.right, ""),
            requested_at=job.received_at,
            expected_by=self._expected_by(asked_at),
            due_on=job.due_on,
            reminder=reminder,
            sealed=sealed_subject(number, who, self._key),
        )


def build(settings: ManualSettings | None = None) -> ManualConnector:
    """Build the connector, from the environment unless settings are given. Raises `ConfigurationError`."""
    return ManualConnector(settings or read(ManualSettings))
