"""Hypothesis strategies for any message, made from its model's own annotations."""

from __future__ import annotations

import types
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Le, MaxLen, MinLen
from hypothesis import strategies as st
from pydantic import BaseModel, StringConstraints
from pydantic.fields import FieldInfo

from schemas.blobs import BlobKey

__all__ = ["messages_of"]

_INSTANTS = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis adds the zone
#: Not every 32 bytes are a point that can be sealed to.
_KEYS = st.sampled_from([BlobKey(x="AGy2CCsMh9a7OzHClfnUQmLzbjaMqx7gVOJ_ve9KX0c", kid=kid) for kid in ("a", "website-2026")])
_DATES = st.dates(date(1990, 1, 1), date(2090, 1, 1))
_JSON = st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


def messages_of(model: type[BaseModel]) -> st.SearchStrategy[Any]:
    """Return valid instances of a model."""
    fields = {name: _of(field.annotation, field.metadata) for name, field in model.model_fields.items() if name != "version"}
    return st.fixed_dictionaries(fields).map(model.model_validate)


def _of(annotation: Any, metadata: list[Any]) -> st.SearchStrategy[Any]:
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return _of(inner, [*metadata, *more])
    metadata = [part for item in metadata for part in (item.metadata if isinstance(item, FieldInfo) else [item])]
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return st.none()
    if origin in (Union, types.UnionType):
        return st.one_of([_of(arg, metadata) for arg in args])
    if origin is Literal:
        return st.sampled_from(args)
    if origin is tuple:
        least = next((part.min_length for part in metadata if isinstance(part, MinLen)), 0)
        return st.lists(_of(args[0], []), min_size=least, max_size=3).map(tuple)
    if origin is dict:
        values = _JSON if args[1] is Any else _of(args[1], [])
        return st.dictionaries(_of(args[0], []), values, max_size=3)
    return _scalar(annotation, metadata)


def _scalar(annotation: type, metadata: list[Any]) -> st.SearchStrategy[Any]:
    if annotation is BlobKey:
        return _KEYS
    if issubclass(annotation, BaseModel):
        return messages_of(annotation)
    if issubclass(annotation, Enum):
        return st.sampled_from(annotation)
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        return st.integers(_bound(metadata, Ge, "ge", 0), _bound(metadata, Le, "le", 10_000))
    if annotation is datetime:
        return _INSTANTS
    if annotation is date:
        return _DATES
    if annotation is timedelta:
        return st.timedeltas(timedelta(0), timedelta(days=100))
    assert annotation is str, annotation
    return _text(metadata)


def _text(metadata: list[Any]) -> st.SearchStrategy[str]:
    pattern = next((p for m in metadata if (p := getattr(m, "pattern", None))), None)
    if pattern:
        longest = _bound(metadata, MaxLen, "max_length", 400)
        return st.from_regex(pattern.replace("$", r"\Z"), fullmatch=False).filter(lambda text: len(text) <= longest)
    least, most = _bound(metadata, MinLen, "min_length", 0), min(_bound(metadata, MaxLen, "max_length", 40), 40)
    alphabet = st.characters(exclude_categories=["Cs", "Nd", "Zs", "Cc", "Zl", "Zp"], exclude_characters="@")
    return st.text(alphabet, min_size=least, max_size=max(least, most))


def _bound(metadata: list[Any], kind: type, name: str, default: int) -> Any:
    for item in metadata:
        if isinstance(item, kind | StringConstraints) and (value := getattr(item, name, None)) is not None:
            return value
    return default
