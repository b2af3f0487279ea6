"""A few hundred damaged inputs for every decoder; `make fuzz` runs for as long as you like."""

from __future__ import annotations

import pytest

from tests.fuzz.mutate import CANARY
from tests.fuzz.run import fuzz
from tests.fuzz.target import Target
from tests.fuzz.targets import targets

_TARGETS = {target.name: target for target in targets()}


@pytest.mark.parametrize("name", _TARGETS)
def test_undamaged_input_is_taken(name: str) -> None:
    """What the damage starts from is well formed: else it would try the first check of a decoder alone."""
    for seed in _TARGETS[name].seeds:
        _TARGETS[name].run(seed)


@pytest.mark.parametrize("name", _TARGETS)
def test_damaged_input_is_refused_or_taken(name: str) -> None:
    """A decoder raises what it promises and nothing else, quickly, without repeating what it was given."""
    report = fuzz(_TARGETS[name], inputs=30 if name in {"registry", "declarative"} else 300)
    assert not report.findings, [str(finding) for finding in report.findings[:5]]


def test_a_decoder_that_crashes_is_found() -> None:
    """The harness sees another exception than the promised ones."""

    def careless(data: bytes) -> None:
        if b"canary" in data:
            raise KeyError("x")

    report = fuzz(Target("careless", (b'{"a": "b"}',), careless, (ValueError,)), inputs=500)
    assert report.findings


def test_a_refusal_that_repeats_its_input_is_found() -> None:
    """The harness sees a refusal that quotes."""

    def talkative(data: bytes) -> None:
        raise ValueError(data.decode("utf-8", "replace"))

    report = fuzz(Target("talkative", (f'{{"a": "{CANARY}"}}'.encode(),), talkative, (ValueError,)), inputs=50)
    assert report.findings
