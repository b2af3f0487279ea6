"""Publishing for operators, and waiting for what answers: the journal entry or the quarantine record that names our record.

Room rules: acts on the bus only, never on the store; which answer belongs to a command is told by its place in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from orchestrator.commands.folding import RequestView
from orchestrator.commands.kafka import current_connection
from orchestrator.commands.reading import Dossier, fold_record, read_request
from schemas.commands import Command, Withdraw
from schemas.confirmations import Confirmation
from schemas.errors import ConfigurationError, ProtocolViolation
from schemas.journal import JournalEntry
from schemas.requests import ConfirmIdentity, RefuseIdentity, SubmitRequest
from schemas.signatures import sign_records
from schemas.topics import Topics
from schemas.trust import SigningKey
from schemas.vocabulary import Phase, RequestResult, Right
from schemas.wire import Headers, encode, headers_of

if TYPE_CHECKING:
    from orchestrator.adapters.conversation import Conversation
    from orchestrator.ports import Record

__all__ = [
    "ACCEPTED",
    "ALREADY",
    "REFUSED",
    "SILENT",
    "TOO_LATE",
    "Answer",
    "act",
    "act_all",
    "decided",
    "follow",
    "speaking_as",
]

ACCEPTED, REFUSED, TOO_LATE, ALREADY, SILENT = "accepted", "refused", "too_late", "already", "no_answer"
#: A confirmation may overtake the journal entry of the same decision, which stands in another topic.
_OVERTAKEN_SECONDS = 1.0


_Spoken = Command | ConfirmIdentity | RefuseIdentity


@dataclass(slots=True)
class Answer:
    """What became of a record: one of the words above, with the entry or the reason."""

    word: str
    #: Where the record stands: topic-partition-offset; empty if nothing was published.
    place: str
    entry: JournalEntry | None = None
    violation: ProtocolViolation | None = None
    dossier: Dossier | None = field(default=None, repr=False)


async def act(
    bootstrap: str,
    topics: Topics,
    message: Command | ConfirmIdentity | RefuseIdentity,
    *,
    seconds: float,
    signer: SigningKey | None,
    right: Right | None = None,
) -> Answer:
    """Publish a command or a portal's word, and return its answer; with no answer in time the word is `no_answer`.

    A portal's word goes by the topic of its request's right; without `right` by that of rights which are not urgent.

    That it is accepted does not imply that systems have done anything yet: see `dsr status`.
    """
    from orchestrator.adapters.conversation import conversation

    spoken = topics.requests if right is None else topics.requests_for(right)
    says = topics.commands if isinstance(message, Command) else spoken
    hears = (topics.journal, topics.quarantine, topics.confirmations)
    async with conversation(bootstrap, says, hears, current_connection()) as talk:
        place = await talk.say(says, *_record(says, message, signer))
        found = await _answer(talk, topics, message, place, seconds)
        if found.word == ALREADY:
            overtaken = await _answer(talk, topics, message, place, _OVERTAKEN_SECONDS)
            return overtaken if overtaken.entry else found
        return found


async def decided(bootstrap: str, topics: Topics, message: ConfirmIdentity | RefuseIdentity) -> Answer | None:
    """Return what a portal's word on an identity would come to where that is decided already, None where it must be said.

    The core passes over such a word without a trace in the log, so whoever publishes it waits for nothing. What another portal
    says is never passed over.
    """
    dossier = await read_request(bootstrap, topics, message.subject_request_id)
    view = dossier.view
    if view.portal != message.portal or view.phase in {Phase.RECEIVED, Phase.VERIFYING}:
        return None
    if view.phase is Phase.CLOSED:
        is_so = isinstance(message, RefuseIdentity) and view.result == RequestResult.IDENTITY_NOT_CONFIRMED
    else:
        is_so = isinstance(message, ConfirmIdentity)
    return Answer(ALREADY if is_so else TOO_LATE, "", dossier=dossier)


async def _answer(talk: Conversation, topics: Topics, message: _Spoken, place: str, seconds: float) -> Answer:
    places = {place: message.subject_request_id}
    async for record in talk.hear(seconds):
        found = _answer_in(record, topics, places)
        if found is not None:
            return found
        if isinstance(message, Withdraw) and _says_withdrawn(record, topics, message.subject_request_id):
            # A withdrawal of what is withdrawn leaves no entry: the same confirmation is said again.
            return Answer(ALREADY, place)
    return Answer(SILENT, place)


async def act_all(
    bootstrap: str,
    topics: Topics,
    messages: Sequence[Command],
    *,
    at_once: int,
    seconds: float,
    signer: SigningKey | None,
    tell: Callable[[int], None],
) -> dict[str, Answer]:
    """Publish commands, each of another request, so many at once, and return their answers by request; see `act`.

    `seconds` is for the answers to each lot. After a refusal no further lot is published; what was not has no answer. `tell` is
    told how many have been published.
    """
    from orchestrator.adapters.conversation import conversation

    says, hears = topics.commands, (topics.journal, topics.quarantine)
    answers: dict[str, Answer] = {}
    async with conversation(bootstrap, says, hears, current_connection()) as talk:
        for start in range(0, len(messages), at_once):
            tell(start)
            lot = messages[start : start + at_once]
            places = {await talk.say(says, *_record(says, message, signer)): message.subject_request_id for message in lot}
            answers |= {request: Answer(SILENT, place) for place, request in places.items()}
            answers |= await _answers(talk, topics, places, seconds)
            if any(answer.word == REFUSED for answer in answers.values()):
                break
    return answers


async def _answers(talk: Conversation, topics: Topics, places: Mapping[str, str], seconds: float) -> dict[str, Answer]:
    found: dict[str, Answer] = {}
    async for record in talk.hear(seconds):
        answer = _answer_in(record, topics, places)
        if answer is not None:
            found[places[answer.place]] = answer
            if len(found) == len(places):
                break
    return found


def _answer_in(record: Record, topics: Topics, places: Mapping[str, str]) -> Answer | None:
    """Return what journal or quarantine say, in this record, of one at these places; each place is of the request it names."""
    if record.topic == topics.quarantine:
        place = origin_in(record)
        violation = refusal_of(record, place) if place in places else None
        return None if violation is None else Answer(REFUSED, place, violation=violation)
    request = (record.key or b"").decode("ascii", "replace")
    if record.topic != topics.journal or record.value is None or request not in places.values():
        return None
    entry = JournalEntry.model_validate_json(record.value)
    if places.get(entry.source) != request:
        return None
    late = any(fact.fact == "withdrawal_too_late" for fact in entry.facts)
    return Answer(TOO_LATE if late else ACCEPTED, entry.source, entry=entry)


def speaking_as(principal: str) -> SigningKey | None:
    """Return the key of this principal from the settings, None if signatures are off. Raises `ConfigurationError`."""
    from orchestrator.settings import load_settings

    settings = load_settings()
    if settings.signatures == "off":
        return None
    signer = settings.signer()
    if signer is None:
        raise ConfigurationError(
            f"DSR_SIGNING_KEY_FILE is not set: name your key from `dsr keys new {principal}`; where the installation has"
            " signatures off, set DSR_SIGNATURES=off"
        )
    if signer.principal != principal:
        raise ConfigurationError(f"DSR_SIGNING_KEY_FILE is the key of {signer.principal}: this must be signed by {principal}")
    return signer


def _record(topic: str, message: _Spoken | SubmitRequest, signer: SigningKey | None) -> tuple[bytes, bytes, Headers]:
    plain = (topic, message.subject_request_id.encode(), encode(message), headers_of(message))
    headers = plain[3] if signer is None else sign_records([plain], signer)[0]
    return plain[1], plain[2], headers


def _says_withdrawn(record: Record, topics: Topics, request: str) -> bool:
    if record.topic != topics.confirmations or record.key != request.encode() or record.value is None:
        return False
    return Confirmation.model_validate_json(record.value).result is RequestResult.WITHDRAWN


def origin_in(record: Record) -> str:
    """Return where the record stood that this quarantine record is about: topic-partition-offset."""
    headers = {name: value.decode("utf-8", "replace") for name, value in record.headers}
    return "-".join(headers.get(f"dsr-origin-{part}", "") for part in ("topic", "partition", "offset"))


def refusal_of(record: Record, place: str) -> ProtocolViolation | None:
    """Return why the record at `place` was set aside, if this quarantine record is about it."""
    if origin_in(record) != place:
        return None
    headers = {name: value.decode("utf-8", "replace") for name, value in record.headers}
    return ProtocolViolation(
        headers.get("dsr-reason", ""), field=headers.get("dsr-field", ""), remedy=headers.get("dsr-remedy", "")
    )


async def follow(
    bootstrap: str, topics: Topics, message: SubmitRequest, *, seconds: float, signer: SigningKey | None
) -> Answer:
    """Publish a request; follow it until it is closed or set aside, or the time is over (`no_answer`, with what is known)."""
    from orchestrator.adapters.conversation import conversation

    request = message.subject_request_id
    dossier = Dossier(RequestView(request))
    hears = (topics.journal, topics.status, topics.confirmations, topics.quarantine)
    says = topics.requests_for(message.right)
    async with conversation(bootstrap, says, hears, current_connection()) as talk:
        place = await talk.say(says, *_record(says, message, signer))
        if seconds <= 0:
            return Answer(SILENT, place, dossier=dossier)
        async for record in talk.hear(seconds):
            if record.topic == topics.quarantine:
                refused = _answer_in(record, topics, {place: request})
                if refused is not None:
                    return replace(refused, dossier=dossier)
            elif record.key == request.encode():
                fold_record(dossier, topics, record.topic, record.value)
                # Both: the journal and the confirmation come by different topics.
                if dossier.view.phase is Phase.CLOSED and dossier.view.confirmation is not None:
                    return Answer(ACCEPTED, place, dossier=dossier)
    return Answer(SILENT, place, dossier=dossier)
