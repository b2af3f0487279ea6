"""Reads the registry from its YAML file and points every mistake at its line.

`load` returns a registry or raises one `ConfigurationError` with all mistakes, one a line:
`example-company.yaml:41: systems.crm.rights.2: 'deletion' is not a right; valid are access, ...`. Scalars are read as text
and the schema decides what they are, so the country code NO stays a country code and the version 1.10 stays what was written.

Room rules: PyYAML and files live here; what a valid registry is, `schemas.registry` says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import holidays
import yaml
from pydantic import BaseModel, ValidationError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from schemas.blobs import BlobKey
from schemas.errors import ConfigurationError
from schemas.registry import Controller, Portal, Registry, System, find_cycle
from schemas.subject import Need

__all__ = ["Mistake", "examine", "load"]

#: Where something stands in the file: keys and indexes from the top.
Place = tuple[str | int, ...]

#: More than any real registry; a larger file is somebody's mistake and would only be read slowly.
_MAX_BYTES = 1024 * 1024
_NULL = "tag:yaml.org,2002:null"
_NOUNS: Mapping[str, str] = {
    "rights": "a right",
    "irreversible": "a right",
    "yields": "an identifier kind",
    "kind": "an identifier kind",
    "form": "an identifier form",
    "role": "a role",
    "languages": "a language",
    "status": "a status",
}
_DURATION = re.compile(r"^P(?=[0-9T])(?:\d{1,4}W)?(?:\d{1,5}D)?(?:T(?=\d)(?:\d{1,6}H)?(?:\d{1,8}M)?(?:\d{1,8}S)?)?$")
#: Words people write, and the field's word for them (docs/glossary.md).
_MEANT = {
    "delete": "erasure", "deletion": "erasure", "export": "portability", "opt-out": "objection", "opt_out": "objection",
    "vendor": "processor", "partner": "processor", "mail": "email", "e-mail": "email",
}  # fmt: skip
_DURATION_FIELDS = ("patience", "cooling_off")
#: Calendars that are rules of their own and not a country of the holiday data set (docs/deadlines.md).
_OWN_CALENDARS = frozenset({"-", "NL-ATW", "US-CA*"})


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """One thing that is wrong: where (line from 1, field by its ids) and what would be right."""

    line: int
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.line}: {f'{self.field}: ' if self.field else ''}{self.message}"


def load(path: Path) -> Registry:
    """Return the registry in a YAML file.

    Raises `ConfigurationError` naming the file and, for every mistake, line, field and what is valid.
    """
    registry, mistakes = examine(path)
    if registry is None:
        raise ConfigurationError("\n".join(f"{path}:{mistake}" for mistake in mistakes))
    return registry


def examine(path: Path) -> tuple[Registry | None, tuple[Mistake, ...]]:
    """Return the registry and no mistakes, or None and every mistake in the order of the file's lines.

    Raises `ConfigurationError` only if the file cannot be read at all.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror}): name a registry file, see DSR_REGISTRY") from None
    if len(raw) > _MAX_BYTES:
        return None, (Mistake(1, "", f"larger than {_MAX_BYTES} bytes: not a registry"),)
    reading = _Reading()
    try:
        node = yaml.compose(raw, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        return None, (Mistake(mark.line + 1 if mark else 1, "", f"not YAML: {error.problem or error.context}"),)
    except RecursionError:
        return None, (Mistake(1, "", "nested too deeply for a registry"),)
    except (yaml.YAMLError, UnicodeDecodeError):
        return None, (Mistake(1, "", "not YAML: holds bytes that are no UTF-8 text"),)
    if not isinstance(node, MappingNode):
        return None, (Mistake(1, "", "must be a mapping with version, controller, portals and systems"),)
    reading.lines[()] = 1
    data = reading.value(node, ())
    registry, misfits, whole = _by_schema(data, reading)
    found = {*reading.mistakes, *misfits, *_across(data, reading)} or set(whole)
    return (None, tuple(sorted(found))) if found else (registry, ())


@dataclass
class _Reading:
    """Plain data of a YAML tree, with the line on which each part stands."""

    lines: dict[Place, int] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)
    ids: dict[Place, str] = field(default_factory=dict)

    def value(self, node: Node, place: Place, above: frozenset[int] = frozenset()) -> Any:
        """Return the node as dict, list, text or None; scalars stay text, only null is told apart."""
        self.lines.setdefault(place, node.start_mark.line + 1)
        if id(node) in above:
            self.mistakes.append(self.mistake(place, "an alias refers to itself"))
            return None
        inside = above | {id(node)}
        if isinstance(node, MappingNode):
            return self._mapping(node, place, inside)
        if isinstance(node, SequenceNode):
            return [self.value(child, (*place, index), inside) for index, child in enumerate(node.value)]
        assert isinstance(node, ScalarNode)
        return None if node.tag == _NULL else node.value

    def _mapping(self, node: MappingNode, place: Place, inside: frozenset[int]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        own_id = next((v.value for k, v in node.value if k.value == "id" and isinstance(v, ScalarNode)), "")
        if own_id:
            self.ids[place] = own_id
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, ScalarNode) else ""
            inner = (*place, key)
            first = self.lines.get(inner)
            line = key_node.start_mark.line + 1
            if first is not None and key in found:
                self.mistakes.append(Mistake(line, self.named(inner), f"stands twice, first on line {first}"))
                continue
            if not isinstance(key_node, ScalarNode):
                self.mistakes.append(Mistake(line, self.named(place), "a key must be plain text"))
                continue
            self.lines[inner] = line
            found[key] = self.value(value_node, inner, inside)
        return found

    def line(self, place: Place) -> int:
        """Return the line of a place, or of the nearest place around it."""
        while place not in self.lines:
            place = place[:-1]
        return self.lines[place]

    def named(self, place: Place) -> str:
        """Return a place in words, with a system's or portal's id where the data has an index."""
        parts = (self.ids.get(place[: n + 1], str(part)) for n, part in enumerate(place))
        return ".".join(parts)

    def mistake(self, place: Place, message: str) -> Mistake:
        """Return a mistake at a place."""
        return Mistake(self.line(place), self.named(place), message)


def _by_schema(data: Any, reading: _Reading) -> tuple[Registry | None, list[Mistake], list[Mistake]]:
    """Return the registry, or the mistakes of single fields, and apart from them those that `_across` explains better."""
    try:
        return Registry.model_validate(data), [], []
    except ValidationError as error:
        details = error.errors(include_url=False)
    misfits, whole = [], []
    for detail in details:
        place: Place = detail["loc"]
        if place and place[-1] not in _DURATION_FIELDS:
            misfits.append(reading.mistake(place, _message(detail["type"], place, detail)))
        else:
            whole.append(reading.mistake(place, detail["msg"]))
    return None, misfits, whole


def _message(kind: str, place: Place, detail: Mapping[str, Any]) -> str:
    given, context = detail["input"], detail.get("ctx", {})
    match kind:
        case "enum" | "literal_error":
            valid = re.findall(r"'([^']*)'", str(context["expected"]))
            noun = _NOUNS.get(_field_of(place), "valid here")
            text = f"{_quoted(given)} is not {noun}{_close(given, valid)}; valid are {', '.join(valid)}"
        case "extra_forbidden":
            valid = list(_model_at(place[:-1]).model_fields)
            text = f"is not known here{_close(place[-1], valid)}; valid are {', '.join(valid)}"
        case "missing":
            described = _model_at(place[:-1]).model_fields[str(place[-1])].description
            text = f"is missing{f': {described}' if described else ''}"
        case "string_pattern_mismatch":
            text = f"{_quoted(given)} must match {context['pattern']}"
        case "tuple_type":
            text = f"must be a list, is {_shape(given)}"
        case "model_type":
            text = f"must be a mapping with {', '.join(_model_at(place).model_fields)}, is {_shape(given)}"
        case "string_type":
            text = f"must be text, is {_shape(given)}"
        case _:
            text = f"{_quoted(given)} is not valid: {detail['msg']}"
    return text


def _field_of(place: Place) -> str:
    return next((part for part in reversed(place) if isinstance(part, str)), "")


def _model_at(place: Place) -> type[BaseModel]:
    match place:
        case ("controller",):
            return Controller
        case ("portals", int()):
            return Portal
        case ("portals", int(), "blob_key"):
            return BlobKey
        case ("systems", int()):
            return System
        case ("systems", int(), "needs", int()):
            return Need
        case _:
            return Registry


def _quoted(value: Any) -> str:
    return repr(value) if isinstance(value, str) and len(value) <= 60 else _shape(value)


def _shape(value: Any) -> str:
    if value is None:
        return "empty"
    return "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else "text"


def _close(given: Any, valid: Iterable[str]) -> str:
    words = list(valid)
    meant = _MEANT.get(given) if isinstance(given, str) else None
    near = [meant] if meant in words else get_close_matches(str(given), words, n=1) if isinstance(given, str) else []
    return f" (did you mean {near[0]}?)" if near else ""


def _across(data: Mapping[str, Any], reading: _Reading) -> Iterator[Mistake]:
    """Yield what single fields cannot show: doubles, references, circles, durations, zone, calendar."""
    yield from _controller(data.get("controller"), reading)
    for name in ("portals", "systems"):
        yield from _doubled_ids(name, data.get(name), reading)
    systems = [(n, s) for n, s in enumerate(_items(data.get("systems"))) if isinstance(s, dict)]
    known = sorted({s["id"] for _, s in systems if isinstance(s.get("id"), str)})
    for n, system in systems:
        yield from _durations(system, ("systems", n), reading)
        for key in ("rights", "yields", "after", "irreversible", "needs"):
            yield from _doubled_entries(_items(system.get(key)), ("systems", n, key), reading)
        for index, other in enumerate(_items(system.get("after"))):
            if isinstance(other, str) and other not in known:
                message = f"there is no system {_quoted(other)}{_close(other, known)}; known are {', '.join(known)}"
                yield reading.mistake(("systems", n, "after", index), message)
    yield from _circles(systems, known, reading)


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _controller(controller: Any, reading: _Reading) -> Iterator[Mistake]:
    if not isinstance(controller, dict):
        return
    zone, calendar = controller.get("zone"), controller.get("calendar")
    if isinstance(zone, str) and not _is_zone(zone):
        message = (
            f"{_quoted(zone)} is not an IANA zone{_close(zone, available_timezones())}; valid is for instance Europe/Amsterdam"
        )
        yield reading.mistake(("controller", "zone"), message)
    if isinstance(calendar, str) and not _is_calendar(calendar):
        own = ", ".join(sorted(_OWN_CALENDARS))
        message = (
            f"{_quoted(calendar)} is not a calendar; valid are {own} and countries or regions of ISO 3166, as NL or GB-ENG"
        )
        yield reading.mistake(("controller", "calendar"), message)
    yield from _doubled_entries(_items(controller.get("languages")), ("controller", "languages"), reading)


def _is_zone(zone: str) -> bool:
    try:
        ZoneInfo(zone)
    except (KeyError, OSError, ValueError):
        return False
    return True


def _is_calendar(calendar: str) -> bool:
    country, _, subdivision = calendar.partition("-")
    if calendar in _OWN_CALENDARS:
        return True
    known = _countries()
    return country in known and (not subdivision or subdivision in known[country])


@cache
def _countries() -> dict[str, list[str]]:
    return holidays.list_supported_countries()


def _doubled_ids(name: str, entries: Any, reading: _Reading) -> Iterator[Mistake]:
    first: dict[str, int] = {}
    for n, entry in enumerate(_items(entries)):
        given = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(given, str):
            continue
        place = (name, n, "id")
        if given in first:
            yield reading.mistake(place, f"{_quoted(given)} stands twice, first on line {first[given]}: give each its own id")
        first.setdefault(given, reading.line(place))


def _doubled_entries(entries: list[Any], place: Place, reading: _Reading) -> Iterator[Mistake]:
    for index, entry in enumerate(entries):
        if entry is not None and entry in entries[:index]:
            yield reading.mistake((*place, index), f"{_quoted(entry)} stands twice: remove one")


def _durations(system: Mapping[str, Any], place: Place, reading: _Reading) -> Iterator[Mistake]:
    for name in _DURATION_FIELDS:
        if name not in system:
            continue
        given = system[name]
        if not isinstance(given, str) or not _DURATION.match(given):
            example = "P3D (three days) or PT30S (thirty seconds)"
            yield reading.mistake(
                (*place, name), f"{_quoted(given)} is not an ISO 8601 duration of weeks, days or less: write {example}"
            )
        elif name == "patience" and not re.search(r"[1-9]", given):
            yield reading.mistake((*place, name), "must be longer than nothing: an order needs time to be answered")


def _circles(systems: list[tuple[int, dict[str, Any]]], known: Iterable[str], reading: _Reading) -> Iterator[Mistake]:
    """Yield one mistake per circle: each found one is cut open at its last step, until none is left."""
    written = {s["id"]: (n, _items(s.get("after"))) for n, s in systems if isinstance(s.get("id"), str)}
    after = {system: [other for other in others if other in known] for system, (_, others) in written.items()}
    while circle := find_cycle(after):
        last, back_to = circle[-2], circle[-1]
        n, others = written[last]
        yield reading.mistake(("systems", n, "after", others.index(back_to)), f"runs in a circle: {' after '.join(circle)}")
        after[last] = [other for other in after[last] if other != back_to]
