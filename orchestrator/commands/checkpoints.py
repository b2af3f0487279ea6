"""`dsr checkpoint`: sign what the journal of all requests is now, so that a later rewriting is caught; prove what is in it.

Room rules: reads the log and files, prints; trees, signatures and what counts as rewritten stand in `schemas.checkpoints`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.acting import speaking_as
from orchestrator.commands.audit import topics_of, usage
from orchestrator.commands.kafka import current_bootstrap, current_connection
from orchestrator.commands.reading import Bootstrap, JsonOutput, Prefix, print_json
from orchestrator.commands.verify import content_of, refusing
from schemas.checkpoints import (
    Checkpoint,
    Inclusion,
    PartitionTree,
    PartitionWalk,
    checkpoint_file,
    digest_of_checkpoint,
    head_of,
    inclusion_file,
    open_checkpoint,
    verify_extends,
)
from schemas.errors import ConfigurationError, NotVerified
from schemas.metric_book import MetricBook
from schemas.metrics import CHECKPOINT_AT, CHECKPOINT_METRICS
from schemas.topics import DEFAULT_PREFIX, Topics
from schemas.trust import ORCHESTRATOR, Trust

if TYPE_CHECKING:
    from orchestrator.audit.records import Extent, Log

__all__ = ["checkpoint_app"]

checkpoint_app = typer.Typer(name="checkpoint", help="Sign what the journal is, and prove what is in it.", no_args_is_help=True)

_Keys = Annotated[Path, typer.Option(help="JWK set with the orchestrator's public keys", envvar="DSR_TRUST_FILE")]
_Dump = Annotated[Path | None, typer.Option("--log", help="Read this file of `dsr dump` instead of a broker")]
_Out = Annotated[Path, typer.Option(help="File to write; none is overwritten", show_default=False)]


@checkpoint_app.command()
def make(
    out: _Out,
    keys: _Keys,
    previous: Annotated[
        Path | None, typer.Option(help="The last checkpoint, which the log must extend", show_default="none: the first one")
    ] = None,
    metrics: Annotated[
        Path | None, typer.Option(help="Say there when it was made, for a collector of text files", show_default=False)
    ] = None,
    log: _Dump = None,
    prefix: Prefix = DEFAULT_PREFIX,
    bootstrap: Bootstrap = None,
    as_json: JsonOutput = False,
) -> None:
    """Read the journal and sign its state, after comparing what the last checkpoint covers with what the log still has.

    Exit codes: 0 written, 1 the last checkpoint is not genuine or the log does not extend it (partition and offsets are named,
    nothing is written), 2 it could not be made. Signs with DSR_SIGNING_KEY_FILE, the orchestrator's key.

    Example: dsr checkpoint make --out 2026-03-06.json --previous 2026-03-05.json --keys jwks.json
    """
    with usage(), refusing(as_json=as_json):
        signer, trust = speaking_as(ORCHESTRATOR), Trust.from_json(content_of(keys))
        if signer is None:
            raise ConfigurationError("DSR_SIGNATURES=off signs nothing: a checkpoint is worth its signature")
        old = None if previous is None else content_of(previous)
        last = None if old is None else open_checkpoint(old, trust)
        made, kept = asyncio.run(_made(log, bootstrap, prefix, last))
        if old is not None:
            made = made.model_copy(update={"previous": digest_of_checkpoint(old)})
        data = checkpoint_file(made, signer)
        if old is None:
            open_checkpoint(data, trust)
        else:
            verify_extends(old, data, trust)
        _write(out, data)
        if metrics is not None:
            _tell(metrics, made)
    size, before = sum(one.size for one in made.partitions), sum(one.size for one in last.partitions) if last else 0
    said = {"file": str(out), "records": size, "new": size - before, "compared": before - kept, "no_longer_in_the_log": kept}
    if as_json:
        print_json(said)
    else:
        gone = f"; {kept} cannot be compared, the log has forgotten them or others of their subtree" if kept else ""
        print(f"{out}: {size} records, {size - before} of them new; {before - kept} compared with the last checkpoint{gone}")


@checkpoint_app.command()
def prove(
    receipt: Annotated[Path, typer.Argument(help="The receipt, from `dsr confirmations --receipts`", show_default=False)],
    checkpoint: Annotated[Path, typer.Option(help="A checkpoint made after the request was closed", show_default=False)],
    out: _Out,
    keys: _Keys,
    log: _Dump = None,
    prefix: Prefix = DEFAULT_PREFIX,
    bootstrap: Bootstrap = None,
    as_json: JsonOutput = False,
) -> None:
    """Write the proof that the entry which closed a request is in a checkpoint's log, for `dsr verify --proof`.

    Exit codes: 0 written, 1 receipt or checkpoint is not genuine, the log is not the checkpoint's, or has not (or no longer)
    that entry, 2 it could not be made.

    Example: dsr checkpoint prove a.receipt.json --checkpoint 2026-03-06.json --out a.proof.json --keys jwks.json
    """
    with usage(), refusing(as_json=as_json):
        trust, data = Trust.from_json(content_of(keys)), content_of(checkpoint)
        head, opened = head_of(content_of(receipt), trust), open_checkpoint(data, trust)
        number, walk = asyncio.run(_found(log, bootstrap, prefix, opened, head))
        named = digest_of_checkpoint(data)
        proof = Inclusion(checkpoint=named, partition=number, index=walk.index, path=walk.path())
        _write(out, inclusion_file(proof))
    if as_json:
        print_json({"file": str(out), "partition": number, "index": walk.index})
    else:
        print(f"{out}: leaf {walk.index} of partition {number}")


@checkpoint_app.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="Checkpoints, oldest first", show_default=False)],
    keys: _Keys,
    as_json: JsonOutput = False,
) -> None:
    """Check without a broker that each checkpoint is genuine and that its log is the one before with more at its end.

    Exit codes: 0 so it is, 1 not (the step that failed is named; docs/signatures.md lists them), 2 a file cannot be read.

    Example: dsr checkpoint check 2026-03-05.json 2026-03-06.json --keys jwks.json
    """
    with usage(), refusing(as_json=as_json):
        trust = Trust.from_json(content_of(keys))
        contents = [content_of(file) for file in files]
        opened = [open_checkpoint(one, trust) for one in contents]
        for old, new in pairwise(contents):
            verify_extends(old, new, trust)
    size = sum(one.size for one in opened[-1].partitions)
    if as_json:
        print_json({"verified": True, "checkpoints": len(files), "records": size, "at": opened[-1].at.isoformat()})
    else:
        checked = f"{len(files)} checkpoints" if len(files) > 1 else "1 checkpoint"
        grew = ", only ever appended to" if len(files) > 1 else ""
        print(f"verified: {checked}, {size} records at {opened[-1].at.isoformat()}{grew}")


def _tell(file: Path, made: Checkpoint) -> None:
    """Write, as a whole, what `DsrCheckpointOld` looks at."""
    from prometheus_client import CollectorRegistry, write_to_textfile

    book = MetricBook(CHECKPOINT_METRICS, CollectorRegistry())
    book.set(CHECKPOINT_AT, made.at.timestamp())
    try:
        write_to_textfile(str(file), book.registry)
    except OSError as error:
        raise ConfigurationError(
            f"--metrics {file}: cannot be written ({type(error).__name__}): the checkpoint is there, name another file for this"
        ) from None


async def _made(dump: Path | None, bootstrap: str | None, prefix: str, last: Checkpoint | None) -> tuple[Checkpoint, int]:
    """Return the checkpoint of the log as it is now, and how many records of the last one could not be compared."""
    from orchestrator.adapters.clock import SystemClock

    async with _journal(dump, bootstrap, prefix) as (log, topics):
        _same_prefix(topics, last)
        extent = {at: span for at, span in sorted((await log.extent()).items()) if at[0] == topics.journal}
        for one in last.partitions if last else ():
            if (topics.journal, one.partition) not in extent:
                raise NotVerified(16, "log_rewritten", f"partition {one.partition} is gone from the log")
        walks = {at: PartitionWalk(at[1], *span, last.tree(at[1]) if last else None) for at, span in extent.items()}
        partitions = await _walked(log, extent, walks)
        made = Checkpoint(prefix=topics.prefix, at=SystemClock().now(), partitions=partitions)
        return made, sum(walk.kept for walk in walks.values())


async def _found(
    dump: Path | None, bootstrap: str | None, prefix: str, opened: Checkpoint, head: bytes
) -> tuple[int, PartitionWalk]:
    """Return the partition that has the entry `head`, and the walk that found it, of what the checkpoint covers."""
    async with _journal(dump, bootstrap, prefix) as (log, topics):
        _same_prefix(topics, opened)
        extent, walks = {}, {}
        for at, span in (await log.extent()).items():
            tree = opened.tree(at[1]) if at[0] == topics.journal else None
            if tree is not None:
                walks[at] = PartitionWalk(at[1], *span, tree, head)
                extent[at] = span._replace(end=tree.end)
        await _walked(log, extent, walks)
        for (_topic, number), walk in walks.items():
            if walk.index >= 0:
                return number, walk
    why = "the log has no such entry before the checkpoint: take a later checkpoint, or the log has forgotten it"
    raise NotVerified(15, "head_not_in_log", why)


async def _walked(log: Log, extent: Extent, walks: Mapping[tuple[str, int], PartitionWalk]) -> tuple[PartitionTree, ...]:
    """Give each walk its records; a file may hold more than the extent asked for."""
    async for record in log.read(extent):
        topic, number, offset = record.place
        if (topic, number) in extent and offset < extent[topic, number].end:
            walks[topic, number].take(offset, record.value)
    return tuple(walk.finish() for walk in walks.values())


def _same_prefix(topics: Topics, checkpoint: Checkpoint | None) -> None:
    if checkpoint is not None and checkpoint.prefix != topics.prefix:
        raise ConfigurationError(f"the checkpoint is of prefix {checkpoint.prefix}, the log of {topics.prefix}: see --prefix")


@asynccontextmanager
async def _journal(dump: Path | None, bootstrap: str | None, prefix: str) -> AsyncIterator[tuple[Log, Topics]]:
    if dump is not None:
        from orchestrator.audit.dump import DumpLog

        read = DumpLog(dump)
        yield read, topics_of(read.prefix)
        return
    from orchestrator.audit.kafka_log import connected

    topics = topics_of(prefix)
    broker = bootstrap or current_bootstrap()
    async with connected(broker, topics, only=(topics.journal,), connection=current_connection()) as log:
        yield log, topics


def _write(file: Path, data: bytes) -> None:
    """Write a new file that appears when it is complete."""
    if file.exists():
        raise ConfigurationError(f"{file} is there already: name another with --out; none is overwritten")
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        partial.write_bytes(data)
        partial.replace(file)
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be written ({type(error).__name__}): name another with --out") from None
    finally:
        partial.unlink(missing_ok=True)
