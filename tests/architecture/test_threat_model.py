"""The threat model names tests: each of them exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:tests|docs)/[^`]+)`", PAGE))))
def test_what_is_named_exists(name: str) -> None:
    """A defence without its test is a claim."""
    assert (ROOT / name).exists()


def test_every_attacker_says_what_is_not_stopped() -> None:
    """Each attacker's section ends with what that attacker can still do, except the network's, which is a list of defences."""
    sections = re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]
    assert [part.splitlines()[0] for part in sections if "**Not stopped:**" not in part] == ["The network between"]
