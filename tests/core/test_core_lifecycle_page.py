"""The published picture and tables say what the machines do."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from orchestrator.commands.lifecycle import lifecycle_command, machines, markdown, svg

DOCS = Path(__file__).resolve().parents[2] / "docs"
REMEDY = "run `dsr lifecycle --folder docs`"


@pytest.mark.parametrize(("name", "made"), [("lifecycle.svg", svg), ("lifecycle.md", markdown)])
def test_published_lifecycle_is_todays(name: str, made: object) -> None:
    """What lies in docs is what the tables of the core give."""
    assert callable(made)
    assert (DOCS / name).read_text(encoding="utf-8") == made(), REMEDY


def test_the_picture_shows_every_move() -> None:
    """Each phase has a card, each move an arrow or a line in its card, and the picture is well-formed."""
    root = ET.fromstring(svg())
    texts = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]
    arrows = [element for element in root.iter("{http://www.w3.org/2000/svg}path") if element.get("marker-end")]
    between = [ends for machine in machines() for ends in machine.moves if ends[0] != ends[1]]
    assert len(arrows) == len(between)
    words = " ".join(texts).replace(",", "").split()
    for machine in machines():
        assert all(phase in texts for phase in machine.phases)
        assert all(label in words for labels in machine.moves.values() for label in labels)


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a choice the tables are printed, with --svg the picture, with --folder both are written."""
    lifecycle_command(as_svg=False, as_markdown=False, folder=None)
    assert capsys.readouterr().out == markdown()
    lifecycle_command(as_svg=True, as_markdown=True, folder=tmp_path)
    assert (tmp_path / "lifecycle.svg").read_text() == svg()
    assert (tmp_path / "lifecycle.md").read_text() == markdown()
