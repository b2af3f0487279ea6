"""One of everything, driven through the real core: rights, waivers, retries, duplicates, withdrawals, holds, quarantine."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from audit_world import CANARY, World

from schemas.commands import Add, Approve, Deny, Extend, Hold, Resume, Retry, Waive, Withdraw
from schemas.orders import FulfilmentOrder
from schemas.outcomes import Accepted, Failed, Fulfilled, NothingHeld, Notified, Retained
from schemas.reports import ResultReference
from schemas.requests import ConfirmIdentity, RefuseIdentity, WithdrawRequest
from schemas.vocabulary import (
    ExtensionReason,
    FailureReason,
    HoldKind,
    IdentityRefusalReason,
    RefusalGround,
    RetentionGround,
    Right,
)

__all__ = ["tell"]

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)


def always(outcome: Any) -> Any:
    """Answer with this."""
    return lambda _order, _now: outcome


def exported(order: FulfilmentOrder, now: Any) -> Any:
    """Answer an access request: where the data lies."""
    reference = ResultReference(
        reference=f"exports/{order.system}/1", sha256="ab" * 32, size=10, expires_at=now + timedelta(days=30)
    )
    return Fulfilled(count=3), {"results": (reference,), "notes": ("exported",)}


async def tell(company: World) -> dict[str, str]:
    """Drive it all; return the requests by what happened to them. The last one is still open."""
    told: dict[str, str] = {}
    for part in (_plain, _identity, _systems, _orders_again, _people, _relations, _bad_records, _late, _open):
        told.update(await part(company))
    return told


async def _plain(c: World) -> dict[str, str]:
    c.scripts[""] = []
    told = {right.value: c.submit(right) for right in Right}
    told["canary"] = c.submit(Right.ACCESS, person=CANARY)
    await c.settle()
    message = c.submission(Right.ERASURE)
    told["submitted_twice"] = message.subject_request_id
    first = c.say(c.topics.requests, message)
    await c.settle(answer=False)
    c.again(first)
    await c.settle()
    c.again(first)
    await c.settle()
    return told


async def _identity(c: World) -> dict[str, str]:
    told = {name: c.submit(Right.ACCESS, verified=False) for name in ("confirmed", "not_the_person", "no_answer", "withdrawn")}
    await c.settle()
    confirm = ConfirmIdentity(subject_request_id=told["confirmed"], portal="website", verification=c.verification())
    record = c.say(c.topics.requests, confirm)
    c.again(record)
    c.say(
        c.topics.requests,
        RefuseIdentity(
            subject_request_id=told["not_the_person"],
            portal="website",
            reason=IdentityRefusalReason.NOT_THE_PERSON,
            refused_at=c.now,
        ),
    )
    withdrawal = WithdrawRequest(subject_request_id=told["withdrawn"], portal="website", withdrawn_at=c.now)
    c.say(c.topics.requests, withdrawal)
    await c.settle()
    c.say(c.topics.requests, withdrawal.model_copy(update={"withdrawn_at": c.now + _HOUR}))
    await c.advance(timedelta(days=15))
    return told


async def _systems(c: World) -> dict[str, str]:
    told = {}
    for name, system, outcome in (
        ("nothing_held", "newsletter", NothingHeld()),
        ("retained", "subsidiary", Retained(ground=RetentionGround.LEGAL_OBLIGATION, until=date(2026, 6, 1), count=2)),
        ("notified", "subsidiary", Notified(recipients=("Printer B.V.",))),
        ("effective_by", "newsletter", Fulfilled(count=1, effective_by=date(2026, 5, 7))),
    ):
        told[name] = c.submit(Right.ERASURE)
        c.scripts[told[name], system] = [always(outcome)]
    told["exported"] = c.submit(Right.ACCESS)
    for system in ("crm", "newsletter", "analytics", "subsidiary"):
        c.scripts[told["exported"], system] = [exported]
    told["accepted"] = c.submit(Right.ERASURE)
    c.scripts[told["accepted"], "subsidiary"] = [always(Accepted(expected_by=c.now + 3 * _DAY))]
    await c.settle()
    order = _order(c, told["accepted"], "subsidiary")
    await c.advance(_DAY)
    c.report(order, Accepted(expected_by=c.now + 2 * _DAY))  # same id, other content: nothing follows from it
    c.report(order, Fulfilled(count=4))
    await c.settle()
    repeated = c.report(order, Accepted(expected_by=c.now + 3 * _DAY))  # late progress
    assert repeated is not None
    await c.settle()
    return told


def _order(c: World, request: str, system: str) -> FulfilmentOrder:
    topic = c.topics.orders(system)
    found = [r for r in c.records if r.place.topic == topic and r.key == request.encode()]
    return FulfilmentOrder.model_validate_json(found[-1].value or b"")


async def _orders_again(c: World) -> dict[str, str]:
    told = {name: c.submit(Right.ERASURE) for name in ("resent", "retried", "waived", "waived_after_failure", "contradicted")}
    c.scripts[told["resent"], "newsletter"] = [always(None), always(None), always(Fulfilled(count=2))]
    c.scripts[told["retried"], "newsletter"] = [
        lambda _o, _n: (Failed(reason=FailureReason.UNAVAILABLE), {"notes": ("gave_up",)}),
        always(Fulfilled(count=7)),
    ]
    c.scripts[told["waived"], "newsletter"] = [always(None)] * 20
    told["all_waived"] = c.submit(Right.UNSUBSCRIBE)
    for system in ("crm", "newsletter"):
        c.scripts[told["all_waived"], system] = [always(None)]
    c.scripts[told["waived_after_failure"], "newsletter"] = [always(Failed(reason=FailureReason.REJECTED))]
    await c.settle()
    c.command(Retry, told["retried"], system="newsletter")
    again = c.command(Waive, told["waived"], system="newsletter")
    c.command(Waive, told["waived_after_failure"], system="newsletter")
    for system in ("crm", "newsletter"):
        c.command(Waive, told["all_waived"], system=system)
    await c.settle()
    c.again(again)
    await c.advance(2 * _DAY)
    order = _order(c, told["contradicted"], "newsletter")
    c.report(order, NothingHeld())  # later, and something else than what stands
    c.report(order.model_copy(update={"attempt": 1}), Fulfilled(count=99), notes=("again",))  # same code again
    await c.settle()
    return told


async def _people(c: World) -> dict[str, str]:
    names = ("denied", "extended", "held", "added", "withdrawn_by_operator", "withdrawn_too_late", "approved")
    told = {name: c.submit(Right.ACCESS) for name in names}
    for name in ("denied", "extended", "withdrawn_by_operator", "approved", "held", "added"):
        c.scripts[told[name], "newsletter"] = [always(None)] * 30
    told["erased"] = c.submit(Right.ERASURE)
    c.scripts[told["erased"], "newsletter"] = [always(None)] * 30
    c.scripts[told["withdrawn_by_operator"], "crm"] = [exported]
    await c.settle()
    c.command(Deny, told["denied"], ground=RefusalGround.EXCESSIVE)
    c.command(Extend, told["extended"], because=ExtensionReason.COMPLEXITY, notice_sent_at=c.now)
    named = {"because": ExtensionReason.COMPLEXITY, "notice_sent_at": c.now, "until_on": (c.now + 50 * _DAY).date()}
    c.command(Extend, told["extended"], **named)
    today = c.now.date()
    c.command(Hold, told["held"], kind=HoldKind.CLARIFICATION, asked_on=today, review_on=today + 20 * _DAY)
    c.command(Approve, told["approved"])
    c.command(Withdraw, told["withdrawn_by_operator"])
    c.command(Withdraw, told["erased"])
    c.say(c.topics.requests, WithdrawRequest(subject_request_id=told["erased"], portal="website", withdrawn_at=c.now))
    c.command(Add, told["added"], system="later")  # refused: it is not active
    await c.advance(9 * _DAY)
    c.command(Resume, told["held"], received_on=today + 8 * _DAY)
    await c.settle()
    await c.advance(_DAY)
    for name in ("extended", "held", "added", "approved", "erased"):
        c.command(Waive, told[name], system="newsletter")
    await c.settle()
    return told


async def _relations(c: World) -> dict[str, str]:
    told = {}
    silent = [always(None)] * 40

    def ask(name: str, right: Right, person: str, **more: Any) -> str:
        told[name] = c.submit(right, person=person, **more)
        return told[name]

    # A duplicate that closes with its leader; one whose leader is withdrawn and that does the work itself.
    c.scripts[ask("leader", Right.ACCESS, "twins@example.org"), "newsletter"] = [always(None), always(Fulfilled(count=5))]
    await c.settle()
    ask("duplicate", Right.ACCESS, "twins@example.org")
    c.scripts[ask("gone_leader", Right.ACCESS, "heirs@example.org"), "newsletter"] = list(silent)
    await c.settle()
    ask("heir", Right.ACCESS, "heirs@example.org")
    ask("second_heir", Right.ACCESS, "heirs@example.org")
    await c.settle()
    c.command(Withdraw, told["gone_leader"])
    # An erasure that overtakes a correction, and one that waits for an access request.
    c.scripts[ask("overtaken", Right.RECTIFICATION, "erin@example.org"), "newsletter"] = [
        always(None),
        always(Fulfilled(count=1)),
    ]
    c.scripts[told["overtaken"], "crm"] = [always(Failed(reason=FailureReason.UNAVAILABLE))]
    await c.settle()
    ask("overtaking", Right.ERASURE, "erin@example.org")
    c.scripts[ask("first_access", Right.ACCESS, "ada@example.org"), "newsletter"] = [always(None), always(Fulfilled(count=1))]
    await c.settle()
    ask("then_erasure", Right.ERASURE, "ada@example.org")
    await c.settle()
    await c.advance(_DAY)
    return told


async def _bad_records(c: World) -> dict[str, str]:
    closed = c.submit(Right.ACCESS)
    await c.settle()
    topics = c.topics
    c.put(topics.requests, b"no-json", b"hello")
    c.put(topics.requests, None, b'{"type":"SubmitRequest"}')
    c.put(topics.requests, closed.encode(), b'{"type":"Mystery"}')
    message = c.submission(Right.ACCESS)
    c.say(topics.requests, message.model_copy(update={"subject_request_id": closed}))  # another one's seal under this id
    c.say(topics.requests, message.model_copy(update={"portal": "unknown"}))
    c.command(Deny, closed, ground=RefusalGround.EXCESSIVE)  # too late
    order = _order(c, closed, "newsletter")
    c.say(topics.reports, _report(order, attempt=9))
    c.say(topics.reports, _report(order.model_copy(update={"subject_request_id": c.new_id()}), attempt=1))
    c.command(Waive, c.new_id(), system="newsletter")  # nobody's request
    await c.settle()
    return {"closed_and_bothered": closed}


def _report(order: FulfilmentOrder, *, attempt: int) -> Any:
    from schemas.reports import FulfilmentReport  # noqa: PLC0415 - one use

    return FulfilmentReport(
        report_id=f"rep_{order.system}_{attempt}",
        order_id=order.order_id,
        subject_request_id=order.subject_request_id,
        system=order.system,
        attempt=attempt,
        reported_at=order.issued_at,
        outcome=Fulfilled(count=1),
    )


async def _late(c: World) -> dict[str, str]:
    late = c.submit(Right.ACCESS)
    c.scripts[late, "newsletter"] = [always(None)] * 60
    await c.settle()
    await c.advance(timedelta(days=60))
    c.command(Waive, late, system="newsletter")
    await c.settle()
    await c.advance(timedelta(days=5))
    return {"late": late}


async def _open(c: World) -> dict[str, str]:
    request = c.submit(Right.ERASURE)
    c.scripts[request, "newsletter"] = [always(None)]
    unverified = c.submit(Right.ERASURE, verified=False)
    await c.settle()
    return {"open": request, "unverified": unverified}
