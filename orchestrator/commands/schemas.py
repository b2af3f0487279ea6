"""`dsr schemas`: write the published schemas, or check that they say what the code says.

Room rules: reads and writes `schemas/published/` and nothing else; the content comes from `schemas.publish`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["published_folder", "schemas_app"]

schemas_app = typer.Typer(name="schemas", help="Publish the message schemas and check them.", no_args_is_help=True)


def published_folder() -> Path:
    """Return the folder of this installation's published schemas."""
    import schemas

    return Path(schemas.__file__).resolve().parent / "published"


_Folder = Annotated[Path, typer.Option("--folder", help="Where they lie", show_default="schemas/published")]


@schemas_app.command()
def publish(folder: _Folder = published_folder()) -> None:
    """Write JSON Schemas and the AsyncAPI document; remove what no message stands behind any more.

    Example: dsr schemas publish --folder schemas/published
    """
    from schemas.publish import published

    folder.mkdir(parents=True, exist_ok=True)
    files = published()
    for stale in _stale(folder, files):
        (folder / stale).unlink()
        print(f"removed {stale}")
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    print(f"{len(files)} files in {folder}")


@schemas_app.command()
def check(folder: _Folder = published_folder()) -> None:
    """Exit 1 if a published file is missing, stale or says something else than the code.

    Example: dsr schemas check
    """
    from schemas.publish import published

    files = published()
    wrong = [f"{name}: no message stands behind it" for name in _stale(folder, files)]
    for name, text in files.items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name}: missing")
        elif path.read_text(encoding="utf-8") != text:
            wrong.append(f"{name}: differs from the code")
    for line in wrong:
        print(line)
    if wrong:
        print("run `dsr schemas publish`; if a field went or changed its meaning, raise the message's version first")
        raise typer.Exit(1)
    print(f"{len(files)} files in {folder} say what the code says")


def _stale(folder: Path, files: dict[str, str]) -> list[str]:
    return sorted(path.name for path in folder.glob("*.json") if path.name not in files)
