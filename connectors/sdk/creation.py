"""Write a new connector: a folder with the five files and a test that inherits the conformance suite.

The skeleton is a package that works (`connectors.sdk.skeleton`) under another name, so that it cannot rot unseen.

Room rules: writes files that are not there yet, and nothing else.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from connectors.sdk.skeleton.standin import TOKEN
from schemas.errors import ConfigurationError

__all__ = ["FILES", "create", "next_steps"]

#: The same five files in each connector's folder.
FILES = ("__init__.py", "connector.py", "client.py", "standin.py", "README.md")

_SKELETON = Path(__file__).with_name("skeleton")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
#: A folder of that path is ours: its connectors are found without an entry point, and tests stand in one place.
_OURS = Path("connectors", "systems")


def create(name: str, folder: Path) -> list[Path]:
    """Write the connector `name` into `folder/name` and return what was written.

    In a folder `connectors/systems` the test goes to `tests/connectors` of the same tree. Elsewhere it is a package of its own,
    with its test beside it and a `pyproject.toml` that registers it. Raises `ConfigurationError` if a file is there already.
    """
    if not _NAME.fullmatch(name) or name in {"skeleton", "test"}:
        raise ConfigurationError("a connector's name is lower case: letters, digits and underscores, and begins with a letter")
    folder = folder.resolve()
    texts = dict(_texts(name, folder))
    known = sorted(path.name for path in texts if path.exists())
    if known:
        raise ConfigurationError(f"{', '.join(known)}: there already: choose another name or folder")
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(texts)


def next_steps(name: str, folder: Path) -> list[str]:
    """Return what to type next, line by line, with the stand-in in the place of the system."""
    variable = f"DSR_{name.upper()}"
    install = [] if _is_ours(folder.resolve()) else [f"  pip install -e {shlex.quote(str(folder))}"]
    return [
        "next:",
        *install,
        f"  dsr-connector standin {name} --port 8765    # in another terminal: a system for people who have none",
        f"  export {variable}_BASE_URL=http://127.0.0.1:8765 {variable}_TOKEN={TOKEN}",
        f"  dsr-connector check {name}",
        f"  dsr-connector run {name} --system {name}    # with the broker and the keys: connectors/README.md",
    ]


def _is_ours(folder: Path) -> bool:
    return folder.parts[-2:] == _OURS.parts


def _texts(name: str, folder: Path) -> Iterator[tuple[Path, str]]:
    is_ours = _is_ours(folder)
    package = f"connectors.systems.{name}" if is_ours else name
    tests = folder.parents[1] / "tests" / "connectors" if is_ours else folder / name
    sources = {folder / name / file: _SKELETON / file for file in FILES}
    sources[tests / f"test_{name}.py"] = _SKELETON / "test_skeleton.py"
    if not is_ours:
        sources[folder / "pyproject.toml"] = _SKELETON / "pyproject.template"
    for path, source in sources.items():
        yield path, _named(source.read_text(encoding="utf-8"), name, package)


def _named(text: str, name: str, package: str) -> str:
    camel = "".join(part.capitalize() for part in name.split("_"))
    text = text.replace("connectors.sdk.skeleton", package).replace("SKELETON", name.upper())
    return text.replace("Skeleton", camel).replace("skeleton", name)
