"""A record with a header name that is no UTF-8 stands between good ones, and nothing stops at it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from process_kit import read_to_the_end
from raw_names import RawName, write_batch
from test_guards import committed, eventually
from worker_kit import SYSTEMS, World, request, settings_for, worker

from schemas.wire import encode, headers_of

pytestmark = pytest.mark.kafka


async def test_a_header_name_that_is_no_text_stops_nothing(fresh_kafka, tmp_path: Path) -> None:
    """Good records before and after it in the same batch, and the record itself, are taken in; offsets are committed."""
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics)
    asked = [request() for _ in range(5)]
    async with World(fresh_kafka.bootstrap, topics).running() as world:
        batch = [(one.subject_request_id.encode(), encode(one), headers_of(one)) for one in asked]
        batch[2][2].extend([(RawName("x"), b"1"), ("none", None)])
        await write_batch(fresh_kafka.bootstrap, topics.requests, batch)
        async with worker(settings):
            await world.until(lambda: len(world.confirmations) == 5)

            async def all_committed() -> bool:
                return await committed(settings, topics.requests) == 5

            await eventually(all_committed)
        await read_to_the_end(world)
        assert not world.records[topics.quarantine]
