"""`dsr acl`: who may do what on the broker, generated from the registry: show it, make it so, find where it is not.

Room rules: joins table, registry, broker and terminal; who may do what stands in `schemas.acl`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table

from orchestrator.commands.acl_users import kafka_configs_command, lay_down
from orchestrator.commands.kafka import current_bootstrap, current_connection
from orchestrator.commands.registry import default_registry
from schemas.acl import PRINCIPAL_FORM, AclDifference, AclRule, Holder, Pattern, ResourceType, difference, holders, rules
from schemas.base import Actor
from schemas.errors import ConfigurationError
from schemas.ids import SystemId
from schemas.topics import DEFAULT_PREFIX, Topics

__all__ = ["acl_app", "kafka_acls_command"]

#: Wide enough for the table, also where no terminal says how wide it is (a pipe, a log).
_WIDTH = 128

acl_app = typer.Typer(
    name="acl", help="Show, apply and check who may do what on the broker, from the registry.", no_args_is_help=True
)

_Registry = Annotated[
    Path,
    typer.Option(
        help="Its portals and its systems with a connector", envvar="DSR_REGISTRY", show_default="the example company"
    ),
]
_Workers = Annotated[
    list[str] | None, typer.Option("--worker", help="A worker with a principal of its own; none: all share `orchestrator`")
]
_Operators = Annotated[list[str] | None, typer.Option("--operator", help="An operator; may be repeated")]
_Auditors = Annotated[list[str] | None, typer.Option("--auditor", help="An auditor, who reads all and writes nothing")]
_Archives = Annotated[list[str] | None, typer.Option("--archive", help="Who keeps confirmations")]
_Form = Annotated[
    str, typer.Option("--principal", help="How a name becomes Kafka's principal", envvar="DSR_ACL_PRINCIPAL", metavar="FORM")
]
_Prefix = Annotated[str, typer.Option(help="First word of every topic", envvar="DSR_TOPIC_PREFIX")]
_Bootstrap = Annotated[
    str | None,
    typer.Option(help="host:port of the broker", envvar="DSR_KAFKA_BOOTSTRAP", show_default="the one `dsr kafka up` started"),
]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead")]


@acl_app.command()
def show(
    *,
    registry: _Registry = default_registry(),
    worker: _Workers = None,
    operator: _Operators = None,
    auditor: _Auditors = None,
    archive: _Archives = None,
    principal: _Form = PRINCIPAL_FORM,
    prefix: _Prefix = DEFAULT_PREFIX,
    commands: Annotated[bool, typer.Option("--commands", help="Print kafka-acls.sh commands, for whoever runs them")] = False,
    as_json: _Json = False,
) -> None:
    """Show who must be allowed what, without a broker.

    Example: dsr acl show --operator alice --auditor internal
    """
    topics = _topics(prefix)
    wanted = _wanted(registry, topics, principal, workers=worker, operators=operator, auditors=auditor, archives=archive)
    if as_json:
        _print_json([rule.model_dump(mode="json") for rule in wanted])
    elif commands:
        for rule in wanted:
            print(kafka_acls_command(rule))
    else:
        _print_table([(rule, "") for rule in wanted], last=None)


@acl_app.command()
def apply(
    *,
    registry: _Registry = default_registry(),
    worker: _Workers = None,
    operator: _Operators = None,
    auditor: _Auditors = None,
    archive: _Archives = None,
    principal: _Form = PRINCIPAL_FORM,
    prefix: _Prefix = DEFAULT_PREFIX,
    bootstrap: _Bootstrap = None,
    remove_surplus: Annotated[
        bool, typer.Option("--remove-surplus", help="Also take away what our topics, groups or principals should not have")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Add the rules that are missing, then check; exit 1 when a difference stays. Safe to repeat. Needs a super user.

    Name everybody each time with --remove-surplus: whoever is not named loses his rules.

    Example: dsr acl apply --operator alice --auditor internal
    """
    from orchestrator.adapters import acl

    _quiet()
    topics, broker, connection = _topics(prefix), bootstrap or current_bootstrap(), current_connection()
    wanted = _wanted(registry, topics, principal, workers=worker, operators=operator, auditors=auditor, archives=archive)

    async def applied() -> tuple[AclDifference, AclDifference]:
        before = difference(wanted, await acl.describe(broker, **connection), topics)
        await acl.add(broker, before.missing, **connection)
        if remove_surplus:
            await acl.remove(broker, before.surplus, **connection)
        return before, difference(wanted, await acl.describe(broker, **connection), topics)

    before, after = asyncio.run(applied())
    removed = before.surplus if remove_surplus else ()
    if as_json:
        done = {"added": _documents(before.missing), "removed": _documents(removed)}
        _print_json({"bootstrap": broker, **done, **_document(after)})
    else:
        for verb, changed in (("added", before.missing), ("removed", removed)):
            for rule in changed:
                print(f"{verb}: {rule}")
        print(f"{len(wanted)} rules at {broker}: {len(before.missing)} added, {len(removed)} removed")
        _print_difference(after)
    if not after.is_empty:
        raise typer.Exit(1)


@acl_app.command()
def check(
    *,
    registry: _Registry = default_registry(),
    worker: _Workers = None,
    operator: _Operators = None,
    auditor: _Auditors = None,
    archive: _Archives = None,
    principal: _Form = PRINCIPAL_FORM,
    prefix: _Prefix = DEFAULT_PREFIX,
    bootstrap: _Bootstrap = None,
    as_json: _Json = False,
) -> None:
    """Find every difference between the broker's rules and the registry's; exit 1 if there is one. Changes nothing.

    Cannot see whether the broker allows what no rule mentions: `allow.everyone.if.no.acl.found` must be false on it.

    Example: dsr acl check --operator alice --auditor internal
    """
    from orchestrator.adapters import acl

    _quiet()
    topics, broker = _topics(prefix), bootstrap or current_bootstrap()
    wanted = _wanted(registry, topics, principal, workers=worker, operators=operator, auditors=auditor, archives=archive)
    found = difference(wanted, asyncio.run(acl.describe(broker, **current_connection())), topics)
    if as_json:
        _print_json({"bootstrap": broker, **_document(found)})
    else:
        count = len(found.missing) + len(found.surplus) + len(found.wider)
        print(f"{len(wanted)} rules at {broker}: {f'differences: {count}' if count else 'as the registry says'}")
        _print_difference(found)
    if not found.is_empty:
        raise typer.Exit(1)


@acl_app.command()
def users(
    *,
    out: Annotated[Path, typer.Option(help="Folder of the passwords: theirs to whom it is given", file_okay=False)],
    registry: _Registry = default_registry(),
    worker: _Workers = None,
    operator: _Operators = None,
    auditor: _Auditors = None,
    archive: _Archives = None,
    as_json: _Json = False,
) -> None:
    """Make a password for each principal, and print Kafka's commands that make the users (SCRAM-SHA-512). Safe to repeat.

    `<name>.password` goes to the party (DSR_SASL_PASSWORD_FILE); delete the `.scram` files once the commands have run.

    Example: dsr acl users --out secrets --operator alice | ADMIN=admin.properties BROKER=broker:9093 sh -e
    """
    who = _holders(registry, workers=worker, operators=operator, auditors=auditor, archives=archive)
    made = lay_down(who, out)
    if as_json:
        _print_json([{"user": name, "new": is_new, "password_file": str(out / f"{name}.password")} for name, is_new in made])
        return
    for name, _ in made:
        print(kafka_configs_command(name, out))
    new = sum(is_new for _, is_new in made)
    typer.echo(f"{len(made)} users: {new} new passwords in {out}; run these commands, then delete {out}/*.scram", err=True)


def kafka_acls_command(rule: AclRule) -> str:
    """Return Kafka's own command that adds the rule; its address and credentials are left to whoever runs it."""
    who = "--allow-principal" if rule.permission == "Allow" else "--deny-principal"
    resource = {
        ResourceType.TOPIC: ["--topic", rule.name],
        ResourceType.GROUP: ["--group", rule.name],
        ResourceType.CLUSTER: ["--cluster"],
    }[rule.resource]
    words = ["kafka-acls.sh", "--bootstrap-server", "$BROKER", "--command-config", "$ADMIN", "--add", who, rule.principal]
    words += ["--operation", str(rule.operation), *resource]
    if rule.pattern is Pattern.PREFIXED:
        words += ["--resource-pattern-type", "prefixed"]
    return " ".join(f'"{word}"' if word.startswith("$") else shlex.quote(word) for word in words)


def _wanted(registry: Path, topics: Topics, form: str, **named: Sequence[str] | None) -> tuple[AclRule, ...]:
    return rules(_holders(registry, **named), topics, principal_form=form)


def _holders(registry: Path, **named: Sequence[str] | None) -> tuple[Holder, ...]:
    from orchestrator.adapters.registry_file import load

    given = {kind: tuple(names or ()) for kind, names in named.items()}
    for kind, names in given.items():
        for name in names:
            _demand(name, kind)
    company = load(registry)
    return holders(systems=[s.id for s in company.active()], portals=[p.id for p in company.portals], **given)


def _demand(name: str, kind: str) -> None:
    """Operators are called as they sign their commands (DSR_ACTOR), the others as systems are."""
    try:
        TypeAdapter(Actor if kind == "operators" else SystemId).validate_python(name)
    except ValidationError:
        raise ConfigurationError(
            f"--{kind.removesuffix('s')} {name}: use lower-case letters, digits, '-' and '_', a letter first, at most 40"
        ) from None


def _topics(prefix: str) -> Topics:
    try:
        return Topics(prefix=prefix)
    except ValidationError:
        raise ConfigurationError(
            f"--prefix {prefix}: use lower-case letters, digits and '-', a letter first, at most 40"
        ) from None


def _documents(some: Sequence[AclRule]) -> list[dict[str, Any]]:
    return [rule.model_dump(mode="json") for rule in some]


def _document(found: AclDifference) -> dict[str, Any]:
    return {name: _documents(getattr(found, name)) for name in ("missing", "surplus", "wider")}


def _print_difference(found: AclDifference) -> None:
    rows = [(rule, name) for name in ("missing", "surplus", "wider") for rule in getattr(found, name)]
    if not rows:
        return
    _print_table(rows, last="difference")
    for name, remedy in (
        ("missing", "somebody cannot do his work. Run `dsr acl apply`."),
        ("surplus", "somebody may do more than the registry says. Look who, then run `dsr acl apply --remove-surplus`."),
        ("wider", "a rule of somebody else's reaches our topics or groups. Have its owner narrow it."),
    ):
        if getattr(found, name):
            print(f"{name}: {remedy}")


def _print_table(rows: Sequence[tuple[AclRule, str]], *, last: str | None) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("principal", "may", "on", "named", *([last] if last else ())):
        table.add_column(heading, overflow="fold")
    for rule, word in rows:
        may = str(rule.operation) if rule.permission == "Allow" else f"not {rule.operation}"
        name = f"{rule.name}*" if rule.pattern is Pattern.PREFIXED else rule.name
        where = "" if rule.host == "*" else f" from {rule.host}"
        table.add_row(rule.principal, may, rule.resource.lower(), name + where, *([word] if last else ()))
    Console(width=_WIDTH, highlight=False).print(table)


def _quiet() -> None:
    """The client logs each refused connection; the command says it once, in a sentence."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


def _print_json(document: object) -> None:
    json.dump(document, sys.stdout, indent=2)
    print()
