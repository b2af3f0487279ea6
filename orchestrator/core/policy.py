"""How long things may take, where no law says so: settings of the core, with their reasons.

Room rules: data only; durations are `timedelta`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from orchestrator.core.state import RequestState
from schemas.registry import Registry

__all__ = ["Context", "Policy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Waits without a legal length. Each ends at a moment that is stored with the request."""

    #: How long an unverified request waits for its identity.
    verification: timedelta = timedelta(days=14)
    #: First re-sending of an order without any report; doubled at each further attempt.
    resend_after: timedelta = timedelta(hours=6)
    resend_at_most: timedelta = timedelta(days=2)
    #: A promise (`accepted(expected_by)`) may slip by this much before a person is told.
    promise_grace: timedelta = timedelta(hours=24)
    #: A portal hears something at least this often.
    status_every: timedelta = timedelta(days=7)
    #: A person is told this long before the due date.
    due_soon: timedelta = timedelta(days=5)
    #: Data that a system keeps without a date is asked after once, this long after its answer (GDPR Art. 5(1)(e)).
    retention_review: timedelta = timedelta(days=365)
    #: Submission and arrival further apart than this raise an alert: one of the clocks is wrong, or mail lay about.
    clock_tolerance: timedelta = timedelta(hours=24)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a decision may look at besides the request itself. All of it is passed in; nothing is fetched."""

    registry: Registry
    #: Every registry that an open plan was frozen with, by content digest.
    registries: Mapping[str, Registry]
    policy: Policy = field(default_factory=Policy)
    #: Open, verified requests of the same person, oldest first; without the request itself. Looked at when a request becomes
    #: active, and when a system is added to one.
    siblings: tuple[RequestState, ...] = ()
