"""Call the right method of a connector for one job: the only place where a right becomes a method.

Room rules: no Kafka, no journal; the runtime, the dry run and the conformance suite all come through here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from connectors.sdk.protocol import METHODS, Connector, Job, Result
from schemas.outcomes import NotApplicable
from schemas.vocabulary import NotApplicableReason

__all__ = ["can_search", "perform"]


def can_search(connector: Connector, job: Job) -> bool:
    """Tell whether the job carries at least one identifier that the connector can search by."""
    return any(job.every(kind) for kind in connector.needs)


async def perform(connector: Connector, job: Job) -> Result:
    """Return what the connector answers.

    A right it has no method for is `not_applicable(right_not_offered)`; a job without any identifier it can use is
    `not_applicable(identifier_missing)`: neither call reaches the system. Raises `ConnectorError` as the method does.
    """
    if job.right not in connector.rights:
        return Result(NotApplicable(reason=NotApplicableReason.RIGHT_NOT_OFFERED))
    if not can_search(connector, job):
        return Result(NotApplicable(reason=NotApplicableReason.IDENTIFIER_MISSING))
    method: Callable[[Job], Awaitable[Result]] = getattr(connector, METHODS[job.right])
    return await method(job)
