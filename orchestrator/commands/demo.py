"""`dsr demo`: the main job, on a real Kafka, in front of one's eyes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.demo.play import Evening, Verdict

__all__ = ["demo_command"]

#: Stands in the people's addresses if no other word is wanted.
_MARKER = "demo"


def demo_command(
    keep: Annotated[bool, typer.Option("--keep", help="Leave all running afterwards, until Ctrl-C.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output; all else on standard error.")
    ] = False,
    kill: Annotated[list[str] | None, typer.Option(help="Kill this process in the middle: worker, or a system's id.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where logs and data go, and stay; a temporary one by default.")] = None,
    canary: Annotated[str, typer.Option(help="A word that stands in every planted address, to be searched for.")] = _MARKER,
    registry: Annotated[Path | None, typer.Option(help="Another registry than the example company's.")] = None,
) -> None:
    """Play 24 records of portals through a real Kafka, a worker and a connector per system, and prove what came of them.

    Every process is a separate one and is stopped at the end. DSR_KAFKA_BOOTSTRAP takes a broker that runs already. Exit codes:
    0 all is as it must be, 1 something is not, 130 interrupted.

    Example: dsr demo --kill worker --kill crm
    """
    from orchestrator.demo.play import REGISTRY, Evening
    from orchestrator.demo.show import Screen, last_line

    home = folder.resolve() if folder is not None else Path(tempfile.mkdtemp(prefix="dsr-demo-"))
    if folder is not None and home.exists() and any(home.iterdir()):
        raise typer.BadParameter(f"{folder} is not empty: name a new folder")
    evening = Evening(
        folder=home,
        screen=Screen(_console(stderr=as_json)),
        bootstrap=os.environ.get("DSR_KAFKA_BOOTSTRAP"),
        marker=_marker(canary),
        kills=tuple(kill or ()),
        keep=keep,
        registry=(registry or REGISTRY).resolve(),
    )
    clean = False
    try:
        verdict = _run(evening)
        clean = not verdict.wrong
        evening.screen.wrong(verdict.wrong)
        typer.echo(json.dumps(_summary(evening, verdict)) if as_json else last_line(verdict.score))
    except (KeyboardInterrupt, asyncio.CancelledError):
        clean = True
        typer.echo("demo: interrupted, everything is stopped", err=True)
        raise typer.Exit(130) from None
    finally:
        if folder is None and clean:
            shutil.rmtree(home, ignore_errors=True)
        elif folder is None:
            typer.echo(f"demo: logs and data are in {home}", err=True)
    raise typer.Exit(0 if clean else 1)


def _console(*, stderr: bool) -> Console:
    """Return a console that is wide enough for the table where nobody says how wide it is: in a pipe or a file."""
    from rich.console import Console

    console = Console(highlight=False, stderr=stderr)
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(highlight=False, stderr=stderr, width=100)


def _marker(word: str) -> str:
    if not (word.isalnum() and word.isascii() and word == word.lower() and word[0].isalpha()):
        raise typer.BadParameter("--canary takes lower-case letters and digits, a letter first")
    return word


def _run(evening: Evening) -> Verdict:
    from orchestrator.demo.play import perform

    def shown(verdict: Verdict) -> None:
        evening.screen.table(verdict.story, verdict.score, verdict.roles)
        evening.screen.proof(verdict.proof, len(verdict.roles), verdict.revived)

    def kept(verdict: Verdict, environment: Mapping[str, str]) -> None:
        from orchestrator.demo.show import last_line

        shown(verdict)
        evening.screen.wrong(verdict.wrong)
        typer.echo(last_line(verdict.score))
        _look_around(evening, verdict, environment)

    async def main() -> Verdict:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await perform(evening, kept)

    verdict = asyncio.run(main())
    shown(verdict)
    return verdict


def _look_around(evening: Evening, verdict: Verdict, environment: Mapping[str, str]) -> None:
    """Tell where everything is; the key goes into a file that only its owner reads, not onto the screen."""
    path = evening.folder / "env.sh"
    exports = {**environment, "DSR_STORE_URL": f"sqlite:///{evening.folder / 'store.sqlite'}"}
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    path.touch(mode=0o600)
    path.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in exports.items()))
    # A canary is there to be searched for: it is not written anywhere, not even here.
    shown = _MARKER if evening.marker == _MARKER else "<the canary>"
    for line in (
        "",
        f"still running; folder {evening.folder} (logs/, pids/, vendors/)",
        f"broker {environment['DSR_KAFKA_BOOTSTRAP']}, topics {environment['DSR_TOPIC_PREFIX']}.*",
        "in another terminal:",
        f"  . {path}",
        "  dsr audit                       # the whole log, checked by a second opinion",
        "  dsr quarantine list",
        f"  dsr show {_longest(verdict)} --history",
        f"  echo vera@{shown}.example.org | \\",
        "    dsr submit --right erasure --email - --verified login:substantial --wait 30",
        f"  tail -f {evening.folder}/logs/worker.log",
        f"  curl -s $(head -1 {evening.folder}/logs/vendor-crm.log)/__state__",
        f"  kill -9 $(cat {evening.folder}/pids/worker)     # it comes back",
        "Ctrl-C stops everything and removes the folder if it is a temporary one.",
    ):
        typer.echo(line)


def _longest(verdict: Verdict) -> str:
    """Return the request with the most to tell: the one that people had to decide about."""
    return max(verdict.story.scenes, key=lambda request: len(verdict.score.status.get(request, ())))


def _summary(evening: Evening, verdict: Verdict) -> dict[str, Any]:
    from orchestrator.demo.show import last_line

    score = verdict.score
    return {
        "line": last_line(score),
        "confirmed": score.confirmed,
        "quarantined": len(score.quarantined),
        "lost": score.lost,
        "doubled": score.doubled,
        "wrong": verdict.wrong,
        "checked": dict(verdict.proof.checked),
        "systems": list(verdict.roles),
        "restarted": verdict.revived,
        "topic_prefix": verdict.prefix,
        "folder": str(evening.folder),
        "requests": [
            {
                "subject_request_id": request,
                "person": scene.alias,
                "right": scene.right.value,
                "result": told.result.value,
                "executed_request": told.executed_request,
                "outcomes": {one.system: one.outcome.code.value for one in told.systems},
                "seconds": score.took(request),
            }
            for request, scene in verdict.story.scenes.items()
            if (told := score.confirmation(request)) is not None
        ],
    }
