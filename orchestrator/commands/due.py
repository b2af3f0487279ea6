"""`dsr due`: the legal dates of a request, with the arithmetic and its source.

Room rules: reads the command line and prints; every date comes from `orchestrator.core.deadlines`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated, NoReturn
from zoneinfo import ZoneInfo

import typer

from schemas.errors import ConfigurationError, ProtocolViolation
from schemas.vocabulary import ExtensionReason, HoldKind, Right

if TYPE_CHECKING:
    from orchestrator.core.deadlines import ClockEvent, Due

__all__ = ["due_command"]

_CAVEAT = "Computed from the events you gave. Not legal advice: check with counsel."
_PAUSES = (HoldKind.IDENTITY, HoldKind.CLARIFICATION, HoldKind.FEE)


def due_command(
    *,
    rule: Annotated[str, typer.Option(help="Rule id, see --list")] = "eu.gdpr",
    received: Annotated[
        str, typer.Option(help="When the request arrived: 2026-03-05T10:00, read in --zone, or with an offset")
    ] = "",
    zone: Annotated[str, typer.Option(help="IANA zone of the controller's seat")] = "Europe/Amsterdam",
    calendar: Annotated[
        str, typer.Option(help="Holiday calendar of the seat: NL, NL-ATW, FR, DE-BY, GB-ENG, US-CA*, -")
    ] = "NL",
    right: Annotated[str, typer.Option(help="The right asked for: matters for pauses in the UK")] = "",
    sent: Annotated[str, typer.Option(help="When the person sent it, for rules that count from there")] = "",
    paused: Annotated[
        list[str], typer.Option(help="DATE..DATE, or identity:, clarification:, fee: before it; repeatable")
    ] = [],  # noqa: B006 - typer copies it for every call
    identity_confirmed: Annotated[str, typer.Option(help="Date on which the identity information arrived")] = "",
    extended: Annotated[str, typer.Option(help="When the notice of the extension left")] = "",
    until: Annotated[str, typer.Option(help="The date named in that notice, where the rule leaves it open")] = "",
    conservative: Annotated[bool, typer.Option("--conservative", help="Take the earlier of two readings")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show the arithmetic")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
    as_list: Annotated[bool, typer.Option("--list", help="Show the rules and leave")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the generated part of docs/deadlines.md and leave")
    ] = False,
) -> None:
    """Compute the legal dates of a request: first due date, extension, acknowledgement, notice.

    Example: dsr due --rule eu.gdpr --received 2026-03-05T10:00 --explain
    """
    from orchestrator.core.deadlines import due, rules_page, seat

    if markdown:
        typer.echo(rules_page(), nl=False)
        return
    if as_list:
        _show_rules()
        return
    try:
        events = _events(
            seat(zone), received, sent, paused=paused, confirmed=identity_confirmed, extended=extended, until=until
        )
        asked = _right(right)
        found = due(rule, events, zone=zone, calendar=calendar, conservative=conservative, right=asked)
    except (ConfigurationError, ProtocolViolation) as refusal:
        _refuse(str(refusal))
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        _show(found, explain=explain)


def _refuse(sentence: str) -> NoReturn:
    typer.echo(f"dsr due: {sentence}", err=True)
    raise typer.Exit(2)


def _wrong(option: str, value: str, valid: str) -> ConfigurationError:
    given = f"{value!r} is not valid" if value else "is missing"
    return ConfigurationError(f"{option}: {given}; valid are {valid}")


def _instant(option: str, text: str, zone: ZoneInfo) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise _wrong(option, text, "2026-03-05, 2026-03-05T10:00 (read in --zone) and 2026-03-05T10:00+01:00") from None
    return (at if at.tzinfo else at.replace(tzinfo=zone)).astimezone(UTC)


def _day(option: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise _wrong(option, text, "dates of the form 2026-03-19") from None


def _right(text: str) -> Right | None:
    from orchestrator.core.deadlines.errors import unknown_name

    if not text:
        return None
    if text not in set(Right):
        raise unknown_name("--right", text, set(Right))
    return Right(text)


def _events(
    zone: ZoneInfo, received: str, sent: str, *, paused: list[str], confirmed: str, extended: str, until: str
) -> tuple[ClockEvent, ...]:
    from orchestrator.core.deadlines import Extended, IdentityConfirmed, Received

    at = _instant("--received", received, zone)
    sent_at = _instant("--sent", sent, zone) if sent else None
    if sent_at is not None and sent_at > at:
        raise _wrong("--sent", sent, f"moments before --received ({received})")
    events: list[ClockEvent] = [Received(at=at, sent_at=sent_at)]
    for text in paused:
        events += _pause(text)
    if confirmed:
        events.append(IdentityConfirmed(on=_day("--identity-confirmed", confirmed)))
    if extended:
        named = _day("--until", until) if until else None
        notice_sent_at = _instant("--extended", extended, zone)
        events.append(Extended(reason=ExtensionReason.COMPLEXITY, notice_sent_at=notice_sent_at, until_on=named))
    elif until:
        raise _wrong("--until", until, "dates together with --extended, the moment the notice left")
    return tuple(events)


def _pause(text: str) -> Iterator[ClockEvent]:
    from orchestrator.core.deadlines import Paused, Resumed
    from orchestrator.core.deadlines.errors import unknown_name

    kind, colon, span = text.rpartition(":")
    if colon and kind not in _PAUSES:
        raise unknown_name("--paused", kind, _PAUSES)
    reason = HoldKind(kind) if colon else HoldKind.CLARIFICATION
    asked, dots, answered = span.partition("..")
    if not dots:
        raise _wrong("--paused", text, "2026-03-10..2026-03-19 and, while the answer is awaited, 2026-03-10..")
    yield Paused(reason=reason, asked_on=_day("--paused", asked))
    if answered:
        yield Resumed(reason=reason, received_on=_day("--paused", answered))


def _show(found: Due, *, explain: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from orchestrator.core.deadlines import rule_named

    console = Console()
    table = Table(
        title=f"{found.rule}: {rule_named(found.rule).right}", title_justify="left", show_header=False, pad_edge=False
    )
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for label, day in _rows(found):
        table.add_row(label, day)
    table.add_row("period ends", f"{found.due_at:%Y-%m-%dT%H:%M}Z")
    if found.paused_since:
        table.add_row("clock", f"a question is open since {_long(found.paused_since)}; the dates do not count it yet")
    table.add_row("source", f"{found.source} ({found.confidence})")
    console.print(table)
    if explain:
        steps = Table.grid(padding=(0, 1))
        for number, step in enumerate(found.steps, 1):
            steps.add_row(f"{number}.", Text(step))
        console.print(steps)
    console.print(_CAVEAT, style="italic")


def _rows(found: Due) -> Iterator[tuple[str, str]]:
    rows = (
        (f"{found.duty} by", found.due_on),
        ("acknowledge by", found.acknowledge_by_on if found.acknowledge_by_on != found.due_on else None),
        ("inform by", found.inform_by_on),
        ("tell of an extension by", found.notice_by_on),
        ("if extended" if found.applicable_due_on == found.due_on else "extended to", found.extended_due_on),
        ("warn by", found.alert_on if found.alert_on != found.applicable_due_on else None),
    )
    return ((label, _long(day)) for label, day in rows if day is not None)


def _long(day: date) -> str:
    return f"{day:%A} {day.day} {day:%B %Y}"


def _show_rules() -> None:
    from rich.console import Console
    from rich.table import Table

    from orchestrator.core.deadlines import RULES
    from orchestrator.core.deadlines.page import acknowledge_text, answer_text, extension_text

    table = Table(title="Rules", title_justify="left", show_lines=True)
    for head in ("rule", "right", "acknowledge", "duty and period", "extension", "source"):
        table.add_column(head, overflow="fold", no_wrap=head == "rule")
    for rule in RULES.values():
        table.add_row(
            rule.id,
            rule.right,
            acknowledge_text(rule),
            answer_text(rule),
            extension_text(rule),
            f"{rule.source} ({rule.confidence})",
        )
    console = Console()
    console.print(table)
    console.print(_CAVEAT, style="italic")
