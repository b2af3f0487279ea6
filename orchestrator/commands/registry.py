"""`dsr registry`: check, read and compare registries, without a broker.

Room rules: reads files and prints; what is right is said by `schemas.registry`, what it means by `core.registry_review`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from orchestrator.commands.reading import counted
from orchestrator.core.registry_review import changes, open_ends, stages
from schemas.errors import ConfigurationError
from schemas.registry import Registry, System
from schemas.topics import orders_topic
from schemas.vocabulary import Right

__all__ = ["default_registry", "registry_app"]

#: Wide enough for the table, also where no terminal says how wide it is (a pipe, a log).
_WIDTH = 110
_HEADINGS: dict[Right, str] = {
    Right.ACCESS: "access",
    Right.RECTIFICATION: "rectify",
    Right.COMPLETION: "complete",
    Right.ERASURE: "erase",
    Right.RESTRICTION: "restrict",
    Right.PORTABILITY: "port",
    Right.OBJECTION: "object",
    Right.UNSUBSCRIBE: "unsub",
}

registry_app = typer.Typer(name="registry", help="Check, show and compare registries.", no_args_is_help=True)


def default_registry() -> Path:
    """Return the example company's registry of this installation."""
    return Path(__file__).resolve().parents[2] / "deploy" / "registry" / "example-company.yaml"


_File = Annotated[
    Path,
    typer.Argument(help="Registry file", envvar="DSR_REGISTRY", show_default="the example company", metavar="FILE"),
]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead")]


@registry_app.command()
def check(file: _File = default_registry(), as_json: _Json = False) -> None:
    """Find every mistake in a registry; exit 1 if there is one. Warnings do not fail.

    Example: dsr registry check registry.yaml
    """
    registry, mistakes = _examined(file)
    warnings = list(open_ends(registry)) if registry else []
    if as_json:
        _print_json(
            {
                "file": str(file),
                "valid": registry is not None,
                "mistakes": [{"line": m.line, "field": m.field, "message": m.message} for m in mistakes],
                "warnings": [{"field": field, "message": message} for field, message in warnings],
                "topics": [orders_topic(s.id) for s in registry.active()] if registry else [],
            }
        )
    else:
        for mistake in mistakes:
            print(f"{file}:{mistake}")
        for field, message in warnings:
            print(f"warning: {field}: {message}")
        if registry:
            _print_summary(file, registry)
        else:
            print(f"{counted(len(mistakes), 'mistake')}: nothing was changed; correct the lines above")
    if registry is None:
        raise typer.Exit(1)


def _print_summary(file: Path, registry: Registry) -> None:
    active = list(registry.active())
    systems = counted(len(registry.systems), "system")
    print(f"{file}: version {registry.version} is valid: {systems}, {len(active)} with a connector")
    for system in active:
        print(f"  {orders_topic(system.id)}")


@registry_app.command()
def show(file: _File = default_registry(), as_json: _Json = False) -> None:
    """Show which system fulfils which right, who owns it, and in which stage it is asked.

    Example: dsr registry show registry.yaml
    """
    registry = _loaded(file)
    order = stages(registry)
    if as_json:
        document = registry.model_dump(mode="json")
        document["stages"] = [[s.id for s in stage] for stage in order]
        document["content_digest"] = registry.content_digest
        _print_json(document)
        return
    console = Console(width=_WIDTH, highlight=False, soft_wrap=False)
    seat = registry.controller
    print(f"{seat.title}, version {registry.version}, {seat.zone}, calendar {seat.calendar}, {seat.regime}")
    console.print(_rights_table(registry, order))
    console.print("● fulfilled   ◆ fulfilled and cannot be undone   - no connector yet: not asked")
    console.print(_ways_table(registry))
    console.print(f"Portals: {', '.join(f'{p.id} ({p.owner})' for p in registry.portals)}")


def _rights_table(registry: Registry, order: Sequence[Sequence[System]]) -> Table:
    table = Table(box=None, pad_edge=False, title_justify="left")
    for heading in ("stage", "system", "role"):
        table.add_column(heading, no_wrap=True)
    for right in Right:
        table.add_column(_HEADINGS[right], justify="center", no_wrap=True)
    for number, stage in enumerate(order, start=1):
        for system in stage:
            table.add_row(str(number), system.id, system.role, *(_mark(system, right) for right in Right))
    for system in registry.systems:
        if not system.is_planned_for:
            table.add_row("-", system.id, system.role, *(_mark(system, right) for right in Right), style="dim")
    return table


def _mark(system: System, right: Right) -> str:
    if right not in system.rights:
        return ""
    return "◆" if right in system.irreversible else "●"


def _ways_table(registry: Registry) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("system", "owner", "connector", "needs one of", "yields", "after", "patience"):
        table.add_column(heading, overflow="fold")
    for system in registry.systems:
        table.add_row(
            system.id,
            system.owner,
            system.connector or "-",
            ", ".join(f"{n.kind}" if n.form == "raw" else f"{n.kind} ({n.form})" for n in system.needs) or "any",
            ", ".join(system.yields) or "-",
            ", ".join(system.after) or "-",
            _duration(system.patience),
            style=None if system.is_planned_for else "dim",
        )
    return table


def _duration(value: timedelta) -> str:
    days, seconds = value.days, value.seconds
    parts = ((days, "d"), (seconds // 3600, "h"), (seconds % 3600 // 60, "min"), (seconds % 60, "s"))
    return " ".join(f"{n} {unit}" for n, unit in parts if n) or "none"


@registry_app.command()
def diff(
    old: Annotated[Path, typer.Argument(help="Registry in use", metavar="OLD")],
    new: Annotated[Path, typer.Argument(help="Registry to come", metavar="NEW")],
    as_json: _Json = False,
) -> None:
    """Show what a new version changes and what that means for open requests: their plans are frozen.

    Example: dsr registry diff registry.yaml registry-next.yaml
    """
    before, after = _loaded(old), _loaded(new)
    found = list(changes(before, after))
    reused = before.version == after.version and before.content_digest != after.content_digest
    if as_json:
        _print_json(
            {
                "old": before.version,
                "new": after.version,
                "version_reused": reused,
                "changes": [{"field": c.field, "change": c.change, "open_requests": c.open_requests} for c in found],
            }
        )
        return
    print(f"version {before.version} -> {after.version}")
    if reused:
        print(f"warning: version: both say {after.version}: confirmations name it, so give the new file its own")
    for change in found:
        print(f"{change.field}: {change.change}\n    open requests: {change.open_requests}")
    print("No request that is already accepted changes its plan." if found else "They say the same.")


def _examined(file: Path) -> tuple[Registry | None, Sequence[Any]]:
    from orchestrator.adapters.registry_file import examine

    try:
        return examine(file)
    except ConfigurationError as error:
        print(error)
        raise typer.Exit(1) from None


def _loaded(file: Path) -> Registry:
    registry, mistakes = _examined(file)
    if registry is None:
        for mistake in mistakes:
            print(f"{file}:{mistake}")
        raise typer.Exit(1)
    return registry


def _print_json(document: object) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False))
