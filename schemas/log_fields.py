"""What a log line may hold: a closed list of fields, texts that stand literally in the code, and errors without their words.

A log outlives the request it speaks of and is read by people who may not know who asked. So a line is built from what the
code says, never from what came in: an event is shown only if it is a literal of the code that logs it, a field only if it is
on the list, an object only by its type, an error by its class and its frames. Ids of requests and orders are allowed: they
lead to a person only through the store, for whoever may read it.

Room rules: pure functions of their arguments; the logging libraries live in the two modules that configure them.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from enum import Enum
from types import FrameType, TracebackType
from typing import Any

from schemas.errors import DsrError

__all__ = ["FIELDS", "REFUSED", "WITHHELD", "allowed", "described", "safe"]

#: What stands for a value that looks like an address or a telephone number.
REFUSED = "[refused: looks personal]"
#: The event of a line whose text was put together at run time; `where` says which line of code it was.
WITHHELD = "text withheld"

#: Every field of a log line. A new one is added here, with its neighbours: is it an id, a word of the vocabulary, a number?
FIELDS = frozenset(
    {
        # the line itself
        "at", "level", "event", "logger", "where", "error", "dropped",
        # ids
        "subject_request_id", "group_id", "order_id", "report_id", "confirmation_id", "key_id", "trace_id", "span_id",
        # words of the vocabulary and names of the registry
        "system", "portal", "right", "phase", "result", "outcome", "reason", "code", "notes", "type", "operation", "kind",
        "action", "actor", "regime", "rule", "status",
        # the bus and the processes on it
        "topic", "partition", "offset", "committed_offset", "records", "lag", "group", "instance", "worker", "task",
        "generation", "brokers", "version", "registry", "signal", "pid", "host", "port",
        # numbers and moments
        "count", "limit", "remaining", "attempt", "tries", "in_a_row", "resumed", "wait_seconds", "retry_after_seconds",
        "seconds", "age_seconds", "days_left", "due_on", "wake_at", "not_before", "in_time", "http_status", "method", "bytes",
        # errors that are told without being raised again: their class and their frames
        "error_type", "frames",
        # configuration errors
        "field", "setting", "remedy", "line",
    }
)  # fmt: skip

_MAX_TEXT = 300
_MAX_FRAMES = 25
_MAX_CHAIN = 5
_MAX_ITEMS = 50
_CALLERS = 8
_ADDRESS = re.compile(r"\S@\S|%40", re.IGNORECASE)
_LONG_NUMBER = re.compile(r"(?<![0-9A-Za-z._-])\+?(?:\d[ ()-]{0,2}){8,}\d(?![0-9A-Za-z_])")
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[a-z]{2,5}_[0-9a-f]{32}|[0-9a-f]{16,64}")
_FIELD_NAME = re.compile(r"[a-z][a-z_]{0,39}")
#: Faust's services put their place in the tree before each text.
_TREE = re.compile(r"\[\^-*[\w.: <>+-]*\]:? ")
_BETWEEN = ("structlog", "logging", "schemas.log_fields")


def allowed(event: Mapping[str, Any], frame: FrameType | None) -> dict[str, Any]:
    """Return what of a log event may be written.

    `frame`: any frame below the call that logs. Fields that are not in `FIELDS` are left out and named with their types in
    `dropped`; values go through `safe`; the text stays only if it is an enum member, or a literal of one of the
    nearest callers or of their modules. `error` is taken as it is: it comes from `described`.
    """
    kept: dict[str, Any] = {}
    dropped: list[str] = []
    for name, value in event.items():
        if name in {"event", "error"}:
            continue
        if name in FIELDS:
            kept[name] = safe(value)
        else:
            dropped.append(f"{name if _FIELD_NAME.fullmatch(name) else '?'}: {type(value).__name__}")
    callers = list(_callers(frame))
    literal = _literal(event.get("event"), callers)
    kept["event"] = WITHHELD if literal is None else safe(literal)
    if literal is None and callers:
        kept.setdefault("where", _where(callers[0].f_code.co_filename, callers[0].f_lineno, callers[0].f_code.co_name))
    if callers:
        kept.setdefault("logger", str(callers[0].f_globals.get("__name__", "?")))
    if "error" in event:
        kept["error"] = event["error"]
    if dropped:
        kept["dropped"] = sorted(dropped)
    return kept


def safe(value: object) -> Any:
    """Return a value as it may be written: a number, an enum member, a date, a duration in seconds, a short text.

    Anything else becomes `<type name>`; a text that looks like an address or a telephone number becomes `REFUSED`.
    """
    if isinstance(value, Enum):
        return safe(value.value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, list | tuple | set | frozenset):
        return [safe(item) for item in list(value)[:_MAX_ITEMS]]
    if type(value) is str:
        return _safe_text(value)
    return value if value is None or isinstance(value, bool | int | float) else f"<{type(value).__name__}>"


def described(error: BaseException) -> dict[str, Any]:
    """Return an error as class, frames (`file:line function`) and what caused it; never its words or its local values.

    The words of our own errors are kept, because they name fields and remedies by rule (`schemas.errors`), unless they look
    personal. Notes, arguments and source lines are left out.
    """
    return _described(error, _MAX_CHAIN)


def _described(error: BaseException, depth: int) -> dict[str, Any]:
    told: dict[str, Any] = {
        "class": f"{type(error).__module__}.{type(error).__qualname__}",
        "frames": _frames(error.__traceback__),
    }
    if isinstance(error, DsrError):
        told["message"] = _safe_text(str(error))
    if depth > 0:
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is not None:
            told["cause"] = _described(cause, depth - 1)
        if isinstance(error, BaseExceptionGroup):
            told["errors"] = [_described(each, depth - 1) for each in error.exceptions[:_MAX_CHAIN]]
    return told


def _frames(trace: TracebackType | None) -> list[str]:
    summary = [(frame.f_code.co_filename, line, frame.f_code.co_name) for frame, line in traceback.walk_tb(trace)]
    return [_where(*each) for each in summary[-_MAX_FRAMES:]]


def _where(file: str, line: int | None, function: str) -> str:
    """Return a place in the code, without the machine's folders."""
    return f"{'/'.join(file.replace(chr(92), '/').split('/')[-3:])}:{line} {function}"


def _safe_text(text: str) -> str:
    if _ID.fullmatch(text):
        return text
    if _ADDRESS.search(text) or _LONG_NUMBER.search(text):
        return REFUSED
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield the nearest frames that are no logging library's."""
    found = 0
    while frame is not None and found < _CALLERS:
        if not str(frame.f_globals.get("__name__", "")).startswith(_BETWEEN):
            found += 1
            yield frame
        frame = frame.f_back


def _literal(text: object, callers: list[FrameType]) -> str | None:
    """Return the text of an enum member, or of a constant of a caller's function or module (without Faust's prefix)."""
    if isinstance(text, Enum):
        return str(text.value)
    if not isinstance(text, str):
        return None
    bare = _TREE.sub("", text, count=1) if text.startswith("[^") else text
    for frame in callers:
        if bare in frame.f_code.co_consts or any(_is_constant(bare, *each) for each in frame.f_globals.items()):
            return bare
    return None


def _is_constant(text: str, name: str, value: object) -> bool:
    """Tell whether a module's variable is the text, or a constant (by its name) that lists it among closed words."""
    if type(value) is str:
        return value == text
    return name.isupper() and type(value) in {set, frozenset, tuple, list} and text in value  # type: ignore[operator]
