"""Records in quarantine, sealed to the operators: what comes back, what does not open, what a wrong key file says."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.blobs import BlobSecret
from schemas.errors import ConfigurationError, ProtocolViolation
from schemas.set_aside import open_original, quarantine_key, seal_original

OPERATORS = BlobSecret.generate("operators-1")
_BYTES = st.none() | st.binary(max_size=200)


@settings(deadline=None, max_examples=60)
@given(_BYTES, _BYTES, st.lists(st.tuples(st.text(max_size=20), st.binary(max_size=40)), max_size=4))
def test_every_record_comes_back_as_it_was(key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]) -> None:
    """Null and empty are told apart, and any header comes back."""
    original = open_original(seal_original(key, value, headers, OPERATORS.public), OPERATORS)
    assert (original.key, original.value, list(original.headers)) == (key, value, headers)


def test_nothing_of_it_can_be_read_and_the_largest_record_fits() -> None:
    """Neither key nor value nor header; a megabyte hardly grows."""
    sealed = seal_original(b"ada@example.org", b"x" * 2**20, [("ada@example.org", b"ada@example.org")], OPERATORS.public)
    assert len(sealed) < 1.01 * 2**20
    assert b"example.org" not in sealed and b"xxxx" not in sealed
    assert open_original(sealed, OPERATORS).value == b"x" * 2**20


def test_another_key_or_a_changed_byte_opens_nothing() -> None:
    """Whoever else has a key pair, and whoever changes a byte."""
    sealed = seal_original(b"k", b"v", [], OPERATORS.public)
    with pytest.raises(ProtocolViolation):
        open_original(sealed, BlobSecret.generate("operators-1"))
    for place in (5, len(sealed) // 2, len(sealed) - 3):
        changed = sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :]
        with pytest.raises(ProtocolViolation):
            open_original(changed, OPERATORS)
    for no_seal in (b"", b"\xff\xfe", b"{}", b"DSRB1 a.b.c.d.e\n"):
        with pytest.raises(ProtocolViolation):
            open_original(no_seal, OPERATORS)


@pytest.mark.parametrize("text", ["", "[]", "{}", '"x"', '{"kty": "OKP", "crv": "X25519", "x": "AAAA", "kid": "k"}', "[" * 999])
def test_a_wrong_key_file_is_told_without_quoting_it(text: str) -> None:
    """No public key; and the private half, which has no business at a worker."""
    with pytest.raises(ConfigurationError, match="dsr keys quarantine"):
        quarantine_key(text)
    private = json.dumps(OPERATORS.unsafe_jwk())
    with pytest.raises(ConfigurationError, match="private half") as caught:
        quarantine_key(private)
    assert OPERATORS.unsafe_jwk()["d"] not in str(caught.value)
    assert quarantine_key(OPERATORS.public.model_dump_json()) == OPERATORS.public
