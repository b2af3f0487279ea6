"""Log lines of every process: JSON, a closed list of fields, no words that came from outside (`schemas.log_fields`).

Room rules: `structlog` and the standard library's `logging`, set up here and nowhere else.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import MutableMapping
from types import FrameType, TracebackType
from typing import Any, TextIO

import structlog

from schemas.log_fields import allowed, described

__all__ = ["configure"]

#: Libraries that say at INFO what they were asked, or of which parts they are made: too much, whatever it leaves out.
_QUIET = ("httpx", "httpcore", "uvicorn.access", "alembic.runtime.plugins")


def configure(*, level: str = "INFO", stream: TextIO | None = None, console: bool | None = None) -> None:
    """Set up logging of this process: one JSON object a line on `stream` (default: standard error).

    `level`: a name of the standard library's levels, for our own lines and the libraries' alike. `console`: lines for people;
    by default when `stream` is a terminal. Lines of libraries that use the standard library's `logging` go the same way (to
    people from WARNING on, unless `level` is DEBUG), and so do errors that nobody caught. Our own code logs with
    `structlog.get_logger()`, a literal text and fields of `schemas.log_fields.FIELDS`. Calling it again replaces what was set.
    Raises `ValueError` for an unknown level.
    """
    out = sys.stderr if stream is None else stream
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"level: use one of {', '.join(sorted(logging.getLevelNamesMapping()))}")
    for_people = out.isatty() if console is None else console
    structlog.configure(
        processors=_chain(console=for_people),
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    library = _Library(_chain(console=for_people), out)
    if for_people and number > logging.DEBUG:
        # Dozens of parts say that they start and stop, over the answer to what somebody has typed in the same terminal.
        library.setLevel(logging.WARNING)
    root.handlers[:] = [library]
    root.setLevel(number)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


def _chain(*, console: bool) -> list[structlog.typing.Processor]:
    for_people = structlog.dev.ConsoleRenderer(timestamp_key="at")
    for_machines = structlog.processors.JSONRenderer(ensure_ascii=False)
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        _only_allowed,
        for_people if console else for_machines,
    ]


def _only_allowed(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keep what may be written; an error becomes its class and frames."""
    error = _error_of(event.pop("exc_info", None))
    event.pop("stack_info", None)
    event.pop("error", None)
    if error is not None:
        event["error"] = described(error)
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - the only way to know which code is speaking
    if frame is not None and frame.f_code is _Library.emit.__code__:
        frame = frame.f_back
    return allowed(event, frame)


def _error_of(given: Any) -> BaseException | None:
    if isinstance(given, tuple):
        given = given[1]
    if isinstance(given, BaseException):
        return given
    return sys.exc_info()[1] if given else None


class _Library(logging.Handler):
    """Takes the lines of libraries: their literal texts without the arguments, which may be anything."""

    def __init__(self, chain: list[structlog.typing.Processor], out: TextIO) -> None:
        super().__init__()
        self._render_chain = chain
        self._out = out

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event: Any = {"event": record.msg, "logger": record.name}
            if record.exc_info:
                event["exc_info"] = record.exc_info
            for processor in self._render_chain:
                event = processor(None, record.levelname.lower(), event)
            self._out.write(f"{event}\n")
            self._out.flush()
        except Exception:  # noqa: BLE001 - a logging handler must not break its caller; handleError tells of it
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        """Tell that a line was lost, without the arguments that the standard library would print."""
        if sys.__stderr__ is not None:
            sys.__stderr__.write(
                f'{{"level": "error", "event": "a log line could not be written", "logger": "{record.name}"}}\n'
            )


def _uncaught(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
    if isinstance(error, KeyboardInterrupt):
        return
    structlog.get_logger().critical("nobody caught this error", exc_info=error)


def _uncaught_in_thread(told: threading.ExceptHookArgs) -> None:
    if told.exc_value is not None:
        structlog.get_logger().critical("nobody caught this error in a thread", exc_info=told.exc_value)
