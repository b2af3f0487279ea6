"""Seeded mutations of well-formed bytes: most inputs stay nearly right, which is where decoders break.

Room rules: bytes in, bytes out, chance given by the caller.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

__all__ = ["CANARY", "mutated"]

#: Put into inputs; no error may repeat it.
CANARY = "canary-zq7@example.org"

_ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    2**63,
    2**200,
    1e308,
    float("nan"),
    float("inf"),
    "",
    " ",
    "\x00",
    "\ud800",
    "1",
    "٣",
    "é",
    "\u202e",
    "2026-02-30",
    "9999-12-31T23:59:59.999999Z",
    "0001-01-01T00:00:00+23:59",
    "x" * 5_000,
    [],
    {},
    [[]],
    {"": None},
    CANARY,
)
_TOKENS = (
    b"\x00",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"{",
    b"}",
    b"[" * 1_200,  # deeper than Python recurses, and short enough for a header in base64
    b"(" * 2_000,
    b'"',
    b"\\u0000",
    b"\\ud800",
    b"NaN",
    b"-0",
    b"1e999",
    b"&a *a",
    b"!!python/object:os.system ",
    b"? ",
    b"- " * 500,
    b"\n",
    b"\r",
    b"\t",
    b"\xe2\x80\xae",
    b";",
    b"*=",
    b"*0*=utf-8''",
    b"=?utf-8?b?",
    b"%00",
    CANARY.encode(),
)


def mutated(seeds: Sequence[bytes], chance: Random) -> bytes:
    """Return one of the seeds, changed in one to four places."""
    data = chance.choice(seeds)
    for _ in range(chance.randint(1, 4)):
        data = chance.choice(_WAYS)(data, seeds, chance)
    return data[:400_000]


def _flip(data: bytes, _: Sequence[bytes], chance: Random) -> bytes:
    if not data:
        return b"\x80"
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]


def _cut(data: bytes, _: Sequence[bytes], chance: Random) -> bytes:
    first, second = sorted((chance.randint(0, len(data)), chance.randint(0, len(data))))
    return chance.choice((data[:first], data[first:], data[:first] + data[second:], data[first:second]))


def _insert(data: bytes, _: Sequence[bytes], chance: Random) -> bytes:
    at = chance.randint(0, len(data))
    return data[:at] + chance.choice(_TOKENS) + data[at:]


def _repeat(data: bytes, _: Sequence[bytes], chance: Random) -> bytes:
    first, second = sorted((chance.randint(0, len(data)), chance.randint(0, len(data))))
    return data[:second] + data[first:second] * chance.randint(1, 20) + data[second:]


def _splice(data: bytes, seeds: Sequence[bytes], chance: Random) -> bytes:
    other = chance.choice(seeds)
    return data[: chance.randint(0, len(data))] + other[chance.randint(0, len(other)) :]


def _json(data: bytes, _: Sequence[bytes], chance: Random) -> bytes:
    """Change one value, one key or one type inside a JSON document; anything else is left to the other ways."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return data
    if isinstance(document, dict) and chance.random() < 0.02:
        # It holds every word that somebody looks for with `in`, and is no object.
        return json.dumps(list(document)).encode()
    places = list(_places(document))
    if not places:
        return data
    holder, key = chance.choice(places)
    odd = chance.choice(_ODD)
    match chance.randrange(4):
        case 0:
            holder[key] = odd
        case 1:
            holder[key] = [holder[key]] if chance.random() < 0.5 else {CANARY: holder[key]}
        case 2 if isinstance(holder, dict):
            holder[str(odd)] = holder.pop(key)
        case _:
            del holder[key]
    return json.dumps(document).encode()


def _places(value: Any, depth: int = 0) -> list[tuple[Any, Any]]:
    if depth > 12:
        return []
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    return [(value, key) for key, _ in items] + [place for _, inner in items for place in _places(inner, depth + 1)]


_WAYS: tuple[Callable[[bytes, Sequence[bytes], Random], bytes], ...] = (
    _flip,
    _cut,
    _insert,
    _repeat,
    _splice,
    _json,
    _json,
    _json,
)
