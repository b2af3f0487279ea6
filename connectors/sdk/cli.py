"""`dsr-connector`: run one connector, check it, try it on one identity, or start its stand-in.

Room rules: words and exit codes only (0 done, 1 unfit, 2 wrong setting, 70 ended in order to be started again).
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import hashlib
import shlex
import sys
import time
from collections.abc import Coroutine, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar
from uuid import UUID

import typer

from connectors.sdk.clock import SystemClock
from connectors.sdk.creation import create, next_steps
from connectors.sdk.loader import build_connector, build_standin, must_be_known, names, standin_settings
from connectors.sdk.perform import perform
from connectors.sdk.protocol import Job, Result
from connectors.sdk.standin import serve
from schemas.core_dumps import forbid_core_dumps
from schemas.errors import ConfigurationError, ConnectorError, DsrError
from schemas.ids import order_id
from schemas.requests import Verification
from schemas.vocabulary import AssuranceLevel, IdentifierKind, Right

__all__ = ["main"]

T = TypeVar("T")

_UNFIT, _WRONG_SETTING, _START_AGAIN = 1, 2, 70
_cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Run and try connectors.")


@_cli.command("list")
def list_names() -> None:
    """Show the connectors that can be run here.

    Example: dsr-connector list
    """
    for name in names():
        print(name)


@_cli.command()
def run(name: str, system: Annotated[str, typer.Option(help="The system's id in the registry")]) -> None:
    """Run a connector until it is told to stop; settings come from DSR_ variables.

    Example: dsr-connector run hubspot --system crm
    """
    from connectors.sdk.process import run_connector
    from schemas import log_lines

    with _told():
        must_be_known(name)
    log_lines.configure()
    _await(run_connector(name, system))


@_cli.command()
def check(name: str) -> None:
    """Check credentials, scopes and quota, without touching a person.

    Example: DSR_HUBSPOT_TOKEN_FILE=/run/secrets/hubspot dsr-connector check hubspot
    """

    async def checked() -> None:
        connector = build_connector(name)
        try:
            print(f"{name}: {await connector.check()}")
        finally:
            await connector.aclose()

    _await(checked())


@_cli.command()
def status(
    system: Annotated[str, typer.Argument(help="The system's id in the registry, as given to `run --system`")],
    as_json: Annotated[bool, typer.Option("--json", help="For machines")] = False,
) -> None:
    """Show how many orders wait and by when they will be done; also while the connector runs.

    Reads the journal in DSR_STATE_DIR and the counts in DSR_QUOTA_URL.

    Example: DSR_STATE_DIR=/var/lib/dsr dsr-connector status crm

    Exit code 0: all in time. 1: orders will be late, or the system is left alone. 2: no such journal. 70: it cannot be read.
    """
    from connectors.sdk.settings import read
    from connectors.sdk.status import StatusSettings, lines, read_status

    async def shown() -> bool:
        found = await read_status(read(StatusSettings), system, SystemClock().now())
        print(found.model_dump_json(indent=2) if as_json else "\n".join(lines(found)))
        return found.needs_somebody

    if _await(shown()):
        raise SystemExit(_UNFIT)


@_cli.command("try")
def try_out(
    name: str,
    identity: Annotated[list[str], typer.Option(help="kind=value; kind=- asks without showing it, or reads a piped line")],
    right: Annotated[Right, typer.Option(help="What to do")] = Right.ACCESS,
    really: Annotated[bool, typer.Option("--really", help="Needed for every right that changes data")] = False,
) -> None:
    """Do one right for one identity, without Kafka; shows counts and codes, never values.

    Example: dsr-connector try hubspot --identity email=- --right erasure --really
    """
    if right not in {Right.ACCESS, Right.PORTABILITY} and not really:
        raise typer.BadParameter(f"{right.value} changes data: add --really")
    with _told():
        must_be_known(name)
    identifiers = _identifiers(identity)

    async def tried() -> None:
        connector = build_connector(name)
        try:
            _show(await perform(connector, _job(right, identifiers)))
        finally:
            await connector.aclose()

    _await(tried())


@_cli.command()
def standin(name: str, port: Annotated[int, typer.Option(help="0 takes a free one")] = 0) -> None:
    """Serve the connector's stand-in on 127.0.0.1 until interrupted; says with which variables the connector speaks to it.

    Example: dsr-connector standin hubspot --port 8765
    """
    try:
        with _told(), serve(build_standin(name), port=port) as url:
            print(url, flush=True)
            settings = standin_settings(name, url)
            if settings:
                print("export", *(f"{variable}={shlex.quote(value)}" for variable, value in settings.items()), flush=True)
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        return


@_cli.command()
def new(name: str, folder: Annotated[Path, typer.Option(help="Where the connector's folder is made")] = Path()) -> None:
    """Write a connector that works, with its stand-in and a test that it passes: replace it piece by piece.

    Example: dsr-connector new guestbook --folder ~/dsr-guestbook
    """
    with _told():
        written = create(name, folder)
    for path in written:
        print(path)
    print("\n".join(next_steps(name, folder)))


@_cli.command()
def docs(
    output: Annotated[Path, typer.Option(help="The page")] = Path("docs/connectors.md"),
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail if the page is another")] = False,
) -> None:
    """Write the page of what each system can do for each right.

    Example: dsr-connector docs --check
    """
    from connectors.sdk.overview import overview

    with _told():
        text = overview()
    if not check:
        output.write_text(text, encoding="utf-8")
    elif not output.exists() or output.read_text(encoding="utf-8") != text:
        print(f"{output.name} is not what the classes say: dsr-connector docs", file=sys.stderr)
        raise SystemExit(_UNFIT)


def _identifiers(given: list[str]) -> dict[IdentifierKind, tuple[str, ...]]:
    found: dict[IdentifierKind, tuple[str, ...]] = {}
    for text in given:
        name, _, value = text.partition("=")
        if name not in set(IdentifierKind) or not value:
            raise typer.BadParameter(f"write kind=value, with kind one of {', '.join(IdentifierKind)}")
        kind = IdentifierKind(name)
        found[kind] = (*found.get(kind, ()), _asked(name) if value == "-" else value)
    return found


def _asked(kind: str) -> str:
    if sys.stdin.isatty():
        return getpass.getpass(f"{kind}: ")
    value = sys.stdin.readline().rstrip("\r\n")
    if not value:
        raise typer.BadParameter(f"{kind}=- reads a line from the pipe, and none came")
    return value


def _request_id(right: Right, identifiers: dict[IdentifierKind, tuple[str, ...]], now: datetime) -> str:
    """Return a request id that follows from identity, right and day, as a UUID of version 4 (OpenDSR, `subject_request_id`).

    One id for all would be known to the system with another body; a random one would begin again at each repetition.
    """
    values = (f"{kind.value}={value}" for kind in sorted(identifiers) for value in sorted(identifiers[kind]))
    text = "\x1f".join((right.value, now.date().isoformat(), *values))
    return str(UUID(bytes=hashlib.blake2b(text.encode(), digest_size=16).digest(), version=4))


def _job(right: Right, identifiers: dict[IdentifierKind, tuple[str, ...]]) -> Job:
    now = SystemClock().now()
    # The same try, made again that day, is the same request to the byte.
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    request = _request_id(right, identifiers, now)
    return Job(
        order_id=order_id(request, "dry_run"),
        subject_request_id=request,
        right=right,
        attempt=1,
        now=now,
        received_at=today,
        due_on=(now + timedelta(days=30)).date(),
        identifiers=identifiers,
        # Whoever tries it out vouches for the person, as little as can be.
        verification=Verification(method="dry_run", level=AssuranceLevel.LOW, verified_at=today),
    )


def _show(result: Result) -> None:
    print(f"outcome: {result.outcome.model_dump_json(exclude_none=True)}")
    for kind, values in sorted(result.yielded.items()):
        print(f"yields: {len(values)} x {kind.value}")
    for exported in result.exports:
        print(f"export: {exported.name}, {len(exported.content)} entries")
    for note in result.notes:
        print(f"note: {note}")
    if result.handle is not None:
        print("the system has started a job; a running connector would ask after it")


def _await(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; turn what ended it into a line and an exit code."""
    with _told():
        return asyncio.run(work)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Turn what ends the block into a line and an exit code."""
    try:
        yield
    except (DsrError, ExceptionGroup) as error:
        failure = _first(error)
        if not isinstance(failure, DsrError):
            raise
        print(f"{type(failure).__name__}: {failure}", file=sys.stderr)
        raise SystemExit(_exit_code(failure)) from None


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _exit_code(error: DsrError) -> int:
    if isinstance(error, ConfigurationError):
        return _WRONG_SETTING
    return _UNFIT if isinstance(error, ConnectorError) else _START_AGAIN


def main() -> None:
    """Run the command line."""
    forbid_core_dumps()
    _cli()
