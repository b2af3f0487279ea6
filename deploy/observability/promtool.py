"""Prometheus' own tools for the tests: found on PATH, else fetched once, without root, into a cache beside no checkout.

Room rules: development and CI only; nothing here runs in production.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["DEBIAN_VERSION", "GO_VERSION", "ToolMissing", "find"]

#: The Debian package the tests were written against; a package archive keeps only its newest, so another one is taken too.
DEBIAN_VERSION = "2.42.0+ds-5+deb12u1"
#: The same release as a Go module: Prometheus 2.x is tagged v0.x there.
GO_VERSION = "v0.42.0"

_TOOLS = ("promtool", "prometheus")


class ToolMissing(Exception):
    """The tool is not on PATH and cannot be fetched; the message says how to get it."""


def find(tool: str) -> Path:
    """Return the path of `promtool` or `prometheus`.

    Looks on PATH, then in the cache (`$XDG_CACHE_HOME/dsr`, else `~/.cache/dsr`), then fetches: the Debian package, unpacked
    without installing it, else built by the Go client. Processes that ask at once fetch once. Raises `ToolMissing`.
    """
    if tool not in _TOOLS:
        raise ToolMissing(f"{tool} is none of {', '.join(_TOOLS)}")
    on_path = shutil.which(tool)
    if on_path:
        return Path(on_path)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dsr" / "prometheus"
    cached = cache / tool
    if cached.exists():
        return cached
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / ".lock"):
        said = [] if cached.exists() else [fetch(cache, tool) for fetch in (_from_debian, _from_go) if not cached.exists()]
    if not cached.exists():
        raise ToolMissing(
            f"{tool} is not on PATH and could not be fetched. Install Prometheus {DEBIAN_VERSION.partition('+')[0]} or newer,"
            f" so that `{tool} --version` works, or make `apt-get download prometheus` or the `go` command work here. "
            f"Tried: {'; '.join(said)}"
        )
    return cached


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: list[str], cwd: Path, environment: dict[str, str] | None = None) -> str:
    """Return the end of what the command complained about, "" when it succeeded."""
    try:
        done = subprocess.run(  # noqa: S603 - fixed commands, no input from outside
            command,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
    except subprocess.TimeoutExpired:
        return "no end within 15 minutes"
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no message"])[-1]


def _from_debian(cache: Path, tool: str) -> str:
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return "apt: not a Debian machine"
    with tempfile.TemporaryDirectory(dir=cache) as name:
        folder = Path(name)
        said = ""
        for refresh in (False, True):
            if refresh and _run(["apt-get", "update", "-qq"], folder):
                break
            for package in (f"prometheus={DEBIAN_VERSION}", "prometheus"):
                said = _run(["apt-get", "download", "-qq", package], folder)
                if not said:
                    return _unpacked(folder, cache, tool)
        return f"apt: {said}"


def _unpacked(folder: Path, cache: Path, tool: str) -> str:
    (package,) = folder.glob("prometheus_*.deb")
    said = _run(["dpkg-deb", "-x", str(package), "unpacked"], folder)
    if said:
        return f"dpkg-deb: {said}"
    for each in _TOOLS:
        shutil.move(folder / "unpacked" / "usr" / "bin" / each, cache / each)
    return f"apt: fetched {tool}"


def _from_go(cache: Path, tool: str) -> str:
    """Build inside a module of our own: `go install` refuses modules with `replace` lines."""
    if not shutil.which("go"):
        return "go: not installed"
    with tempfile.TemporaryDirectory(dir=cache) as name:
        folder = Path(name)
        module = "github.com/prometheus/prometheus"
        steps = (
            ["go", "mod", "init", "example.invalid/tools"],
            ["go", "get", f"{module}/cmd/{tool}@{GO_VERSION}"],
            ["go", "build", "-o", str(folder / tool), f"{module}/cmd/{tool}"],
        )
        for step in steps:
            said = _run(step, folder, {"GOFLAGS": "-mod=mod"})
            if said:
                return f"go: {said}"
        shutil.move(folder / tool, cache / tool)
        return f"go: built {tool}"
