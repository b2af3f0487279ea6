"""Seals: what was sealed opens in its own place and nowhere else, and nothing readable shows anywhere."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.pretty import pretty_repr

from schemas.errors import ConfigurationError, ProtocolViolation
from schemas.ids import order_id
from schemas.orders import order_binding
from schemas.sealed import Sealed, SealingKey, seal, unsafe_reveal
from schemas.subject import FieldChange, SubjectData
from schemas.vocabulary import IdentifierKind, QuarantineReason

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
CANARY = "canary.jansen@example.org"
SECRET = bytes(range(32))
KEY = SealingKey("intake-2026", SECRET)
OTHER = SealingKey("intake-2026", bytes(reversed(range(32))))
PLACE = "request-1"
DATA = SubjectData(
    identifiers={IdentifierKind.EMAIL: (CANARY, "other@example.org"), IdentifierKind.PHONE: ("+31201234567",)},
    changes=(FieldChange(field="first_name", new=CANARY, old_sha256="ab" * 32),),
)
SEALED = seal(DATA.to_bytes(), KEY, associated=PLACE)


def refused(sealed: Sealed, key: SealingKey = KEY, associated: str = PLACE) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        unsafe_reveal(sealed, key, associated=associated)
    assert caught.value.code == QuarantineReason.IDENTITY_UNREADABLE
    assert CANARY not in str(caught.value)
    assert caught.value.__suppress_context__


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=500), st.text(max_size=40).filter(lambda text: text.isprintable()))
def test_opens_in_its_own_place(plaintext: bytes, place: str):
    """Whatever is sealed opens again under the same key, bound to the same place, and in no other."""
    sealed = seal(plaintext, KEY, associated=place)
    assert unsafe_reveal(sealed, KEY, associated=place) == plaintext
    refused(sealed, associated=place + "x")
    refused(sealed, OTHER, place)


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=32, max_size=32), TEXT, st.lists(TEXT, max_size=3))
def test_keys_are_derived_as_rfc_5869_says(secret: bytes, purpose: str, context: list[str]):
    """Against a library's HKDF-Expand: another release, or another language, finds the same keys."""
    info = "\x1f".join((purpose, *context)).encode()
    expected = HKDFExpand(algorithm=SHA256(), length=32, info=info).derive(secret)
    assert SealingKey("k", secret).derive(purpose, *context).unsafe_bytes() == expected


def test_same_thing_in_the_same_place_gives_the_same_bytes():
    """Sealing is deterministic, so a re-sent order is byte-identical; place, key or content change nonce and ciphertext."""
    assert seal(DATA.to_bytes(), KEY, associated=PLACE) == SEALED
    others = (
        seal(DATA.to_bytes(), KEY, associated="request-2"),
        seal(DATA.to_bytes(), OTHER, associated=PLACE),
        seal(DATA.to_bytes() + b" ", KEY, associated=PLACE),
    )
    assert len({SEALED.nonce, *(other.nonce for other in others)}) == 4
    assert len({SEALED.ciphertext, *(other.ciphertext for other in others)}) == 4


def test_place_and_content_do_not_run_into_each_other():
    """Moving a byte from the place to the content is another seal with another nonce."""
    assert seal(b"bc", KEY, associated="a").nonce != seal(b"c", KEY, associated="ab").nonce


def test_every_flipped_bit_is_refused():
    """One changed bit of nonce, ciphertext or tag, as bytes, does not open."""
    for name in ("nonce", "ciphertext"):
        raw = base64.urlsafe_b64decode(getattr(SEALED, name))
        for position in range(len(raw) * 8):
            changed = bytearray(raw)
            changed[position // 8] ^= 1 << (position % 8)
            refused(SEALED.model_copy(update={name: base64.urlsafe_b64encode(bytes(changed)).decode()}))


def test_every_changed_character_is_refused():
    """One changed character of the text does not open either: no two spellings of one seal exist."""
    sealed = seal(b"a plaintext whose seal needs padding", KEY, associated=PLACE)
    assert sealed.ciphertext.endswith("=")
    for name in ("nonce", "ciphertext"):
        text = getattr(sealed, name)
        for position, character in enumerate(text):
            for new in {"A", "B", "-", "=", "!", "\n"} - {character}:
                refused(sealed.model_copy(update={name: text[:position] + new + text[position + 1 :]}))
        refused(sealed.model_copy(update={name: text + "!"}))
        refused(sealed.model_copy(update={name: text + "\n"}))


def test_truncation_is_refused():
    """No prefix of a ciphertext or nonce opens."""
    for name in ("nonce", "ciphertext"):
        text = getattr(SEALED, name)
        for length in range(len(text)):
            refused(SEALED.model_copy(update={name: text[:length]}))


def test_parts_of_two_seals_do_not_open():
    """The nonce of one seal with the ciphertext of another is refused."""
    other = seal(b"other", KEY, associated=PLACE)
    refused(SEALED.model_copy(update={"nonce": other.nonce}))
    refused(other.model_copy(update={"nonce": SEALED.nonce}))


def test_a_seal_for_one_system_does_not_open_for_another():
    """An order's seal moved to another order, system or request is refused."""
    request, other = "3f8a1c52-7d4e-4b6a-9c10-2e5f7a8b9c0d", "0b1c2d3e-4f5a-4b6c-8d7e-9f0a1b2c3d4e"
    sealed = seal(b"x", KEY, associated=order_binding(request, "crm", order_id(request, "crm")))
    refused(sealed, associated=order_binding(request, "newsletter", order_id(request, "newsletter")))
    refused(sealed, associated=order_binding(other, "crm", order_id(other, "crm")))


def test_not_ascii_is_refused():
    """Characters outside ASCII in a seal are a violation, not a crash."""
    refused(SEALED.model_copy(update={"nonce": "é" * 16}))
    refused(SEALED.model_copy(update={"ciphertext": "é" * 40}))
    refused(SEALED, associated="\ud800")


def test_derived_keys_are_kept_apart():
    """Each purpose and each context has its own key, and contexts do not run into each other."""
    keys = [KEY, KEY.derive("a"), KEY.derive("b"), KEY.derive("a", "b"), KEY.derive("a", "b", "c"), KEY.derive("a", "bc")]
    assert len({key.mac(b"x") for key in keys}) == len(keys)
    assert KEY.derive("a", "b").mac(b"x") == KEY.derive("a", "b").mac(b"x")
    refused(seal(b"x", KEY.derive("intake", "1"), associated=PLACE), KEY.derive("intake", "2"))


@pytest.mark.parametrize("show", [repr, str, format, "{}".format, "{!r}".format, "%s".__mod__, pretty_repr], ids=range(7))
def test_nothing_readable_shows(show):
    """No way of showing a seal, key, person or change shows plaintext, ciphertext's key or value."""
    for value in (SEALED, KEY, DATA, DATA.changes[0], [DATA], {"data": DATA}):
        text = show(value)
        assert CANARY not in text
        assert "31201234567" not in text
        assert SECRET.hex() not in text
        assert repr(SECRET)[2:-1] not in text
    assert "first_name" in show(DATA.changes[0])
    assert "email" in show(DATA)


def test_invalid_person_shows_nothing():
    """The error of an invalid identifier or change quotes neither."""
    for bad in (
        {"identifiers": {"email": [CANARY, CANARY * 20]}},
        {"identifiers": {"email": CANARY}},
        {"changes": [{"field": "first_name", "new": CANARY * 100}]},
    ):
        with pytest.raises(ValueError) as caught:
            SubjectData.model_validate(bad)
        assert CANARY not in str(caught.value)


def test_bytes_of_a_person_do_not_depend_on_order():
    """Kinds and values in another order, or said twice, are the same bytes, so the same seal."""
    shuffled = SubjectData(
        identifiers={IdentifierKind.PHONE: ("+31201234567",), IdentifierKind.EMAIL: ("other@example.org", CANARY, CANARY)},
        changes=DATA.changes,
    )
    assert shuffled.to_bytes() == DATA.to_bytes()
    assert SubjectData.model_validate_json(DATA.to_bytes()).to_bytes() == DATA.to_bytes()


def test_wrong_keys_are_configuration_errors_that_quote_nothing():
    """A key of the wrong length or no base64 names the key and the remedy, and nothing of its text."""
    for text in ("c2hvcnQ=", "not base64 at all!", "é" * 44, ""):
        with pytest.raises(ConfigurationError) as caught:
            SealingKey.from_base64("intake-2026", text)
        assert "intake-2026" in str(caught.value)
        assert "openssl rand" in str(caught.value)
        assert not text or text not in str(caught.value)
    assert SealingKey.from_base64("k", base64.b64encode(SECRET).decode()).mac(b"x") == KEY.mac(b"x")
