"""An office whose staff do what tasks ask: a filing cabinet, and people who look into the outbox when told to.

- `POST /tasks`: the ticket system that a webhook speaks to; takes a task once, answers 409 for a repetition.
- `POST /work`: the staff do every open task and sign it off.

Room rules: nothing here is reachable from production code paths; the office acts only when it is told to work.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors.sdk.clock import Clock
from connectors.sdk.protocol import Exported
from connectors.sdk.settings import read
from connectors.sdk.standin import StandIn
from connectors.systems.manual.client import TaskKeys, write_whole
from connectors.systems.manual.connector import ManualSettings
from connectors.systems.manual.task import SignOff, Task, signed, unsafe_subject
from schemas.outcomes import Fulfilled, NothingHeld
from schemas.sealed import SealingKey
from schemas.vocabulary import Right

__all__ = ["TOKEN", "ManualStandIn", "build"]

#: The only bearer token its ticket system takes.
TOKEN = "manual-standin-token"


class ManualStandIn(StandIn):
    """One office. `/__seed__` takes `{"records": [{"email": ..., "name": ...}]}`: sheets in its cabinet."""

    name: ClassVar[str] = "manual"

    def __init__(self, settings: ManualSettings, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self._settings = settings
        self._keys = TaskKeys(settings.inbox, settings.sealing_key)
        self.cabinet: list[dict[str, Any]] = []
        #: Tasks and reminders that came by webhook, by idempotency key.
        self.tickets: dict[str, Task] = {}

    def routes(self) -> list[Route]:
        """Return the ticket system's path, and the one that makes the staff work."""
        return [Route("/tasks", self._take, methods=["POST"]), Route("/work", self._work, methods=["POST"])]

    def seed(self, value: Any) -> None:
        """Put sheets into the cabinet."""
        self.cabinet += value["records"]

    def state(self) -> Any:
        """Return the cabinet, and the open tasks as they lie there, sealed."""
        return {"records": self.cabinet, "open": [task.model_dump(mode="json") for task in self.open_tasks()]}

    def open_tasks(self) -> list[Task]:
        """Return tasks that nobody has signed off."""
        lying = (Task.model_validate_json(path.read_bytes()) for path in sorted(self._settings.outbox.glob("tsk_*.json")))
        every = {task.task_id: task for task in (*lying, *self.tickets.values()) if task.reminder == 0}
        inbox = self._settings.inbox
        signed_off = {number for number in every if (inbox / f"{number}.json").exists()}
        return [task for name, task in every.items() if name not in signed_off and (inbox / f"{name}.key").exists()]

    def work(self) -> int:
        """Let the staff do every open task; return how many they signed off."""
        done = 0
        for task in self.open_tasks():
            key = self._keys.find(task.task_id)
            if key is not None:  # a task may be over since
                sheet = self._done(task, key)
                write_whole(self._settings.inbox, f"{task.task_id}.json", sheet.model_dump_json().encode())
                done += 1
        return done

    def _done(self, task: Task, key: SealingKey) -> SignOff:
        who = unsafe_subject(task, key)
        values = {_plain(value) for given in who.identifiers.values() for value in given}
        theirs = [sheet for sheet in self.cabinet if values & {_plain(str(value)) for value in sheet.values()}]
        exports: Iterable[Exported] = ()
        match task.right:
            case Right.ACCESS | Right.PORTABILITY:
                exports = [Exported(f"sheet-{n}", dict(sheet)) for n, sheet in enumerate(theirs, 1)]
            case Right.ERASURE:
                self.cabinet = [sheet for sheet in self.cabinet if sheet not in theirs]
            case Right.RECTIFICATION | Right.COMPLETION:
                for sheet in theirs:
                    sheet.update({change.field: change.new for change in who.changes})
            case _:
                for sheet in theirs:
                    sheet[task.right.value] = True
        outcome = Fulfilled(count=len(theirs)) if theirs else NothingHeld()
        now = self.clock.now()
        return signed(task.task_id, outcome, evidence="register_7", by="staff.archive", at=now, key=key, exports=exports)

    async def _take(self, request: Request) -> Response:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return JSONResponse({"error": "unknown token"}, status_code=401)
        number = request.headers["idempotency-key"]
        if number in self.tickets:
            return JSONResponse({"ticket": number}, status_code=409)
        self.tickets[number] = Task.model_validate_json(await request.body())
        return JSONResponse({"ticket": number}, status_code=201)

    async def _work(self, _: Request) -> Response:
        return JSONResponse({"signed": self.work()})


def _plain(value: str) -> str:
    return unicodedata.normalize("NFC", value.strip()).lower()


def build(clock: Clock | None = None) -> ManualStandIn:
    """Build the office on the folders and the key of the environment's settings. Raises `ConfigurationError`."""
    return ManualStandIn(read(ManualSettings), clock)
