"""The memory of what was saved last: it gives what parsing would give, and ends at its limit."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from orchestrator.core.state import RequestState, from_bytes, to_bytes
from orchestrator.shell.recent import RecentStates
from schemas.vocabulary import Language, Phase, Right

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def _state(number: int, phase: Phase = Phase.ACTIVE) -> RequestState:
    return RequestState(
        subject_request_id=f"00000000-0000-4000-8000-{number:012}",
        portal="shop",
        right=Right.ACCESS,
        phase=phase,
        language=Language.EN,
        source="dsr.requests.v1-0-1",
        submitted_at=NOW,
        received_at=NOW,
        content="c" * 64,
    )


def test_what_was_saved_is_read_again_without_parsing_and_equals_what_parsing_gives() -> None:
    recent, state = RecentStates(), _state(1)
    data = to_bytes(state)
    recent.remember(state, data)

    found = recent.read(bytes(bytearray(data)))  # other memory, the same bytes

    assert found is state
    assert found == from_bytes(data)
    assert recent.read(data) is not state, "it was taken"


def test_other_bytes_are_another_state_whoever_wrote_them() -> None:
    recent, state = RecentStates(), _state(1)
    recent.remember(state, to_bytes(state))
    by_another_worker = to_bytes(replace(state, journal_sequence=7))

    assert recent.read(by_another_worker).journal_sequence == 7
    with pytest.raises(ValueError, match="validation error"):
        recent.read(to_bytes(state)[:-1])


def test_a_closed_request_and_what_is_beyond_the_limit_are_not_remembered() -> None:
    first, second, closed = _state(1), _state(2), _state(3, Phase.CLOSED)
    recent = RecentStates(at_most=len(to_bytes(first)) + 1)
    for state in (first, second, closed):
        recent.remember(state, to_bytes(state))

    assert recent.read(to_bytes(first)) is not first, "the oldest goes"
    assert recent.read(to_bytes(second)) is second
    assert recent.read(to_bytes(closed)) is not closed
