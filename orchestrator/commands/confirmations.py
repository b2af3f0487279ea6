"""`dsr confirmations`: how requests ended, from the topic of confirmations; the answer to "what did we do this month".

Room rules: reads and prints; what a confirmation says was decided by the core.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands.audit import topics_of, usage
from orchestrator.commands.kafka import current_bootstrap
from orchestrator.commands.reading import Bootstrap, JsonOutput, Prefix, print_json, read_confirmations, read_receipts
from orchestrator.commands.status import print_table, table_of
from orchestrator.commands.telling import moment
from schemas.confirmations import Confirmation
from schemas.topics import DEFAULT_PREFIX
from schemas.vocabulary import OutcomeCode, RequestResult, Right

__all__ = ["confirmations_command"]

_PLAIN = {OutcomeCode.FULFILLED, OutcomeCode.NOTHING_HELD}


def confirmations_command(
    *,
    since: Annotated[
        datetime | None, typer.Option(help="Only those closed on this day (UTC) or later", formats=["%Y-%m-%d"])
    ] = None,
    right: Annotated[Right | None, typer.Option(help="Only requests for this right")] = None,
    result: Annotated[RequestResult | None, typer.Option(help="Only those that ended so")] = None,
    late: Annotated[bool, typer.Option("--late", help="Only those closed after the legal period")] = False,
    receipts: Annotated[
        Path | None, typer.Option(help="Also write each one's receipt into this folder, for `dsr verify`", show_default=False)
    ] = None,
    prefix: Prefix = DEFAULT_PREFIX,
    bootstrap: Bootstrap = None,
    as_json: JsonOutput = False,
) -> None:
    """List how requests ended: when, in time or not, and which systems did not simply do it.

    Example: dsr confirmations --since 2026-04-01 --late
    """
    with usage():
        found = asyncio.run(read_confirmations(bootstrap or current_bootstrap(), topics_of(prefix)))
    chosen = sorted(
        (
            one
            for one in found.values()
            if (since is None or one.closed_at.date() >= since.date())
            and right in (None, one.right)
            and result in (None, one.result)
            and not (late and one.in_time)
        ),
        key=lambda one: (one.closed_at, one.subject_request_id),
    )
    if receipts is not None:
        with usage():
            _write_receipts(receipts, bootstrap, prefix, {one.subject_request_id for one in chosen})
    if as_json:
        print_json([one.model_dump(mode="json", exclude_none=True) for one in chosen])
        return
    if chosen:
        table = table_of(("closed at (UTC)", "right", "result", "in time", "otherwise than done", "subject_request_id"))
        for one in chosen:
            in_time = "yes" if one.in_time else "no"
            table.add_row(moment(one.closed_at), one.right, one.result, in_time, _otherwise(one), one.subject_request_id)
        print_table(table)
    print(f"{len(chosen)} of {len(found)} confirmations; {sum(not one.in_time for one in chosen)} late")


def _write_receipts(folder: Path, bootstrap: str | None, prefix: str, wanted: set[str]) -> None:
    found = asyncio.run(read_receipts(bootstrap or current_bootstrap(), topics_of(prefix)))
    folder.mkdir(parents=True, exist_ok=True)
    for request in wanted & found.keys():
        (folder / f"{request}.receipt.json").write_bytes(found[request])
    unsigned = len(wanted - found.keys())
    said = f"; {unsigned} are not signed and have none" if unsigned else ""
    typer.echo(f"{len(wanted & found.keys())} receipts in {folder}{said}", err=True)


def _otherwise(confirmation: Confirmation) -> str:
    """Return the systems that did something else than to fulfil, by what it was; where nothing could be asked, how many."""
    others: dict[str, list[str]] = {}
    for one in confirmation.systems:
        if one.outcome.code not in _PLAIN:
            others.setdefault(one.outcome.code.value, []).append(one.system)
    idle = len(others.pop("not_applicable", ()))
    said = [f"{code}: {', '.join(systems)}" for code, systems in others.items()]
    return "; ".join([*said, f"{idle} not applicable"] if idle else said)
