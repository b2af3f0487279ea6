"""A web server's logs to plant in and look into: real files, written as a server writes them, and rotated.

There is no vendor to imitate: `POST /__seed__` writes lines and rotates, `GET /__state__` shows the files, and any other path
is a page whose visit is logged: from `X-Forwarded-For`, with the cookies `visitor` and `account`.

Room rules: nothing here is reachable from production code paths; people live on example.org.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from pydantic_settings import SettingsConfigDict
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from connectors.sdk.clock import Clock
from connectors.sdk.settings import ConnectorSettings, read
from connectors.sdk.standin import StandIn
from connectors.systems.weblogs.columns import COMBINED
from schemas.vocabulary import IdentifierKind

__all__ = ["COLUMNS", "WebLogsStandIn", "build"]

#: What it writes: the combined format, and the two cookies by which the site knows a visitor.
COLUMNS = (*COMBINED, "cookie_id", "account_id")
_QUOTED = frozenset({"request", "referer", "user_agent", "cookie_id", "account_id"})
_DEFAULTS = {
    "request": "GET /index.html HTTP/1.1",
    "status": "200",
    "bytes": "512",
    "referer": "-",
    "user_agent": "Mozilla/5.0 (X11; Linux x86_64)",
}


class WebLogsStandIn(StandIn):
    """One site's folder of logs, in the folder given or in one of its own that goes with it."""

    name: ClassVar[str] = "weblogs"

    def __init__(self, folder: Path | None = None, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self._own: TemporaryDirectory[str] | None = None
        if folder is None:
            self._own = TemporaryDirectory(prefix="dsr-weblogs-")
            folder = Path(self._own.name)
        self.folder = folder
        self.live = folder / "access.log"
        self.live.touch()
        self._rotations = 0

    def log(self, values: Mapping[str, str], *, file: str = "access.log", at: datetime | None = None) -> None:
        """Append one line, as a server does; a name that ends in .gz gets a compressed part more."""
        moment = at or self.clock.now()
        row = dict.fromkeys(COLUMNS, "-") | _DEFAULTS | dict(values) | {"time": f"[{moment:%d/%b/%Y:%H:%M:%S %z}]"}
        text = " ".join(f'"{row[name]}"' if name in _QUOTED or ", " in row[name] else row[name] for name in COLUMNS) + "\n"
        path = self.folder / file
        before = path.read_bytes() if path.exists() else b""
        path.write_bytes(before + (gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode()))
        os.utime(path, (moment.timestamp(), moment.timestamp()))

    def rotate(self, *, packed: bool = False) -> Path:
        """Rename the live file, as logrotate does with `dateext`, and begin a new one."""
        self._rotations += 1
        path = self.folder / f"access.log-{self.clock.now():%Y%m%d}{self._rotations:02d}"
        self.live.rename(path)
        self.live.touch()
        if packed:
            written = path.stat().st_mtime
            target = path.with_name(f"{path.name}.gz")
            target.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
            os.utime(target, (written, written))
            path.unlink()
            path = target
        return path

    def texts(self) -> dict[str, str]:
        """Return every file's whole text, by name."""
        found = {}
        for path in sorted(self.folder.iterdir()):
            content = path.read_bytes()
            found[path.name] = (gzip.decompress(content) if path.suffix == ".gz" else content).decode(errors="replace")
        return found

    def close(self) -> None:
        """Remove the folder, if it is its own."""
        if self._own is not None:
            self._own.cleanup()

    def routes(self) -> list[Route]:
        """Return one page, which is every page."""
        return [Route("/{page:path}", self._visited, methods=["GET"])]

    def seed(self, value: Any) -> None:
        """Write `{"lines": [{"file": ..., "at": ..., "ip_address": ...}], "rotate": true}`; without a file: to the live one."""
        for line in value.get("lines", ()):
            values = {name: value for name, value in line.items() if name not in {"at", "file"}}
            self.log(values, file=line.get("file", self.live.name), at=_moment(line))
        if value.get("rotate"):
            self.rotate()

    def state(self) -> Any:
        """Return all files, by name."""
        return {"files": self.texts()}

    async def _visited(self, request: Request) -> Response:
        host = request.client.host if request.client else "-"
        values = {
            IdentifierKind.IP_ADDRESS.value: request.headers.get("x-forwarded-for", host),
            IdentifierKind.COOKIE_ID.value: request.cookies.get("visitor", "-"),
            IdentifierKind.ACCOUNT_ID.value: request.cookies.get("account", "-"),
            "request": f"GET {request.url.path} HTTP/1.1",
            "referer": request.headers.get("referer", "-"),
            "user_agent": request.headers.get("user-agent", "-"),
        }
        self.log(values)
        return PlainTextResponse("a page\n")


def _moment(line: Mapping[str, str]) -> datetime | None:
    return datetime.fromisoformat(line["at"]).astimezone(UTC) if "at" in line else None


class _Where(ConnectorSettings):
    """The connector's own setting: both look at the same folder."""

    model_config = SettingsConfigDict(env_prefix="DSR_WEBLOGS_")

    folders: tuple[Path, ...] = ()


def build(clock: Clock | None = None) -> WebLogsStandIn:
    """Build the stand-in on the first folder of `DSR_WEBLOGS_FOLDERS`, or on one that lives as long as it does."""
    folders = read(_Where).folders
    return WebLogsStandIn(folders[0] if folders else None, clock)
