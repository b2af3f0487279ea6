"""`dsr audit` and `dsr dump`: read the whole log a second time and say what is broken; keep a log in a file.

Room rules: reads the command line, joins the auditor with a broker or a file, and prints; judges nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from orchestrator.commands.instants import instant
from orchestrator.commands.kafka import current_bootstrap, current_connection, progress
from orchestrator.commands.reading import counted
from schemas.errors import ConfigurationError, DsrError
from schemas.topics import DEFAULT_PREFIX, Topics

if TYPE_CHECKING:
    from orchestrator.audit.auditor import Verdict
    from orchestrator.audit.identity import IdentitySearch
    from orchestrator.audit.records import Log
    from schemas.trust import Trust

__all__ = ["EXIT_VIOLATED", "EXIT_WRONG_USAGE", "audit_command", "counting", "dump_command", "topics_of", "usage"]

EXIT_VIOLATED = 1
EXIT_WRONG_USAGE = 2
_QUIET_SECONDS = 2.0

_Prefix = Annotated[str, typer.Option(help="First word of every topic", envvar="DSR_TOPIC_PREFIX")]
_Bootstrap = Annotated[
    str | None,
    typer.Option(help="host:port of the broker", envvar="DSR_KAFKA_BOOTSTRAP", show_default="the one `dsr kafka up` started"),
]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead")]


def audit_command(
    *,
    dump: Annotated[Path | None, typer.Option(help="Read this file of `dsr dump` instead of a broker")] = None,
    canary: Annotated[
        list[str] | None, typer.Option(help="A text that must stand nowhere in clear; may be repeated", metavar="TEXT")
    ] = None,
    canaries: Annotated[Path | None, typer.Option(help="A file of such texts, one a line", metavar="FILE")] = None,
    scan: Annotated[bool, typer.Option("--scan", help="Look for what mail addresses and telephone numbers look like")] = False,
    allow: Annotated[
        list[str] | None, typer.Option(help="With --scan: what contains this is no finding; may be repeated", metavar="TEXT")
    ] = None,
    trust: Annotated[
        Path | None,
        typer.Option(
            help="Check signatures by the public keys in this file; it must still have old ones",
            envvar="DSR_TRUST_FILE",
            metavar="FILE",
        ),
    ] = None,
    as_of: Annotated[str, typer.Option(help="Judge waits as of this instant, with an offset", show_default="now")] = "",
    slack: Annotated[int, typer.Option(min=0, help="Minutes after the end of a wait in which somebody must be told")] = 15,
    grace: Annotated[
        int, typer.Option(min=0, help="Live: seconds after which what seems broken is read again, to let effects arrive")
    ] = 5,
    prefix: _Prefix = DEFAULT_PREFIX,
    bootstrap: _Bootstrap = None,
    as_json: _Json = False,
) -> None:
    """Check the whole log against the invariants of docs/audit.md: exit 0 when clean, 1 when one is broken, 2 on wrong usage.

    Example: dsr audit --canary someone@example.org
    """
    with usage():
        search, searched = _search(canary or [], canaries, allow or [], scan=scan)
        at = instant("--as-of", as_of) if as_of else None
        span, keys = timedelta(minutes=slack), _trust(trust)
        if dump is not None:
            verdict = asyncio.run(_audit_dump(dump, at, span, search, keys))
        else:
            topics, broker = topics_of(prefix), bootstrap or current_bootstrap()
            live = _audit_live(broker, topics, search, as_of=at, slack=span, grace=grace, trust=keys)
            verdict = asyncio.run(live)
    _print(verdict, searched, as_json=as_json)
    if not verdict.is_clean:
        raise typer.Exit(EXIT_VIOLATED)


def _print(verdict: Verdict, searched: str, *, as_json: bool) -> None:
    from orchestrator.audit.report import as_document, as_lines

    if as_json:
        json.dump(as_document(verdict, searched=searched), sys.stdout, indent=2)
        print()
        return
    for line in as_lines(verdict, searched=searched):
        print(line)


def dump_command(
    file: Annotated[Path, typer.Argument(help="Where to; compressed if the name ends in .gz")],
    *,
    prefix: _Prefix = DEFAULT_PREFIX,
    bootstrap: _Bootstrap = None,
    as_json: _Json = False,
) -> None:
    """Write all topics of a prefix to one file, for `dsr audit --dump`. Identities in it stay sealed; keep it all the same.

    Example: dsr dump friday.jsonl.gz
    """
    with usage():
        count = asyncio.run(_dump(file, bootstrap or current_bootstrap(), topics_of(prefix)))
    if as_json:
        json.dump({"file": str(file), "records": count}, sys.stdout, indent=2)
        print()
    else:
        print(f"{counted(count, 'record')} in {file}")


@contextmanager
def usage() -> Iterator[None]:
    """Tell an audit that could not be made from one that found something."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it logs each refused connection; the command says it once
    try:
        yield
    except DsrError as error:
        print(f"dsr: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_WRONG_USAGE) from None


def topics_of(prefix: str) -> Topics:
    """Return the names of an installation's topics. Raises `ConfigurationError`."""
    try:
        return Topics(prefix=prefix)
    except ValidationError:
        raise ConfigurationError(
            f"--prefix {prefix}: use lower-case letters, digits and '-', a letter first, at most 40"
        ) from None


def _search(canary: list[str], file: Path | None, allow: list[str], *, scan: bool) -> tuple[IdentitySearch, str]:
    from orchestrator.audit.identity import IdentitySearch

    texts = list(canary)
    if file is not None:
        try:
            texts += [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"--canaries {file}: cannot be read as text ({type(error).__name__})") from None
    texts = [text for text in texts if text]
    if any(len(text) < 4 for text in texts):
        raise ConfigurationError("a canary needs at least four characters: a shorter text stands in anything")
    if allow and not scan:
        raise ConfigurationError("--allow says what --scan may pass over: add --scan")
    said = [f"searched for {len(texts)} canaries"] if texts else []
    said += ["scanned for addresses and telephone numbers"] if scan else []
    search = IdentitySearch(texts, scan=scan, allowed=allow)
    return search, " and ".join(said) or "not searched for (--canary, --canaries, --scan)"


def _trust(file: Path | None) -> Trust | None:
    """Read the keys. Raises `ConfigurationError`."""
    from schemas.trust import Trust

    if file is None:
        return None
    try:
        return Trust.from_json(file.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"--trust {file}: cannot be read ({type(error).__name__})") from None


async def _audit_dump(
    path: Path, as_of: datetime | None, slack: timedelta, search: IdentitySearch, trust: Trust | None
) -> Verdict:
    from orchestrator.audit.auditor import audit
    from orchestrator.audit.dump import DumpLog

    log = DumpLog(path)
    with counting("read") as count:
        at = as_of or log.captured_at
        topics = Topics(prefix=log.prefix)
        return await audit(log, topics, as_of=at, slack=slack, search=search, trust=trust, progress=count)


async def _audit_live(
    bootstrap: str,
    topics: Topics,
    search: IdentitySearch,
    *,
    as_of: datetime | None,
    slack: timedelta,
    grace: int,
    trust: Trust | None,
) -> Verdict:
    """Audit what is there now; look again at what seems broken, because its other half may be on its way."""
    from orchestrator.adapters.clock import SystemClock
    from orchestrator.audit.auditor import audit, confirmed
    from orchestrator.audit.kafka_log import connected

    at = as_of or SystemClock().now()

    async def once(log: Log) -> Verdict:
        with counting("read") as count:
            return await audit(log, topics, as_of=at, slack=slack, search=search, trust=trust, progress=count)

    async with connected(bootstrap, topics, connection=current_connection()) as log:
        verdict = await once(log)
        if verdict.is_clean or not grace:
            return verdict
        await asyncio.sleep(grace)
        return confirmed(verdict, await once(log))


async def _dump(path: Path, bootstrap: str, topics: Topics) -> int:
    from orchestrator.adapters.clock import SystemClock
    from orchestrator.audit.dump import write_dump
    from orchestrator.audit.kafka_log import connected

    async with connected(bootstrap, topics, connection=current_connection()) as log:
        with counting("written") as count:
            now = SystemClock().now()
            return await write_dump(log, path, prefix=topics.prefix, captured_at=now, progress=count)


@contextmanager
def counting(done: str, of: str = "records") -> Iterator[Callable[[int], None]]:
    """Give a function that is told a count; after two seconds it says so on standard error, every two seconds."""
    with ExitStack() as stack:
        tell: Callable[[str], None] | None = None
        next_at = time.monotonic() + _QUIET_SECONDS

        def count(number: int) -> None:
            nonlocal tell, next_at
            if number % 500 or time.monotonic() < next_at:
                return
            next_at = time.monotonic() + _QUIET_SECONDS
            tell = tell or stack.enter_context(progress())
            tell(f"{number} {of} {done}")

        yield count
