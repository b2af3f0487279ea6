"""`python -m tests.chaos --seed N`: break everything around and inside the workers, and show that nothing was lost.

Room rules: reads arguments, starts the servers, prints; exit status 1 on any violation or a control that was not caught.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from orchestrator.adapters.local_kafka import LocalKafka
from tests.chaos.run import Plan, control, run
from tests.chaos.servers import Postgres
from tests.chaos.verdict import as_json, as_lines, violations


def _say(line: str) -> None:
    print(line, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="A long run under blows.")
    parser.add_argument("--seed", type=int, required=True, help="the same seed gives the same schedule")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=3.0, help="length of the load; healing comes on top")
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--blows", type=int, help="so many blows at equal distances instead of one every few seconds")
    parser.add_argument("--no-control", action="store_true", help="leave out the worker that loses requests")
    parser.add_argument("--unsigned", action="store_true", help="signatures off: whoever writes is believed, nobody forges")
    parser.add_argument("--plan", action="store_true", help="print the schedule and do nothing")
    return parser.parse_args()


def main() -> int:
    """Run what the arguments name."""
    given = _arguments()
    plan = Plan(
        seed=given.seed,
        requests=given.requests,
        minutes=given.minutes,
        store=given.store,
        workers=given.workers,
        blows=given.blows,
        signatures=not given.unsigned,
    )
    if given.plan:
        for blow in plan.schedule:
            lasts = f"for {blow.lasts_seconds:.1f} s" if blow.lasts_seconds else ""
            _say(f"{blow.at_seconds:6.1f} s  {'+'.join(blow.who)} {blow.how} {blow.arm or ''} {lasts} ({blow.why})")
        return 0
    # As Ctrl-C does: end what was started, in order.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it logs each refused connection, and we refuse many
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dsr-chaos-", ignore_cleanup_errors=True)))
        kafka = stack.enter_context(LocalKafka(folder / "kafka"))
        postgres = stack.enter_context(Postgres()) if plan.store == "postgresql" else None
        control_lost = None
        if not given.no_control:
            _say("control: a worker that acknowledges before it works, killed once")
            wrong = asyncio.run(control(kafka, folder, _say))
            # Caught means twice: by the account of confirmations, and by the auditor.
            control_lost = len(wrong.lost) if wrong.found["violations"] else 0
        account = asyncio.run(run(plan, kafka, postgres, folder, _say))
    for line in as_lines(plan, account):
        _say(line)
    if control_lost == 0:
        _say("the control was not caught: this run could not have seen a loss")
    _say(json.dumps(as_json(plan, account, control_lost)))
    return 1 if violations(account) or control_lost == 0 else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped before the end: nothing was judged")
