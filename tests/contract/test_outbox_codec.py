"""The outbox blob gives back what was put in, and says so when it cannot."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.adapters.sql.outbox import pack, unpack
from orchestrator.ports import OutRecord

text = st.text(st.characters(codec="utf-8"), max_size=60)
headers = st.lists(st.tuples(text, st.binary(max_size=40)), max_size=4)
records = st.lists(st.builds(OutRecord, text, st.binary(max_size=40), st.binary(max_size=400), headers), max_size=6)


@given(records)
def test_what_is_packed_is_unpacked(given_records: list[OutRecord]) -> None:
    """Any topics, keys, values and headers, empty and doubled ones included, come back in order."""
    assert list(unpack(pack(given_records))) == given_records


@given(st.lists(records, max_size=3))
def test_blobs_join(parts: list[list[OutRecord]]) -> None:
    """Packing is one record after the other: joined blobs unpack to joined records."""
    assert list(unpack(b"".join(map(pack, parts)))) == [record for part in parts for record in part]


@given(records.filter(bool), st.data())
def test_a_truncated_blob_never_passes_for_whole(given_records: list[OutRecord], data: st.DataObject) -> None:
    """A blob that was cut gives whole records up to the cut, or a `ValueError`; never a record that was not put in."""
    blob = pack(given_records)
    cut = data.draw(st.integers(0, len(blob) - 1))
    found: tuple[OutRecord, ...] = ()
    with contextlib.suppress(ValueError):
        found = unpack(blob[:cut])
    assert list(found) == given_records[: len(found)] and len(found) < len(given_records)


def test_a_blob_of_something_else_is_refused() -> None:
    """Bytes that no `pack` wrote end in an error instead of in records."""
    with pytest.raises(ValueError, match="ends in the middle"):
        unpack(b"\xff\xff\xff\xffabc")
