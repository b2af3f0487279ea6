"""Who may say what: records that come in are believed only with the right signature, and what goes out is signed.

| a record of | must be signed by |
| --- | --- |
| a report | `system:` and the system that it names |
| a request, a word on who is asking, a withdrawal | `portal:` and the portal it names; the core knows who filed the request |
| a command | `operator:` and its actor |

Journal entries, status events, confirmations and records of released keys are signed as `orchestrator`. Orders are not: their
identity part is sealed with a key that only the orchestrator and the one connector have, so nobody else can make one that
opens; the word that an order is over names nobody, and is believed once the key desk says the same. Quarantine repeats what
others wrote and vouches for none of it.

Room rules: no decision about a request; a signature is right or the record is set aside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import compress

from orchestrator.ports import Clock, OutRecord, Record
from schemas.base import Message
from schemas.signatures import Verifier, leaf_of, sign_records, signature_in, speaker_of
from schemas.topics import kind_of
from schemas.trust import SigningKey, Trust

__all__ = ["Speakers", "signed"]

#: Kinds of topics whose records are signed when they are published.
_SIGNED = frozenset({"journal", "status", "confirmations", "releases"})


class Speakers:
    """Checks signatures against the keys that count at the instant of reading, which `trust` gives."""

    def __init__(self, trust: Callable[[], Trust], clock: Clock) -> None:
        self._trust = trust
        self._checked_with = trust()
        self._verifier = Verifier(self._checked_with)
        self._clock = clock

    def check(self, record: Record, message: Message) -> None:
        """Return if the record is signed by whom its message names. Raises `ProtocolViolation`; see `Verifier.verify`."""
        trust = self._trust()
        if trust is not self._checked_with:
            # What was verified with a key that counts no more must not be remembered as good.
            self._checked_with, self._verifier = trust, Verifier(trust)
        leaf = leaf_of(type(message).__name__, kind_of(record.topic), record.key or b"", record.value or b"")
        self._verifier.verify(leaf, signature_in(record.headers), principal=speaker_of(message), at=self._clock.now())


def signed(records: Sequence[OutRecord], key: SigningKey) -> list[OutRecord]:
    """Return the records in their order, those that are ours to vouch for with a signature: one tree for all of them.

    The same records give the same bytes, so an outbox batch that is published again repeats itself.
    """
    is_ours = [kind_of(one.topic) in _SIGNED for one in records]
    headers = iter(sign_records([(one.topic, one.key, one.value, one.headers) for one in compress(records, is_ours)], key))
    return [
        OutRecord(one.topic, one.key, one.value, next(headers)) if ours else one
        for one, ours in zip(records, is_ours, strict=True)
    ]
