"""Whose turn it is: nobody starves, whoever comes, and whoever is urgent does not wait behind a backlog."""

from __future__ import annotations

import random
import sqlite3
from datetime import timedelta

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sdk_world import NOW, an_order

from connectors.sdk.forecast import end_of
from connectors.sdk.journal import Journal, OrderState
from connectors.sdk.turns import Lane, Turns
from schemas.topics import PROMPT_RIGHTS
from schemas.vocabulary import Right

RIGHTS = (Right.ERASURE, Right.ACCESS, Right.OBJECTION, Right.UNSUBSCRIBE)


def insert(page, number, *, right=Right.ERASURE, due=30, age=0):
    order = an_order(number, right=right, due_on=(NOW + timedelta(days=due)).date())
    page.insert(order, NOW - timedelta(minutes=age))
    return order


def claim(page, turns, limit=1, now=NOW):
    """Claim as the runtime does, and finish at once."""
    found = turns.claim(page, now, limit)
    for entry in found:
        page.set(entry.order_id, state=OrderState.REPORTED)
    return [entry.order_id for entry in found]


queue = st.lists(st.tuples(st.sampled_from(RIGHTS), st.integers(-5, 90), st.integers(0, 5000)), min_size=1, max_size=25)


@settings(deadline=None, max_examples=40)
@given(queue, st.integers(1, 4), st.randoms(use_true_random=False))
def test_an_order_begins_within_three_turns_for_each_one_ahead_of_it(tmp_path_factory, orders, limit, chance):
    """In any of its queues, though at every turn somebody more urgent comes: the bound that `turns` states."""
    with Journal(tmp_path_factory.mktemp("j") / "crm.journal.sqlite") as journal, journal.transaction() as page:
        taken = [insert(page, n, right=right, due=due, age=1 + age) for n, (right, due, age) in enumerate(orders, 1)]
        left = {order.order_id: 3 * (page.orders_ahead(order.order_id) + 1) for order in taken}
        turns, number, given_turns = Turns(), len(orders), 0
        while left:
            claimed = claim(page, turns, limit)
            for order_id in claimed:
                given_turns += 1
                bound = left.pop(order_id, None)
                # One that came first in `due` later on was ahead of nobody in `oldest`: the bound there holds whoever comes.
                if bound is not None:
                    assert given_turns <= max(bound, 3 * len(orders))
            number += 1
            insert(page, number, right=chance.choice(RIGHTS), due=chance.choice((-9, 1, 400)), age=0)
            assert given_turns <= 3 * len(orders) + limit


@settings(deadline=None, max_examples=40)
@given(queue, st.integers(1, 4))
def test_without_newcomers_the_bound_is_kept_to_the_turn(tmp_path_factory, orders, limit):
    """`3 * (k + 1)`, with the smallest `k` of an order's queues."""
    with Journal(tmp_path_factory.mktemp("j") / "crm.journal.sqlite") as journal, journal.transaction() as page:
        taken = [insert(page, n, right=right, due=due, age=age) for n, (right, due, age) in enumerate(orders, 1)]
        bounds = {order.order_id: 3 * (page.orders_ahead(order.order_id) + 1) for order in taken}
        turns, sequence = Turns(), []
        while claimed := claim(page, turns, limit):
            sequence.extend(claimed)
        assert sorted(sequence) == sorted(bounds)
        for number, order_id in enumerate(sequence, 1):
            assert number <= bounds[order_id]


def test_urgent_ones_do_not_wait_behind_a_backlog_nor_old_ones_behind_a_flood(tmp_path):
    """An unsubscription and the nearest due date begin within three turns; so does the oldest order, though its date is far."""
    with Journal(tmp_path / "crm.journal.sqlite") as journal, journal.transaction() as page:
        for number in range(1, 301):
            insert(page, number, due=20, age=1000)
        unsubscribe = insert(page, 301, right=Right.UNSUBSCRIBE, due=30)
        near = insert(page, 302, due=1)
        extended = insert(page, 303, due=90, age=9000)
        assert set(claim(page, Turns(), 3)) == {unsubscribe.order_id, near.order_id, extended.order_id}


def test_an_order_that_waits_for_its_moment_is_passed_over(tmp_path):
    """In every queue; and if all wait, nothing is looked through."""
    with Journal(tmp_path / "crm.journal.sqlite") as journal, journal.transaction() as page:
        first = insert(page, 1, right=Right.OBJECTION, due=1, age=9)
        second = insert(page, 2)
        page.set(first.order_id, not_before=NOW + timedelta(hours=1))
        assert claim(page, Turns(), 5) == [second.order_id]
        assert claim(page, Turns(), 5) == []
        assert claim(page, Turns(), 5, NOW + timedelta(hours=1)) == [first.order_id]


@pytest.mark.parametrize("lane", Lane)
def test_a_queue_is_an_index(tmp_path, lane):
    """SQLite reads the next order of each queue from an index in its order: no scan of the table, no sorting."""
    seen = []
    with Journal(tmp_path / "crm.journal.sqlite") as journal, journal.transaction() as page:
        numbers = list(range(1, 200))
        random.Random(7).shuffle(numbers)
        for number in numbers:
            insert(page, number, right=RIGHTS[number % 4], due=number % 40, age=number)
        connection = page._connection
        sa.event.listen(connection, "before_cursor_execute", lambda *event: seen.append((event[2], event[3])))
        page.due(NOW, 1, lane, but=("x",))
        statement, values = seen[0]
        plan = " ".join(row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values))
    assert "USING COVERING INDEX" in plan
    assert "TEMP B-TREE" not in plan


def test_a_journal_of_an_earlier_release_learns_which_orders_are_prompt(tmp_path):
    """The column is added, and filled from the orders that wait."""
    path = tmp_path / "crm.journal.sqlite"
    with Journal(path) as journal, journal.transaction() as page:
        orders = [insert(page, number, right=right) for number, right in enumerate(RIGHTS, 1)]
    with sqlite3.connect(path) as old:
        old.execute("DROP INDEX queue_prompt")
        old.execute("ALTER TABLE orders DROP COLUMN prompt")
        old.execute("DROP TABLE pace")
    old.close()
    with Journal(path) as journal, journal.transaction() as page:
        prompt = [entry.order_id for entry in page.due(NOW, 10, Lane.PROMPT)]
    assert sorted(prompt) == sorted(order.order_id for order in orders if order.right in PROMPT_RIGHTS)


@settings(deadline=None, max_examples=40)
@given(queue)
def test_the_forecast_supposes_the_turns_that_are_given(tmp_path_factory, orders):
    """The due dates in the forecast's order are those of the orders as they are claimed."""
    with Journal(tmp_path_factory.mktemp("j") / "crm.journal.sqlite") as journal, journal.transaction() as page:
        for number, (right, due, age) in enumerate(orders, 1):
            insert(page, number, right=right, due=due, age=age)
        supposed, turns, given_turns = page.in_turn(), Turns(), []
        while found := turns.claim(page, NOW, 3):
            for entry in found:
                given_turns.append(entry.order.due_on)
                page.set(entry.order_id, state=OrderState.REPORTED)
        assert [due.due_on for due in supposed] == given_turns


def test_a_due_date_ends_when_the_order_says(tmp_path):
    """The order's own instant; the end of the day in UTC for an older orchestrator's order, which says none."""
    with Journal(tmp_path / "crm.journal.sqlite") as journal, journal.transaction() as page:
        at = NOW + timedelta(days=9, hours=5)
        page.insert(an_order(1, due_on=at.date(), due_at=at), NOW)
        page.insert(an_order(2, due_on=at.date()), NOW)
        assert {due.due_at for due in page.in_turn()} == {at, end_of(at.date())}
