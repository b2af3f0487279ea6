"""Bytes on the bus: whatever comes in is a message or a named violation that repeats nothing of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schema_examples import EXAMPLES
from schema_strategies import messages_of

from schemas.base import Message
from schemas.errors import ProtocolViolation
from schemas.vocabulary import QuarantineReason
from schemas.wire import COMMANDS, MAX_VALUE_BYTES, MESSAGES, PORTAL_MESSAGES, TYPE_HEADER, decode, encode, headers_of

GOLDEN = Path(__file__).parent / "golden"
CANARY = "canary_jan_jansen"
EVERY = tuple(MESSAGES.values())
FEW = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
MORE = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


def refusal(value: bytes | None, headers: list[tuple[str, Any]], accepted: tuple[type[Message], ...] = EVERY):
    """Return the violation that `value` is answered with, None if it is a message; anything else fails the test."""
    try:
        decode(value, headers, accepted)
    except ProtocolViolation as error:
        return error
    return None


def told(error: ProtocolViolation) -> str:
    """Return everything that a violation says anywhere."""
    return f"{error!s} {error!r} {error.args} {error.field} {error.remedy} {error.code}"


def violation(value: bytes | None, headers: list[tuple[str, Any]] | None = None, accepted: tuple[type[Message], ...] = EVERY):
    error = refusal(value, headers or [], accepted)
    assert error is not None
    assert error.code in set(QuarantineReason)
    assert error.remedy
    assert CANARY not in told(error)
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    return error


def changed(name: str, **fields: object) -> bytes:
    return json.dumps({**json.loads(encode(EXAMPLES[name])), **fields}).encode()


# --- what is written is what is read ----------------------------------------------------------------------------------


def test_there_is_an_example_of_every_message():
    """The examples, the golden files and the list of messages name the same types."""
    assert set(EXAMPLES) == set(MESSAGES)
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(MESSAGES)


@pytest.mark.parametrize("name", MESSAGES)
def test_golden_bytes_are_read_and_written(name: str):
    """Bytes written by an earlier release are read, mean the example, and are written again byte for byte."""
    golden = (GOLDEN / f"{name}.json").read_bytes()
    message = decode(golden, [(TYPE_HEADER, name.encode())], EVERY)
    assert message == EXAMPLES[name]
    assert encode(message) == golden
    assert encode(EXAMPLES[name]) == golden


@pytest.mark.parametrize("name", MESSAGES)
def test_examples_set_every_field(name: str):
    """A golden file shows every field of its message, so that none can change unnoticed."""
    message = EXAMPLES[name]
    assert {field for field in type(message).model_fields if getattr(message, field) is None} == set()


@pytest.mark.parametrize("model", MESSAGES.values(), ids=list(MESSAGES))
def test_any_message_survives_the_wire(model: type[Message]):
    """Encoding and decoding any valid message gives it back, with its headers and without; twice gives the same bytes."""

    @FEW
    @given(messages_of(model))
    def survives(message: Message) -> None:
        value = encode(message)
        assert decode(value, headers_of(message), [model]) == message
        again = decode(value, [], EVERY)
        assert again == message
        assert encode(again) == value

    survives()


# --- whatever comes in ------------------------------------------------------------------------------------------------


@MORE
@given(st.binary(max_size=400), st.sampled_from([None, *MESSAGES, "Nothing", CANARY]))
def test_any_bytes_are_a_message_or_a_violation(value: bytes, kind: str | None):
    """No bytes whatsoever raise anything but a protocol violation."""
    headers = [(TYPE_HEADER, kind.encode())] if kind else []
    error = refusal(value, headers)
    assert error is None or error.code in set(QuarantineReason)


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(CANARY),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12) | st.just(CANARY), inner, max_size=3),
    max_leaves=6,
)


def _paths(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _paths(inner, (*path, index))


def _replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _replaced(copy[path[0]], path[1:], new)
    return copy


@MORE
@given(st.data())
def test_any_field_of_any_message_may_be_anything(data: st.DataObject):
    """A message with one part replaced by any JSON is a message or a violation that never repeats the part."""
    name = data.draw(st.sampled_from(sorted(MESSAGES)))
    good = json.loads(encode(EXAMPLES[name]))
    path = data.draw(st.sampled_from(list(_paths(good))))
    value = json.dumps(_replaced(good, path, data.draw(_ANYTHING))).encode()
    headers = data.draw(st.sampled_from([[], [(TYPE_HEADER, name.encode())]]))
    error = refusal(value, headers)
    assert error is None or CANARY not in told(error)


#: What a portal may put anywhere by mistake: the person, as text, as a key, as a value of a key.
_PLANTED: tuple[Any, ...] = (
    CANARY,
    [CANARY],
    {CANARY: CANARY},
    {"code": CANARY},
    {"code": "fulfilled", CANARY: 1},
    {"kid": CANARY, "nonce": CANARY, "ciphertext": CANARY, CANARY: CANARY},
    [{CANARY: CANARY}],
    f"2026-03-05T10:00:00 {CANARY}",
    f"{CANARY}@example.org",
)


@pytest.mark.parametrize("name", MESSAGES)
def test_no_violation_repeats_the_input(name: str):
    """A canary in every field, as a value and as a made-up key, appears in no violation's text, field or remedy."""
    good = json.loads(encode(EXAMPLES[name]))
    refused = 0
    for path in _paths(good):
        variants = [_replaced(good, path, planted) for planted in _PLANTED]
        part = good
        for step in path:
            part = part[step]
        if isinstance(part, dict):
            variants.append(_replaced(good, path, {**part, CANARY: CANARY}))
        for variant in variants:
            value = json.dumps(variant).encode()
            for headers in ([], [(TYPE_HEADER, name.encode())], [(TYPE_HEADER, CANARY.encode())]):
                error = refusal(value, headers)
                refused += error is not None
                assert error is None or CANARY not in told(error), path
    assert refused > 50


# --- each reason by a bad input named after it ------------------------------------------------------------------------

_HEADER = [(TYPE_HEADER, b"SubmitRequest")]
_BAD_SUBMITS: dict[str, tuple[QuarantineReason, str, bytes | None, list[tuple[str, Any]]]] = {
    "tombstone": (QuarantineReason.NOT_JSON, "", None, _HEADER),
    "empty": (QuarantineReason.NOT_JSON, "", b"", _HEADER),
    "plain_text": (QuarantineReason.NOT_JSON, "", CANARY.encode(), _HEADER),
    "plain_text_untyped": (QuarantineReason.NOT_JSON, "", CANARY.encode(), []),
    "an_array": (QuarantineReason.NOT_JSON, "", b"[1]", []),
    "cut_off": (QuarantineReason.NOT_JSON, "", encode(EXAMPLES["SubmitRequest"])[:-1], _HEADER),
    "not_utf8": (QuarantineReason.NOT_JSON, "", b'{"type":"\xff"}', []),
    "lone_surrogate": (QuarantineReason.NOT_JSON, "", b'{"type":"\\ud800"}', []),
    "too_deep": (QuarantineReason.NOT_JSON, "", b"[" * 100_000, []),
    "too_deep_typed": (QuarantineReason.NOT_JSON, "", b'{"a":' * 20_000, _HEADER),
    "too_large": (QuarantineReason.OVERSIZED, "", b" " * (MAX_VALUE_BYTES + 1), _HEADER),
    "no_type": (QuarantineReason.UNKNOWN_TYPE, "type", b"{}", []),
    "type_is_a_list": (QuarantineReason.UNKNOWN_TYPE, "type", b'{"type":["SubmitRequest"]}', []),
    "made_up_type": (QuarantineReason.UNKNOWN_TYPE, "type", changed("SubmitRequest"), [(TYPE_HEADER, CANARY.encode())]),
    "type_is_not_ascii": (QuarantineReason.UNKNOWN_TYPE, "type", b"{}", [(TYPE_HEADER, b"\xff\xfe")]),
    "type_of_another_topic": (QuarantineReason.WRONG_TOPIC, "type", encode(EXAMPLES["Deny"]), [(TYPE_HEADER, b"Deny")]),
    "header_and_value_disagree": (QuarantineReason.INVALID_FIELD, "", encode(EXAMPLES["WithdrawRequest"]), _HEADER),
    "version_of_tomorrow": (QuarantineReason.UNKNOWN_VERSION, "version", changed("SubmitRequest", version=2), _HEADER),
    "version_of_tomorrow_with_new_fields": (
        QuarantineReason.UNKNOWN_VERSION,
        "version",
        changed("SubmitRequest", version=2, anything=1),
        _HEADER,
    ),
    "version_is_a_list": (QuarantineReason.UNKNOWN_VERSION, "version", changed("SubmitRequest", version=[1]), _HEADER),
    "version_is_an_object": (QuarantineReason.UNKNOWN_VERSION, "version", changed("SubmitRequest", version={"a": 1}), _HEADER),
    "version_is_huge": (
        QuarantineReason.NOT_JSON,
        "",
        changed("SubmitRequest", version=0).replace(b'"version": 0', b'"version": ' + b"9" * 5000),
        _HEADER,
    ),
    "missing_portal": (
        QuarantineReason.MISSING_FIELD,
        "portal",
        json.dumps({k: v for k, v in json.loads(changed("SubmitRequest")).items() if k != "portal"}).encode(),
        _HEADER,
    ),
    "missing_inside": (
        QuarantineReason.MISSING_FIELD,
        "verification.level",
        changed("SubmitRequest", verification={"method": "mail_link"}),
        _HEADER,
    ),
    "seal_of_another_kind": (QuarantineReason.INVALID_FIELD, "sealed", changed("SubmitRequest", sealed={"kid": "k"}), _HEADER),
    "made_up_field": (QuarantineReason.INVALID_FIELD, "", changed("SubmitRequest", **{CANARY: CANARY}), _HEADER),
    "address_as_a_field": (QuarantineReason.INVALID_FIELD, "", changed("SubmitRequest", **{"jan@example.org": 1}), _HEADER),
    "made_up_right": (QuarantineReason.INVALID_FIELD, "right", changed("SubmitRequest", right=CANARY), _HEADER),
    "naive_time": (
        QuarantineReason.INVALID_FIELD,
        "submitted_at",
        changed("SubmitRequest", submitted_at="2026-03-05T10:00:00"),
        _HEADER,
    ),
    "identity_in_the_clear": (QuarantineReason.INVALID_FIELD, "sealed", changed("SubmitRequest", sealed=CANARY), _HEADER),
    "upper_case_id": (
        QuarantineReason.INVALID_FIELD,
        "subject_request_id",
        changed("SubmitRequest", subject_request_id="A" * 36),
        _HEADER,
    ),
}


@pytest.mark.parametrize("name", _BAD_SUBMITS)
def test_bad_input_reaches_its_reason(name: str):
    """Each fault has its own reason and names the field, never the value."""
    reason, field, value, headers = _BAD_SUBMITS[name]
    error = violation(value, headers, PORTAL_MESSAGES)
    assert error.code == reason
    assert error.field == field or (not field and error.field in ("", "type"))


def test_reasons_of_the_decoder_are_all_reached():
    """The bad inputs above reach every reason that decoding can give."""
    reached = {reason for reason, *_ in _BAD_SUBMITS.values()}
    assert reached == {
        QuarantineReason.NOT_JSON,
        QuarantineReason.OVERSIZED,
        QuarantineReason.UNKNOWN_TYPE,
        QuarantineReason.WRONG_TOPIC,
        QuarantineReason.UNKNOWN_VERSION,
        QuarantineReason.MISSING_FIELD,
        QuarantineReason.INVALID_FIELD,
    }


def test_keys_of_dictionaries_are_not_repeated():
    """A made-up key of a dictionary is part of the input: the violation names the dictionary only."""
    error = violation(changed("Confirmation", text={CANARY: "text"}))
    assert (error.code, error.field) == (QuarantineReason.INVALID_FIELD, "text")


def test_made_up_outcome_is_not_repeated():
    """A made-up tag of a union is part of the input: the violation lists the valid ones."""
    error = violation(changed("FulfilmentReport", outcome={"code": CANARY}))
    assert error.field == "outcome"
    assert "fulfilled" in error.remedy


def test_fields_inside_an_outcome_are_named():
    """A wrong field of an outcome is named with its path."""
    error = violation(changed("FulfilmentReport", outcome={"code": "fulfilled", "count": -1}))
    assert error.field == "outcome.fulfilled.count"


def test_null_headers_are_no_type():
    """A header without a value is as good as none."""
    message = decode(encode(EXAMPLES["Approve"]), [(TYPE_HEADER, None)], COMMANDS)  # type: ignore[list-item]
    assert message == EXAMPLES["Approve"]


def test_first_type_header_counts():
    """Of several type headers the first is read, whatever stands in the others."""
    headers = [("other", b"x"), (TYPE_HEADER, b"Approve"), (TYPE_HEADER, b"Deny")]
    assert decode(encode(EXAMPLES["Approve"]), headers, COMMANDS) == EXAMPLES["Approve"]
