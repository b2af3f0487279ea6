"""Decoders of what comes in at other doors than the orchestrator's topics: mail, and what connectors and portals are answered.

Room rules: those of `tests.fuzz.targets`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import cast

import httpx

from connectors.sdk.bus import Inbound
from connectors.sdk.clock import ManualClock
from connectors.sdk.keys import HttpOrderKeys, KeysUnavailable, OrderKeys
from connectors.sdk.opening import open_order, read_order
from connectors.sdk.s3 import Bucket
from connectors.systems.mailbox.addresses import read_addresses
from connectors.systems.mailbox.connector import _shown
from orchestrator.commands.mail_reading import automatic, guess, parsed, sender_of, subject_of, text_of
from schemas.errors import ConfigurationError, ProtocolViolation, SystemRejected
from schemas.ids import order_id
from schemas.intake import KEY_SET_TYP, IntakeKey, IntakeKeySet
from schemas.order_keys import KeyAnswer, KeyAnswers, OrderKeysError, Purpose, WantedKey, order_root, root_to_text
from schemas.orders import FulfilmentOrder, order_binding, order_terms
from schemas.sealed import Sealed, SealingKey, seal
from schemas.subject import SubjectData
from schemas.trust import ORCHESTRATOR, SigningKey, Trust
from schemas.vocabulary import IdentifierKind, Right
from schemas.wire import encode, headers_of
from tests.fuzz.kept import with_header
from tests.fuzz.target import Target

__all__ = ["received_targets"]

_REQUEST = "6f0e4a3c-1b2d-4c3e-8f4a-5b6c7d8e9f00"
_ORDER = order_id(_REQUEST, "crm")
_AT = datetime(2026, 3, 5, tzinfo=UTC)
_ROOT = SealingKey("request", bytes(range(32)))
_HEADER = (
    b'From: =?utf-8?q?S=C3=B8me?= One <person@example.org>\r\nTo: privacy@example.org, "x" (y) <z@example.org>\r\n'
    b"Subject: =?utf-8?b?TXkgZGF0YQ==?=\r\nMessage-ID: <1@example.org>\r\nAuto-Submitted: no\r\nPrecedence: first-class\r\n"
)
_MAILS = tuple(
    _HEADER + mail.replace(b"\n", b"\r\n")
    for mail in (
        b"""Content-Type: text/plain; charset="utf-8"; name*0*=utf-8''a; name*1=b
Content-Transfer-Encoding: quoted-printable

Please delete my data, Gr=C3=BC=C3=9Fe
> quoted
""",
        b"""Content-Type: text/html; charset*=us-ascii'en'latin-1
Content-Transfer-Encoding: base64

PGI+SGk8L2I+
""",
        b"""Content-Type: multipart/mixed; boundary="x"

--x
Content-Type: multipart/alternative; boundary=y

--y

Hello
--y
Content-Type: text/html

<p>Hello</p>
--y--
--x
Content-Type: message/rfc822

Subject: a

b
--x
Content-Type: text/plain
Content-Transfer-Encoding: x-uuencode
Content-Disposition: attachment; filename*=utf-8''a%20b

begin 644 a
#0V%T
`
end
--x--
""",
    )
)
_HEADERS = tuple(mail.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" for mail in _MAILS)


def received_targets() -> Iterable[Target]:
    """Yield every target of this room."""
    yield Target("mail", _MAILS, _mail, ())
    yield Target("mail, its header", _HEADERS, _mail, ())
    yield Target("mail, its addresses", _HEADERS, read_addresses, ())
    yield Target("mail, for its person", _MAILS, _shown, ())
    yield from _key_sets()
    yield from _key_answers()
    yield from _orders()
    page = (
        b'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        b"<Contents><Key>crm/2026-04-01/a</Key></Contents><CommonPrefixes><Prefix>crm/2026-04-01/</Prefix></CommonPrefixes>"
        b"<NextContinuationToken>b</NextContinuationToken></ListBucketResult>"
    )
    version = b'<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"></VersioningConfiguration>'
    yield Target("s3 list", (page,), lambda data: asyncio.run(_listed(data)), (SystemRejected,))
    yield Target("s3 versioning", (version,), lambda data: asyncio.run(_checked(data)), (SystemRejected, ConfigurationError))


def _mail(data: bytes) -> object:
    """Read it as `dsr mailbox` does."""
    message = parsed(data)
    return guess(subject_of(message), text_of(message)), automatic(message), sender_of(message)


def _key_sets() -> Iterable[Target]:
    signer = SigningKey.new(ORCHESTRATOR)
    trust, keys = Trust.of(signer), IntakeKeySet(keys=(IntakeKey.new("fuzzed").public,))

    def read(signed: str) -> object:
        return IntakeKeySet.from_signed(signed, trust, at=_AT)

    signed, allowed = keys.signed(signer, at=_AT, until=_AT + timedelta(days=1)), (ProtocolViolation, ConfigurationError)
    yield Target("signed intake keys", (signed.encode(),), lambda data: read(data.decode("utf-8", "replace")), allowed)
    header, put = with_header(signed)
    yield Target("signed intake keys, their header", (header,), lambda data: read(put(data)), allowed)
    inside = trust.opened(signed, typ=KEY_SET_TYP)[0]
    yield Target("signed intake keys, inside", (inside,), lambda data: read(signer.sign(data, typ=KEY_SET_TYP)), allowed)


def _key_answers() -> Iterable[Target]:
    """Yield what the key desk may answer, in a status that speaks of orders and in one that refuses the question."""
    given = KeyAnswer(order_id=_ORDER, status=200, key=root_to_text(_ROOT))
    refused = KeyAnswer(order_id=_ORDER, status=410, error="order_closed", remedy="drop it")
    answers = tuple(KeyAnswers(keys=(one,)).model_dump_json().encode() for one in (given, refused))
    yield Target("order keys answer", answers, lambda data: asyncio.run(_fetched(200, data)), (KeysUnavailable,))
    yield Target("order keys answer, of none", answers, lambda data: asyncio.run(_fetched(503, data)), (KeysUnavailable,))
    error = OrderKeysError(error="unauthorised", remedy="send a client assertion as bearer token").model_dump_json().encode()
    # An error in this very form is told as it is: its words are the orchestrator's own.
    yield Target("order keys error", (error,), _refused, (), False)


async def _fetched(status: int, data: bytes) -> object:
    async with _answering(lambda _: httpx.Response(status, content=data)) as client:
        keys = HttpOrderKeys("crm", ["http://127.0.0.1"], client, ManualClock(_AT), prefix="dsr", signer=None)
        return await keys.fetch([WantedKey(subject_request_id=_REQUEST, order_id=_ORDER)])


def _refused(data: bytes) -> None:
    """See that a refusal of the question is told as one, whatever it says."""
    for status in (401, 429):
        assert str(status) in asyncio.run(_told(status, data))


async def _told(status: int, data: bytes) -> str:
    try:
        await _fetched(status, data)
    except KeysUnavailable as refusal:
        return str(refusal)
    raise AssertionError("a refusal passed for an answer")


def _orders() -> Iterable[Target]:
    plain = FulfilmentOrder(
        order_id=_ORDER,
        subject_request_id=_REQUEST,
        system="crm",
        right=Right.ERASURE,
        attempt=1,
        issued_at=_AT,
        received_at=_AT,
        due_on=date(2026, 4, 7),
        respond_by=_AT + timedelta(days=3),
        sealed=Sealed(kid="order", nonce="0" * 16, ciphertext="0" * 24),
        registry_version="1",
    )
    key = order_root(_ROOT, _REQUEST, "crm", _ORDER).derive(Purpose.ORDER)
    # `open_order` asks its keys this one thing.
    keys = cast("OrderKeys", SimpleNamespace(key_for=lambda _order: key))

    def sealed(data: bytes) -> FulfilmentOrder:
        binding = order_binding(_REQUEST, "crm", _ORDER) + order_terms(plain)
        return plain.model_copy(update={"sealed": seal(data, key, associated=binding)})

    def received(data: bytes) -> object:
        record = Inbound("dsr.orders.crm.v1", 0, 0, _REQUEST.encode(), data, headers_of(plain))
        order = read_order(record, "crm")
        assert isinstance(order, FulfilmentOrder)
        return open_order(order, keys)

    person = SubjectData(identifiers={IdentifierKind.EMAIL: ("person@example.org",)}).to_bytes()
    yield Target("order", (encode(sealed(person)),), received, (ProtocolViolation,))
    yield Target("order, inside", (person,), lambda data: open_order(sealed(data), keys), (ProtocolViolation,))


async def _listed(data: bytes) -> object:
    """Return what a list of two pages names: the second is the last, whatever the first says."""
    last = b"<ListBucketResult/>"
    async with _answering(
        lambda asked: httpx.Response(200, content=last if "continuation-token" in asked.url.params else data)
    ) as client:
        bucket = Bucket(client, "results", ManualClock(_AT))
        return [key async for key in bucket.keys("crm/")], await bucket.folders("crm/")


async def _checked(data: bytes) -> None:
    async with _answering(lambda _: httpx.Response(200, content=data)) as client:
        await Bucket(client, "results", ManualClock(_AT)).check()


def _answering(answer: Callable[[httpx.Request], httpx.Response]) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://127.0.0.1")
