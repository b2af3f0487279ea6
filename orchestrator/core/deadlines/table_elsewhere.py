"""The rules of India, of mail and of platforms.

Room rules: data only. Every row names its source; a row from memory says `unverified`.
"""

from __future__ import annotations

from orchestrator.core.deadlines.periods import Period
from orchestrator.core.deadlines.rule import Confidence, Duty, Rule, Start

__all__ = ["ELSEWHERE"]

_DPDP = "https://www.meity.gov.in/"

ELSEWHERE: tuple[Rule, ...] = (
    Rule(
        id="in.dpdp.grievance",
        right="grievances",
        period=Period.of("90 days"),
        answer_note="at most; your own published period wins: override",
        counting_note="which day is the first is disputed",
        source="DPDP Rules 2025 r. 14(3); applies from 13 or 14 May 2027",
        link=_DPDP,
        confidence=Confidence.VERIFIED,
    ),
    Rule(
        id="in.dpdp.erase",
        right="erasure after three idle years (Third Schedule)",
        period=Period.of("48 hours_before"),
        duty=Duty.WARN,
        answer_note="warn the person; the received event holds the planned moment of erasure",
        counting_note="everyone keeps the data, traffic data and logs for at least one year from the processing",
        source="DPDP Rules 2025 r. 8(1)-(3)",
        link=_DPDP,
        confidence=Confidence.VERIFIED,
    ),
    Rule(
        id="mail.oneclick",
        right="one-click unsubscribe",
        period=Period.of("48 hours"),
        duty=Duty.STOP,
        answer_note="a rule of mailbox providers; the RFC itself sets no time",
        source="RFC 8058; Google sender guidelines; Yahoo sender rules (2 days, likely)",
        link="https://support.google.com/mail/answer/81126",
        confidence=Confidence.VERIFIED,
    ),
    Rule(
        id="mail.canspam",
        right="opt-out of commercial mail (US)",
        period=Period.of("10 business_days"),
        duty=Duty.STOP,
        list_name="US",
        answer_note="no fee, no login, one page or one reply",
        source="15 USC 7704(a)(4)(A); 16 CFR 316.5",
        link="https://www.ecfr.gov/current/title-16/section-316.5",
        confidence=Confidence.VERIFIED,
    ),
    Rule(
        id="mail.casl",
        right="unsubscribe (Canada)",
        period=Period.of("10 business_days"),
        duty=Duty.STOP,
        list_name="CA",
        starts=Start.SENT,
        answer_note="without delay",
        source="CASL s. 11(3)",
        link="https://laws-lois.justice.gc.ca/eng/acts/E-1.6/",
        confidence=Confidence.VERIFIED,
    ),
    Rule(
        id="shopify",
        right="data_request, customers/redact, shop/redact",
        period=Period.of("30 days"),
        acknowledge_note="a 2xx status at once; 401 for a bad HMAC",
        answer_note="unless the law requires keeping",
        source="shopify.dev, privacy law compliance",
        link="https://shopify.dev/docs/apps/build/compliance/privacy-law-compliance",
        confidence=Confidence.VERIFIED,
    ),
)
