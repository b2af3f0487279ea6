"""`dsr submit`: file a request as a portal does, for a service desk and for trying things out.

Room rules: an identity is read, sealed and forgotten; it is never printed, and no error repeats it.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from datetime import datetime
from typing import Annotated, Any

import typer

from orchestrator.commands.acting import ACCEPTED, REFUSED, SILENT, Answer, follow, speaking_as
from orchestrator.commands.audit import topics_of, usage
from orchestrator.commands.decisions import EXIT_NO_ANSWER, EXIT_REFUSED, verification_of
from orchestrator.commands.instants import instant
from orchestrator.commands.intake_keys import current_intake_key
from orchestrator.commands.kafka import current_bootstrap, waiting
from orchestrator.commands.reading import Bootstrap, JsonOutput, Prefix, print_json
from orchestrator.commands.telling import as_document, awaited
from schemas.errors import ConfigurationError, ProtocolViolation
from schemas.portal import build_request
from schemas.requests import SubmitRequest
from schemas.topics import DEFAULT_PREFIX
from schemas.trust import portal_principal
from schemas.vocabulary import IdentifierKind, Language, Right

__all__ = ["submit_command"]

_EXITS = {ACCEPTED: 0, REFUSED: EXIT_REFUSED, SILENT: EXIT_NO_ANSWER}


def submit_command(
    *,
    right: Annotated[Right, typer.Option(help="What the person asks for")],
    email: Annotated[list[str] | None, typer.Option(help="A mail address; - reads it from standard input")] = None,
    phone: Annotated[list[str] | None, typer.Option(help="A telephone number; - reads it")] = None,
    identifier: Annotated[
        list[str] | None, typer.Option(help="Any other identifier, for instance account_id=-", metavar="KIND=VALUE")
    ] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="For rectification and completion: a new value", metavar="FIELD=VALUE")
    ] = None,
    portal: Annotated[str, typer.Option(help="The portal that files it; its id in the registry")] = "website",
    verified: Annotated[
        str | None, typer.Option(help="How it was made sure who asks, for instance login:substantial", metavar="METHOD:LEVEL")
    ] = None,
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Not yet: nothing is sent until `dsr identity ID --confirmed ...`")
    ] = False,
    asked_at: Annotated[
        str, typer.Option(help="When the person asked, with an offset: the legal clock starts here", show_default="now")
    ] = "",
    language: Annotated[Language, typer.Option(help="Language of the answer")] = Language.EN,
    actor: Annotated[
        str | None, typer.Option(help="Who files it: cannot approve it later", envvar="DSR_ACTOR", show_default=False)
    ] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to follow it until it is confirmed")] = 0,
    prefix: Prefix = DEFAULT_PREFIX,
    bootstrap: Bootstrap = None,
    as_json: JsonOutput = False,
) -> None:
    """File a request and print its subject_request_id; with --wait follow it and print the confirmation.

    What stands on a command line can be read by others on this machine: give `-` and type the value. Exit codes: 0 published
    (with --wait: confirmed), 1 set aside, 2 wrong usage, 3 not confirmed within --wait.

    Example: dsr submit --right erasure --email - --verified passport:high --portal service-desk --wait 60
    """
    from orchestrator.adapters.clock import SystemClock

    with usage():
        if (verified is None) == (not unverified):
            raise ConfigurationError("say either --verified METHOD:LEVEL, for instance login:substantial, or --unverified")
        now = SystemClock().now()
        request = _built(
            right=right,
            identifiers=_identifiers(email, phone, identifier),
            changes=dict(_pair("--set", "first_name=Robin", text) for text in change or ()),
            portal=portal,
            key=current_intake_key(),
            submitted_at=instant("--asked-at", asked_at) if asked_at else now,
            subject_request_id=str(uuid.uuid4()),  # noqa: TID251 - whoever files a request makes its id
            verification=verification_of(verified, now) if verified else None,
            language=language,
            filed_by=actor,
        )
        broker = bootstrap or current_bootstrap()
        signer = speaking_as(portal_principal(portal))
        with waiting(f"{request.subject_request_id}: waiting for its confirmation, up to {wait:g} s" if wait else "publishing"):
            answer = asyncio.run(follow(broker, topics_of(prefix), request, seconds=wait, signer=signer))
        now = SystemClock().now()
    if as_json:
        print_json(_document(request, answer, now, followed=wait > 0))
    else:
        _print(request, answer, wait)
    raise typer.Exit(_EXITS[answer.word] if wait > 0 else 0)


def _built(**given: Any) -> SubmitRequest:
    try:
        return build_request(**given)
    except ProtocolViolation as violation:
        option = _OPTIONS.get(violation.field.removeprefix("sealed."), "the request")
        raise ConfigurationError(f"{option}: {violation.remedy}") from None


_OPTIONS = {
    "identifiers": "--email, --phone or --identifier KIND=VALUE",
    "identifiers.email": "--email",
    "identifiers.phone": "--phone",
    "changes": "--set FIELD=VALUE",
    "field": "--set FIELD=VALUE",
    "portal": "--portal",
    "filed_by": "--actor",
}


def _identifiers(email: list[str] | None, phone: list[str] | None, others: list[str] | None) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    pairs = [(IdentifierKind.EMAIL.value, value) for value in email or ()]
    pairs += [(IdentifierKind.PHONE.value, value) for value in phone or ()]
    pairs += [_pair("--identifier", "account_id=-", text) for text in others or ()]
    for kind, value in pairs:
        if kind not in set(IdentifierKind):
            raise ConfigurationError(f"--identifier KIND=VALUE: kinds are {', '.join(IdentifierKind)}")
        found.setdefault(kind, []).append(_typed(kind) if value == "-" else value)
    return found


def _pair(option: str, example: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigurationError(f"{option}: give NAME=VALUE, for instance {example}")
    return name, value


def _typed(kind: str) -> str:
    """Read a value that stands on no command line and in no shell's history."""
    if sys.stdin.isatty():
        return str(typer.prompt(kind, err=True, hide_input=True))
    value = sys.stdin.readline().strip()
    if not value:
        raise ConfigurationError(f"{kind} is empty: give its value on standard input, a line for each -")
    return value


def _document(request: SubmitRequest, answer: Answer, now: datetime, *, followed: bool) -> dict[str, Any]:
    document: dict[str, Any] = {"subject_request_id": request.subject_request_id, "place": answer.place}
    if not followed:
        return {**document, "answer": "published"}
    violation, dossier = answer.violation, answer.dossier
    assert dossier is not None, "what is followed has a dossier"
    confirmation = dossier.view.confirmation
    return {
        **document,
        "answer": {ACCEPTED: "confirmed", REFUSED: "rejected", SILENT: "open"}[answer.word],
        "refused": {"code": violation.code, "field": violation.field, "remedy": violation.remedy} if violation else None,
        "status": as_document(dossier.view, now),
        "confirmation": confirmation.model_dump(mode="json", exclude_none=True) if confirmation else None,
    }


def _print(request: SubmitRequest, answer: Answer, wait: float) -> None:
    print(request.subject_request_id)
    if wait <= 0:
        return
    assert answer.dossier is not None, "what is followed has a dossier"
    view = answer.dossier.view
    if answer.violation is not None:
        print(f"set aside, nothing was done\n  {answer.violation}", file=sys.stderr)
    elif view.confirmation is not None:
        print(view.confirmation.text[request.language])
    else:
        waits = awaited(view) if view.is_known else ["a worker must read it: does one run?"]
        print(f"not confirmed within {wait:g} s; awaited:", *waits, sep="\n  ", file=sys.stderr)
