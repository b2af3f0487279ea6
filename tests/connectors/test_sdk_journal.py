"""The journal: what is in it survives, what was cleared is gone, and only one process writes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from datetime import timedelta

import pytest
from sdk_world import NOW, an_order, request_id

from connectors.sdk.intake import report_of
from connectors.sdk.journal import Journal, OrderState
from schemas.errors import ConfigurationError, StoreUnavailable
from schemas.ids import order_id
from schemas.outcomes import Accepted, Failed, Fulfilled
from schemas.vocabulary import FailureReason
from schemas.wire import encode


@pytest.fixture
def path(tmp_path):
    return tmp_path / "crm.journal.sqlite"


def finish(journal, order):
    with journal.transaction() as page:
        page.set(order.order_id, state=OrderState.REPORTED)
        page.add_report(report_of(order, order.attempt, Fulfilled(count=1), NOW), order.right, final=True)
        page.mark_sent(page.unsent(10))


def test_what_was_taken_is_there_after_reopening(path):
    """An order comes back as it went in."""
    with Journal(path) as journal, journal.transaction() as page:
        page.insert(an_order(), NOW)
    with Journal(path) as journal, journal.transaction() as page:
        entry = page.find(an_order().order_id)
    assert entry.order == an_order()
    assert (entry.state, entry.tries, entry.attempt) == (OrderState.WAITING, 0, 1)


def test_an_exception_undoes_the_whole_transaction(path):
    """All or nothing."""
    with Journal(path) as journal:
        with contextlib.suppress(RuntimeError), journal.transaction() as page:
            page.insert(an_order(1), NOW)
            raise RuntimeError
        with journal.transaction() as page:
            assert page.find(an_order(1).order_id) is None


def test_the_sealed_order_is_overwritten_once_the_report_is_out(path):
    """After the broker's ack the file holds no byte of the sealed identity, not even in the log of changes."""
    order = an_order()
    with Journal(path) as journal:
        with journal.transaction() as page:
            page.insert(order, NOW)
        journal.compact()
        assert order.sealed.ciphertext.encode() in path.read_bytes()
        finish(journal, order)
        journal.compact()
        for file in path.parent.glob(f"{path.name}*"):
            assert order.sealed.ciphertext.encode() not in file.read_bytes(), file.name
        with journal.transaction() as page:
            assert page.find(order.order_id).order is None


def test_a_progress_report_clears_nothing(path):
    """`accepted` is out, the order is still needed."""
    order = an_order()
    with Journal(path) as journal, journal.transaction() as page:
        page.insert(order, NOW)
        page.add_report(report_of(order, 1, Accepted(expected_by=NOW), NOW), order.right, final=False)
        page.mark_sent(page.unsent(10))
        assert page.find(order.order_id).order == order
        assert page.unsent(10) == []


def test_the_same_report_is_written_once(path):
    """A report's id is its identity."""
    order = an_order()
    with Journal(path) as journal, journal.transaction() as page:
        page.insert(order, NOW)
        for _ in range(2):
            page.add_report(report_of(order, 1, Fulfilled(count=1), NOW), order.right, final=True)
        assert len(page.unsent(10)) == 1


def test_interrupted_work_is_taken_up_again(path):
    """`working` at start means that a process died: back to waiting, or to polling if the vendor's job is known."""
    with Journal(path) as journal, journal.transaction() as page:
        page.insert(an_order(1), NOW, state=OrderState.WORKING)
        page.insert(an_order(2), NOW, state=OrderState.WORKING)
        page.set(an_order(2).order_id, handle=an_order(2).sealed)
        assert page.requeue_interrupted() == 2
        assert page.find(an_order(1).order_id).state is OrderState.WAITING
        assert page.find(an_order(2).order_id).state is OrderState.POLLING


def test_due_orders_come_by_legal_due_date(path):
    """Earliest due date first, and none before its moment."""
    soon = an_order(2, due_on=an_order().due_on - timedelta(days=5))
    with Journal(path) as journal, journal.transaction() as page:
        page.insert(an_order(1), NOW)
        page.insert(soon, NOW)
        page.insert(an_order(3), NOW + timedelta(seconds=1))
        page.set(an_order(3).order_id, not_before=NOW + timedelta(hours=1))
        assert [entry.order_id for entry in page.due(NOW, 10)] == [soon.order_id, an_order(1).order_id]
        assert page.next_due_at() == NOW
        assert page.orders_ahead(soon.order_id) == 0
        assert page.orders_ahead(an_order(3).order_id) == 2


def test_old_reported_orders_are_forgotten_and_open_ones_never(path):
    """Housekeeping deletes what is reported and old; an open order or an unsent report stays."""
    with Journal(path) as journal:
        with journal.transaction() as page:
            for number in (1, 2, 3):
                page.insert(an_order(number), NOW)
        finish(journal, an_order(1))
        with journal.transaction() as page:
            page.set(an_order(2).order_id, state=OrderState.REPORTED)
            page.add_report(report_of(an_order(2), 1, Fulfilled(count=1), NOW), "erasure", final=True)
            assert page.forget_before(NOW + timedelta(days=1)) == 1
            assert [page.find(an_order(n).order_id) is None for n in (1, 2, 3)] == [True, False, False]


def test_what_came_of_an_order_that_was_asked_for_again_is_kept_as_long_as_any(path):
    """Taken months ago, failed, and done now: whoever asks once more is told, and starts nothing a second time."""
    order = an_order(1)
    with Journal(path) as journal:
        with journal.transaction() as page:
            page.insert(order, NOW)
            page.set(order.order_id, not_before=NOW + timedelta(days=60))
        finish(journal, order)
        with journal.transaction() as page:
            assert page.forget_before(NOW + timedelta(days=59)) == 0
            assert page.forget_before(NOW + timedelta(days=61)) == 1


def test_what_a_failed_order_left_is_kept_for_whoever_asks_again(path):
    """What an order that failed months ago left with the vendor is known when it is retried; in the end it goes too."""
    order = an_order(1)
    with Journal(path) as journal:
        with journal.transaction() as page:
            page.insert(order, NOW)
            page.insert(an_order(2), NOW)
            page.set(order.order_id, state=OrderState.REPORTED, handle=order.sealed)
            page.set(an_order(2).order_id, state=OrderState.REPORTED)
            for each in (order, an_order(2)):
                page.add_report(report_of(each, 1, Failed(reason=FailureReason.UNAVAILABLE), NOW), "erasure", final=True)
            page.mark_sent(page.unsent(10))
        with journal.transaction() as page:
            later = NOW + timedelta(days=60)
            assert page.forget_before(later, unfinished=NOW - timedelta(days=300)) == 1
            known = page.find(order.order_id)
            assert known is not None and known.handle == order.sealed
            assert page.forget_before(later, unfinished=later) == 1
            assert page.find(order.order_id) is None


def test_a_second_process_is_refused(path):
    """Two writers would do the same order twice."""
    with Journal(path), pytest.raises(ConfigurationError, match="another process"):
        Journal(path)
    Journal(path).close()


def test_a_file_that_is_no_journal_is_said_so(path):
    """StoreUnavailable, and the lock is free again."""
    path.write_bytes(b"this is not a database, and is long enough to be read as one" * 100)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            Journal(path)


def test_the_file_is_its_owners(path):
    """Nobody else reads it."""
    with Journal(path):
        assert path.stat().st_mode & 0o077 == 0


def test_a_committed_order_survives_kill_9(path):
    """A process writes an order, says so, and is killed at once: the order is there."""
    order = an_order()
    code = """
import sys
from datetime import datetime, UTC
from pathlib import Path
from connectors.sdk.journal import Journal
from schemas.orders import FulfilmentOrder
order = FulfilmentOrder.model_validate_json(sys.stdin.buffer.read())
journal = Journal(Path(sys.argv[1]))
with journal.transaction() as page:
    page.insert(order, datetime(2026, 3, 5, tzinfo=UTC))
print("taken", flush=True)
sys.stdin = open("/dev/null")
import time
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(encode(order))
        process.stdin.close()
        assert process.stdout.readline() == b"taken\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with Journal(path) as journal, journal.transaction() as page:
        assert page.find(order_id(request_id(1), "crm")).order == order
