"""Ways to break a clean log, each named by what is wrong with it, with the number of the invariant that must find it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from audit_world import CANARY

from orchestrator.audit.records import LogRecord, Place
from schemas.ids import digest, order_id
from schemas.topics import Topics

__all__ = ["CORRUPTIONS", "Broken", "edited"]

T = Topics()
Entries = list[dict[str, Any]]


@dataclass
class Broken:
    """A log to break. `told` names its requests by what happened to them."""

    records: list[LogRecord]
    told: dict[str, str]

    def of(self, topic: str, name: str) -> list[LogRecord]:
        """Return a request's records in a topic."""
        return [r for r in self.records if r.place.topic == topic and r.key == self.told[name].encode()]

    def releases(self, name: str, system: str) -> list[LogRecord]:
        """Return the records of keys of a request given to a system."""
        order = order_id(self.told[name], system).encode()
        return [r for r in self.records if r.place.topic == T.releases and order in (r.value or b"")]

    def drop(self, record: LogRecord) -> None:
        """Lose a record; its offset stays empty."""
        self.records.remove(record)

    def put(self, record: LogRecord, new: LogRecord) -> None:
        """Put another record in the place of one."""
        self.records[self.records.index(record)] = new

    def edit(self, record: LogRecord, **fields: Any) -> None:
        """Change fields of a record's JSON; a confirmation that carries a report's digest gets the new one."""
        new = edited(record, **fields)
        self.put(record, new)
        if record.place.topic == T.reports:
            before, after = (digest(one.value or b"").encode() for one in (record, new))
            for one in [r for r in self.records if before in (r.value or b"")]:
                self.put(one, replace(one, value=(one.value or b"").replace(before, after)))

    def append(self, like: LogRecord, *, topic: str | None = None, **fields: Any) -> LogRecord:
        """Append a copy of a record to its partition, or to another topic's, with other fields."""
        topic = topic or like.place.topic
        there = [r.place.offset for r in self.records if r.place[:2] == (topic, like.place.partition)]
        place = Place(topic, like.place.partition, max(there, default=-1) + 1)
        new = replace(edited(like, **fields) if fields else like, place=place)
        self.records.append(new)
        return new

    def rewrite(self, name: str, change: Callable[[Entries], Any]) -> None:
        """Change a request's journal and chain it anew, confirmation included: what a careful forger would do."""
        old = self.of(T.journal, name)
        entries: Entries = [json.loads(record.value or b"") for record in old]
        change(entries)
        previous = "0" * 64
        for number, record in enumerate(old):
            if number >= len(entries):
                self.drop(record)
                continue
            entry = {**entries[number], "sequence": number + 1, "previous": previous}
            value = json.dumps(entry, separators=(",", ":")).encode()
            previous = digest(value)
            self.put(record, replace(record, value=value))
            if any(fact["fact"] == "request_closed" for fact in entry["facts"]):
                for confirmation in self.of(T.confirmations, name):
                    self.edit(confirmation, journal_head=previous)


def edited(record: LogRecord, **fields: Any) -> LogRecord:
    """Return the record with fields of its JSON changed."""
    return replace(record, value=json.dumps({**json.loads(record.value or b""), **fields}, separators=(",", ":")).encode())


def fact(entries: Entries, name: str, **details: Any) -> dict[str, Any]:
    """Return the first fact of that name with these details."""
    return next(f for e in entries for f in e["facts"] if f["fact"] == name and details.items() <= f["details"].items())


def set_fact(name: str, new: dict[str, Any], **details: Any) -> Callable[[Entries], None]:
    """Return a change of one fact's details."""
    return lambda entries: fact(entries, name, **details)["details"].update(new)


def set_due(name: str, **new: Any) -> Callable[[Entries], None]:
    """Return a change of the due dates in one fact."""
    return lambda entries: fact(entries, name)["details"]["due"].update(new)


CORRUPTIONS: list[tuple[int, str, Callable[[Broken], Any]]] = []


def breaks(number: int) -> Callable[[Callable[[Broken], Any]], Callable[[Broken], Any]]:
    """Register a corruption under the invariant that must find it."""

    def register(corrupt: Callable[[Broken], Any]) -> Callable[[Broken], Any]:
        CORRUPTIONS.append((number, corrupt.__name__, corrupt))
        return corrupt

    return register


# 1 -----------------------------------------------------------------------------------------------------------------------


@breaks(1)
def confirmation_lost(log: Broken) -> None:
    log.drop(log.of(T.confirmations, "erasure")[0])


@breaks(1)
def second_confirmation_differs(log: Broken) -> None:
    log.append(log.of(T.confirmations, "erasure")[0], group_id="other")


@breaks(1)
def confirmation_id_is_made_up(log: Broken) -> None:
    log.edit(log.of(T.confirmations, "erasure")[0], confirmation_id="cnf_1")


@breaks(1)
def confirmation_is_a_tombstone(log: Broken) -> None:
    record = log.append(log.of(T.confirmations, "erasure")[0])
    log.put(record, replace(record, value=None))


@breaks(1)
def confirmation_of_an_unknown_request(log: Broken) -> None:
    request = "11111111-1111-4111-8111-111111111111"
    from schemas.ids import confirmation_id  # noqa: PLC0415 - one use

    record = log.append(
        log.of(T.confirmations, "erasure")[0], subject_request_id=request, confirmation_id=confirmation_id(request)
    )
    log.put(record, replace(record, key=request.encode()))


@breaks(1)
def silent_order_and_nobody_told(log: Broken) -> None:
    record = log.of(T.orders("newsletter"), "open")[0]
    log.edit(record, respond_by=json.loads(record.value or b"")["issued_at"].replace("T", "T00")[:11] + "00:00:00Z")


# 2 -----------------------------------------------------------------------------------------------------------------------


@breaks(2)
def closed_with_a_system_unsettled(log: Broken) -> None:
    log.rewrite("erasure", lambda e: fact(e, "order_settled", system="newsletter").update(fact="order_seen"))


@breaks(2)
def settled_without_a_report(log: Broken) -> None:
    log.rewrite("erasure", set_fact("order_settled", {"report": None}, system="newsletter"))
    record = log.of(T.confirmations, "erasure")[0]
    systems = json.loads(record.value or b"")["systems"]
    for system in systems:
        if system["system"] == "newsletter":
            del system["report_id"]
    log.edit(record, systems=systems)


@breaks(2)
def waived_by_nobody(log: Broken) -> None:
    def change(entries: Entries) -> None:
        entry = next(e for e in entries if e["cause"] == "Waive")
        entry["cause"], entry["source"] = "Wake", ""

    command = log.of(T.commands, "waived")
    log.rewrite("waived", change)
    for record in command:
        log.drop(record)


@breaks(2)
def settled_by_a_progress_report(log: Broken) -> None:
    report = next(r for r in log.of(T.reports, "erasure") if b'"newsletter"' in (r.value or b""))
    log.edit(report, outcome={"code": "accepted", "expected_by": "2026-03-06T00:00:00Z"})


@breaks(2)
def confirmation_shows_fewer_systems_than_planned(log: Broken) -> None:
    record = log.of(T.confirmations, "erasure")[0]
    log.edit(record, systems=json.loads(record.value or b"")["systems"][1:])


@breaks(2)
def settled_twice(log: Broken) -> None:
    def change(entries: Entries) -> None:
        again = {"system": "newsletter", "outcome": "not_applicable", "seconds": None, "report": None}
        entries[-1]["facts"].insert(0, {"fact": "order_settled", "details": again})

    log.rewrite("erasure", change)


# 3 -----------------------------------------------------------------------------------------------------------------------


@breaks(3)
def order_lost(log: Broken) -> None:
    log.drop(log.of(T.orders("newsletter"), "erasure")[0])


@breaks(3)
def order_that_the_journal_does_not_know(log: Broken) -> None:
    log.append(log.of(T.orders("newsletter"), "erasure")[0], attempt=2)


@breaks(3)
def order_to_a_system_outside_the_plan(log: Broken) -> None:
    like = log.of(T.orders("newsletter"), "erasure")[0]
    request = log.told["erasure"]
    log.append(like, topic=T.orders("elsewhere"), system="elsewhere", order_id=order_id(request, "elsewhere"))


@breaks(3)
def order_on_another_systems_topic(log: Broken) -> None:
    log.append(log.of(T.orders("newsletter"), "erasure")[0], topic=T.orders("crm"))


@breaks(3)
def cancellation_lost(log: Broken) -> None:
    log.drop(next(r for r in log.of(T.orders("newsletter"), "waived") if b"OrderCancelled" in (r.value or b"")))


@breaks(3)
def cancellation_that_the_journal_does_not_know(log: Broken) -> None:
    request = log.told["erasure"]
    like = next(r for r in log.of(T.orders("newsletter"), "waived") if b"OrderCancelled" in (r.value or b""))
    new = log.append(like, subject_request_id=request, order_id=order_id(request, "newsletter"))
    log.put(new, replace(new, key=request.encode()))


@breaks(3)
def cancellation_for_another_reason(log: Broken) -> None:
    told = next(r for r in log.of(T.orders("newsletter"), "waived") if b"OrderCancelled" in (r.value or b""))
    log.edit(told, reason="denied")


@breaks(3)
def order_for_another_right(log: Broken) -> None:
    log.edit(log.of(T.orders("newsletter"), "erasure")[0], right="access")


@breaks(3)
def order_with_another_verification(log: Broken) -> None:
    record = log.of(T.orders("newsletter"), "erasure")[0]
    log.edit(record, verification={**json.loads(record.value or b"")["verification"], "level": "high"})


@breaks(3)
def report_on_an_attempt_that_was_not_sent(log: Broken) -> None:
    report = next(r for r in log.of(T.reports, "erasure") if b'"newsletter"' in (r.value or b""))
    log.edit(report, attempt=7)


@breaks(3)
def report_with_a_foreign_order_id(log: Broken) -> None:
    report = next(r for r in log.of(T.reports, "erasure") if b'"newsletter"' in (r.value or b""))
    log.edit(report, order_id=order_id(log.told["access"], "newsletter"))


# 4 -----------------------------------------------------------------------------------------------------------------------


@breaks(4)
def sent_again_with_another_seal(log: Broken) -> None:
    record = log.of(T.orders("newsletter"), "resent")[1]
    sealed = json.loads(record.value or b"")["sealed"]
    log.edit(record, sealed={**sealed, "nonce": "AAAAAAAAAAAAAAAA"})


@breaks(4)
def sent_again_with_another_receipt_time(log: Broken) -> None:
    log.edit(log.of(T.orders("newsletter"), "resent")[1], received_at="2026-03-01T00:00:00Z")


@breaks(4)
def same_attempt_with_another_time(log: Broken) -> None:
    log.append(log.of(T.orders("newsletter"), "erasure")[0], issued_at="2026-03-05T09:30:00Z")


# 5 -----------------------------------------------------------------------------------------------------------------------


@breaks(5)
def due_date_a_day_late(log: Broken) -> None:
    later = {"due_on": "2026-04-08", "applicable_due_on": "2026-04-08", "due_at": "2026-04-08T22:00:00Z"}
    log.rewrite("erasure", set_due("request_received", **later))
    record = log.of(T.confirmations, "erasure")[0]
    log.edit(record, due={**json.loads(record.value or b"")["due"], **later})


@breaks(5)
def due_at_not_at_the_end_of_the_day(log: Broken) -> None:
    log.rewrite("erasure", set_due("request_received", due_at="2026-04-07T12:00:00Z"))
    record = log.of(T.confirmations, "erasure")[0]
    log.edit(record, due={**json.loads(record.value or b"")["due"], "due_at": "2026-04-07T12:00:00Z"})


@breaks(5)
def hours_counted_wrongly(log: Broken) -> None:
    log.rewrite("objection", set_due("request_received", due_at="2026-03-08T09:00:00Z"))
    record = log.of(T.confirmations, "objection")[0]
    log.edit(record, due={**json.loads(record.value or b"")["due"], "due_at": "2026-03-08T09:00:00Z"})


@breaks(5)
def confirmation_says_other_dates(log: Broken) -> None:
    record = log.of(T.confirmations, "erasure")[0]
    log.edit(record, due={**json.loads(record.value or b"")["due"], "notice_by_on": "2026-04-08"})


@breaks(5)
def in_time_said_wrongly(log: Broken) -> None:
    log.edit(log.of(T.confirmations, "late")[0], in_time=True)


@breaks(5)
def late_and_nobody_told(log: Broken) -> None:
    def change(entries: Entries) -> None:
        for entry in entries:
            entry["facts"] = [
                f for f in entry["facts"] if f["fact"] != "escalated" or f["details"]["reason"] not in {"due_soon", "overdue"}
            ]

    log.rewrite("late", change)


@breaks(5)
def extension_with_a_late_notice(log: Broken) -> None:
    log.edit(log.of(T.commands, "extended")[0], notice_sent_at="2026-12-01T00:00:00Z")


@breaks(5)
def extension_named_another_day(log: Broken) -> None:
    log.edit(log.of(T.commands, "extended")[1], until_on="2026-05-04")


@breaks(5)
def extension_named_a_day_that_cannot_be(log: Broken) -> None:
    log.edit(log.of(T.commands, "extended")[1], until_on="2027-01-04")


@breaks(5)
def extension_named_no_day(log: Broken) -> None:
    log.edit(log.of(T.commands, "extended")[1], until_on=None)


# 6 -----------------------------------------------------------------------------------------------------------------------


@breaks(6)
def journal_entry_lost(log: Broken) -> None:
    log.drop(log.of(T.journal, "erasure")[2])


@breaks(6)
def first_journal_entry_lost(log: Broken) -> None:
    log.drop(log.of(T.journal, "erasure")[0])


@breaks(6)
def journal_entry_changed(log: Broken) -> None:
    log.edit(log.of(T.journal, "erasure")[1], at="2026-03-05T09:00:01Z")


@breaks(6)
def journal_forked(log: Broken) -> None:
    log.append(log.of(T.journal, "erasure")[1], cause="Wake", source="")


@breaks(6)
def last_journal_entry_changed(log: Broken) -> None:
    log.edit(log.of(T.journal, "erasure")[-1], at="2026-03-05T09:00:01Z")


@breaks(6)
def confirmation_with_another_head(log: Broken) -> None:
    log.edit(log.of(T.confirmations, "erasure")[0], journal_head="ab" * 32)


@breaks(6)
def journal_entry_unreadable(log: Broken) -> None:
    record = log.append(log.of(T.journal, "erasure")[0])
    log.put(record, replace(record, value=b"{}"))


# 7 -----------------------------------------------------------------------------------------------------------------------


def _edit_system(log: Broken, name: str, system: str, **fields: Any) -> None:
    record = log.of(T.confirmations, name)[0]
    systems = json.loads(record.value or b"")["systems"]
    for result in systems:
        if result["system"] == system:
            result.update(fields)
    log.edit(record, systems=systems)


@breaks(7)
def confirmation_counts_more_than_the_report(log: Broken) -> None:
    _edit_system(log, "erasure", "newsletter", outcome={"code": "fulfilled", "count": 100})


@breaks(7)
def report_changed_after_the_confirmation(log: Broken) -> None:
    report = next(r for r in log.of(T.reports, "erasure") if b'"newsletter"' in (r.value or b""))
    log.edit(report, outcome={"code": "fulfilled", "count": 0})


@breaks(7)
def confirmation_says_nothing_held(log: Broken) -> None:
    _edit_system(log, "erasure", "newsletter", outcome={"code": "nothing_held"})


@breaks(7)
def confirmation_cites_another_report(log: Broken) -> None:
    _edit_system(log, "erasure", "newsletter", report_id="rep_other")


@breaks(7)
def confirmation_carries_the_digest_of_another_report(log: Broken) -> None:
    _edit_system(log, "erasure", "newsletter", report_sha256="ab" * 32)


@breaks(7)
def confirmation_carries_no_digest_of_the_report_it_cites(log: Broken) -> None:
    _edit_system(log, "erasure", "newsletter", report_sha256=None)


@breaks(7)
def confirmation_names_another_export(log: Broken) -> None:
    reference = {"reference": "exports/other", "sha256": "cd" * 32, "size": 1, "expires_at": "2026-06-01T00:00:00Z"}
    _edit_system(log, "exported", "newsletter", results=[reference])


@breaks(7)
def confirmation_names_what_was_deleted_because_the_person_withdrew(log: Broken) -> None:
    report = next(r for r in log.of(T.reports, "withdrawn_by_operator") if b"exports/crm" in (r.value or b""))
    _edit_system(log, "withdrawn_by_operator", "crm", results=json.loads(report.value or b"")["results"])


@breaks(7)
def confirmation_counts_other_attempts(log: Broken) -> None:
    _edit_system(log, "resent", "newsletter", attempts=1)


@breaks(7)
def result_better_than_the_outcomes(log: Broken) -> None:
    log.rewrite("retained", set_fact("request_closed", {"result": "fulfilled"}))
    log.edit(log.of(T.confirmations, "retained")[0], result="fulfilled")


@breaks(7)
def confirmation_for_another_right(log: Broken) -> None:
    log.edit(log.of(T.confirmations, "erasure")[0], right="access")


@breaks(7)
def duplicate_shows_other_outcomes_than_its_leader(log: Broken) -> None:
    _edit_system(log, "duplicate", "newsletter", outcome={"code": "fulfilled", "count": 6})


# 8 -----------------------------------------------------------------------------------------------------------------------


@breaks(8)
def request_lost(log: Broken) -> None:
    log.drop(log.of(T.requests, "erasure")[0])


@breaks(8)
def report_lost(log: Broken) -> None:
    log.drop(next(r for r in log.of(T.reports, "erasure") if b'"newsletter"' in (r.value or b"")))


@breaks(8)
def command_lost(log: Broken) -> None:
    log.drop(log.of(T.commands, "denied")[0])


@breaks(8)
def quarantine_record_lost(log: Broken) -> None:
    log.drop(next(r for r in log.records if r.place.topic == T.quarantine and dict(r.headers)["dsr-reason"] == b"not_json"))


@breaks(8)
def withdrawal_dropped_in_silence(log: Broken) -> None:
    def change(entries: Entries) -> None:
        entries[:] = [entry for entry in entries if entry["cause"] != "WithdrawRequest"]

    log.rewrite("erased", change)


@breaks(8)
def source_names_another_requests_record(log: Broken) -> None:
    other = log.of(T.requests, "access")[0].place
    log.rewrite("erasure", lambda entries: entries[0].update(source=str(other)))


@breaks(8)
def set_aside_and_acted_on(log: Broken) -> None:
    place = log.of(T.requests, "erasure")[0].place
    like = next(r for r in log.records if r.place.topic == T.quarantine)
    origin = {
        "dsr-origin-topic": place.topic,
        "dsr-origin-partition": str(place.partition),
        "dsr-origin-offset": str(place.offset),
    }
    record = log.append(like)
    headers = tuple((name, origin.get(name, value.decode()).encode()) for name, value in like.headers)
    log.put(record, replace(record, key=log.told["erasure"].encode(), headers=headers))


@breaks(8)
def source_names_a_topic_that_is_not_there(log: Broken) -> None:
    log.rewrite("erasure", lambda entries: entries[0].update(source="elsewhere.v1-0-0"))


@breaks(8)
def source_names_another_report_of_the_request(log: Broken) -> None:
    def change(entries: Entries) -> None:
        first, second, *_ = (e for e in entries if e["cause"] == "FulfilmentReport" and e["phase"] == "active")
        first["source"], second["source"] = second["source"], first["source"]

    log.rewrite("access", change)


@breaks(8)
def journal_says_another_submission_time(log: Broken) -> None:
    record = log.of(T.requests, "erasure")[0]
    log.edit(record, submitted_at="2026-03-05T08:59:00Z")


# 9 -----------------------------------------------------------------------------------------------------------------------


@breaks(9)
def canary_in_a_value(log: Broken) -> None:
    log.append(log.of(T.status, "canary")[0], field=CANARY)


@breaks(9)
def canary_in_a_header(log: Broken) -> None:
    record = log.of(T.status, "canary")[0]
    log.put(record, replace(record, headers=(*record.headers, ("x-filed-by", CANARY.upper().encode()))))


@breaks(9)
def canary_as_a_status_key(log: Broken) -> None:
    record = log.append(log.of(T.status, "canary")[0])
    log.put(record, replace(record, key=CANARY.encode()))


# 10 ----------------------------------------------------------------------------------------------------------------------


def _released(log: Broken, name: str, system: str, /, **fields: Any) -> LogRecord:
    """Give a key of one order once more, beside what was written down in order."""
    like = log.releases(name, system)[0]
    given = {"subject_request_id": log.told[name], "order_id": order_id(log.told[name], system)}
    return log.append(like, orders=[{**given, **fields.pop("order", {})}], **fields)


@breaks(10)
def key_given_to_another_system(log: Broken) -> None:
    record = _released(log, "erasure", "newsletter", system="crm")
    log.put(record, replace(record, key=b"crm"))


@breaks(10)
def key_given_for_a_foreign_order(log: Broken) -> None:
    _released(log, "erasure", "newsletter", order={"order_id": order_id(log.told["access"], "newsletter")})


@breaks(10)
def key_given_before_the_order_was_sent(log: Broken) -> None:
    _released(log, "erasure", "newsletter", released_at="2026-03-05T08:58:59Z")


@breaks(10)
def key_given_after_the_request_closed(log: Broken) -> None:
    _released(log, "erasure", "newsletter", released_at="2026-03-05T09:01:01Z")


@breaks(10)
def key_given_for_an_order_that_was_not_sent(log: Broken) -> None:
    request = log.told["erasure"]
    order = {"subject_request_id": request, "order_id": order_id(request, "later")}
    record = log.append(log.releases("erasure", "newsletter")[0], system="later", orders=[order])
    log.put(record, replace(record, key=b"later"))


@breaks(10)
def key_given_for_an_unknown_request(log: Broken) -> None:
    request = "11111111-1111-4111-8111-111111111111"
    _released(log, "erasure", "newsletter", order={"subject_request_id": request, "order_id": order_id(request, "newsletter")})


@breaks(10)
def key_given_under_another_systems_key(log: Broken) -> None:
    record = _released(log, "erasure", "newsletter")
    log.put(record, replace(record, key=b"crm"))


@breaks(10)
def end_without_a_key(log: Broken) -> None:
    for record in log.releases("erasure", "newsletter"):
        log.drop(record)


@breaks(10)
def end_before_its_key(log: Broken) -> None:
    (record,) = log.releases("accepted", "newsletter")
    log.edit(record, released_at="2026-03-20T09:01:01Z")


@breaks(10)
def release_unreadable(log: Broken) -> None:
    record = _released(log, "erasure", "newsletter")
    log.put(record, replace(record, value=b"{}"))
