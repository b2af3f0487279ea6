"""The rules that all shared words keep: reasons, forms of identifiers, registry, topics, exports, glossary."""

from __future__ import annotations

import ast
import importlib
import inspect
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest
from pydantic import TypeAdapter, ValidationError

import schemas
from schemas import topics, vocabulary
from schemas.base import Actor, Day, Instant, Reason
from schemas.registry import Registry, find_cycle
from schemas.subject import in_form
from schemas.vocabulary import IdentifierForm

ROOT = Path(schemas.__file__).parent
MODULES = sorted(path.stem for path in ROOT.glob("*.py") if path.stem != "__init__")


# --- moments are of our time ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-12:00", "1969-12-31T00:00:00Z"])
def test_moments_at_the_ends_of_the_calendar_are_refused(text: str):
    """Arithmetic there overflows, which would end the worker on every replay: such a moment is a field's error instead."""
    with pytest.raises(ValidationError, match="needs a year from 1970 to 2999"):
        TypeAdapter(Instant).validate_python(text)
    with pytest.raises(ValidationError, match="needs a year from 1970 to 2999"):
        TypeAdapter(Day).validate_python(text[:10])


# --- free text names nobody -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "asked by jan@example.org",
        "asked by jan @ example.org",
        "asked by jan\uff20example.org",
        "called from 0612345678",
        "called from 06-12 34 56 78",
        "called from 06.12.34.56.78",
        "called from (020) 123 45 67 89",
        "called from +31 (0)6 1234 5678",
        "called from 020/123.45.67",
        "account 1234567",
        "account NL91ABNA0417164300",
        "called from \u0660\u0666\u0661\u0662\u0663\u0664\u0665",
    ],
)
def test_reason_refuses_addresses_and_long_numbers(text: str):
    """A reason that looks as if it names a person is refused, and the error does not repeat it."""
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Reason).validate_python(text)
    assert caught.value.errors()[0]["msg"].startswith("Value error, looks as if it names a person")


@pytest.mark.parametrize(
    "text",
    [
        "Contract ended on 2026-03-31",
        "Agreed in the meeting of 2026-03-31 10:00",
        "Retained under art. 17(3)(b), 7 years",
        "Ticket PRIV-4711 explains it",
        "Between 2026-01-01 and 2026-02-01 the system was off",
    ],
)
def test_reason_takes_dates_and_short_numbers(text: str):
    """Dates, times, articles and ticket numbers are no person."""
    assert TypeAdapter(Reason).validate_python(f"  {text} ") == text


@pytest.mark.parametrize("text", ["jan@example.org", "J", "Jan Jansen", "", "1abc", "a" * 65])
def test_actor_is_an_id(text: str):
    """An actor is a short id, never an address or a name."""
    with pytest.raises(ValidationError):
        TypeAdapter(Actor).validate_python(text)


def test_instants_are_utc():
    """An instant keeps its moment and is told in UTC; one without an offset is refused."""
    amsterdam = datetime(2026, 7, 1, 12, 0, tzinfo=timezone(timedelta(hours=2)))
    assert TypeAdapter(Instant).validate_python(amsterdam) == datetime(2026, 7, 1, 10, 0, tzinfo=UTC)
    assert TypeAdapter(Instant).validate_python(amsterdam).tzinfo is UTC
    with pytest.raises(ValidationError, match="needs an offset"):
        TypeAdapter(Instant).validate_python("2026-07-01T12:00:00")


@pytest.mark.parametrize(
    ("form", "value", "expected"),
    [
        (IdentifierForm.RAW, " A@Example.org ", "A@Example.org"),
        (IdentifierForm.LOWER, " A@Example.org ", "a@example.org"),
        (IdentifierForm.MD5, " A@Example.org ", "22c2268861a8547b97a84c1c112b9525"),
        (IdentifierForm.SHA256, "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (IdentifierForm.E164, "+31 (20) 123-45 67", "+31201234567"),
        (IdentifierForm.E164, "+31 (0)20 123 45 67", "+31201234567"),
        (IdentifierForm.E164, "0031 20 1234567", "+31201234567"),
        (IdentifierForm.E164, "\uff0b\uff13\uff11 20 1234567", "+31201234567"),
        (IdentifierForm.E164, "+\u0663\u0661 20 1234567", "+31201234567"),
        (IdentifierForm.E164, "020 - 123.45.67", "0201234567"),
        (IdentifierForm.E164, "(0)20 1234567", "0201234567"),
    ],
)
def test_identifiers_take_the_form_a_system_needs(form: IdentifierForm, value: str, expected: str):
    """Hashes are of the trimmed lower-cased value; telephone numbers keep what is dialled from abroad."""
    assert in_form(value, form) == expected


# --- registry ---------------------------------------------------------------------------------------------------------


def registry(*systems: tuple[str, list[str]], portals: tuple[str, ...] = ("website",)) -> Registry:
    return Registry.model_validate(
        {
            "version": "1",
            "controller": {"title": "Example", "zone": "Europe/Amsterdam", "calendar": "NL"},
            "portals": [{"id": portal, "title": "Portal", "owner": "Team"} for portal in portals],
            "systems": [
                {"id": name, "title": "System", "role": "processor", "owner": "Team", "after": after} for name, after in systems
            ],
        }
    )


@pytest.mark.parametrize(
    ("systems", "portals", "message"),
    [
        ([("a", []), ("a", [])], ("website",), "systems: id 'a' stands twice"),
        ([("a", [])], ("website", "website"), "portals: id 'website' stands twice"),
        ([("a", ["b"])], ("website",), "systems.a.after: no system 'b'; known are a"),
        ([("a", ["a"])], ("website",), "runs in a circle: a -> a"),
        ([("a", ["b"]), ("b", ["c"]), ("c", ["a"])], ("website",), "runs in a circle: a -> b -> c -> a"),
        ([("A", [])], ("website",), "should match pattern"),
    ],
)
def test_inconsistent_registries_are_refused(systems: list, portals: tuple[str, ...], message: str):
    """Doubled ids, unknown predecessors and circles are refused wherever a registry is made."""
    with pytest.raises(ValidationError, match=message.replace("(", r"\(")):
        registry(*systems, portals=portals)


def test_registry_content_decides_its_digest():
    """Two registries are told apart by content, not by version."""
    assert registry(("a", [])).content_digest == registry(("a", [])).content_digest
    assert registry(("a", [])).content_digest != registry(("b", [])).content_digest
    assert [s.id for s in registry(("a", [])).active()] == []


def test_find_cycle_takes_diamonds():
    """Two ways to the same system are no circle."""
    assert find_cycle({"d": ["b", "c"], "b": ["a"], "c": ["a"], "a": []}) == []


# --- topics -----------------------------------------------------------------------------------------------------------


def test_manifest_has_every_topic_once():
    """The manifest has the ten common topics and one for orders per system, each with writers, and readers but for one."""
    specs = topics.manifest(["newsletter", "crm"])
    names = [spec.name for spec in specs]
    assert names == [
        topics.REQUESTS, topics.URGENT_REQUESTS, topics.COMMANDS, topics.REPORTS, topics.STATUS, topics.CONFIRMATIONS,
        topics.JOURNAL, topics.RELEASES, topics.QUARANTINE, "dsr.clock.v1", "dsr.orders.crm.v1", "dsr.orders.newsletter.v1",
    ]  # fmt: skip
    assert len(set(names)) == len(names)
    for spec in specs:
        assert spec.writers
        assert bool(spec.readers) == (spec.timestamps == "CreateTime")
        assert len(spec.name) <= 249


def test_topics_with_identities_are_short_lived():
    """What carries sealed identities is deleted after days; the answer outlives the journal, and nothing is kept for ever."""
    by_name = {spec.name: spec for spec in topics.manifest(["crm"])}
    week = 7 * 24 * 60 * 60 * 1000
    for name in (topics.REQUESTS, topics.URGENT_REQUESTS, topics.orders_topic("crm")):
        assert 0 < by_name[name].retention_ms <= week
    assert all(spec.retention_ms > 0 and spec.cleanup == "delete" for spec in by_name.values())
    assert by_name[topics.CONFIRMATIONS].retention_ms > by_name[topics.JOURNAL].retention_ms
    assert by_name[topics.QUARANTINE].max_message_bytes > by_name[topics.REQUESTS].max_message_bytes


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_all_is_what_is_public(name: str):
    """`__all__` of each module names exactly what it defines without an underscore, in order."""
    module = importlib.import_module(f"schemas.{name}")
    defined: set[str] = set()
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            defined.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            defined.update(target.id for target in targets if isinstance(target, ast.Name))
    public = {n for n in defined if not n.startswith("_") and not isinstance(getattr(module, n), TypeVar | ParamSpec)}
    assert set(module.__all__) == public
    assert len(module.__all__) == len(set(module.__all__))


def _enums() -> list[type[StrEnum]]:
    return [getattr(vocabulary, name) for name in vocabulary.__all__]


@pytest.mark.parametrize("enum", _enums(), ids=vocabulary.__all__)
def test_glossary_explains_every_word(enum: type[StrEnum]):
    """Each member of each vocabulary has a row, with a meaning, under its own heading of the glossary."""
    glossary = (ROOT.parent / "docs" / "glossary.md").read_text(encoding="utf-8")
    section = glossary.partition(f"\n### {enum.__name__}\n")[2].partition("\n#")[0]
    rows = dict(line.strip("|").split("|", 1) for line in section.splitlines() if line.startswith("| `"))
    meanings = {word.strip().strip("`"): meaning.strip() for word, meaning in rows.items()}
    assert list(meanings) == [member.value for member in enum]
    assert all(len(meaning) > 3 for meaning in meanings.values())
