"""Histories of the core, played through Kafka, worker, store and keys: they must end there as they end in the core."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
from history_player import Player
from worker_kit import World

pytestmark = pytest.mark.kafka

FOLDER = Path(__file__).resolve().parents[1] / "histories"
#: Those in which store, clock, keys, registry or bus could spoil what the core has decided well. Any other may be added.
PLAYED = [
    "access-then-erasure",
    "erasure-overtakes-a-correction",
    "everything-delivered-three-times",
    "identifier-found-on-the-way",
    "late-report-after-a-waiver",
    "retained-then-lapsed",
    "subsidiary-that-never-answers",
    "system-added-later",
    "withdrawal-in-stage-two",
    "worker-down-for-weeks",
]


#: What stays however often everything is delivered; of what portals hear, some is said again.
_LASTING = {"phase", "result", "systems", "sent", "confirmations"}


@pytest.mark.parametrize("name", PLAYED)
async def test_a_history_ends_on_kafka_as_it_ends_in_the_core(fresh_kafka, tmp_path: Path, name: str) -> None:
    """Every end its file tells is seen on the bus, and delivering all of its records once more changes none."""
    told = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    systems = [*told["systems"], *(event["registry"] for event in told["events"] if "registry" in event)]
    topics = await fresh_kafka.create(*systems)
    async with World(fresh_kafka.bootstrap, topics, systems).running() as bus:
        bus.respond = lambda _order: None
        async with Player(bus, tmp_path, told).playing() as player:
            for event in told["events"]:
                await player.happen(event)
            for request, ends in told["ends"].items():
                player.ends(request, ends)
            await player.happen({"again": 1})
            for request, ends in told["ends"].items():
                player.ends(
                    request, {key: value for key, value in ends.items() if key in {"phase", "result", "systems", "sent"}}
                )
