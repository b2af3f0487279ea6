"""The rules of the European Union, the United Kingdom and Switzerland.

Room rules: data only. Every row names its source; a row from memory says `unverified`.
"""

from __future__ import annotations

from orchestrator.core.deadlines.periods import Period
from orchestrator.core.deadlines.rule import ClockStops, Confidence, Duty, Notice, Rule

__all__ = ["EUROPE"]

_GDPR = "https://eur-lex.europa.eu/eli/reg/2016/679/oj"
_UK_GDPR = "https://www.legislation.gov.uk/eur/2016/679/article/12"
_UK_DPA = "https://www.legislation.gov.uk/ukpga/2018/12/section/164A"
_FADP = "https://www.fedlex.admin.ch/eli/cc/2022/491/en"
_MONTH = Period.of("1 month")
_THREE_MONTHS = Period.of("3 months")

EUROPE: tuple[Rule, ...] = (
    Rule(
        id="eu.gdpr",
        right="Arts. 15-22",
        period=_MONTH,
        total=_THREE_MONTHS,
        rolls=True,
        stops=ClockStops.ADDS_DAYS,
        notice=Notice.FIRST_DUE_UNPAUSED,
        acknowledge_note="none in law; good practice (EDPB)",
        answer_note="without undue delay",
        extension_note="with reasons, within the first month",
        counting_note="starts when it reaches an official channel, known or not, on a working day or not",
        source="GDPR Art. 12(3); Reg. 1182/71 arts. 2, 3(1)-(4); CJEU C-171/03; EDPB Guidelines 01/2022 paras 57, 157-164",
        link=_GDPR,
        confidence=Confidence.VERIFIED,
    ),
    Rule(
        id="eu.gdpr.refuse",
        right="no action taken",
        period=_MONTH,
        rolls=True,
        stops=ClockStops.ADDS_DAYS,
        answer_note="reasons, the right to complain, the court remedy",
        source="GDPR Art. 12(4)",
        link=_GDPR,
        confidence=Confidence.VERIFIED,
    ),
    Rule(
        id="eu.gdpr.object_marketing",
        right="Art. 21(2)-(3)",
        period=Period.of("48 hours"),
        inform=_MONTH,
        rolls=True,
        duty=Duty.STOP,
        answer_note="the stop: no balancing and no grace in law, the hours are our default target",
        source="GDPR Arts. 21(3), 12(3)",
        link=_GDPR,
        confidence=Confidence.VERIFIED,
    ),
    Rule(
        id="eu.art19",
        right="recipients told of rectification, erasure, restriction",
        period=_MONTH,
        total=_THREE_MONTHS,
        rolls=True,
        stops=ClockStops.ADDS_DAYS,
        notice=Notice.FIRST_DUE_UNPAUSED,
        answer_note="unless impossible or disproportionate; name the recipients on request",
        extension_note="with the parent request",
        counting_note="Art. 19 sets no period: replay the parent request's events and it has the parent's date",
        source="GDPR Art. 19",
        link=_GDPR,
        confidence=Confidence.LIKELY,
    ),
    Rule(
        id="uk.gdpr",
        right="Arts. 15-22D",
        period=_MONTH,
        total=_THREE_MONTHS,
        rolls=True,
        stops=ClockStops.UK,
        answer_note="without undue delay",
        extension_note="with reasons, before the first month ends",
        counting_note="from the relevant time: the latest of receipt, identity information received, fee paid",
        source=(
            "UK GDPR Arts. 12(3), 12A (DUAA 2025 s. 76; SI 2026/82); DPA 2018 s. 54(2)-(3D); ICO right of access, 8 Dec 2025; "
            "the arithmetic of the pause is likely"
        ),
        link=_UK_GDPR,
        confidence=Confidence.VERIFIED,
    ),
    Rule(
        id="uk.gdpr.refuse",
        right="no action taken",
        period=_MONTH,
        total=_THREE_MONTHS,
        rolls=True,
        stops=ClockStops.UK,
        answer_note="before the applicable period ends",
        extension_note="an extension of the answer carries over, unlike in the EU",
        source="UK GDPR Art. 12(4) as amended",
        link=_UK_GDPR,
        confidence=Confidence.VERIFIED,
    ),
    Rule(
        id="uk.gdpr.object_marketing",
        right="Art. 21(2)-(3)",
        period=Period.of("48 hours"),
        inform=_MONTH,
        rolls=True,
        duty=Duty.STOP,
        answer_note="the stop: no balancing and no grace in law, the hours are our default target",
        source="UK GDPR Arts. 21(3), 12(3): taken to read as the EU text",
        link="https://www.legislation.gov.uk/eur/2016/679/article/21",
        confidence=Confidence.UNVERIFIED,
    ),
    Rule(
        id="uk.complaint",
        right="complaint to the controller",
        period=Period.of("30 days"),
        duty=Duty.ACKNOWLEDGE,
        rolls=True,
        answer_note="the outcome: without undue delay, no fixed day",
        counting_note="the day after receipt is day 1",
        source="DPA 2018 s. 164A, from 19 Jun 2026; ICO complaints guidance",
        link=_UK_DPA,
        confidence=Confidence.LIKELY,
    ),
    Rule(
        id="ch.fadp",
        right="access",
        period=Period.of("30 days"),
        open_extension=True,
        stops=ClockStops.SWISS_FEE,
        answer_note="a refusal or a limit within the same 30 days",
        extension_note="open: say by when, within the 30 days",
        counting_note="a cost share that is not confirmed within 10 days counts as withdrawn",
        source="FADP art. 25(7); DPO arts. 18, 19(3)",
        link=_FADP,
        confidence=Confidence.VERIFIED,
    ),
)
