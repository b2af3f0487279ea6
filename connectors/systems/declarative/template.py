"""Texts with places for values, and the only ways in which a value may enter a request.

| where | how a value enters |
| --- | --- |
| path | as one segment, percent-encoded; empty, `.` and `..` are refused |
| whole query value or whole JSON text | as it is: the encoder of the format quotes it |
| inside a longer text | quoted or hashed by a filter; ids and settings only if they are plain |

Room rules: no value in an error; what cannot be placed safely is refused when the file is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from connectors.sdk.http import segment
from schemas.errors import SystemRejected
from schemas.subject import in_form
from schemas.vocabulary import IdentifierForm

__all__ = ["FILTERS", "Place", "Template", "Values", "compiled", "places_in", "rendered"]

#: What places are filled with, by the name that stands between the braces.
Values = Mapping[str, Any]

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_PLACE = re.compile(r"([a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)?)((?:\|[a-z0-9]+)*)")
_PLAIN = re.compile(r"[A-Za-z0-9_.:,-]{1,4000}")
_SOQL = {"\\": "\\\\", "'": "\\'", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
_FORMS = {form.value: form for form in IdentifierForm if form is not IdentifierForm.RAW}

#: What may stand behind `|`: the forms of an identifier, and the quoting of a SOQL literal.
FILTERS = frozenset({*_FORMS, "soql"})
#: After one of these a value holds nothing that could end a quotation.
_HARMLESS = frozenset({"soql", "md5", "sha256"})
#: Whose values are ids, given by the system or by us: placed inside a longer text if they are plain.
_IDS = frozenset({"record.id", "record.kind", "records.ids", "item.id", "order_id", "today", "job"})


@dataclass(frozen=True, slots=True)
class Place:
    """A place for one value."""

    name: str
    filters: tuple[str, ...] = ()

    @property
    def is_id(self) -> bool:
        """Tell whether the value is an id or a setting."""
        return self.name in _IDS or self.name.startswith(("saved.", "setting."))

    def fill(self, values: Values) -> Any:
        """Return the value, through the filters. `KeyError` is a defect: loading has checked every name."""
        value = values[self.name]
        for name in self.filters:
            value = _soql(str(value)) if name == "soql" else in_form(str(value), _FORMS[name])
        return value


@dataclass(frozen=True, slots=True)
class Template:
    """A text with places. Built by `parse`."""

    parts: tuple[str | Place, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Return the template of a text; `{{` and `}}` are braces. Raises `ValueError` naming what is wrong."""
        parts: list[str | Place] = []
        end = 0
        for found in _TOKEN.finditer(text):
            parts.append(text[end : found.start()])
            end = found.end()
            if found[0] in {"{{", "}}"}:
                parts.append(found[0][0])
            elif found[1] is None:
                raise ValueError("a brace without its partner: write {{ or }} for a brace itself")
            else:
                parts.append(_place(found[1]))
        return cls(tuple(part for part in (*parts, text[end:]) if part != ""))

    @property
    def places(self) -> tuple[Place, ...]:
        """Return its places."""
        return tuple(part for part in self.parts if isinstance(part, Place))

    @property
    def is_one_place(self) -> bool:
        """Tell whether it is nothing but one place."""
        return len(self.parts) == 1 and isinstance(self.parts[0], Place)

    def unsafe_places(self) -> tuple[Place, ...]:
        """Return places inside a longer text whose value could end a quotation there."""
        if self.is_one_place:
            return ()
        return tuple(place for place in self.places if not place.is_id and not _HARMLESS & set(place.filters))

    def as_path(self, values: Values) -> str:
        """Return the text as a path: each value is one segment, or part of one. Raises `SystemRejected`."""
        return "".join(part if isinstance(part, str) else _as_segment(str(part.fill(values))) for part in self.parts)

    def fill(self, values: Values) -> Any:
        """Return the text, or the value itself if it is all there is. Raises `SystemRejected`."""
        if self.is_one_place:
            return self.places[0].fill(values)
        return "".join(part if isinstance(part, str) else _inside(part, values) for part in self.parts)


def _place(text: str) -> Place:
    found = _PLACE.fullmatch(text)
    filters = tuple(found[2].split("|")[1:]) if found else ()
    if found is None:
        raise ValueError("between braces stands a name, as in {record.id} or {identifier|lower}")
    if unknown := set(filters) - FILTERS:
        raise ValueError(f"no filter {min(unknown)}; known are {', '.join(sorted(FILTERS))}")
    return Place(found[1], filters)


def _as_segment(value: str) -> str:
    if value.strip() in {"", ".", ".."}:
        raise SystemRejected("a value is no path segment: it would name another resource")
    return segment(value)


def _inside(place: Place, values: Values) -> str:
    value = str(place.fill(values))
    if not _HARMLESS & set(place.filters) and not _PLAIN.fullmatch(value):
        raise SystemRejected(f"the value of {place.name} is not plain: it cannot stand inside a longer text")
    return value


def _soql(value: str) -> str:
    """Escape for a literal between single quotes (Salesforce, SOQL reserved characters)."""
    return "".join(_SOQL.get(letter, letter) for letter in value)


def compiled(value: Any) -> Any:
    """Return a document with every text in it parsed. Raises `ValueError`."""
    if isinstance(value, str):
        return Template.parse(value)
    if isinstance(value, dict):
        return {str(key): compiled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [compiled(item) for item in value]
    return value


def rendered(value: Any, values: Values) -> Any:
    """Return a compiled document with every place filled. Raises `SystemRejected`."""
    if isinstance(value, Template):
        return value.fill(values)
    if isinstance(value, dict):
        return {key: rendered(item, values) for key, item in value.items()}
    if isinstance(value, list):
        return [rendered(item, values) for item in value]
    return value


def places_in(value: Any) -> Iterator[Template]:
    """Yield every template in a compiled document."""
    if isinstance(value, Template):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from places_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from places_in(item)
