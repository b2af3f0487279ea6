"""`dsr deny`, `extend`, `hold`, `resume`, `waive`, `retry`, `add`, `approve`, `withdraw`, `identity`: what people decide.

Each publishes one message and prints what answered it. Exit codes: 0 carried out, 1 refused (with the remedy) or too late,
2 wrong usage, 3 no answer within `--wait` (the command stays on the bus and is carried out when a worker reads it).

Room rules: reads the command line, publishes, prints; whether a decision is allowed is decided by the core.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from orchestrator.commands.acting import ACCEPTED, ALREADY, REFUSED, SILENT, TOO_LATE, Answer, act, decided, speaking_as
from orchestrator.commands.audit import topics_of, usage
from orchestrator.commands.folding import RequestView
from orchestrator.commands.instants import instant
from orchestrator.commands.kafka import current_bootstrap, waiting
from orchestrator.commands.reading import Bootstrap, JsonOutput, Prefix, RequestArgument, print_json, request_id
from orchestrator.commands.telling import sentence
from schemas.commands import Add, Approve, Command, Deny, Extend, Hold, Resume, Retry, Waive, Withdraw
from schemas.errors import ConfigurationError
from schemas.ids import digest
from schemas.requests import ConfirmIdentity, RefuseIdentity, Verification
from schemas.signatures import speaker_of
from schemas.topics import DEFAULT_PREFIX
from schemas.vocabulary import AssuranceLevel, ExtensionReason, HoldKind, IdentityRefusalReason, Phase, RefusalGround, Right
from schemas.wire import encode

__all__ = [
    "EXIT_NO_ANSWER",
    "EXIT_REFUSED",
    "Actor",
    "SystemArgument",
    "command_of",
    "decider",
    "register",
    "verification_of",
]

EXIT_REFUSED = 1
EXIT_NO_ANSWER = 3
_EXITS = {ACCEPTED: 0, ALREADY: 0, REFUSED: EXIT_REFUSED, TOO_LATE: EXIT_REFUSED, SILENT: EXIT_NO_ANSWER}

SystemArgument = Annotated[str, typer.Argument(metavar="SYSTEM", help="The system's id in the registry")]
_Reason = Annotated[str, typer.Option(help="Why; stands in the journal and in the confirmation, so it must not name anybody")]
Actor = Annotated[
    str | None,
    typer.Option(help="Who decides, for instance ops:privacy-office; no mail address", envvar="DSR_ACTOR", show_default=False),
]
_Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait for the answer")]
_DATES = ["%Y-%m-%d"]


def _deny(
    request: RequestArgument,
    *,
    ground: Annotated[RefusalGround, typer.Option(help="The legal ground; the confirmation carries it")],
    reason: _Reason,
    actor: Actor = None,
    wait: _Wait = 10,
    prefix: Prefix = DEFAULT_PREFIX,
    bootstrap: Bootstrap = None,
    as_json: JsonOutput = False,
) -> None:
    """Refuse the request (GDPR Art. 12(4)-(5)); the confirmation carries the ground and the way to complain.

    Example: dsr deny ID --ground excessive --reason "Third request of this kind this month"
    """
    with usage():
        _command(Deny, _Said(request, actor, reason, wait, prefix, bootstrap, as_json), ground=ground)


def _extend(
    request: RequestArgument,
    *,
    because: Annotated[ExtensionReason, typer.Option(help="GDPR Art. 12(3) knows these two")],
    notice_sent_at: Annotated[str, typer.Option(help="When the person was told: an instant with an offset", metavar="INSTANT")],
    reason: _Reason,
    until: Annotated[
        datetime | None, typer.Option(help="Last day that the notice names, if not the longest there is", formats=_DATES)
    ] = None,
    actor: Actor = None,
    wait: _Wait = 10,
    prefix: Prefix = DEFAULT_PREFIX,
    bootstrap: Bootstrap = None,
    as_json: JsonOutput = False,
) -> None:
    """Extend the period (GDPR Art. 12(3)); only valid if the person was told before the first period ended.

    Example: dsr extend ID --because complexity --notice-sent-at 2026-03-20T10:00+01:00 --reason "Twelve systems"
    """
    with usage():
        _command(
            Extend,
            _Said(request, actor, reason, wait, prefix, bootstrap, as_json),
            because=because,
            notice_sent_at=instant("--notice-sent-at", notice_sent_at),
            until_on=_date(until),
        )


def _hold(
    request: RequestArgument,
    *,
    kind: Annotated[HoldKind, typer.Option(help="Decides by rule whether the legal clock stops too")],
    review_on: Annotated[datetime, typer.Option(help="When somebody looks again: no hold without an end", formats=_DATES)],
    reason: _Reason,
    asked_on: Annotated[datetime | None, typer.Option(help="When the person was asked, if not today", formats=_DATES)] = None,
    actor: Actor = None,
    wait: _Wait = 10,
    prefix: Prefix = DEFAULT_PREFIX,
    bootstrap: Bootstrap = None,
    as_json: JsonOutput = False,
) -> None:
    """Stop sending orders until `dsr resume`.

    Example: dsr hold ID --kind clarification --review-on 2026-04-01 --reason "Asked which account is meant"
    """
    with usage():
        _command(
            Hold,
            _Said(request, actor, reason, wait, prefix, bootstrap, as_json),
            kind=kind,
            review_on=review_on.date(),
            asked_on=_date(asked_on),
        )


def _resume(
    request: RequestArgument,
    *,
    reason: _Reason,
    received_on: Annotated[datetime | None, typer.Option(help="When the answer came, if not today", formats=_DATES)] = None,
    actor: Actor = None,
    wait: _Wait = 10,
    prefix: Prefix = DEFAULT_PREFIX,
    bootstrap: Bootstrap = None,
    as_json: JsonOutput = False,
) -> None:
    """End the hold: what waited is sent.

    Example: dsr resume ID --reason "The person has answered"
    """
    with usage():
        _command(Resume, _Said(request, actor, reason, wait, prefix, bootstrap, as_json), received_on=_date(received_on))


def _waive(
    request: RequestArgument,
    system: SystemArgument,
    *,
    reason: _Reason,
    actor: Actor = None,
    wait: _Wait = 10,
    prefix: Prefix = DEFAULT_PREFIX,
    bootstrap: Bootstrap = None,
    as_json: JsonOutput = False,
) -> None:
    """Decide that one system need not answer; the confirmation says who decided and why. It erases nothing.

    Example: dsr waive ID hotjar --reason "The contract has ended and the account is closed"
    """
    with usage():
        _command(Waive, _Said(request, actor, reason, wait, prefix, bootstrap, as_json), system=system)


def _retry(
    request: RequestArgument,
    system: SystemArgument,
    *,
    reason: _Reason,
    actor: Actor = None,
    wait: _Wait = 10,
    prefix: Prefix = DEFAULT_PREFIX,
    bootstrap: Bootstrap = None,
    as_json: JsonOutput = False,
) -> None:
    """Ask one system again after it failed or fell silent.

    Example: dsr retry ID crm --reason "The new token works"
    """
    with usage():
        _command(Retry, _Said(request, actor, reason, wait, prefix, bootstrap, as_json), system=system)


def _add(
    request: RequestArgument,
    system: SystemArgument,
    *,
    reason: _Reason,
    actor: Actor = None,
    wait: _Wait = 10,
    prefix: Prefix = DEFAULT_PREFIX,
    bootstrap: Bootstrap = None,
    as_json: JsonOutput = False,
) -> None:
    """Add a system of today's registry to the frozen plan.

    Example: dsr add ID events --reason "Connected since last week"
    """
    with usage():
        _command(Add, _Said(request, actor, reason, wait, prefix, bootstrap, as_json), system=system)


def _approve(
    request: RequestArgument,
    *,
    reason: _Reason,
    actor: Actor = None,
    wait: _Wait = 10,
    prefix: Prefix = DEFAULT_PREFIX,
    bootstrap: Bootstrap = None,
    as_json: JsonOutput = False,
) -> None:
    """Let irreversible orders leave: the second pair of eyes, never those of who filed the request.

    Example: dsr approve ID --actor ops:colleague --reason "Checked against the account"
    """
    with usage():
        _command(Approve, _Said(request, actor, reason, wait, prefix, bootstrap, as_json))


def _withdraw(
    request: RequestArgument,
    *,
    reason: _Reason,
    actor: Actor = None,
    wait: _Wait = 10,
    prefix: Prefix = DEFAULT_PREFIX,
    bootstrap: Bootstrap = None,
    as_json: JsonOutput = False,
) -> None:
    """Take the request back on the person's behalf; too late once something irreversible was started.

    Example: dsr withdraw ID --reason "The person asked us to by telephone"
    """
    with usage():
        _command(Withdraw, _Said(request, actor, reason, wait, prefix, bootstrap, as_json))


def _identity(
    request: RequestArgument,
    *,
    confirmed: Annotated[
        str | None,
        typer.Option(help="How the portal made sure: METHOD:LEVEL, for instance passport:high", metavar="METHOD:LEVEL"),
    ] = None,
    refused: Annotated[IdentityRefusalReason | None, typer.Option(help="Why it could not")] = None,
    portal: Annotated[str, typer.Option(help="The portal that filed the request: only it may say so")] = "website",
    right: Annotated[
        Right | None, typer.Option(help="The request's right, if it is objection or unsubscribe: it is said on their topic")
    ] = None,
    wait: _Wait = 10,
    prefix: Prefix = DEFAULT_PREFIX,
    bootstrap: Bootstrap = None,
    as_json: JsonOutput = False,
) -> None:
    """Say for a portal that it knows now who asks, or that it could not find out (GDPR Art. 12(6)).

    Example: dsr identity ID --confirmed passport:high --portal service-desk
    """
    from orchestrator.adapters.clock import SystemClock

    with usage():
        now = SystemClock().now()
        if (confirmed is None) == (refused is None):
            raise ConfigurationError("say either --confirmed METHOD:LEVEL or --refused REASON")
        given: dict[str, Any] = {"subject_request_id": request_id(request), "portal": portal}
        message: ConfirmIdentity | RefuseIdentity
        try:
            if confirmed is not None:
                message = ConfirmIdentity(**given, verification=verification_of(confirmed, now))
            else:
                message = RefuseIdentity(**given, reason=refused, refused_at=now)
        except ValidationError as error:
            raise _wrong(error) from None
        _say(message, _Said(request, None, "", wait, prefix, bootstrap, as_json), right)


def register(app: typer.Typer) -> None:
    """Add the commands to `dsr`."""
    for command in (_deny, _extend, _hold, _resume, _waive, _retry, _add, _approve, _withdraw, _identity):
        app.command(command.__name__.removeprefix("_"))(command)


# Between the command line and the bus ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Said:
    """What every command takes."""

    request: str
    actor: str | None
    reason: str
    wait: float
    prefix: str
    bootstrap: str | None
    as_json: bool


def _command(model: type[Command], said: _Said, **fields: Any) -> None:
    _say(command_of(model, request_id(said.request), decider(said.actor), said.reason, **fields), said)


def decider(actor: str | None) -> str:
    """Return who decides. Raises `ConfigurationError` if nobody does."""
    if not actor:
        raise ConfigurationError("say who decides: --actor ops:privacy-office, or DSR_ACTOR")
    return actor


def command_of(model: type[Command], request: str, actor: str, reason: str, **fields: Any) -> Command:
    """Return a command that is issued now. Raises `ConfigurationError` naming the option."""
    from orchestrator.adapters.clock import SystemClock

    given = {
        "command_id": "cmd_unnamed",
        "subject_request_id": request,
        "actor": actor,
        "reason": reason,
        "issued_at": SystemClock().now(),
        **fields,
    }
    try:
        draft = model.model_validate(given)
    except ValidationError as error:
        raise _wrong(error) from None
    # The id follows from the content and its instant: saying it again later is another command.
    command_id = f"cmd_{digest(encode(draft))[:32]}"
    return draft.model_copy(update={"command_id": command_id})


def _say(message: Command | ConfirmIdentity | RefuseIdentity, said: _Said, right: Right | None = None) -> None:
    topics, broker = topics_of(said.prefix), said.bootstrap or current_bootstrap()
    signer = speaking_as(speaker_of(message))
    answer = None
    with waiting(f"waiting for the answer, up to {said.wait:g} s"):
        if isinstance(message, ConfirmIdentity | RefuseIdentity):
            answer = asyncio.run(decided(broker, topics, message))
        if answer is None:
            answer = asyncio.run(act(broker, topics, message, seconds=said.wait, signer=signer, right=right))
    if said.as_json:
        print_json(_document(message, answer))
    else:
        print(_text(message, answer, said.wait))
    raise typer.Exit(_EXITS[answer.word])


def _document(message: Command | ConfirmIdentity | RefuseIdentity, answer: Answer) -> dict[str, Any]:
    entry, violation = answer.entry, answer.violation
    return {
        "subject_request_id": message.subject_request_id,
        "command": type(message).__name__,
        "command_id": getattr(message, "command_id", None),
        "place": answer.place or None,
        "answer": answer.word,
        "phase": entry.phase.value if entry else answer.dossier.view.phase.value if answer.dossier else None,
        "facts": [sentence(fact) for fact in entry.facts] if entry else [],
        "refused": {"code": violation.code, "field": violation.field, "remedy": violation.remedy} if violation else None,
    }


def _text(message: Command | ConfirmIdentity | RefuseIdentity, answer: Answer, wait: float) -> str:
    name, see = type(message).__name__, f"see `dsr status {message.subject_request_id}`"
    if answer.dossier is not None:
        return f"{name}: {_decided(answer.dossier.view)}; nothing was published, {see}"
    match answer.word:
        case "accepted" | "too_late":
            assert answer.entry is not None, "an entry is what accepts"
            facts = "".join(f"\n  {sentence(fact)}" for fact in answer.entry.facts)
            return f"{name}: {answer.word.replace('_', ' ')}; the request is {answer.entry.phase}{facts}"
        case "refused":
            assert answer.violation is not None, "a refusal has a reason"
            return f"{name}: refused, nothing has changed\n  {answer.violation}"
        case "already":
            return f"{name}: the request is withdrawn already"
        case _:
            return f"{name}: no answer within {wait:g} s; it is on the bus as {answer.place} and will be carried out; {see}"


def _decided(view: RequestView) -> str:
    if view.phase is not Phase.CLOSED:
        return f"the identity is confirmed already, the request is {view.phase}"
    return f"the request is closed already ({view.result})"


def _date(given: datetime | None) -> date | None:
    return given.date() if given else None


def verification_of(text: str, now: datetime) -> Verification:
    """Return METHOD:LEVEL as a verification of now. Raises `ConfigurationError`."""
    method, _, level = text.partition(":")
    try:
        return Verification(method=method, level=AssuranceLevel(level), verified_at=now)
    except ValueError:
        raise ConfigurationError(
            f"METHOD:LEVEL is a word such as login, mail_link or passport, and one of {', '.join(AssuranceLevel)}"
        ) from None


_REMEDIES = {
    "actor": "--actor: an id such as ops:privacy-office: lower-case letters, digits, '.', '_', ':' and '-'; no mail address",
    "reason": "--reason: 3 to 300 characters that name nobody: no address, no telephone or customer number",
    "system": "SYSTEM: the system's id in the registry, as `dsr status` shows it",
    "portal": "--portal: the portal's id in the registry: lower-case letters, digits, '-' and '_'",
}


def _wrong(error: ValidationError) -> ConfigurationError:
    field = str(error.errors(include_input=False, include_url=False)[0]["loc"][0])
    return ConfigurationError(_REMEDIES.get(field, f"--{field.replace('_', '-')}: see --help"))
