"""How a task reaches people, and how their answer comes back: folders, or a webhook for the way out.

The keys of tasks lie beside the sign-offs, since whoever signs needs both, also where tasks leave by webhook.

Room rules: whole files or none; no readable identity on disk or wire; calls on folders block, so they run in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import httpx
from pydantic import ValidationError

from connectors.sdk.destinations import Destinations
from connectors.sdk.durable import sync
from connectors.sdk.http import new_client, send
from connectors.systems.manual.task import SignOff, Task, new_task_key, unwrapped, wrapped
from schemas.errors import ConfigurationError, ProtocolViolation, SystemUnavailable
from schemas.sealed import Sealed, SealingKey

__all__ = ["Inbox", "Outbox", "OutboxFolder", "TaskKeys", "Webhook", "write_whole"]


class Outbox(Protocol):
    """The way out."""

    async def hand_over(self, task: Task) -> None:
        """Bring a task or a reminder to people. Returning does not imply that anybody has read it."""
        ...

    async def withdraw(self, task_id: str) -> None:
        """Take a finished task and its reminders away, where that can be done."""
        ...

    async def check(self) -> str:
        """Return one line on the way out; raise if it is unfit."""
        ...

    async def aclose(self) -> None:
        """Close what was opened."""
        ...


class OutboxFolder:
    """A folder that staff, or their ticket system, look into: one JSON file per task and reminder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def hand_over(self, task: Task) -> None:
        """Write the file, durably. A repetition takes the place of the file of the same name."""
        name = task.task_id if task.reminder == 0 else f"{task.task_id}.reminder-{task.reminder}"
        await asyncio.to_thread(write_whole, self._folder, f"{name}.json", task.model_dump_json(indent=2).encode())

    async def withdraw(self, task_id: str) -> None:
        """Delete the task's files: they hold a sealed identity that nobody needs any more."""
        await asyncio.to_thread(self._delete, task_id)

    def _delete(self, task_id: str) -> None:
        try:
            for path in (self._folder / f"{task_id}.json", *self._folder.glob(f"{task_id}.reminder-*.json")):
                path.unlink(missing_ok=True)
            for path in self._folder.glob(f".{task_id}.*tmp"):
                path.unlink(missing_ok=True)
        except OSError:
            raise SystemUnavailable("manual: a finished task cannot be removed: check DSR_MANUAL_OUTBOX") from None

    async def check(self) -> str:
        """Count the tasks that lie there."""
        return await asyncio.to_thread(self._checked)

    def _checked(self) -> str:
        _usable(self._folder, "DSR_MANUAL_OUTBOX")
        open_tasks = [path for path in self._folder.glob("tsk_*.json") if ".reminder-" not in path.name]
        return f"{len(open_tasks)} tasks lie in the outbox"

    async def aclose(self) -> None:
        """Nothing stays open."""


class Webhook:
    """A ticket system's address that takes tasks by POST. It must know a repetition by `Idempotency-Key`."""

    def __init__(
        self, url: str, *, hosts: tuple[str, ...], token: str | None, timeout_seconds: float, private: bool = False
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and private):
            raise ConfigurationError(
                "DSR_MANUAL_WEBHOOK_URL: must start with https:// (http:// with DSR_MANUAL_WEBHOOK_PRIVATE=true only)"
            )
        if parts.hostname is None or parts.hostname not in hosts:
            raise ConfigurationError("DSR_MANUAL_WEBHOOK_HOSTS: the webhook's host is not on this list: add it if it is right")
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._url = url
        site = f"{parts.scheme}://{parts.netloc}"
        self._http: httpx.AsyncClient = new_client(
            site,
            headers=headers,
            timeout_seconds=timeout_seconds,
            transport=Destinations(hosts, private=hosts if private else ()),
        )

    async def hand_over(self, task: Task) -> None:
        """Post the task; 409 means that the receiver has it already."""
        await send(
            self._http,
            "POST",
            self._url,
            operation="manual_task_hand_over",
            expect={200, 201, 202, 204, 409},
            content=task.model_dump_json().encode(),
            headers={"content-type": "application/json", "idempotency-key": f"{task.task_id}-{task.reminder}"},
        )

    async def withdraw(self, task_id: str) -> None:
        """Do nothing: the receiver closes its own ticket."""
        del task_id

    async def check(self) -> str:
        """Say where tasks go; a call would make a ticket."""
        return f"tasks go to the webhook on {self._http.base_url.host}, untried"

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()


class TaskKeys:
    """The keys of tasks, each wrapped in a file of its own: `<task id>.key`. What it opens is forgotten with it."""

    def __init__(self, folder: Path, key: SealingKey) -> None:
        self._folder = folder
        self._key = key

    def find(self, task_id: str) -> SealingKey | None:
        """Return the key of a task, None if it has none (any more). Raises `SystemUnavailable` for one that cannot be used."""
        try:
            sealed = Sealed.model_validate_json((self._folder / f"{task_id}.key").read_bytes())
            return unwrapped(task_id, sealed, self._key)
        except FileNotFoundError:
            return None
        except (OSError, ValidationError, ProtocolViolation):
            raise SystemUnavailable(
                "manual: a task's key cannot be used: check DSR_MANUAL_KEY, and the rights on DSR_MANUAL_INBOX"
            ) from None

    def keep(self, task_id: str, now: datetime) -> SealingKey:
        """Return the key of a task, made and durable if there was none, and note that somebody waits for the task."""
        key = self.find(task_id)
        if key is None:
            key = new_task_key(task_id)
            write_whole(self._folder, f"{task_id}.key", wrapped(key, self._key).model_dump_json().encode())
        try:
            os.utime(self._folder / f"{task_id}.key", (now.timestamp(), now.timestamp()))
        except OSError:
            raise SystemUnavailable("manual: a task's key cannot be kept: check the owner of DSR_MANUAL_INBOX") from None
        return key

    def unused_since(self, moment: datetime) -> list[str]:
        """Return the tasks for which nobody has waited since a moment."""
        keys = list(self._folder.glob("tsk_*.key"))
        return [path.stem for path in keys if path.stat().st_mtime < moment.timestamp()]

    def forget(self, task_id: str) -> None:
        """Overwrite and delete a key. Some file systems, snapshots and backups keep what is overwritten."""
        for path in (self._folder / f"{task_id}.key", self._folder / f".{task_id}.key.tmp"):
            _overwrite(path)
            path.unlink(missing_ok=True)


class Inbox:
    """The folder into which sign-offs come, one file per task: `<task id>.json`; the tasks' keys lie there too."""

    def __init__(self, folder: Path, key: SealingKey) -> None:
        self._folder = folder
        self.keys = TaskKeys(folder, key)

    def find(self, task_id: str, key: SealingKey) -> SignOff | None:
        """Return the sign-off of a task, given the task's key; None if nobody has signed yet.

        Raises `SystemUnavailable` for one that cannot be used, so that it may be corrected in place: it is looked at again.
        """
        path = self._folder / f"{task_id}.json"
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError:
            raise SystemUnavailable("manual: a sign-off cannot be read: check the rights on DSR_MANUAL_INBOX") from None
        try:
            given = SignOff.model_validate_json(content)
        except ValidationError as error:
            wrong = error.errors()[0]
            # A field that does not belong there may be called anything, after the person even: only where it stands is said.
            place = wrong["loc"][:-1] if wrong["type"] == "extra_forbidden" else wrong["loc"]
            field = ".".join(str(part) for part in place) or "the file's outermost fields"
            raise SystemUnavailable(f"manual: a sign-off is wrong at {field}: correct the file", reason="rejected") from None
        if given.task_id != task_id:
            raise SystemUnavailable("manual: a sign-off names another task: correct the file's name", reason="rejected")
        if not given.is_genuine(key):
            raise SystemUnavailable(
                "manual: a sign-off was not signed with the task's key or was changed: sign it again", reason="rejected"
            )
        return given

    def check(self) -> None:
        """Raise `ConfigurationError` if the folder cannot be read and cleared."""
        _usable(self._folder, "DSR_MANUAL_INBOX")

    def forget(self, task_ids: Iterable[str]) -> None:
        """Delete what lies here of tasks, their keys first; durable on return."""
        try:
            for task_id in task_ids:
                self.keys.forget(task_id)
                for path in (self._folder / f"{task_id}.json", self._folder / f".{task_id}.json.tmp"):
                    path.unlink(missing_ok=True)
            if self._folder.exists():
                sync(self._folder)
        except OSError:
            raise SystemUnavailable("manual: a finished task cannot be removed: check DSR_MANUAL_INBOX") from None

    def without_order(self, moment: datetime) -> list[str]:
        """Return tasks that nobody waits for: their key is unused since a moment, or is gone and they were signed before it.

        A sign-off that has no key and cannot be read is left for a person to look at.
        """
        try:
            old = self.keys.unused_since(moment)
            for path in self._folder.glob("tsk_*.json"):
                if not path.with_suffix(".key").exists() and _signed_before(path, moment):
                    old.append(path.stem)
        except OSError:
            raise SystemUnavailable("manual: the inbox cannot be looked through: check DSR_MANUAL_INBOX") from None
        return old


def write_whole(folder: Path, name: str, content: bytes) -> None:
    """Write a file so that a reader sees all of it or none, readable by its owner and group only; durable on return."""
    final, passing = folder / name, folder / f".{name}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o770)
        # The folder is open to a group: no link that somebody laid there is followed.
        with os.fdopen(os.open(passing, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o660), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        passing.replace(final)
        sync(folder)
    except OSError:
        raise SystemUnavailable("manual: a folder took no file: check its rights and the disk's space") from None


def _overwrite(path: Path) -> None:
    """Overwrite a file's bytes, if it is one of its own: what a link leads to is not ours."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "wb") as file:
            about = os.fstat(descriptor)
            if stat.S_ISREG(about.st_mode) and about.st_nlink == 1:
                file.write(bytes(about.st_size))
                file.flush()
                os.fsync(descriptor)


def _signed_before(path: Path, moment: datetime) -> bool:
    try:
        return SignOff.model_validate_json(path.read_bytes()).signed_at < moment
    except (ValidationError, OSError):
        return False


def _usable(folder: Path, setting: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o770)
    except OSError:
        raise ConfigurationError(f"{setting}: the folder cannot be made: fix the path") from None
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigurationError(f"{setting}: the folder is not readable and writable: fix its owner or mode")
