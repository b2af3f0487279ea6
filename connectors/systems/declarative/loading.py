"""Read a file that describes a system; refuse it, by line and field, where it could not be run safely.

Room rules: reads one file; never the environment, never a network. A file that loads may still name a call that the system does
not have: its conformance tests show that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from connectors.systems.declarative.declaration import (
    Choice,
    CursorPages,
    Declaration,
    Find,
    Procedure,
    Request,
    Step,
)
from connectors.systems.declarative.template import Template, places_in
from schemas.errors import ConfigurationError
from schemas.vocabulary import Right

__all__ = ["SHIPPED", "load", "parse", "shipped"]

#: Where the files of this package stand, each in a folder with its stand-in.
SHIPPED = Path(__file__).with_name("shipped")

_Loc = tuple[str | int, ...]
_Problem = tuple[_Loc, str]
_COPIES = frozenset({Right.ACCESS, Right.PORTABILITY})
_AMENDMENTS = frozenset({Right.RECTIFICATION, Right.COMPLETION})


def shipped() -> list[str]:
    """Return the names of the files of this package."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/connector.yaml"))


def load(name: str) -> Declaration:
    """Return what a file says: `name` is a path, or the name of a shipped one. Raises `ConfigurationError`."""
    path = SHIPPED / name / "connector.yaml" if name in shipped() else Path(name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        known = ", ".join(shipped())
        raise ConfigurationError(f"DSR_DECLARATIVE_FILE: no file to be read; give a path, or one of {known}") from None
    return parse(text, path.name)


def parse(text: str, file: str) -> Declaration:
    """Return what a text says. Raises `ConfigurationError` with every problem as `file:line: field: what is wrong`."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark is not None else 1
        raise ConfigurationError(f"{file}:{line}: is no YAML") from None
    except RecursionError:
        raise ConfigurationError(f"{file}:1: is nested too deeply for a declaration") from None
    problems = list(_repeated(node))
    declaration: Declaration | None = None
    if not problems:
        try:
            declaration = Declaration.model_validate(data)
        except ValidationError as error:
            problems = [(tuple(e["loc"]), _said(e["msg"])) for e in error.errors(include_input=False, include_url=False)]
        else:
            problems = list(_inconsistencies(declaration))
    if declaration is None or problems:
        raise ConfigurationError("\n".join(_shown(file, node, loc, what) for loc, what in problems))
    return declaration


def _said(message: str) -> str:
    return message.removeprefix("Value error, ")


def _shown(file: str, node: yaml.Node | None, loc: _Loc, what: str) -> str:
    line, known = _placed(node, loc)
    return f"{file}:{line}: {'.'.join(str(part) for part in known) or 'file'}: {what}"


def _placed(node: yaml.Node | None, loc: _Loc) -> tuple[int, _Loc]:
    """Return the line, and the parts of the field's path that the file has; pydantic's own (a union's tag) are left out."""
    known: list[str | int] = []
    line = node.start_mark.line + 1 if node is not None else 1
    for index, part in enumerate(loc):
        step = _below(node, part)
        if step is not None:
            line, node = step
            known.append(part)
        elif index == len(loc) - 1:
            known.append(part)
    return line, tuple(known)


def _below(node: yaml.Node | None, part: str | int) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in reversed(node.value):
            if key.value == str(part):
                return key.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part].start_mark.line + 1, node.value[part]
    return None


def _repeated(node: yaml.Node | None, loc: _Loc = ()) -> Iterator[_Problem]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                yield (*loc, key.value), "stands twice: the second would silently win"
            seen.add(key.value)
            yield from _repeated(value, (*loc, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _repeated(item, (*loc, index))


def _inconsistencies(declaration: Declaration) -> Iterator[_Problem]:
    settings = frozenset(f"setting.{name}" for name in declaration.settings)
    for index, rule in enumerate(declaration.errors):
        if rule.means in {"gone", "done"} and rule.code is None:
            yield (
                ("errors", index),
                "for every call, a bare status proves nothing: name the body's code, or move it to one call",
            )
    yield from _request(declaration.check, ("check",), settings)
    for index, find in enumerate(declaration.find):
        yield from _find(find, ("find", index), settings)
    for name, poll in declaration.polls.items():
        yield from _request(poll, ("polls", name), settings | {"job"})
        if (poll.done is None) == (poll.within is None):
            yield ("polls", name), "say when it is done: one of `done` and `within`"
    for right in declaration.rights:
        yield from _right(declaration, right, settings)


def _find(find: Find, loc: _Loc, settings: frozenset[str]) -> Iterator[_Problem]:
    yield from _request(find, loc, settings | {"identifier"})
    if bool(find.match) == find.exact:
        yield loc, "one of `match` and `exact: true`: without it a loose search would touch somebody else"
    yield from _pages(find.pages, (*loc, "pages"))


def _pages(pages: Any, loc: _Loc) -> Iterator[_Problem]:
    if isinstance(pages, CursorPages) and (pages.query is None) == (pages.body is None):
        yield loc, "the cursor goes into one of `query` and `body`"


def _right(declaration: Declaration, right: Right, settings: frozenset[str]) -> Iterator[_Problem]:
    doing = declaration.rights[right]
    loc: _Loc = ("rights", right.value)
    if right in _AMENDMENTS and declaration.fields is None:
        yield loc, "needs `fields`: which of our fields is which of the system's"
    if isinstance(doing, Choice):
        setting = declaration.settings.get(doing.setting)
        if setting is None:
            yield (*loc, "setting"), "is not among `settings`"
        elif setting.default is not None and setting.default not in doing.variants:
            yield ("settings", doing.setting, "default"), f"is no variant of {right.value}"
    for name, procedure in declaration.procedures(right).items():
        at = (*loc, "variants", name) if name else loc
        yield from _procedure(declaration, right, procedure, at, settings)


def _procedure(
    declaration: Declaration, right: Right, procedure: Procedure, loc: _Loc, settings: frozenset[str]
) -> Iterator[_Problem]:
    if not procedure.steps and right not in _COPIES:
        yield loc, "has no steps: it would be called fulfilled and nothing done"
    untouched = {find.kind for find in declaration.find if find.rights is None or right in find.rights} - {
        kind for step in procedure.steps for kind in (step.only or (find.kind for find in declaration.find))
    }
    if right not in _COPIES and procedure.steps and untouched:
        yield loc, f"{min(untouched)} is found and no step touches it: it would be counted as fulfilled"
    for note in set(procedure.notes) - set(declaration.notes):
        yield (*loc, "notes"), f"{note} is not explained under `notes`"
    kept: frozenset[str] = frozenset()
    for index, step in enumerate(procedure.steps):
        at = (*loc, "steps", index)
        yield from _step(declaration, right, step, at, settings | kept)
        kept |= {f"saved.{name}" for name in step.save}


def _step(declaration: Declaration, right: Right, step: Step, loc: _Loc, known: frozenset[str]) -> Iterator[_Problem]:
    kinds = {find.kind for find in declaration.find}
    if unknown := set(step.only) - kinds:
        yield (*loc, "only"), f"nothing of kind {min(unknown)} is found"
    if step.job is not None and step.job.poll not in declaration.polls:
        yield (*loc, "job", "poll"), "is not among `polls`"
    if step.export is not None and right not in _COPIES:
        yield (*loc, "export"), "belongs to access and portability"
    if step.each == "person" and (step.for_each is not None or step.save or (step.job is not None and step.job.id is None)):
        yield loc, "once for the person: no `for_each`, no `save`, and a job needs its `id`"
    names = known | {"order_id", "today"}
    if step.each == "person":
        names |= {"records.ids"}
    else:
        found = [find for find in declaration.find if not step.only or find.kind in step.only]
        values = frozenset.intersection(*(frozenset(find.values) for find in found)) if found else frozenset()
        names |= {"record.id", "record.kind", *(f"record.{name}" for name in values)}
    if right in _AMENDMENTS:
        names |= {"changes"}
    if step.for_each is not None:
        yield from _request(step.for_each, (*loc, "for_each"), names)
        yield from _pages(step.for_each.pages, (*loc, "for_each", "pages"))
        names |= {"item.id"}
    if step.export is not None:
        yield from _pages(step.export.pages, (*loc, "export", "pages"))
    yield from _request(step, loc, names)


def _request(request: Request, loc: _Loc, names: frozenset[str]) -> Iterator[_Problem]:
    yield from _templates(request.call.path, (*loc, "call"), names, in_path=True)
    documents: Mapping[str, Any] = {"query": request.query, "body": request.body, "text": request.text}
    for name, document in documents.items():
        for template in places_in(dict(document) if name == "query" else document):
            yield from _templates(template, (*loc, name), names, in_path=False)
    if request.body is not None and request.text is not None:
        yield loc, "one of `body` and `text`"


def _templates(template: Template, loc: _Loc, names: frozenset[str], *, in_path: bool) -> Iterator[_Problem]:
    for place in template.places:
        if place.name not in names:
            yield loc, f"nothing is called {place.name} here; known are {', '.join(sorted(names)) or 'none'}"
        elif place.name == "changes" and not (template.is_one_place and not place.filters and not in_path):
            yield loc, "{changes} is a document: it must be a whole value of the body"
    if not in_path:
        for place in template.unsafe_places():
            yield loc, f"{place.name} stands inside a longer text: add |soql, |md5 or |sha256, or make it the whole value"
