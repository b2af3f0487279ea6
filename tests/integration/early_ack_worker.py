"""A worker with the very mistake that the product must not make: it acknowledges, and commits, before the work is done.

Run by `test_kill.py` to show that the test can see a loss.
"""

from __future__ import annotations

from typing import Any

from orchestrator.commands.worker import worker_command
from orchestrator.shell import faust_app


async def _drain(app: Any, inbox: Any, deck: Any) -> None:
    while not app.should_stop:
        batches = await app.consumer.take(deck.batch_records)
        app.consumer.ack_batches(batches)
        await app.consumer.commit()
        await inbox.process([record for batch in batches for record in batch.as_records()])


if __name__ == "__main__":
    faust_app._drain = _drain
    worker_command(worker_id=None, http_port=None, upgrade_store=True)
