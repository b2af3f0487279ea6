"""The demo's proof, without processes: each kind of deviation is told, and a registry that outgrew the demo is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.adapters import registry_file
from orchestrator.cli import app
from orchestrator.demo.cast import Record, Role, owned, written
from orchestrator.demo.people import people
from orchestrator.demo.play import REGISTRY
from orchestrator.demo.proof import Act, Holdings, Proof, compare
from orchestrator.demo.story import Scene
from schemas.confirmations import Confirmation, SystemResult
from schemas.outcomes import FinalOutcome, Fulfilled, NothingHeld, Waived
from schemas.vocabulary import RequestResult, Right
from schemas.vocabulary import Role as LegalRole

KNOWN = people("canary")
NOW = datetime(2026, 3, 2, tzinfo=UTC)
ROLE = Role(
    connector="test",
    code="te",
    seed=lambda _: None,
    settings=lambda _: {},
    fields={"phone": "phone"},
    silent={Right.UNSUBSCRIBE: {"mail": "off"}},
    tallies=lambda _: {},
    moves={Right.ERASURE: {"files": -1}},
)
BEFORE: dict[str, list[Record]] = {
    alias: [{"id": alias, "phone": "1", "mail": "on"}] for alias in ("Ada", "Ben")
}  # fmt: skip


def act(right: Right, outcome: FinalOutcome, **scene: object) -> Act:
    """Return a request of Ada's with its confirmation, of which only what the proof reads is real."""
    result = SystemResult.model_construct(system="crm", title="CRM", role=LegalRole.PROCESSOR, outcome=outcome, settled_at=NOW)
    told = Confirmation.model_construct(right=right, result=RequestResult.FULFILLED, systems=(result,))
    return Act(Scene(alias="Ada", right=right, **scene), told)  # type: ignore[arg-type]


def judged(after: dict[str, list[Record]], *acts: Act, files: int = 5) -> Proof:
    """Return the proof for one system."""
    return compare(
        registry_file.load(REGISTRY),
        {"crm": ROLE},
        KNOWN,
        before={"crm": Holdings(BEFORE, {"files": 5})},
        after={"crm": Holdings(after, {"files": files})},
        acts=acts,
    )


def test_nothing_asked_and_nothing_changed_is_proven() -> None:
    """Everybody is untouched."""
    proof = judged(BEFORE)
    assert proof.deviations == []
    assert proof.checked == {"untouched": 2}


def test_what_the_outcome_promises_is_proven() -> None:
    """An erasure that left nothing, and a correction of that one field, are as they must be."""
    erased = {"Ben": BEFORE["Ben"]}
    assert judged(erased, act(Right.ERASURE, Fulfilled(count=1)), files=4).checked == {"erased": 1, "untouched": 1}
    corrected = {**BEFORE, "Ada": [written(BEFORE["Ada"][0], {"phone": "2"})]}
    assert judged(corrected, act(Right.RECTIFICATION, Fulfilled(count=1), changes={"phone": "2"})).deviations == []


@pytest.mark.parametrize("outcome", [Fulfilled(count=1), NothingHeld()])
def test_an_erasure_that_left_something_is_told(outcome: FinalOutcome) -> None:
    """Whatever the confirmation says: the record is there."""
    assert "crm: Ada is not erased" in judged(BEFORE, act(Right.ERASURE, outcome), files=4).deviations[0]


def test_an_erasure_of_somebody_else_is_told() -> None:
    """Ben asked for nothing and is gone."""
    deviations = judged({}, act(Right.ERASURE, Fulfilled(count=1)), files=4).deviations
    assert [line.partition(":")[2].strip()[:20] for line in deviations] == ["Ben is not untouched"]


def test_a_correction_of_another_field_is_told() -> None:
    """The wanted field has its value, another one has changed with it."""
    after = {**BEFORE, "Ada": [written(BEFORE["Ada"][0], {"phone": "2", "mail": "off"})]}
    proof = judged(after, act(Right.RECTIFICATION, Fulfilled(count=1), changes={"phone": "2"}))
    assert "Ada is not corrected" in proof.deviations[0]


def test_a_waived_system_must_not_have_changed_anything() -> None:
    """An unsubscribe that an operator waived leaves the person subscribed; silence would be a lie the other way round."""
    waived = act(Right.UNSUBSCRIBE, Waived(by="operator.demo", why="the vendor cannot"))
    assert judged(BEFORE, waived).deviations == []
    assert judged({**BEFORE, "Ada": [written(BEFORE["Ada"][0], {"mail": "off"})]}, waived).deviations != []


def test_numbers_beside_the_records_are_proven() -> None:
    """An erasure takes one file; if none or two are gone, it is told."""
    erasure = act(Right.ERASURE, Fulfilled(count=1))
    for files in (5, 3):
        assert f"{files} files, 4 must be there" in judged({"Ben": BEFORE["Ben"]}, erasure, files=files).deviations[0]


def test_everybody_owns_what_names_them_and_nothing_else() -> None:
    """No person's values are part of another's, so that each record has one owner."""
    planted = [{"value": secret} for person in KNOWN.values() for secret in (*person.secrets, *person.hashes)]
    found = owned(planted, KNOWN.values())
    assert {alias: len(records) for alias, records in found.items()} == {
        person.alias: len((*person.secrets, *person.hashes)) for person in KNOWN.values()
    }


def test_a_system_without_a_part_in_the_demo_is_refused(tmp_path: Path) -> None:
    """A system switched on in the registry, which the demo could not prove, ends it with a sentence that says what to do."""
    registry = tmp_path / "registry.yaml"
    registry.write_text(REGISTRY.read_text().replace("- id: newsletter\n", "- id: bulletin\n"))
    result = CliRunner().invoke(app, ["demo", "--registry", str(registry), "--folder", str(tmp_path / "demo")])
    assert result.exit_code == 1
    assert "active systems without a part in the demo (bulletin)" in str(result.exception)
    assert "orchestrator/demo/parts.py" in str(result.exception)
