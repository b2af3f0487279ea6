"""`dsr retry-all` and `waive-all`: one decision about one system, for every request that waits for it.

After an outage, or when a system goes out of use, hundreds of orders wait for the same person. Each still gets a command of its
own, with actor and reason: in the journal and in the confirmation it looks as if it had been said alone.

Exit codes: 0 all carried out, or nothing to do; 1 some refused; 2 wrong usage; 3 some not answered in time (they stay on the
bus and are carried out when a worker reads them).

Room rules: chooses by what the journal says; whether a decision is allowed is decided by the core.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer
from rich.table import Table

from orchestrator.commands.acting import REFUSED, SILENT, Answer, act_all, speaking_as
from orchestrator.commands.audit import topics_of, usage
from orchestrator.commands.decisions import EXIT_NO_ANSWER, EXIT_REFUSED, command_of
from orchestrator.commands.folding import RequestView
from orchestrator.commands.kafka import current_bootstrap, progress
from orchestrator.commands.reading import Bootstrap, JsonOutput, Prefix, fold_journal, print_json
from orchestrator.commands.status import print_table, table_of
from schemas.commands import Command, Retry, Waive
from schemas.errors import ConfigurationError
from schemas.signatures import speaker_of
from schemas.topics import DEFAULT_PREFIX
from schemas.vocabulary import FailureReason, OrderPhase, Phase, Right

__all__ = ["register"]

#: Said at one time. After a refusal no more are said: what is set aside by the hundred stops the workers.
_AT_ONCE = 50

_System = Annotated[str, typer.Argument(metavar="SYSTEM", help="The system's id in the registry")]
_Reason = Annotated[str, typer.Option(help="Why; stands in each journal and confirmation, so it must not name anybody")]
_Actor = Annotated[
    str | None,
    typer.Option(help="Who decides, for instance ops:privacy-office; no mail address", envvar="DSR_ACTOR", show_default=False),
]
_Failed = Annotated[FailureReason | None, typer.Option(help="Only orders that failed for this reason", show_default=False)]
_OfRight = Annotated[Right | None, typer.Option(help="Only requests for this right", show_default=False)]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Say which requests, and do nothing")]
_Wait = Annotated[float, typer.Option(min=0, help=f"Seconds to wait for the answers, for each {_AT_ONCE} requests")]


def _retry_all(
    system: _System,
    *,
    reason: _Reason,
    failed: _Failed = None,
    right: _OfRight = None,
    dry_run: _DryRun = False,
    actor: _Actor = None,
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
        _decide(Retry, system, waits, right, dry_run, actor, reason, wait, prefix, bootstrap, as_json)


def _waive_all(
    system: _System,
    *,
    reason: _Reason,
    failed: _Failed = None,
    right: _OfRight = None,
    every: Annotated[
        bool, typer.Option("--unanswered", help="Those that were not asked, or may still answer, as well")
    ] = False,
    dry_run: _DryRun = False,
    actor: _Actor = None,
    wait: _Wait = 30,
    prefix: Prefix = DEFAULT_PREFIX,
    bootstrap: Bootstrap = None,
    as_json: JsonOutput = False,
) -> None:
    """Close without one system in every request in which it failed or fell silent; each confirmation says so.

    Example: dsr waive-all fax --unanswered --reason "Out of use since May; its data went with it"
    """
    if every and failed:
        raise typer.BadParameter("--unanswered takes in what has not failed: leave out --failed")

    def waits(view: RequestView) -> bool:
        order = view.systems.get(system)
        return _has_failed(view, system, failed) or (every and order is not None and order.phase is not OrderPhase.SETTLED)

    with usage():
        _decide(Waive, system, waits, right, dry_run, actor, reason, wait, prefix, bootstrap, as_json)


def _has_failed(view: RequestView, system: str, failed: FailureReason | None) -> bool:
    order = view.systems.get(system)
    return order is not None and order.phase is OrderPhase.ESCALATED and failed in (None, order.reason)


def _decide(
    model: type[Command],
    system: str,
    waits: Any,
    right: Right | None,
    dry_run: bool,
    actor: str | None,
    reason: str,
    wait: float,
    prefix: str,
    bootstrap: str | None,
    as_json: bool,
) -> None:
    broker, topics = bootstrap or current_bootstrap(), topics_of(prefix)
    if not dry_run and not actor:
        raise ConfigurationError("say who decides: --actor ops:privacy-office, or DSR_ACTOR")
    signer = None if dry_run else speaking_as(f"operator:{actor}")
    views, _ = asyncio.run(fold_journal(broker, topics))
    known = any(system in view.systems for view in views.values())
    if not known:
        raise ConfigurationError(f"SYSTEM: no request has {system} in its plan; `dsr registry show` names the systems")
    chosen = [v for v in views.values() if v.phase is not Phase.CLOSED and right in (None, v.right) and waits(v)]
    chosen.sort(key=lambda view: (str(view.due_on or "9999"), view.subject_request_id))
    answers: dict[str, Answer] = {}
    if not dry_run and chosen:
        said = {
            v.subject_request_id: command_of(model, v.subject_request_id, actor or "", reason, system=system) for v in chosen
        }
        assert all(speaker_of(message) == f"operator:{actor}" for message in said.values()), "one actor said them all"
        with progress() as tell:
            answers = asyncio.run(_say_all(broker, topics, list(said.values()), wait, signer, tell))
    _print(chosen, system, answers, dry_run=dry_run, as_json=as_json)
    words = {answer.word for answer in answers.values()}
    if REFUSED in words:
        raise typer.Exit(EXIT_REFUSED)
    if SILENT in words:
        raise typer.Exit(EXIT_NO_ANSWER)


async def _say_all(broker: str, topics: Any, messages: list[Command], wait: float, signer: Any, tell: Any) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    for start in range(0, len(messages), _AT_ONCE):
        tell(f"{start} of {len(messages)} requests decided")
        some = messages[start : start + _AT_ONCE]
        answers |= await act_all(broker, topics, some, seconds=wait, signer=signer)
        if any(answer.word == REFUSED for answer in answers.values()):
            break
    return answers


_WORDS = {SILENT: "no answer yet", REFUSED: "refused"}


def _print(chosen: Iterable[RequestView], system: str, answers: Mapping[str, Answer], *, dry_run: bool, as_json: bool) -> None:
    rows = [(view, view.systems[system], answers.get(view.subject_request_id)) for view in chosen]
    done = sum(answer is not None and answer.word not in _WORDS for _, _, answer in rows)
    if as_json:
        print_json(
            {
                "system": system,
                "dry_run": dry_run,
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
    if dry_run:
        print(f"{len(rows)} requests wait for {system}; nothing was done")
    else:
        left = sum(answer is None for _, _, answer in rows)
        rest = f"; {left} were not said after a refusal: look at it, and repeat" if left else ""
        print(f"{done} of {len(rows)} requests decided{rest}")


def _table(rows: Iterable[tuple[RequestView, Any, Answer | None]]) -> Table:
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
