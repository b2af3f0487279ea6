"""Sealed results: opened whole by the portal's key in their own place, or not at all."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.blobs import BlobKey, BlobPlace, BlobSecret, open_blob, open_result, seal_blob
from schemas.errors import ConfigurationError, ProtocolViolation
from schemas.ids import digest
from schemas.reports import ResultReference

SECRET = BlobSecret.generate("website-2026")
PLACE = BlobPlace("3f8a1c52-7d4e-4b6a-9c10-2e5f7a8b9c0d", "crm", "ord_1")
CHUNK = 64 * 1024
CANARY = b"zoe.canary@example.org"


def _sealed(plaintext: bytes, *, key: BlobKey | None = None, place: BlobPlace = PLACE) -> bytes:
    return b"".join(seal_blob([plaintext], key or SECRET.public, place))


def _opened(stored: bytes, *, secret: BlobSecret = SECRET, place: BlobPlace = PLACE) -> bytes:
    return b"".join(open_blob([stored], secret, place))


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 17])
def test_what_was_sealed_opens_whatever_its_size(size: int):
    """Any size around the borders of chunks comes back; nothing of it stands in the file."""
    plaintext = (CANARY * (size // len(CANARY) + 1))[:size]
    stored = _sealed(plaintext)
    assert _opened(stored) == plaintext
    assert CANARY not in stored


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=300), st.lists(st.integers(1, 200), max_size=8))
def test_the_pieces_do_not_matter(plaintext: bytes, cuts: list[int]):
    """However the bytes are handed over, in pieces of any size, the same comes out."""
    pieces, rest = [], plaintext
    for cut in cuts:
        pieces.append(rest[:cut])
        rest = rest[cut:]
    stored = b"".join(seal_blob([*pieces, rest], SECRET.public, PLACE))
    again, rest = [], stored
    for cut in cuts:
        again.append(rest[:cut])
        rest = rest[cut:]
    assert b"".join(open_blob([*again, rest], SECRET, PLACE)) == plaintext


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_no_changed_bit_passes(data: st.DataObject):
    """Any flipped bit, in the header or in a chunk, is refused as unreadable."""
    stored = bytearray(_sealed(CANARY * 3))
    place = data.draw(st.integers(0, len(stored) - 1))
    stored[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ProtocolViolation, match="identity_unreadable"):
        _opened(bytes(stored))


def _faults(stored: bytes) -> dict[str, bytes]:
    head, _, body = stored.partition(b"\n")
    size = CHUNK + 16
    one, two, three = body[:size], body[size : 2 * size], body[2 * size :]
    return {
        "cut in a chunk": stored[:-1],
        "cut between chunks": head + b"\n" + one + two,
        "first chunk gone": head + b"\n" + two + three,
        "chunks swapped": head + b"\n" + two + one + three,
        "chunk doubled": head + b"\n" + one + one + two + three,
        "last chunk doubled": stored + three,
        "something added": stored + b"x",
        "no chunks": head + b"\n",
        "no header": body,
        "nothing": b"",
        "header without end": head,
    }


@pytest.mark.parametrize("fault", list(_faults(b"")))
def test_no_other_arrangement_opens(fault: str):
    """Cut, swapped, doubled, lengthened: refused, never a shorter document."""
    with pytest.raises(ProtocolViolation, match="identity_unreadable"):
        _opened(_faults(_sealed(b"x" * (2 * CHUNK + 100)))[fault])


@pytest.mark.parametrize("field", BlobPlace._fields)
def test_it_opens_in_its_own_place_only(field: str):
    """Another request, system or order does not open it."""
    with pytest.raises(ProtocolViolation, match="identity_unreadable"):
        _opened(_sealed(CANARY), place=PLACE._replace(**{field: "other"}))


def test_another_key_does_not_open_it():
    """A key of the same name, but another one, is refused."""
    with pytest.raises(ProtocolViolation, match="identity_unreadable"):
        _opened(_sealed(CANARY), secret=BlobSecret.generate(SECRET.kid))


def test_two_files_have_two_keys():
    """The same document sealed twice has nothing in common but its length: no nonce is ever used twice under a key."""
    one, two = _sealed(CANARY), _sealed(CANARY)
    assert len(one) == len(two) and one.partition(b"\n")[2] != two.partition(b"\n")[2]


def test_memory_is_bounded_by_a_chunk():
    """Sealing takes its input piece by piece: no more than two chunks are taken before one is given back."""
    taken = 0

    def pieces():
        nonlocal taken
        for _ in range(200):
            taken += CHUNK
            yield b"x" * CHUNK

    given_back = 0
    for piece in seal_blob(pieces(), SECRET.public, PLACE):
        given_back += len(piece)
        assert taken <= given_back + 2 * CHUNK


def test_a_private_key_survives_its_jwk_and_is_not_shown():
    """What is written down opens what the key's public half sealed; `repr` shows the name alone."""
    jwk = json.loads(json.dumps(SECRET.unsafe_jwk()))
    assert _opened(_sealed(CANARY), secret=BlobSecret.from_jwk(jwk)) == CANARY
    assert repr(SECRET) == "BlobSecret(kid='website-2026')"
    assert "d" not in SECRET.public.model_dump()


@pytest.mark.parametrize(
    "wrong", [{}, {"d": "short"}, {"x": "A" * 43}, {"crv": "Ed25519"}, {"kty": "EC"}, {"kid": ""}, {"d": None}]
)
def test_a_wrong_private_key_is_refused_without_being_quoted(wrong: dict[str, object]):
    """Each is a `ConfigurationError` that names the remedy and not the key."""
    jwk = {**SECRET.unsafe_jwk(), **wrong} if wrong else {}
    with pytest.raises(ConfigurationError) as error:
        BlobSecret.from_jwk(jwk)
    assert SECRET.unsafe_jwk()["d"] not in str(error.value)


def test_the_halves_of_two_keys_are_refused():
    """A private half with another key's public half is nobody's key."""
    with pytest.raises(ConfigurationError, match="not that of x"):
        BlobSecret.from_jwk({**SECRET.unsafe_jwk(), "x": BlobSecret.generate("b").public.x})


def test_a_result_is_checked_against_its_reference():
    """Size, digest and key's name must be those that were confirmed; each difference is named."""
    stored = _sealed(CANARY)
    good = ResultReference(
        reference="a/b", sha256=digest(stored), size=len(stored), kid=SECRET.kid, expires_at=datetime(2026, 4, 4, tzinfo=UTC)
    )
    assert open_result(stored, good, SECRET, PLACE) == CANARY
    for change in ({"size": 1}, {"sha256": "0" * 64}, {"kid": "older"}):
        with pytest.raises(ProtocolViolation) as error:
            open_result(stored, good.model_copy(update=change), SECRET, PLACE)
        assert error.value.field == next(iter(change))
    assert open_result(stored, good.model_copy(update={"kid": None}), SECRET, PLACE) == CANARY
