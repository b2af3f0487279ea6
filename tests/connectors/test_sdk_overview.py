"""The page of what each system can do: true to the classes, true to the table, and never one without the other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from connectors.sdk.overview import PROMISES, overview
from schemas.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-c", "from connectors.sdk.cli import main; main()", "docs"]


def call(*arguments, cwd=ROOT):
    return subprocess.run([*COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60)


def test_the_page_is_what_the_classes_say():
    """docs/connectors.md is generated: whoever changes a connector writes it again with `dsr-connector docs`."""
    assert (ROOT / "docs" / "connectors.md").read_text(encoding="utf-8") == overview()


def test_check_tells_an_old_page_from_a_true_one(tmp_path):
    """Exit code 0 for the true page; 1 for another and for none, and nothing is written."""
    assert call("--check").returncode == 0
    page = tmp_path / "connectors.md"
    for text in (None, "old"):
        if text is not None:
            page.write_text(text)
        assert call("--check", "--output", str(page)).returncode == 1
    assert page.read_text() == "old"
    assert call("--output", str(page)).returncode == 0
    assert page.read_text(encoding="utf-8") == overview()


@pytest.mark.parametrize(
    ("system", "part", "value", "said"),
    [
        ("hubspot", None, None, "hubspot: is not in the table of promises"),
        ("nowhere", "title", "Nowhere", "nowhere: there is no such connector"),
        ("hubspot", "impossible", {"portability": "x"}, "hubspot: restriction is not offered: say under manual or impossible"),
        ("hubspot", "asynchronous", {"restriction": "x"}, "hubspot: restriction stands in several places"),
        ("mailchimp", "manual", {"restriction": "x"}, "mailchimp: restriction stands in several places"),
        ("linkedin", "impossible", {"erasure": "x"}, "linkedin: erasure stands in several places"),
        ("brevo", "impossible", {"erasure": "x"}, "brevo: erasure is offered, so it is not impossible"),
    ],
)
def test_table_and_classes_may_not_contradict(system, part, value, said, tmp_path):
    """A system without a row, a row without a system, a promise that no method keeps."""
    table = yaml.safe_load(PROMISES.read_text(encoding="utf-8"))
    if part is None:
        del table[system]
    else:
        table[system] = {**table.get(system, {"limits": "", "source": ""}), part: value}
        table[system].setdefault("title", system)
    changed = tmp_path / "promises.yaml"
    changed.write_text(yaml.safe_dump(table))
    with pytest.raises(ConfigurationError) as caught:
        overview(changed)
    assert said in str(caught.value)


def test_a_misspelt_right_is_named(tmp_path):
    """The message says where, by system and field."""
    table = yaml.safe_load(PROMISES.read_text(encoding="utf-8"))
    table["brevo"]["impossible"]["oblivion"] = "x"
    changed = tmp_path / "promises.yaml"
    changed.write_text(yaml.safe_dump(table))
    with pytest.raises(ConfigurationError, match=r"promises\.yaml: wrong at brevo\.impossible\.oblivion"):
        overview(changed)


def test_every_reason_has_a_source_that_is_there():
    """A README of ours exists; a page outside is named by its address."""
    for row in yaml.safe_load(PROMISES.read_text(encoding="utf-8")).values():
        assert row["source"].startswith("https://") or (ROOT / row["source"]).is_file()


def test_whoever_is_held_against_a_published_shape_says_so():
    """Every excerpt stands in its system's row, and no row names one that is not there."""
    rows = yaml.safe_load(PROMISES.read_text(encoding="utf-8"))
    said = {name: row["shapes"] for name, row in rows.items() if "shapes" in row}
    assert said == {file.stem: str(file.relative_to(ROOT)) for file in (ROOT / "tests" / "published_shapes").glob("*.json")}
