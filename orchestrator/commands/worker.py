"""`dsr worker`: run a worker until it is told to stop; `dsr store upgrade`: bring the store to this release's schema."""

from __future__ import annotations

import asyncio
import signal
from typing import Annotated

import typer

from orchestrator.commands.reading import Bootstrap, Prefix
from schemas.errors import DsrError, StoreUnavailable
from schemas.topics import DEFAULT_PREFIX

__all__ = ["store_app", "worker_command"]


def worker_command(
    worker_id: Annotated[str | None, typer.Option(help="Unique and stable name of this worker (DSR_WORKER_ID).")] = None,
    http_port: Annotated[int | None, typer.Option(help="Port of /metrics, /healthz and /readyz; 0 takes a free one.")] = None,
    upgrade_store: Annotated[bool, typer.Option("--upgrade-store", help="Bring the store's schema up to date first.")] = False,
) -> None:
    """Run a worker: read requests, commands and reports, write orders, status and confirmations.

    Stops on SIGTERM after finishing what it has started. Exit codes: 0 stopped, 2 refused to start on a wrong base, 70 could
    not go on without losing something, or the store or Vault stayed away (start it again: it replays).

    Example: DSR_KAFKA_BOOTSTRAP=127.0.0.1:9092 DSR_KEY_ENCRYPTION_KEY_FILE=key dsr worker --worker-id worker-1
    """
    from orchestrator.settings import load_settings
    from orchestrator.shell.inbox import Fatal
    from schemas import log_lines

    try:
        settings = load_settings(worker_id=worker_id, http_port=http_port)
        log_lines.configure(
            level=settings.log_level, console=None if settings.log_format == "auto" else settings.log_format == "console"
        )
        _run(settings, upgrade_store)
    except DsrError as error:
        typer.echo(f"dsr worker: {error}", err=True)
        # What an earlier life left could not be published: another try may succeed, unlike on a wrong base.
        raise typer.Exit(70 if isinstance(error, StoreUnavailable | Fatal) else 2) from None


def _run(settings: object, upgrade_store: bool) -> None:
    import uvloop

    from orchestrator.bootstrap import run_worker
    from orchestrator.settings import Settings
    from orchestrator.shell.memory import collect_seldom

    assert isinstance(settings, Settings)

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        async with run_worker(settings, upgrade_store=upgrade_store) as worker:
            collect_seldom()
            stopping = asyncio.create_task(stop.wait())
            crashed = asyncio.create_task(worker.app.wait_until_stopped())
            await asyncio.wait({stopping, crashed}, return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set():
                from orchestrator.shell.consumer import end_process

                end_process("the consumer stopped by itself")
            crashed.cancel()

    uvloop.run(main())


store_app = typer.Typer(help="The store's schema.", no_args_is_help=True)


@store_app.command("upgrade")
def upgrade() -> None:
    """Bring the store named by DSR_STORE_URL to this release's schema. Repeating is harmless.

    Example: DSR_STORE_URL=postgresql+psycopg://dsr@db/dsr dsr store upgrade
    """
    from orchestrator.adapters.sql import schema
    from orchestrator.adapters.sql.store import make_engine
    from orchestrator.settings import load_settings

    try:
        revision = schema.upgrade(make_engine(load_settings().store_url))
    except DsrError as error:
        typer.echo(f"dsr store upgrade: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"store: at revision {revision}")


@store_app.command("reconcile")
def reconcile(
    *,
    write: Annotated[bool, typer.Option("--write", help="Bring the store to where the journal is; no worker may run")] = False,
    prefix: Prefix = DEFAULT_PREFIX,
    bootstrap: Bootstrap = None,
) -> None:
    """Compare the store with the journal, after a restore from a backup; with --write catch up as far as that is possible.

    What closed since the backup is closed again, and its key destroyed. What is open goes on; what was reported since is asked
    for again. What was accepted since is gone: its ids are printed, and its portals must send it under new ids. Exit 0: the
    store is as new as the journal. 1: it is not, or was not.

    Example: DSR_STORE_URL=sqlite:///dsr.sqlite dsr store reconcile --write
    """
    from orchestrator.adapters.clock import SystemClock
    from orchestrator.bootstrap import open_store
    from orchestrator.commands.audit import topics_of, usage
    from orchestrator.commands.kafka import current_bootstrap
    from orchestrator.commands.reading import read_heads
    from orchestrator.settings import load_settings
    from orchestrator.shell.restored import Behind, behind, catch_up

    async def compare() -> Behind:
        heads, confirmations = await read_heads(bootstrap or current_bootstrap(), topics_of(prefix))
        store = open_store(load_settings(), upgrade=False)
        try:
            found = await behind(store, heads)
            if write and found:
                await catch_up(store, heads, found, confirmations, SystemClock().now())
            return found
        finally:
            await store.aclose()

    with usage():
        found = asyncio.run(compare())
    for names, what in ((found.closed, "closed since"), (found.open, "gone on since"), (found.missing, "accepted since")):
        for name in names:
            print(f"{what:<15} {name}")
    counts = f"{len(found.closed)} closed, {len(found.open)} gone on, {len(found.missing)} accepted since the store's last save"
    print(counts if found else "The store is as new as the journal")
    if found:
        print("caught up: workers may start" if write else "repeat with --write while no worker runs")
        raise typer.Exit(1)


@store_app.command("check")
def check() -> None:
    """Tell whether the store has this release's schema: exit code 0 if it has, 1 if not.

    Example: DSR_STORE_URL=postgresql+psycopg://dsr@db/dsr dsr store check
    """
    from orchestrator.adapters.sql import schema
    from orchestrator.adapters.sql.store import make_engine
    from orchestrator.settings import load_settings

    try:
        revision = schema.check(make_engine(load_settings().store_url))
    except DsrError as error:
        typer.echo(f"dsr store check: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"store: at revision {revision}, as it must be")
