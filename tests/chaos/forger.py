"""Words that nobody may believe: a right message under each kind of wrong signature, and the code that quarantine must give it.

Room rules: pure but for a stranger's key, which differs from life to life; values follow from what was asked or ordered alone.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from random import Random

from schemas.base import Message
from schemas.ids import report_id
from schemas.orders import FulfilmentOrder
from schemas.outcomes import Fulfilled
from schemas.reports import FulfilmentReport
from schemas.requests import SubmitRequest, WithdrawRequest
from schemas.signatures import SIGNATURE_HEADER, sign_records
from schemas.trust import SigningKey
from schemas.vocabulary import QuarantineReason
from schemas.wire import Headers, encode, headers_of

__all__ = [
    "FORGED_COUNT", "FORGERIES", "UNKNOWN_ORDER", "expected", "forged_headers", "forged_report", "forged_withdrawal", "key_in",
]  # fmt: skip

#: What is wrong with a signature, and by which code it must be set aside.
FORGERIES = {
    "none": QuarantineReason.SIGNATURE_MISSING,
    "of another principal": QuarantineReason.SIGNATURE_FOREIGN,
    "of a key that nobody trusts": QuarantineReason.SIGNER_UNKNOWN,
    "with one bit flipped": QuarantineReason.SIGNATURE_BROKEN,
    "of another record": QuarantineReason.SIGNATURE_BROKEN,
    "with the path of another batch": QuarantineReason.SIGNATURE_BROKEN,
}
#: Signed by the right one, on an order that was never sent.
UNKNOWN_ORDER = "on an order that nobody sent"
#: What a forged report claims: if a confirmation says so, it was believed.
FORGED_COUNT = 666_666
_REPORTS = 0.03
Plain = tuple[str, bytes, bytes, Headers]


def forged_report(order: FulfilmentOrder) -> tuple[str, float, FulfilmentReport] | None:
    """Return what is wrong with the report that somebody forges for this order, when it is sent, and it; None for most."""
    chance = Random(sha256(f"forged/{order.order_id}/{order.attempt}".encode()).digest())
    if chance.random() >= _REPORTS:
        return None
    wrong, after = chance.choice((*FORGERIES, UNKNOWN_ORDER)), chance.uniform(0, 3)
    return (
        wrong,
        after,
        FulfilmentReport(
            report_id=report_id(order.order_id, order.attempt, "fulfilled"),
            order_id=f"{order.order_id}-none" if wrong == UNKNOWN_ORDER else order.order_id,
            subject_request_id=order.subject_request_id,
            system=order.system,
            attempt=order.attempt,
            reported_at=order.issued_at,
            outcome=Fulfilled(count=FORGED_COUNT),
        ),
    )


def expected(orders: Iterable[FulfilmentOrder]) -> dict[bytes, str]:
    """Return the value and the code of every forged report that these orders led to."""
    found = {}
    for order in orders:
        if (made := forged_report(order)) is not None:
            found[encode(made[2])] = QuarantineReason.UNKNOWN_ORDER if made[0] == UNKNOWN_ORDER else FORGERIES[made[0]]
    return found


def forged_withdrawal(asked: SubmitRequest, number: int) -> tuple[str, WithdrawRequest]:
    """Return what is wrong with the signature of a withdrawal that the person never made, and it."""
    withdrawn = WithdrawRequest(
        subject_request_id=asked.subject_request_id, portal=asked.portal, withdrawn_at=asked.submitted_at
    )
    return tuple(FORGERIES)[number % len(FORGERIES)], withdrawn


def forged_headers(wrong: str, topic: str, message: Message, own: SigningKey, other: SigningKey) -> Headers:
    """Return the headers of a record whose signature is wrong in that way; `own` is the key that it should be signed with."""
    key = message.subject_request_id.encode()  # type: ignore[attr-defined] # requests and reports have it
    plain = (topic, key, encode(message), headers_of(message))
    filler: Plain = (topic, key, b"{}", headers_of(message))
    match wrong:
        case "none":
            return plain[3]
        case "of another principal":
            return sign_records([plain], other)[0]
        case "of a key that nobody trusts":
            return sign_records([plain], SigningKey.new(own.principal))[0]
        case "with one bit flipped":
            return [*plain[3], (SIGNATURE_HEADER, _flipped(_signature(sign_records([plain], own)[0])))]
        case "of another record":
            return [*plain[3], (SIGNATURE_HEADER, _signature(sign_records([filler], own)[0]))]
        case "with the path of another batch":
            ours, _, _ = _signature(sign_records([plain, filler], own)[0]).split(b"~")
            _, index, path = _signature(sign_records([filler, filler, filler], own)[0]).split(b"~")
            return [*plain[3], (SIGNATURE_HEADER, b"~".join((ours, index, path)))]
        case _:
            return sign_records([plain], own)[0]


def key_in(folder: Path, principal: str) -> SigningKey:
    """Return a principal's key from the folder of a keyring."""
    return SigningKey.from_json((folder / f"{principal.replace(':', '-')}.jwk").read_bytes())


def _signature(headers: Headers) -> bytes:
    return next(value for name, value in headers if name == SIGNATURE_HEADER)


def _flipped(header: bytes) -> bytes:
    jws, index, path = header.split(b"~")
    head, payload, signature = jws.split(b".")
    raw = bytearray(base64.urlsafe_b64decode(signature + b"=="))
    raw[len(raw) // 2] ^= 1
    return b"~".join((b".".join((head, payload, base64.urlsafe_b64encode(raw).rstrip(b"="))), index, path))
