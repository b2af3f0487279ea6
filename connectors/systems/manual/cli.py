"""For the people who do the work: `python -m connectors.systems.manual.cli list | show | sign`.

Room rules: `show` is the one place that prints an identity, on the terminal of whoever holds the key and asks for it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from connectors.sdk.clock import SystemClock
from connectors.sdk.protocol import Exported
from connectors.sdk.settings import read
from connectors.systems.manual.client import TaskKeys, write_whole
from connectors.systems.manual.connector import ManualSettings
from connectors.systems.manual.task import Done, Task, signed, unsafe_subject
from schemas.core_dumps import forbid_core_dumps
from schemas.errors import ConfigurationError, DsrError
from schemas.sealed import SealingKey

__all__ = ["main"]

_cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Tasks done by people.")
_Number = Annotated[str, typer.Argument(help="The task's id, tsk_...")]


@_cli.command("list")
def list_tasks() -> None:
    """Show the open tasks of the outbox: id, right, date promised, title; nobody is named."""
    for path in sorted(read(ManualSettings).outbox.glob("tsk_*.json")):
        task = _task(path)
        if task.reminder == 0:
            print(f"{task.task_id}  {task.right.value:<14}  by {task.expected_by:%Y-%m-%d}  {task.title}")


@_cli.command()
def show(number: _Number) -> None:
    """Open a task: who it is about, and what to do."""
    settings = read(ManualSettings)
    task = _task(settings.outbox / f"{number}.json")
    who = unsafe_subject(task, _key(settings, number))
    print(f"{task.right.value} in {task.title}, by {task.expected_by:%Y-%m-%d}; legal due date of the request {task.due_on}")
    for kind, values in who.identifiers.items():
        print(f"  {kind.value}: {', '.join(values)}")
    for change in who.changes:
        print(f"  set {change.field} to: {change.new}")
    if task.instructions:
        print(task.instructions)


@_cli.command()
def sign(
    number: _Number,
    outcome: Annotated[str, typer.Option(help='What was done, as JSON: {"code": "fulfilled", "count": 2}; see the README')],
    evidence: Annotated[str, typer.Option(help="Code of where the proof lies, for instance ticket_4711; no names")],
    by: Annotated[str, typer.Option(help="Your staff id; no mail address")],
    attach: Annotated[list[Path] | None, typer.Option(help="For access: a JSON file; may be repeated, is sealed")] = None,
) -> None:
    """Answer for a task. What is signed ends the order: say what was done, and nothing more."""
    settings = read(ManualSettings)
    _task(settings.outbox / f"{number}.json")
    done: Done = TypeAdapter(Done).validate_json(outcome)
    exports = [_document(path) for path in attach or ()]
    now, key = SystemClock().now(), _key(settings, number)
    sheet = signed(number, done, evidence=evidence, by=by, at=now, key=key, exports=exports)
    write_whole(settings.inbox, f"{number}.json", sheet.model_dump_json(indent=2).encode())
    print(f"{number} signed off as {done.code.value}")


def _key(settings: ManualSettings, number: str) -> SealingKey:
    key = TaskKeys(settings.inbox, settings.sealing_key).find(number)
    if key is None:
        raise ConfigurationError("the task has no key in DSR_MANUAL_INBOX: it is over, and can be neither opened nor signed")
    return key


def _task(path: Path) -> Task:
    try:
        return Task.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ConfigurationError("no such task in DSR_MANUAL_OUTBOX: it may be signed off already, or over") from None
    except (OSError, ValidationError):
        raise ConfigurationError("a task in DSR_MANUAL_OUTBOX cannot be read: check its rights") from None


def _document(path: Path) -> Exported:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        raise ConfigurationError("--attach: a file is missing or no JSON") from None
    if not isinstance(content, dict | list):
        raise ConfigurationError("--attach: a file must hold a JSON object or list")
    return Exported(path.stem, content)


def main() -> None:
    """Run the command line; exit 2 with one line for whatever is wrong."""
    forbid_core_dumps()
    try:
        _cli()
    except ValidationError as error:
        wrong = error.errors()[0]
        print(f"{'.'.join(str(part) for part in wrong['loc']) or 'sign-off'}: {wrong['msg']}", file=sys.stderr)
        raise SystemExit(2) from None
    except DsrError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
