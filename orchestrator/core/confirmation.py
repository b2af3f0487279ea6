"""The one final answer, made from recorded facts alone.

Room rules: no outcome is judged here, only written down; the plain text comes from `wording`.
"""

from __future__ import annotations

from orchestrator.core.draft import Draft
from orchestrator.core.wording import plain_text, recipients_told
from schemas.confirmations import Confirmation, SystemResult
from schemas.ids import confirmation_id
from schemas.vocabulary import OrderPhase
from schemas.wire import encode

__all__ = ["confirm", "results_of"]


def results_of(draft: Draft) -> tuple[SystemResult, ...]:
    """Return how each planned system ended; all must have."""
    return tuple(
        SystemResult.trusted(
            system=order.system,
            title=system.title,
            role=system.role,
            outcome=order.outcome,
            settled_at=order.settled_at,
            attempts=order.attempt,
            report_id=order.report_id,
            report_sha256=order.report_sha256,
            results=order.results,
            notes=order.notes,
        )
        for order in draft.state.orders
        if order.phase is OrderPhase.SETTLED
        for system in (draft.system(order),)
    )


def confirm(draft: Draft, results: tuple[SystemResult, ...]) -> str:
    """Return the confirmation's bytes as text; they are stored, so that they never change."""
    state, controller = draft.state, draft.registry.controller
    assert state.result is not None and state.closed_at is not None and state.due is not None, "only closed requests"
    confirmation = Confirmation.trusted(
        confirmation_id=confirmation_id(state.subject_request_id),
        subject_request_id=state.subject_request_id,
        group_id=state.group_id,
        portal=state.portal,
        right=state.right,
        result=state.result,
        refusal_ground=state.refusal_ground,
        identity_refusal=state.identity_refusal,
        executed_request=state.executed_request,
        received_at=state.submitted_at,
        accepted_at=state.accepted_at,
        closed_at=state.closed_at,
        due=state.due,
        in_time=state.closed_at <= state.due.due_at,
        registry_version=state.registry_version,
        systems=results,
        changes=state.changes,
        recipients_told=recipients_told(results),
        journal_head=state.journal_head,
        text={
            language: plain_text(language, state, results, controller)
            for language in dict.fromkeys((*controller.languages, state.language))
        },
    )
    return encode(confirmation).decode()
