"""`dsr topics`: make a broker's topics what the manifest says, find where they are not, or just show the manifest.

Room rules: joins manifest, registry, broker and terminal; decides nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table

from orchestrator.commands.kafka import current_bootstrap, current_connection
from orchestrator.commands.registry import default_registry
from schemas.errors import ConfigurationError
from schemas.ids import SystemId
from schemas.topics import DEFAULT_PREFIX, Topics, TopicSpec, manifest

if TYPE_CHECKING:
    from orchestrator.adapters.topics import Finding

__all__ = ["topics_app"]

#: Wide enough for the tables, also where no terminal says how wide it is (a pipe, a log).
_WIDTH = 128
_DAY_MS = 24 * 60 * 60 * 1000

topics_app = typer.Typer(name="topics", help="Create, check and show the topics.", no_args_is_help=True)

_Registry = Annotated[
    Path,
    typer.Option(
        help="Its systems with a connector get an order topic", envvar="DSR_REGISTRY", show_default="the example company"
    ),
]
_Systems = Annotated[list[str] | None, typer.Option("--system", help="This system instead of a registry's; may be repeated")]
_Partitions = Annotated[int, typer.Option(min=1, help="For life: keys move when it changes", envvar="DSR_TOPIC_PARTITIONS")]
_Prefix = Annotated[str, typer.Option(help="First word of every topic", envvar="DSR_TOPIC_PREFIX")]
_Bootstrap = Annotated[
    str | None,
    typer.Option(help="host:port of the broker", envvar="DSR_KAFKA_BOOTSTRAP", show_default="the one `dsr kafka up` started"),
]
_Replication = Annotated[
    int, typer.Option(min=1, help="Copies of each partition; 3 in production", envvar="DSR_REPLICATION_FACTOR")
]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead")]


@topics_app.command()
def apply(
    *,
    registry: _Registry = default_registry(),
    system: _Systems = None,
    partitions: _Partitions = 4,
    prefix: _Prefix = DEFAULT_PREFIX,
    bootstrap: _Bootstrap = None,
    replication: _Replication = 1,
    as_json: _Json = False,
) -> None:
    """Create missing topics and correct wrong settings, then check; exit 1 when something stays wrong. Safe to repeat.

    Example: dsr topics apply --registry registry.yaml --replication 3
    """
    from orchestrator.adapters import topics

    _quiet()
    specs, broker = _specs(registry, system, partitions, prefix), bootstrap or current_bootstrap()
    done = asyncio.run(topics.apply(broker, specs, replication=replication, **current_connection()))
    findings = asyncio.run(topics.check(broker, specs, replication=replication, **current_connection()))
    if as_json:
        _print_json({"bootstrap": broker, "done": done, "findings": [asdict(finding) for finding in findings]})
    else:
        for sentence in done:
            print(sentence)
        print(f"{len(specs)} topics at {broker}: {f'{len(done)} done' if done else 'nothing to do'}")
        _print_findings(findings)
    if findings:
        raise typer.Exit(1)


@topics_app.command()
def check(
    *,
    registry: _Registry = default_registry(),
    system: _Systems = None,
    partitions: _Partitions = 4,
    prefix: _Prefix = DEFAULT_PREFIX,
    bootstrap: _Bootstrap = None,
    replication: _Replication = 1,
    connectors: Annotated[
        bool, typer.Option("--connectors", help="Also: does each connector that runs read the orders of this release")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Find every difference between the broker and the manifest, with the remedy; exit 1 if there is one. Changes nothing.

    Without --system also names each topic under the prefix that no system of the registry explains.

    Example: dsr topics check --bootstrap kafka.example.org:9092 --replication 3
    """
    from orchestrator.adapters import topics

    _quiet()
    names = _names(registry, system, prefix)
    specs, broker = manifest(names, partitions=partitions, prefix=prefix), bootstrap or current_bootstrap()
    findings = asyncio.run(topics.check(broker, specs, replication=replication, **current_connection()))
    if not system:  # named systems are a part of the company: what the others have is no stray
        known = [spec.name for spec in manifest(_all_names(registry), prefix=prefix)]
        findings += asyncio.run(topics.check_strays(broker, known, prefix=prefix, **current_connection()))
    if connectors:
        groups = {name: Topics(prefix=prefix).group(f"connector.{name}") for name in names}
        findings += asyncio.run(topics.check_readers(broker, groups, **current_connection()))
    if as_json:
        _print_json({"bootstrap": broker, "findings": [asdict(finding) for finding in findings]})
    else:
        print(f"{len(specs)} topics at {broker}: {f'differences: {len(findings)}' if findings else 'as the manifest says'}")
        _print_findings(findings)
    if findings:
        raise typer.Exit(1)


@topics_app.command()
def show(
    *,
    registry: _Registry = default_registry(),
    system: _Systems = None,
    partitions: _Partitions = 4,
    prefix: _Prefix = DEFAULT_PREFIX,
    as_json: _Json = False,
) -> None:
    """Show what the topics must be, without a broker.

    Example: dsr topics show --system crm --system shop
    """
    specs = _specs(registry, system, partitions, prefix)
    if as_json:
        _print_json([spec.model_dump(mode="json") for spec in specs])
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("topic", "partitions", "cleanup", "kept", "written by", "read by"):
        table.add_column(heading, no_wrap=True, justify="right" if heading == "partitions" else "left")
    for spec in specs:
        kept = f"{spec.retention_ms // _DAY_MS} days"
        table.add_row(spec.name, str(spec.partitions), spec.cleanup, kept, ", ".join(spec.writers), ", ".join(spec.readers))
    Console(width=_WIDTH, highlight=False).print(table)


def _specs(registry: Path, systems: Sequence[str] | None, partitions: int, prefix: str) -> tuple[TopicSpec, ...]:
    return manifest(_names(registry, systems, prefix), partitions=partitions, prefix=prefix)


def _names(registry: Path, systems: Sequence[str] | None, prefix: str) -> list[str]:
    from orchestrator.adapters.registry_file import load

    for name in systems or ():
        _demand(name, SystemId, "--system", "lower-case letters, digits, '-' and '_'")
    _demand(prefix, Topics.model_fields["prefix"].rebuild_annotation(), "--prefix", "lower-case letters, digits and '-'")
    return list(systems or [system.id for system in load(registry).active()])


def _all_names(registry: Path) -> list[str]:
    from orchestrator.adapters.registry_file import load

    return [system.id for system in load(registry).systems]


def _demand(value: str, kind: Any, option: str, letters: str) -> None:
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError:
        raise ConfigurationError(f"{option} {value}: use {letters}, a letter first, at most 40") from None


def _print_findings(findings: Sequence[Finding]) -> None:
    if not findings:
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("where", "what", "found", "wanted"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        table.add_row(finding.subject, finding.kind, finding.found, finding.wanted)
    Console(width=_WIDTH, highlight=False).print(table)
    for kind, remedy in dict.fromkeys((finding.kind, finding.remedy) for finding in findings):
        print(f"{kind}: {remedy}")


def _quiet() -> None:
    """The client logs each refused connection; the command says it once, in a sentence."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


def _print_json(document: object) -> None:
    json.dump(document, sys.stdout, indent=2)
    print()
