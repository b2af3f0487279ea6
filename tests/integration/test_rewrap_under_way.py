"""The key-encryption key changes while a worker runs: nothing stops, and the old key is not needed afterwards."""

from __future__ import annotations

import asyncio
import base64
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from worker_kit import KEY, World, answer, request, settings_for, worker

from orchestrator.bootstrap import rewrap_keys
from orchestrator.shell.rewrapping import Rewrapped

pytestmark = pytest.mark.kafka
NEW = base64.b64encode(b"n" * 32).decode()


async def test_keys_are_wrapped_anew_while_a_worker_saves_and_closes(fresh_kafka, tmp_path: Path) -> None:
    """Requests from before, meanwhile and after are all confirmed, the last ones by a worker with the new key alone."""
    topics = await fresh_kafka.create("crm", "newsletter", "accounts")
    sizes = {"a": 15, "b": 10, "c": 5}
    before, meanwhile, after = ([request(email=f"{name}{n}@example.org") for n in range(size)] for name, size in sizes.items())
    old = settings_for(tmp_path, fresh_kafka.bootstrap, topics)
    both, new = (old.model_copy(update={"key_encryption_key": type(old.key_encryption_key)(t)}) for t in (f"{NEW} {KEY}", NEW))  # type: ignore[misc] # it is set
    async with World(fresh_kafka.bootstrap, topics).running() as world:
        world.respond = lambda order: answer(order) if order.system == "newsletter" else None
        async with worker(old):
            for asked in before:
                await world.publish(asked)
            await world.until(lambda: len(world.orders) >= 30)
        first, world.respond = [order for order in world.orders if order.system == "crm"], answer
        async with worker(both):

            async def go_on() -> None:
                for asked, order in zip(meanwhile, first[:10], strict=True):
                    await world.publish(asked)
                    await world.publish(answer(order))

            going = asyncio.create_task(go_on())
            results = [await rewrap_keys(both, lambda _count: None)]
            await going
            results.append(await rewrap_keys(both, lambda _count: None))
        assert results[0].done >= 5 and {result.left for result in results} == {0}, results
        async with worker(new):
            for asked in after:
                await world.publish(asked)
            for order in first[10:]:
                await world.publish(answer(order))
            everybody = {asked.subject_request_id for asked in (*before, *meanwhile, *after)}
            await world.until(lambda: everybody <= world.confirmations.keys())
        assert all(len(set(world.confirmations[one])) == 1 for one in everybody)
    assert await rewrap_keys(new, lambda _count: None) == Rewrapped(0, 0)
