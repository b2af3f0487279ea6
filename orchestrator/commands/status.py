"""`dsr status`, `dsr show`, `dsr list`: where requests are, as the log tells it.

Exit codes: 0 found, 1 not found or set aside, 2 wrong usage.

Room rules: reads and prints; folds the log, asks no store and changes nothing.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.commands.attention import Attention, as_record, in_order, matters
from orchestrator.commands.audit import topics_of, usage
from orchestrator.commands.decisions import EXIT_REFUSED
from orchestrator.commands.folding import RequestView
from orchestrator.commands.kafka import current_bootstrap
from orchestrator.commands.reading import (
    Bootstrap,
    Dossier,
    JsonOutput,
    Prefix,
    RequestArgument,
    fold_journal,
    print_json,
    read_releases,
    read_request,
    request_id,
)
from orchestrator.commands.telling import as_document, awaited, moment, rejected, sentence, system_line, timeline
from schemas.order_keys import KeysReleased
from schemas.topics import DEFAULT_PREFIX
from schemas.vocabulary import Language, OrderPhase, Phase, Right

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["list_command", "print_table", "show_command", "status_command", "table_of"]

_WIDTH = 140
#: A command that is broken over two lines cannot be copied.
_WIDE = 240


def status_command(
    request: RequestArgument,
    *,
    prefix: Prefix = DEFAULT_PREFIX,
    bootstrap: Bootstrap = None,
    as_json: JsonOutput = False,
) -> None:
    """Tell where a request is: phase, due date, each system, and what is awaited from whom.

    Example: dsr status ID
    """
    dossier, now = _read(request, prefix, bootstrap)
    view = dossier.view
    if as_json:
        print_json(as_document(view, now))
        return
    print(_headline(view, now))
    if view.systems:
        table = table_of(("system", "phase", "how it stands", "since"))
        for system in view.systems.values():
            table.add_row(*system_line(system, view.zone))
        print_table(table)
    for line in awaited(view):
        print(f"awaited: {line}")
    for event in view.rejections:
        print(f"set aside {moment(event.at, view.zone)}: {rejected(event)}")


def show_command(
    request: RequestArgument,
    *,
    history: Annotated[bool, typer.Option("--history", help="Everything that happened, from the journal")] = False,
    keys: Annotated[bool, typer.Option("--keys", help="When each system was given the key to its order")] = False,
    language: Annotated[Language | None, typer.Option(help="The confirmation's plain text in this language")] = None,
    prefix: Prefix = DEFAULT_PREFIX,
    bootstrap: Bootstrap = None,
    as_json: JsonOutput = False,
) -> None:
    """Show a request's confirmation in plain words and, with --history, how it came to it.

    With --keys: who could open its orders, and when; that reads every record of keys that the log still holds.

    Example: dsr show ID --history --language nl
    """
    dossier, now = _read(request, prefix, bootstrap)
    confirmation = dossier.view.confirmation
    released = _released(dossier, prefix, bootstrap) if keys else []
    if as_json:
        print_json(_shown(dossier, now) | ({"keys": [_as_given(one) for one in released]} if keys else {}))
        return
    print(_headline(dossier.view, now))
    if history:
        table = table_of(("when", "what happened"))
        for at, what in timeline(dossier.entries, dossier.view.zone):
            table.add_row(at, what)
        print_table(table)
    if keys:
        _print_keys(released, dossier.view.zone)
    if confirmation is not None and (language is not None or not (history or keys)):
        text = confirmation.text
        print(f"\n{text.get(language or Language.EN) or next(iter(text.values()))}")
    elif confirmation is None and not (history or keys):
        print("no confirmation yet; see `dsr status`, or --history for what happened so far")


def _released(dossier: Dossier, prefix: str, bootstrap: str | None) -> list[KeysReleased]:
    with usage():
        read = read_releases(bootstrap or current_bootstrap(), topics_of(prefix), dossier.view.subject_request_id)
        return asyncio.run(read)


def _as_given(released: KeysReleased) -> dict[str, str]:
    return {
        "system": released.system,
        "given_at": released.released_at.isoformat(),
        "kid": released.kid,
        "worker": released.worker,
    }


def _print_keys(released: list[KeysReleased], zone: str) -> None:
    if not released:
        print("no system was given a key to this request, as far as the log still goes back")
        return
    table = table_of(("system", "key first given", "last given", "times", "to the owner of"))
    for system in sorted({one.system for one in released}):
        mine = [one for one in released if one.system == system]
        moments = sorted(one.released_at for one in mine)
        kids = ", ".join(sorted({one.kid or "no key: signatures are off" for one in mine}))
        table.add_row(system, moment(moments[0], zone), moment(moments[-1], zone), str(len(mine)), kids)
    print_table(table)


def _shown(dossier: Dossier, now: datetime) -> dict[str, Any]:
    confirmation = dossier.view.confirmation
    return {
        **as_document(dossier.view, now),
        "history": [
            {
                "sequence": entry.sequence,
                "at": entry.at.isoformat(),
                "cause": entry.cause,
                "phase": entry.phase.value,
                "facts": [{"fact": f.fact, "details": f.details, "text": sentence(f)} for f in entry.facts],
            }
            for entry in dossier.entries
        ],
        "confirmation": confirmation.model_dump(mode="json", exclude_none=True) if confirmation else None,
    }


def list_command(
    *,
    due_before: Annotated[datetime | None, typer.Option(help="Only those due before this day", formats=["%Y-%m-%d"])] = None,
    phase: Annotated[Phase | None, typer.Option(help="Only those in this phase", show_default="all that are open")] = None,
    right: Annotated[Right | None, typer.Option(help="Only requests for this right")] = None,
    overdue: Annotated[bool, typer.Option("--overdue", help="Only open ones whose due date has passed")] = False,
    attention: Annotated[
        bool, typer.Option("--attention", help="What a person must decide or look at, of closed requests too")
    ] = False,
    prefix: Prefix = DEFAULT_PREFIX,
    bootstrap: Bootstrap = None,
    as_json: JsonOutput = False,
) -> None:
    """List requests by due date, with days left; reads the journal from its beginning.

    With --attention: one line for each thing that waits for a person, and the command that helps.

    Example: dsr list --due-before 2026-04-01 --right erasure
    """
    from orchestrator.adapters.clock import SystemClock

    with usage():
        views, count = asyncio.run(fold_journal(bootstrap or current_bootstrap(), topics_of(prefix)))
    now = SystemClock().now()

    def fits(view: RequestView) -> bool:
        left = view.days_left(now)
        return (
            (view.phase is phase if phase else attention or view.phase is not Phase.CLOSED)
            and right in (None, view.right)
            and (due_before is None or (view.due_on is not None and view.due_on < due_before.date()))
            and (not overdue or (view.phase is not Phase.CLOSED and left is not None and left < 0))
        )

    chosen = sorted((view for view in views.values() if fits(view)), key=lambda view: view.by_due_date)
    if attention:
        _print_attention(in_order([one for view in chosen for one in matters(view, now)]), len(views), count, as_json=as_json)
        return
    if as_json:
        print_json({"journal_records": count, "requests": [as_document(view, now) for view in chosen]})
        return
    if chosen:
        print_table(_listed(chosen, now, is_closed=phase is Phase.CLOSED))
    print(f"{len(chosen)} of {len(views)} requests; {count} journal records read")


def _print_attention(found: list[Attention], requests: int, count: int, *, as_json: bool) -> None:
    if as_json:
        print_json({"journal_records": count, "attention": [as_record(one) for one in found]})
        return
    if found:
        table = table_of(("since", "right", "phase", "why", "what helps"))
        for one in found:
            table.add_row(one.since, one.view.right, one.view.phase.value, one.why, one.helps)
        print_table(table, _WIDE)
    concerned = len({one.view.subject_request_id for one in found})
    print(f"{len(found)} to decide or look at, in {concerned} of {requests} requests; {count} journal records read")


def _listed(views: Iterable[RequestView], now: datetime, *, is_closed: bool) -> Table:
    stands = "result" if is_closed else "waits for"
    table = table_of(("due on", "days left", "right", "phase", "answered", stands, "subject_request_id"))
    for view in views:
        settled = sum(system.phase is OrderPhase.SETTLED for system in view.systems.values())
        left = "" if view.phase is Phase.CLOSED else str(view.days_left(now))
        answered = f"{settled} of {len(view.systems)}" if view.systems else ""
        table.add_row(
            str(view.due_on or ""), left, view.right, view.phase.value, answered, _waits_for(view), view.subject_request_id
        )
    return table


def _waits_for(view: RequestView) -> str:
    """Return the nearest reason why it is not closed, in a few words; of a closed one, how it ended."""
    whole = (
        (view.phase is Phase.CLOSED, view.result or ""),
        (view.hold is not None, f"hold ({view.hold[0] if view.hold else ''})"),
        (view.phase is Phase.VERIFYING, f"portal {view.portal}"),
        (view.leader is not None, "its duplicate"),
    )
    for stands_still, why in whole:
        if stands_still:
            return why
    decide = [system.system for system in view.systems.values() if system.phase is OrderPhase.ESCALATED]
    if decide:
        return f"a decision on {', '.join(decide)}"
    asked = [s.system for s in view.systems.values() if s.phase in {OrderPhase.SENT, OrderPhase.ACCEPTED}]
    return ", ".join((*(["an approval"] if view.approval_awaited else []), *asked))


# Shared -----------------------------------------------------------------------------------------------------------------


def _read(request: str, prefix: str, bootstrap: str | None) -> tuple[Dossier, datetime]:
    """Return what the log tells of the request; ends the command when there is no such request, or it was set aside."""
    from orchestrator.adapters.clock import SystemClock

    with usage():
        found = asyncio.run(read_request(bootstrap or current_bootstrap(), topics_of(prefix), request_id(request)))
    if not found.view.is_known and found.view.confirmation is None:
        for event in found.view.rejections:
            print(f"dsr: it was set aside, nothing was done: {rejected(event)}", file=sys.stderr)
        if not found.view.rejections:
            print("dsr: no such request in the log; `dsr list` shows the open ones", file=sys.stderr)
        raise typer.Exit(EXIT_REFUSED)
    return found, SystemClock().now()


def _headline(view: RequestView, now: datetime) -> str:
    asked = moment(view.submitted_at, view.zone) if view.submitted_at else "?"
    lines = [f"{view.right} asked on {asked} ({view.zone}) through {view.portal}  {view.subject_request_id}"]
    if view.phase is Phase.CLOSED:
        lines.append(f"closed: {view.result}, {'in time' if view.in_time else 'too late'}")
    else:
        left = view.days_left(now)
        rule = view.due.rule if view.due else "?"
        days = f"{left} days left" if left is not None and left >= 0 else f"{-(left or 0)} days too late"
        lines.append(f"{view.phase}, due on {view.due_on}, {days} ({rule})")
        if view.due and view.due.alert_on:
            lines.append(f"  by {view.due.alert_on} if the law does not count the time on hold")
    return "\n".join(lines)


def table_of(headings: Iterable[str]) -> Table:
    """Return an empty table without lines around its cells."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(
            heading,
            overflow="fold",
            no_wrap=heading not in {"what happened", "waits for"},
            justify="right" if heading == "days left" else "left",
        )
    return table


def print_table(table: Table, width: int = _WIDTH) -> None:
    """Print it, as wide as it needs, also where no terminal says how wide it is."""
    from rich.console import Console

    console = Console(width=width, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(table)
    # Rich fills each line up to the table's width; what is copied into a mail should not end in spaces.
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))
