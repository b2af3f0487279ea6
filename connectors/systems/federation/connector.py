"""A subsidiary that runs its own orchestrator: each order becomes one request there, filed as one of its portals.

The child decides as a controller of its own: we publish, wait for its confirmation, and say here what it says there.

Room rules: decisions only, the bus lives in `client` and behind it; every method may be repeated at any point.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import structlog
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from connectors.sdk.clock import Clock, SystemClock
from connectors.sdk.conversation_kafka import KafkaConversation
from connectors.sdk.passing_on import PassesOn
from connectors.sdk.protocol import Ended, Job, Result, Throttle
from connectors.sdk.settings import SigningSettings, content_of, read
from connectors.systems.federation.answer import ended_as, result_of
from connectors.systems.federation.client import Child, ChildBus, Signatures
from connectors.systems.federation.keys import ChildKeys
from schemas.broker import BrokerReach
from schemas.confirmations import Confirmation
from schemas.errors import ConfigurationError, ProtocolViolation, SystemRejected
from schemas.ids import PortalId
from schemas.outcomes import Accepted, NothingHeld
from schemas.portal import build_request
from schemas.requests import SubmitRequest, WithdrawRequest
from schemas.status import StatusEvent
from schemas.topics import Topics
from schemas.trust import Trust, portal_principal
from schemas.vocabulary import FailureReason, IdentifierKind, Phase, QuarantineReason, StatusCode

__all__ = ["FederationConnector", "FederationSettings", "build", "child_request_id"]

_log = structlog.get_logger("dsr.connector")

#: Namespace of the ids of requests to subsidiaries (RFC 9562 section 5.5), itself derived from a name.
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:dsr:federation:child-request")
_MAX_GENERATIONS = 20
_LOOKS_EVERY_SECONDS = 0.25
#: Stands for the due date of a child that has not named one.
_WORD_WITHIN = timedelta(days=30)


class FederationSettings(BrokerReach, SigningSettings):
    """One child, from the environment (`DSR_FEDERATION_...`). Two subsidiaries are two processes with two environments."""

    model_config = SettingsConfigDict(env_prefix="DSR_FEDERATION_")

    kafka_bootstrap: Annotated[str, Field(description="The child's brokers, host:port with commas")]
    topic_prefix: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$", description="First part of the child's topics")]
    portal: Annotated[PortalId, Field(description="Our id among the portals of the child's registry")]
    intake_keys: Annotated[
        str, Field(min_length=1, description="The child's intake keys: the URL of its page /v1/intake-keys, or a file")
    ]
    trust_file: Annotated[Path | None, Field(description="JWK set with the public keys of the child's orchestrator")] = None
    acknowledged_within_seconds: Annotated[
        float, Field(ge=0, le=60, description="How long a new request waits for the child's due date before it is reported")
    ] = 5.0
    id_version: Annotated[Literal[4, 5], Field(description="Version digit of request ids; their derivation is a 5")] = 4
    timeout_seconds: Annotated[float, Field(gt=0, description="For one publication or one look at the answers")] = 30.0
    concurrent: Annotated[int, Field(ge=1)] = 8


def child_request_id(job: Job | Ended, *, generation: int = 0, version: int = 4) -> str:
    """Return the id of the request to the child: the same for the same parent request, system (its order) and right.

    A further generation is only used when the child ended or never took the one before and a person ordered a retry. The
    derivation is a UUID of version 5; the version digit says 4 unless told otherwise, as portals are used to.
    """
    derived = uuid.uuid5(_NAMESPACE, f"{job.subject_request_id}\x1f{job.order_id}\x1f{job.right.value}\x1f{generation}")
    return str(derived if version == 5 else uuid.UUID(bytes=derived.bytes, version=4))


class FederationConnector(PassesOn):
    """One subsidiary with an orchestrator of its own."""

    name: ClassVar[str] = "federation"
    needs: ClassVar[frozenset[IdentifierKind]] = frozenset(IdentifierKind)
    yields: ClassVar[frozenset[IdentifierKind]] = frozenset()

    def __init__(self, settings: FederationSettings, child: ChildBus, clock: Clock | None = None) -> None:
        self._settings = settings
        self._child = child
        self._clock = clock or SystemClock()
        self.throttle = Throttle(settings.concurrent)

    async def check(self) -> str:
        """Return one line on the child's topics. That the child knows our portal and key shows with the first request."""
        return f"portal {self._settings.portal}: {await self._child.check()}"

    async def aclose(self) -> None:
        """Leave the child's bus."""
        await self._child.aclose()

    async def poll(self, job: Job, handle: str) -> Result:
        """Look for the child's answer. A request of which the child has said nothing yet is published again, the same.

        The child's topic of requests keeps records for days only: one that was away for longer would never see it.
        """
        said = await self._child.find(handle)
        if said is None:
            await self._child.publish(await self._request(job, handle), job.right)
        return self._result(job, handle, said)

    async def pass_on(self, job: Job) -> Result:
        """Publish the request there, unless the child has it already."""
        request_id, said = await self._request_id(job)
        if said is None:
            await self._child.publish(await self._request(job, request_id), job.right)
            _log.info("child_asked", order_id=job.order_id, subject_request_id=request_id)
            said = await self._acknowledged(request_id)
        return self._result(job, request_id, said)

    async def cancel(self, ended: Ended) -> Result | None:
        """Withdraw the request there, and go on asking until the child has closed it: withdrawn, or done all the same.

        A request that the child ended before counts for nothing; one it has not spoken of may still lie unread on its topic.
        """
        done: Result | None = None
        for generation in range(_MAX_GENERATIONS):
            request_id = child_request_id(ended, generation=generation, version=self._settings.id_version)
            said = await self._child.find(request_id)
            if said is None and (generation > 0 or not ended.has_begun):
                break
            if isinstance(said, Confirmation):
                done = done or self._done_all_the_same(said)
            elif said is None or not _is_set_aside(said):
                await self._withdraw(ended, request_id, said)
                due_on = said.due_on if said is not None and said.due_on is not None else ended.now.date() + _WORD_WITHIN
                return Result(Accepted(expected_by=datetime.combine(due_on, time(), tzinfo=UTC)))
            elif said.phase in {Phase.VERIFYING, Phase.ACTIVE}:
                code = said.rejected.value if said.rejected is not None else "without_a_reason"
                raise SystemRejected(f"the child does not take the withdrawal: {code}", reason=FailureReason.REJECTED)
        return done

    async def _withdraw(self, ended: Ended, request_id: str, said: StatusEvent | None) -> None:
        """Say it, the same each time, until the child says that it came too late."""
        if said is not None and said.code is StatusCode.TOO_LATE:
            return
        word = WithdrawRequest(subject_request_id=request_id, portal=self._settings.portal, withdrawn_at=ended.cancelled_at)
        await self._child.publish(word, ended.right)
        _log.info("child_told_of_withdrawal", order_id=ended.order_id, subject_request_id=request_id)

    def _done_all_the_same(self, said: Confirmation) -> Result | None:
        """Return what the child did; None if it did nothing. Places of results stay there: nobody waits for them."""
        if said.portal != self._settings.portal:
            raise SystemRejected("the child confirmed another portal's request", reason=FailureReason.VERIFICATION_FAILED)
        if ended_as(said) is not None:
            return None
        result = result_of(said)
        return None if isinstance(result.outcome, NothingHeld) else replace(result, exports=())

    async def _request_id(self, job: Job) -> tuple[str, Confirmation | StatusEvent | None]:
        """Return the id to use, and what the child says of it: a retried order goes past requests that came to nothing."""
        for generation in range(_MAX_GENERATIONS):
            request_id = child_request_id(job, generation=generation, version=self._settings.id_version)
            said = await self._child.find(request_id)
            if job.attempt == 1 or not _came_to_nothing(said):
                return request_id, said
        raise SystemRejected("the child ended every request of this order", reason=FailureReason.JOB_FAILED)

    async def _request(self, job: Job, request_id: str) -> SubmitRequest:
        """Return the request, with the same bytes at every repetition while the child's intake key is the same.

        Nothing in it comes from a clock. Sealed to another key it is refused as `id_reused`, and the first one stands.
        """
        if job.verification is None:  # the child would wait for an identity that nobody here confirms
            raise SystemRejected(
                "the order does not say how the person was verified: bring our orchestrator up to date, then retry"
            )
        key = await self._child.intake_key()
        try:
            return build_request(
                job.right,
                job.identifiers,
                portal=self._settings.portal,
                key=key,
                submitted_at=job.received_at,
                subject_request_id=request_id,
                changes=job.changes,
                verification=job.verification,
                secret=self._child.secret,
            )
        except ProtocolViolation as error:
            raise SystemRejected(f"no request can be made of this order: {error.code} at {error.field}") from None

    async def _acknowledged(self, request_id: str) -> Confirmation | StatusEvent | None:
        """Give the child a moment, so that the first report can name its due date; a child that is away is no error."""
        ends_at = self._clock.now() + timedelta(seconds=self._settings.acknowledged_within_seconds)
        while True:
            said = await self._child.find(request_id)
            if said is not None or self._clock.now() >= ends_at:
                return said
            await self._clock.sleep(_LOOKS_EVERY_SECONDS)

    def _result(self, job: Job, request_id: str, said: Confirmation | StatusEvent | None) -> Result:
        if isinstance(said, Confirmation):
            if said.portal != self._settings.portal or said.right is not job.right:
                raise SystemRejected(
                    "the child confirmed another portal's or another right's request", reason=FailureReason.VERIFICATION_FAILED
                )
            code = ended_as(said)
            if code is not None:
                _log.warning("child_ended_without", order_id=job.order_id, code=code)
            return result_of(said)
        if said is not None and _is_set_aside(said):
            code = said.rejected.value if said.rejected is not None else "without_a_reason"
            _log.warning("child_set_aside", order_id=job.order_id, code=code)
            raise SystemRejected(f"the child set the request aside: {code}", reason=FailureReason.REJECTED)
        if said is not None and said.code is StatusCode.IDENTITY_AWAITED:
            _log.warning("child_awaits_identity", order_id=job.order_id)
            raise SystemRejected("the child wants to be surer of who asks: settle that with it, then retry")
        due_on = said.due_on if said is not None and said.due_on is not None else job.due_on
        return Result(Accepted(expected_by=datetime.combine(due_on, time(), tzinfo=UTC)), handle=request_id)


def _is_set_aside(said: StatusEvent) -> bool:
    """Tell whether the child never took the request. An id that it knows already is one that it took."""
    return said.code is StatusCode.REJECTED and said.rejected is not QuarantineReason.ID_REUSED


def _came_to_nothing(said: Confirmation | StatusEvent | None) -> bool:
    if isinstance(said, Confirmation):
        return ended_as(said) is not None
    return said is not None and _is_set_aside(said)


def build(settings: FederationSettings | None = None, clock: Clock | None = None) -> FederationConnector:
    """Build the connector, from the environment unless settings are given. Raises `ConfigurationError`."""
    s = settings or read(FederationSettings)
    topics = Topics(prefix=s.topic_prefix)
    conversation = KafkaConversation(
        s, says=topics.requests, hears=(topics.confirmations, topics.status), timeout_seconds=s.timeout_seconds
    )
    now = clock or SystemClock()
    signatures = _signatures(s, now)
    keys = ChildKeys(s.intake_keys, now, signatures.trust if signatures else None)
    return FederationConnector(s, Child(topics, conversation, keys, signatures), clock)


def _signatures(settings: FederationSettings, clock: Clock) -> Signatures | None:
    signer = settings.signer(portal_principal(settings.portal))
    if signer is None:
        _log.warning("signatures_off", action="set DSR_FEDERATION_SIGNATURES=required outside a laptop or a test")
        return None
    if settings.trust_file is None:
        raise ConfigurationError("DSR_FEDERATION_TRUST_FILE: set it to the JWK set that the child publishes")
    return Signatures(signer, Trust.from_json(content_of(settings.trust_file, "DSR_FEDERATION_TRUST_FILE")), clock)
