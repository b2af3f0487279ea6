"""`dsr kafka`: a real broker on this machine in one command, and the address that the other commands use.

Room rules: joins the local broker and the terminal; the broker itself stands in `orchestrator.adapters.local_kafka`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.errors import ConfigurationError

if TYPE_CHECKING:
    from orchestrator.adapters.local_kafka import LocalKafka

__all__ = ["current_bootstrap", "current_connection", "kafka_app", "progress", "state_dir", "waiting"]

BOOTSTRAP_VARIABLE = "DSR_KAFKA_BOOTSTRAP"
EXIT_SILENT = 3

kafka_app = typer.Typer(
    name="kafka",
    help="Start, look at and stop a real Kafka broker on this machine, for trying things out.",
    no_args_is_help=True,
)

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead")]


def state_dir() -> Path:
    """Return where the background broker lives: `$XDG_STATE_HOME/dsr/kafka`, by default below `~/.local/state`."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "dsr" / "kafka"


def current_bootstrap() -> str:
    """Return the broker to use: `DSR_KAFKA_BOOTSTRAP`, else the one `dsr kafka up` started.

    Does not imply that it answers. Raises `ConfigurationError` when there is neither.
    """
    given = os.environ.get(BOOTSTRAP_VARIABLE)
    if given:
        return given
    kafka = _local()
    if not kafka.runs:
        raise ConfigurationError(f"No Kafka broker is known: set {BOOTSTRAP_VARIABLE}, or start one with `dsr kafka up`")
    return kafka.bootstrap


def current_connection() -> dict[str, Any]:
    """Return aiokafka's options for TLS and SASL, from DSR_SECURITY_PROTOCOL and the settings beside it.

    Does not imply that the broker lets us in. Raises `ConfigurationError` naming the variable.
    """
    from orchestrator.adapters.broker import connection_to
    from orchestrator.settings import load_broker

    return connection_to(load_broker())


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Give a function that shows a sentence on standard error: a spinner on a terminal, else a line each."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield lambda sentence: console.print(sentence, markup=False, soft_wrap=True)
        return
    with console.status("") as status:
        yield status.update


@contextmanager
def waiting(sentence: str) -> Iterator[None]:
    """Show a spinner with a sentence on standard error while something is awaited; where that is no terminal, nothing."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False)
    if not console.is_terminal:
        yield
        return
    with console.status(sentence):
        yield


@kafka_app.command()
def up(
    port: Annotated[int | None, typer.Option(help="Port on 127.0.0.1", show_default="a free one, kept afterwards")] = None,
    as_json: _Json = False,
) -> None:
    """Start a broker in the background and return when it answers; a running one is left as it is.

    With DSR_KAFKA_BOOTSTRAP set it only makes sure that this broker answers.

    Example: dsr kafka up && dsr topics apply
    """
    given = os.environ.get(BOOTSTRAP_VARIABLE)
    if given:
        _given_is_up(given, as_json=as_json)
        return
    kafka = _local(port)
    was_up = kafka.runs
    with progress() as tell:
        kafka.start(tell, survives_owner=True)
    if as_json:
        _print_json({**_facts(kafka), "started": not was_up})
        return
    print(f"Kafka {'was already running' if was_up else 'is up'} at {kafka.bootstrap}")
    print(f"  data and log  {kafka.data_dir}")
    print(f"  for others    export {BOOTSTRAP_VARIABLE}={kafka.bootstrap}  (dsr finds it without)")
    print("  topics        dsr topics apply")
    print("  stop          dsr kafka down")


@kafka_app.command()
def down(
    delete_data: Annotated[bool, typer.Option("--delete-data", help="Delete its topics and records as well")] = False,
    as_json: _Json = False,
) -> None:
    """Stop the broker that `dsr kafka up` started; never one that DSR_KAFKA_BOOTSTRAP names.

    Example: dsr kafka down --delete-data
    """
    kafka = _local()
    ran = kafka.runs
    kafka.stop()
    if delete_data:
        kafka.delete()
    if as_json:
        _print_json({"stopped": ran, "data_deleted": delete_data, "data_dir": str(kafka.data_dir)})
        return
    rest = "its data are deleted" if delete_data else f"its data stay in {kafka.data_dir}"
    print(f"Kafka is stopped; {rest}" if ran else f"No Kafka was running; {rest}")


@kafka_app.command()
def status(as_json: _Json = False) -> None:
    """Tell whether the broker answers: exit 0 when it does, 3 when not.

    Example: dsr kafka status --json
    """
    from orchestrator.adapters.local_kafka import answers

    given = os.environ.get(BOOTSTRAP_VARIABLE)
    if given:
        facts: dict[str, Any] = {"bootstrap": given, "from": BOOTSTRAP_VARIABLE}
    else:
        kafka = _local()
        facts = _facts(kafka) if kafka.runs else {"bootstrap": None, "from": "dsr kafka up", "data_dir": str(kafka.data_dir)}
    bootstrap = facts["bootstrap"]
    facts["answers"] = bootstrap is not None and answers(str(bootstrap), connection=current_connection() if given else None)
    if as_json:
        _print_json(facts)
    elif bootstrap is None:
        print("Kafka is not running: start it with `dsr kafka up`")
    elif facts["answers"]:
        print(f"Kafka answers at {bootstrap}")
    else:
        print(f"Kafka does not answer at {bootstrap} (from {facts['from']})")
    if not facts["answers"]:
        raise typer.Exit(EXIT_SILENT)


def _given_is_up(bootstrap: str, *, as_json: bool) -> None:
    from orchestrator.adapters.local_kafka import answers

    if not answers(bootstrap, connection=current_connection()):
        raise ConfigurationError(
            f"No Kafka broker answers at {bootstrap}: correct {BOOTSTRAP_VARIABLE}, or unset it to have one started here"
        )
    if as_json:
        _print_json({"bootstrap": bootstrap, "from": BOOTSTRAP_VARIABLE, "started": False})
    else:
        print(f"Kafka answers at {bootstrap} (from {BOOTSTRAP_VARIABLE}); nothing was started")


def _local(port: int | None = None) -> LocalKafka:
    from orchestrator.adapters.local_kafka import LocalKafka

    return LocalKafka(state_dir(), port)


def _facts(kafka: LocalKafka) -> dict[str, Any]:
    return {
        "bootstrap": kafka.bootstrap,
        "from": "dsr kafka up",
        "pid": kafka.pid,
        "port": kafka.port,
        "data_dir": str(kafka.data_dir),
        "log": str(kafka.log_path),
    }


def _print_json(document: object) -> None:
    json.dump(document, sys.stdout, indent=2)
    print()
