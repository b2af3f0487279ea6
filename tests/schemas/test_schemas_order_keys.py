"""Keys of orders on the wire: what follows from what, and which assertion is believed for how long."""

from __future__ import annotations

import base64
import itertools
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rich.pretty import pretty_repr

from schemas.errors import ProtocolViolation
from schemas.ids import order_id
from schemas.order_keys import (
    ASSERTION_TYP,
    KeyAnswer,
    KeyAnswers,
    Purpose,
    WantedKeys,
    assertion,
    audience_of,
    checked_assertion,
    order_root,
    root_from_text,
    root_to_text,
)
from schemas.sealed import SealingKey
from schemas.signatures import TREE_TYP, Verifier, leaf_of, read_signature, sign_all
from schemas.trust import SigningKey, Trust
from schemas.vocabulary import QuarantineReason

CRM, MAIL, STRANGER = SigningKey.new("system:crm"), SigningKey.new("system:mail"), SigningKey.new("system:crm")
TRUST = Trust.of(CRM, MAIL)
AUDIENCE = audience_of("dsr")
NOON = datetime(2026, 3, 5, 12, tzinfo=UTC)
SECONDS = timedelta(seconds=1)
REQUEST = "00000000-0000-4000-8000-000000000001"
KEY = SealingKey("request", bytes(range(32)))
CLAIMS = {
    "iss": "system:crm",
    "sub": "system:crm",
    "aud": AUDIENCE,
    "iat": int(NOON.timestamp()),
    "exp": int(NOON.timestamp()) + 60,
}


def refused(token: str, *, at: datetime = NOON, trust: Trust = TRUST, verified=None) -> ProtocolViolation:
    with pytest.raises(ProtocolViolation) as caught:
        checked_assertion(token, trust, AUDIENCE, at, verified=verified)
    return caught.value


def claiming(key: SigningKey = CRM, *, without: str = "", **claims: object) -> str:
    given_claims = {name: value for name, value in (CLAIMS | claims).items() if name != without}
    return key.sign(json.dumps(given_claims).encode(), typ=ASSERTION_TYP)


def limited(key: SigningKey, **times: int) -> Trust:
    return Trust.from_json(json.dumps({"keys": [key.public() | times]}))


PLACES = st.tuples(
    st.binary(min_size=32, max_size=32), st.uuids(), st.sampled_from(["crm", "mail", "crm-2"]), st.sampled_from(Purpose)
)


@settings(deadline=None)
@given(PLACES, PLACES)
def test_every_request_system_order_and_purpose_has_a_key_of_its_own(one, other) -> None:
    """Two places give the same key only if they are one place; a place gives the same key every time."""

    def keys(place) -> tuple[bytes, bytes]:
        secret, request, system, purpose = place
        root = order_root(SealingKey("request", secret), str(request), system, order_id(str(request), system))
        return root.unsafe_bytes(), root.derive(purpose).unsafe_bytes()

    assert keys(one) == keys(one)
    assert (keys(one)[1] == keys(other)[1]) == (one == other)
    assert (keys(one)[0] == keys(other)[0]) == (one[:3] == other[:3])


def test_every_part_of_the_place_counts() -> None:
    """Request, system and order each change the root; no root and no key of a purpose is the request's key or another's."""
    places = itertools.product((REQUEST, REQUEST[:-1] + "2"), ("crm", "mail"), ("ord_" + "a" * 32, "ord_" + "b" * 32))
    roots = [order_root(KEY, *place) for place in places]
    secrets = {KEY.unsafe_bytes(), KEY.derive("store").unsafe_bytes(), *(root.unsafe_bytes() for root in roots)}
    secrets |= {root.derive(purpose).unsafe_bytes() for root in roots for purpose in Purpose}
    assert len(secrets) == 2 + 8 + 8 * len(Purpose)


def test_a_root_travels_and_anything_else_is_refused_unquoted() -> None:
    """What is written is read; what has another length or is no base64 is a `ValueError` that quotes nothing."""
    root = order_root(KEY, REQUEST, "crm", order_id(REQUEST, "crm"))
    assert root_from_text(root_to_text(root)).unsafe_bytes() == root.unsafe_bytes()
    for text in (
        "",
        "short",
        base64.urlsafe_b64encode(b"k" * 31).decode(),
        base64.urlsafe_b64encode(b"k" * 33).decode(),
        "é" * 44,
    ):
        with pytest.raises(ValueError, match=r".") as caught:
            root_from_text(text)
        assert not text or text not in str(caught.value)


def test_an_answer_shows_no_key() -> None:
    """Neither `repr`, `str`, a format nor a pretty print of a key answer has the key; the JSON does: that is its use."""
    text = root_to_text(KEY)
    answer = KeyAnswer(order_id="ord_" + "a" * 32, status=200, key=text)
    answers = KeyAnswers(keys=(answer,))
    for shown in (repr(answer), str(answer), f"{answers}", repr(answers), pretty_repr(answers), str(KEY), repr(KEY)):
        assert text not in shown and text[:12] not in shown
    assert text in answers.model_dump_json()


@pytest.mark.parametrize(
    "bad", [{"system": "x" * 200}, {"orders": [{"order_id": text_id} for text_id in ("x", "y")]}, {"more": 1}]
)
def test_a_question_has_one_shape(bad: dict) -> None:
    """An unknown field, a name that is none and half an order are refused."""
    with pytest.raises(ValueError, match="WantedKeys"):
        WantedKeys.model_validate({"system": "crm", "orders": []} | bad)


def test_a_good_assertion_names_its_key_for_a_minute_and_a_little() -> None:
    """Good from when it is made until its time and the clocks' difference are over; then no more."""
    token, until = assertion(CRM, AUDIENCE, NOON)
    assert until == NOON + timedelta(seconds=60)
    for at in (NOON, until, until + 59 * SECONDS, NOON - 60 * SECONDS):
        key = checked_assertion(token, TRUST, AUDIENCE, at)
        assert (key.kid, key.principal) == (CRM.kid, "system:crm")
    for at in (until + 60 * SECONDS, NOON - 61 * SECONDS, NOON + timedelta(days=1)):
        assert refused(token, at=at).field == "exp"


@pytest.mark.parametrize(
    ("claims", "field"),
    [
        ({"aud": audience_of("other")}, "aud"),
        ({"aud": [AUDIENCE]}, "aud"),
        ({"iss": "system:mail"}, "sub"),
        ({"sub": "system:mail"}, "sub"),
        ({"iss": "system:mail", "sub": "system:mail"}, "sub"),
        ({"exp": CLAIMS["exp"] + 1}, "exp"),
        ({"iat": CLAIMS["iat"] - 3600}, "exp"),
        ({"iat": CLAIMS["iat"] + 120, "exp": CLAIMS["exp"] + 120}, "exp"),
        ({"iat": CLAIMS["iat"] - 600, "exp": CLAIMS["exp"] - 600}, "exp"),
        ({"iat": "now"}, "claims"),
        ({"exp": None}, "claims"),
        ({"exp": float("nan")}, "claims"),
        ({"exp": float("inf")}, "claims"),
        ({"exp": 10**400}, "claims"),
        # The ends of the calendar, where nothing can be added or taken away.
        ({"iat": -62135596800}, "claims"),
        ({"exp": 253402300799}, "claims"),
    ],
)
def test_a_claim_that_is_not_so_is_named(claims: dict, field: str) -> None:
    """Another audience, another name, another time, no time at all: refused, also when the signature was looked at before."""
    token = claiming(**claims)
    assert refused(token).field == field
    assert refused(token, verified=TRUST.key(CRM.kid)).field == field


@pytest.mark.parametrize("name", sorted(CLAIMS))
def test_every_claim_is_needed(name: str) -> None:
    """Without any one of them there is no assertion."""
    assert refused(claiming(without=name)).field == "claims"


@pytest.mark.parametrize("payload", [b"", b"[]", b"1", b"null", b'"x"', b"\xff", b"{", b"[" * 5_000])
def test_a_signed_payload_that_is_no_claims_is_refused(payload: bytes) -> None:
    """Whatever a trusted key has signed, it is a refusal and never a crash."""
    token = CRM.sign(payload, typ=ASSERTION_TYP)
    assert refused(token).field == "claims"
    assert refused(token, verified=TRUST.key(CRM.kid)).field == "claims"


def test_a_record_s_signature_is_no_assertion_and_an_assertion_no_record_s_signature() -> None:
    """Both are made by the same key: `typ` keeps them apart, whatever stands in the payload."""
    payload = json.dumps(CLAIMS).encode()
    for typ in (TREE_TYP, "JWT", "dsr-confirmation", ASSERTION_TYP.upper()):
        assert refused(CRM.sign(payload, typ=typ)).code == QuarantineReason.SIGNATURE_BROKEN
    leaf = leaf_of("FulfilmentReport", "reports", b"key", b"value")
    (header,) = sign_all([leaf], CRM)
    genuine = read_signature(header)
    assert refused(genuine.jws).code == QuarantineReason.SIGNATURE_BROKEN
    tree, index, path = header.decode().split("~")
    payload = json.loads(Trust.of(CRM).opened(tree, typ=TREE_TYP)[0])
    forged = CRM.sign(json.dumps(CLAIMS | payload).encode(), typ=ASSERTION_TYP)
    verifier = Verifier(TRUST)
    verifier.verify(leaf, header, principal="system:crm", at=NOON)
    with pytest.raises(ProtocolViolation) as caught:
        verifier.verify(leaf, f"{forged}~{index}~{path}".encode(), principal="system:crm", at=NOON)
    assert caught.value.code == QuarantineReason.SIGNATURE_BROKEN


def test_a_key_that_nobody_trusts_or_that_is_out_of_its_time_lets_nobody_in() -> None:
    """Unknown, expired and not yet valid keys have a code each, also when the signature was looked at before."""
    assert refused(claiming(STRANGER)).code == QuarantineReason.SIGNER_UNKNOWN
    second = int(NOON.timestamp())
    for trust in (limited(CRM, exp=second), limited(CRM, nbf=second + 1)):
        for verified in (None, trust.key(CRM.kid)):
            assert refused(claiming(), trust=trust, verified=verified).code == QuarantineReason.SIGNATURE_EXPIRED
    assert checked_assertion(claiming(), limited(CRM, exp=second + 1), AUDIENCE, NOON).kid == CRM.kid


def test_an_assertion_with_another_s_kid_or_a_changed_signature_is_broken() -> None:
    """The key that is named must be the key that signed, and over these very bytes."""
    head, body, tail = claiming().split(".")
    other = claiming(MAIL, iss="system:mail", sub="system:mail").split(".")
    for token in (f"{other[0]}.{body}.{tail}", f"{head}.{other[1]}.{tail}", f"{head}.{body}.{other[2]}", f"{head}.{body}."):
        assert refused(token).code == QuarantineReason.SIGNATURE_BROKEN


def _encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).decode().rstrip("=")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*CLAIMS, "alg", "kid", "typ", "crit", "b64"]), inner)
    ),
    max_leaves=6,
)
PARTS = st.binary(max_size=40).map(_encoded) | JSON.map(lambda one: _encoded(json.dumps(one).encode())) | st.text(max_size=10)
HEADERS = st.fixed_dictionaries(
    {"alg": st.sampled_from(["Ed25519", "EdDSA", "none", "HS256"]), "kid": st.just(CRM.kid), "typ": st.just(ASSERTION_TYP)},
    optional={"crit": JSON, "b64": JSON},
)


@settings(deadline=None, max_examples=300)
@given(
    st.text(max_size=60)
    | st.lists(PARTS, min_size=2, max_size=4).map(".".join)
    | st.tuples(HEADERS.map(lambda one: _encoded(json.dumps(one).encode())), PARTS, PARTS).map(".".join)
)
def test_garbage_is_a_violation_and_nothing_else(token: str) -> None:
    """Any text at all: the door has one kind of no."""
    refused(token)


@settings(deadline=None, max_examples=200)
@given(JSON)
def test_whatever_a_trusted_key_signs_is_an_assertion_or_a_violation(claims: object) -> None:
    """Garbage under a good signature is refused as calmly."""
    assume(not isinstance(claims, dict) or set(claims) != set(CLAIMS))
    refused(CRM.sign(json.dumps(claims).encode(), typ=ASSERTION_TYP))


@settings(deadline=None)
@given(st.sampled_from(sorted(CLAIMS)), JSON)
def test_one_garbled_claim_is_an_assertion_or_a_violation(name: str, value: object) -> None:
    """A claim of any kind of value never crashes the door."""
    try:
        checked_assertion(claiming(**{name: value}), TRUST, AUDIENCE, NOON)
    except ProtocolViolation:
        assert value != CLAIMS[name]
