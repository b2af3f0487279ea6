"""The key that wraps all others: what it takes, what it refuses, and that it says nothing of itself."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.adapters.key_encryption import KeyEncryption
from schemas.errors import ConfigurationError

OLD, NEW = (base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))


@given(st.binary(min_size=1, max_size=200), st.text(max_size=40))
def test_what_was_wrapped_unwraps_in_its_place_and_nowhere_else(secret: bytes, place: str) -> None:
    """The same key in the same place gives the same bytes; another place or a changed byte is refused."""
    keys = KeyEncryption.from_text(NEW)
    wrapped = keys.wrap(secret, place)
    assert keys.unwrap(wrapped, place) == secret
    assert wrapped == keys.wrap(secret, place)
    assert secret not in wrapped or len(secret) < 8
    with pytest.raises(ConfigurationError, match="changed or moved"):
        keys.unwrap(wrapped, place + "x")


def test_an_older_key_unwraps_and_no_longer_wraps() -> None:
    """After a change of the key both are given, the new one first."""
    before, both, after = KeyEncryption.from_text(OLD), KeyEncryption.from_text(f"{NEW}\n{OLD}\n"), KeyEncryption.from_text(NEW)
    wrapped = before.wrap(b"secret", "place")
    assert both.unwrap(wrapped, "place") == b"secret"
    assert before.is_current(wrapped) and not both.is_current(wrapped)
    assert both.is_current(both.wrap(b"secret", "place"))
    with pytest.raises(ConfigurationError, match=f"needs the key named {before.kid}: add it .* delete the store's file"):
        after.unwrap(wrapped, "place")


@pytest.mark.parametrize("text", ["", " \n", "short", base64.b64encode(b"k" * 31).decode(), f"{NEW} nonsense!"])
def test_a_wrong_key_is_named_by_its_setting_and_never_quoted(text: str) -> None:
    """The error says which setting and how to make one; the text is a secret, however wrong."""
    with pytest.raises(ConfigurationError, match=r"DSR_KEY_ENCRYPTION_KEY.*openssl rand") as refused:
        KeyEncryption.from_text(text)
    assert not text.strip() or text not in str(refused.value)


def test_a_name_that_is_none_of_ours_is_not_repeated() -> None:
    """Whoever changed the store may have written anybody's address where a key's name stands."""
    keys = KeyEncryption.from_text(NEW)
    changed = keys.wrap(b"secret", "place").replace(keys.kid.encode(), b"erika.canary")
    with pytest.raises(ConfigurationError, match="no key of ours") as refused:
        keys.unwrap(changed, "place")
    assert "canary" not in str(refused.value)


def test_no_seal_is_a_broken_store() -> None:
    """It cannot be one bad record: nobody's key would unwrap."""
    with pytest.raises(ConfigurationError, match="no seal"):
        KeyEncryption.from_text(NEW).unwrap(b"{}", "place")
