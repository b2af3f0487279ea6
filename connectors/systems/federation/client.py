"""The child's bus in our words: publish a request as one of its portals, and find what it says of it.

Room rules: messages in, messages out; no decisions, no library of Kafka, no identity in an error.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from connectors.sdk.clock import Clock
from connectors.sdk.conversation import Conversation, Heard
from schemas.confirmations import Confirmation
from schemas.errors import ProtocolViolation, SystemRejected
from schemas.intake import IntakePublicKey
from schemas.portal import record_of
from schemas.requests import SubmitRequest, WithdrawRequest
from schemas.signatures import Verifier, leaf_of, signature_in
from schemas.status import StatusEvent
from schemas.topics import Topics, kind_of
from schemas.trust import ORCHESTRATOR, SigningKey, Trust
from schemas.vocabulary import FailureReason, Right
from schemas.wire import decode

__all__ = ["Child", "ChildBus", "KeySource", "Signatures"]

M = TypeVar("M", Confirmation, StatusEvent)


class ChildBus(Protocol):
    """What the connector needs of the child. Raises `ConnectorError`; everything may be repeated."""

    async def check(self) -> str:
        """Return one line on whether the child's topics can be reached; says nothing to the child."""
        ...

    async def publish(self, message: SubmitRequest | WithdrawRequest, right: Right) -> None:
        """Publish a request for this right, or take it back. Returning does not imply that the child has read it."""
        ...

    async def intake_key(self) -> IntakePublicKey:
        """Return the key that the child's portals seal to now."""
        ...

    @property
    def secret(self) -> bytes:
        """Return what makes a repeated seal the same: 32 bytes that the child does not have."""
        ...

    async def find(self, subject_request_id: str) -> Confirmation | StatusEvent | None:
        """Return the confirmation, or else the newest word on the way, or None if the child has said nothing yet."""
        ...

    async def aclose(self) -> None:
        """Close what was opened."""
        ...


class KeySource(Protocol):
    """Where the child's intake key comes from. Raises `ConnectorError` when it cannot be had now."""

    async def current(self) -> IntakePublicKey:
        """Return the key to seal to now."""
        ...


class Signatures:
    """Signs as a portal of the child, and believes only what the child's orchestrator has signed."""

    def __init__(self, signer: SigningKey, trust: Trust, clock: Clock) -> None:
        self.signer = signer
        self.trust = trust
        self._verifier = Verifier(trust)
        self._clock = clock

    def check(self, heard: Heard, kind: str, subject_request_id: str) -> None:
        """Raise `ProtocolViolation` unless the child's orchestrator signed this record, with a key that is valid now."""
        leaf = leaf_of(kind, kind_of(heard.topic), subject_request_id.encode(), heard.value)
        self._verifier.verify(leaf, signature_in(heard.headers), principal=ORCHESTRATOR, at=self._clock.now())


class Child:
    """Implements `ChildBus` over a conversation on the child's topics."""

    def __init__(
        self, topics: Topics, conversation: Conversation, keys: KeySource, signatures: Signatures | None = None
    ) -> None:
        """Without `signatures` nothing is signed and every answer believed: for a child that has signatures off."""
        self._signatures = signatures
        self._keys = keys
        self._topics = topics
        self._conversation = conversation

    async def check(self) -> str:
        """Ask whether the topics are there."""
        return await self._conversation.check()

    async def intake_key(self) -> IntakePublicKey:
        """Ask the child, or its file."""
        return await self._keys.current()

    @property
    def secret(self) -> bytes:
        """Return what follows from our signing key. With signatures off, on a laptop, guesses at a person may be checked."""
        return self._signatures.signer.derived("federation") if self._signatures else bytes(32)

    async def publish(self, message: SubmitRequest | WithdrawRequest, right: Right) -> None:
        """Publish with the broker's ack, by the topic of its right; a child of an older release has one topic for all."""
        record = record_of(message, self._signatures.signer if self._signatures else None)
        await self._conversation.say(*record, rather_on=self._topics.requests_for(right))

    async def find(self, subject_request_id: str) -> Confirmation | StatusEvent | None:
        """Look both topics up. Raises `SystemRejected(verification_failed)` for what is no answer to this request."""
        heard = await self._conversation.heard(subject_request_id.encode())
        if self._topics.confirmations in heard:
            return self._read(heard[self._topics.confirmations], Confirmation, subject_request_id)
        if self._topics.status in heard:
            return self._read(heard[self._topics.status], StatusEvent, subject_request_id)
        return None

    async def aclose(self) -> None:
        """Close the conversation."""
        await self._conversation.aclose()

    def _read(self, heard: Heard, kind: type[M], subject_request_id: str) -> M:
        try:
            if self._signatures is not None:
                self._signatures.check(heard, kind.__name__, subject_request_id)
            message = decode(heard.value, heard.headers, (kind,))
        except ProtocolViolation as error:
            raise SystemRejected(
                f"the child's {kind.__name__} is not to be believed: {error.code}", reason=FailureReason.VERIFICATION_FAILED
            ) from None
        if not isinstance(message, kind) or message.subject_request_id != subject_request_id:
            raise SystemRejected(f"the child's {kind.__name__} is of another request", reason=FailureReason.VERIFICATION_FAILED)
        return message
