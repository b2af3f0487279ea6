"""`dsr retry-all` and `waive-all`: one decision about one system, for every request that waits for it.

After an outage, or when a system goes out of use, hundreds of orders wait for the same person. Each still gets a command of its
own, with actor and reason: in the journal and in the confirmation it looks as if it had been said alone.

Exit codes: 0 all carried out, or nothing to do; 1 some refused; 2 wrong usage; 3 some not answered in time (they stay on the
bus and are carried out when a worker reads them).

Room rules: chooses by what the journal says; whether a decision is allowed is decided by the core.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.table import Table

from orchestrator.commands.acting import REFUSED, SILENT, Answer, act_all, speaking_as
from orchestrator.commands.audit import topics_of, usage
from orchestrator.commands.decisions import EXIT_NO_ANSWER, EXIT_REFUSED, Actor, SystemArgument, command_of, decider
from orchestrator.commands.folding import RequestView, SystemView
from orchestrator.commands.kafka import current_bootstrap, progress
from orchestrator.commands.reading import Bootstrap, JsonOutput, Prefix, counted, fold_journal, print_json
from orchestrator.commands.status import print_table, table_of
from schemas.commands import Command, Retry, Waive
from schemas.errors import ConfigurationError
from schemas.topics import DEFAULT_PREFIX
from schemas.trust import operator_principal
from schemas.vocabulary import FailureReason, OrderPhase, Phase, Right

__all__ = ["register"]

#: Said at one time. After a refusal no more are said: what is set aside by the hundred stops the workers.
_AT_ONCE = 50

_Reason = Annotated[str, typer.Option(help="Why; stands in each journal and confirmation, so it must not name anybody")]
_Failed = Annotated[FailureReason | None, typer.Option(help="Only orders that failed for this reason", show_default=False)]
_OfRight = Annotated[Right | None, typer.Option(help="Only requests for this right", show_default=False)]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Say which requests, and do nothing")]
_Wait = Annotated[float, typer.Option(min=0, help=f"Seconds to wait for the answers, for each {_AT_ONCE} requests")]


def _retry_all(
    system: SystemArgument,
    *,
    reason: _Reason,
    failed: _Failed = None,
    right: _OfRight = None,
    dry_run: _DryRun = False,
    actor: Actor = None,
    wait: _Wait = 30,
    prefix: Prefix = DEFAULT_PREFIX,
    bootstrap: Bootstrap = None,
    as_json: JsonOutput = False,
) -> None:
    """Ask one system again in every request in which it failed or fell silent; those on hold are left out.

    Example: dsr retry-all crm --failed credentials_refused --reason "The new token works" --dry-run
    """

    def waits(view: RequestView) -> bool:
        return view.hold is None and _has_failed(view, system, failed)

    with usage():
        _decide(Retry, _Decision(system, waits, right, dry_run, actor, reason, wait, prefix, bootstrap, as_json))


def _waive_all(
    system: SystemArgument,
    *,
    reason: _Reason,
    failed: _Failed = None,
    right: _OfRight = None,
    every: Annotated[
        bool, typer.Option("--unanswered", help="Those that were not asked, or may still answer, as well")
    ] = False,
    dry_run: _DryRun = False,
    actor: Actor = None,
    wait: _Wait = 30,
    prefix: Prefix = DEFAULT_PREFIX,
    bootstrap: Bootstrap = None,
    as_json: JsonOutput = False,
) -> None:
    """Close without one system in every request in which it failed or fell silent; each confirmation says so.

    Example: dsr waive-all fax --unanswered --reason "Out of use since May; its data went with it"
    """

    def waits(view: RequestView) -> bool:
        order = view.systems.get(system)
        return _has_failed(view, system, failed) or (every and order is not None and order.phase is not OrderPhase.SETTLED)

    with usage():
        if every and failed:
            raise ConfigurationError("--unanswered takes in what has not failed: leave out --failed")
        _decide(Waive, _Decision(system, waits, right, dry_run, actor, reason, wait, prefix, bootstrap, as_json))


def _has_failed(view: RequestView, system: str, failed: FailureReason | None) -> bool:
    order = view.systems.get(system)
    return order is not None and order.phase is OrderPhase.ESCALATED and failed in (None, order.reason)


@dataclass(frozen=True, slots=True)
class _Decision:
    """What both commands take. `waits` tells which open requests are meant."""

    system: str
    waits: Callable[[RequestView], bool]
    right: Right | None
    dry_run: bool
    actor: str | None
    reason: str
    wait: float
    prefix: str
    bootstrap: str | None
    as_json: bool


def _decide(model: type[Command], given: _Decision) -> None:
    broker, topics, system = given.bootstrap or current_bootstrap(), topics_of(given.prefix), given.system
    actor = "" if given.dry_run else decider(given.actor)
    signer = None if given.dry_run else speaking_as(operator_principal(actor))
    views, _ = asyncio.run(fold_journal(broker, topics))
    if not any(system in view.systems for view in views.values()):
        raise ConfigurationError(f"SYSTEM: no request has {system} in its plan; `dsr registry show` names the systems")
    chosen = [
        view
        for view in sorted(views.values(), key=lambda view: view.by_due_date)
        if view.phase is not Phase.CLOSED and given.right in (None, view.right) and given.waits(view)
    ]
    answers: dict[str, Answer] = {}
    if chosen and not given.dry_run:
        messages = [command_of(model, view.subject_request_id, actor, given.reason, system=system) for view in chosen]
        with progress() as tell:
            answers = asyncio.run(
                act_all(
                    broker, topics, messages, at_once=_AT_ONCE, seconds=given.wait, signer=signer,
                    tell=lambda count: tell(f"{count} of {len(messages)} requests decided"),
                )
            )  # fmt: skip
    _print(chosen, given, answers)
    words = {answer.word for answer in answers.values()}
    if REFUSED in words:
        raise typer.Exit(EXIT_REFUSED)
    if SILENT in words:
        raise typer.Exit(EXIT_NO_ANSWER)


_WORDS = {SILENT: "no answer yet", REFUSED: "refused"}


def _print(chosen: Iterable[RequestView], given: _Decision, answers: Mapping[str, Answer]) -> None:
    system = given.system
    rows = [(view, view.systems[system], answers.get(view.subject_request_id)) for view in chosen]
    done = sum(answer is not None and answer.word not in _WORDS for _, _, answer in rows)
    if given.as_json:
        print_json(
            {
                "system": system,
                "dry_run": given.dry_run,
                "requests": [
                    {
                        "subject_request_id": view.subject_request_id,
                        "due_on": view.due_on.isoformat() if view.due_on else None,
                        "order": order.phase.value,
                        "reason": order.reason,
                        "answer": answer.word if answer else None,
                        "refused": str(answer.violation) if answer and answer.violation else None,
                    }
                    for view, order, answer in rows
                ],
            }
        )
        return
    if rows:
        print_table(_table(rows))
    if given.dry_run:
        print(f"to decide on {system}: {counted(len(rows), 'request')}; nothing was done")
    else:
        left = sum(answer is None for _, _, answer in rows)
        rest = f"; {left} were not said after a refusal: look at it, and repeat" if left else ""
        print(f"{done} of {len(rows)} requests decided{rest}")


def _table(rows: Iterable[tuple[RequestView, SystemView, Answer | None]]) -> Table:
    table = table_of(("due on", "right", "order", "because", "decided", "subject_request_id"))
    for view, order, answer in rows:
        if answer is None:
            word = ""
        elif answer.violation is not None:
            word = f"refused: {answer.violation.code}"
        else:
            word = _WORDS.get(answer.word, "yes")
        table.add_row(
            str(view.due_on or ""), view.right or "", order.phase.value, order.reason or "", word, view.subject_request_id
        )
    return table


def register(app: typer.Typer) -> None:
    """Add the commands to `dsr`."""
    app.command("retry-all")(_retry_all)
    app.command("waive-all")(_waive_all)
