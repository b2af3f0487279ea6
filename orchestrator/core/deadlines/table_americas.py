"""The rules of the United States, Canada and Brazil.

Room rules: data only. Every row names its source; a row from memory says `unverified`.
"""

from __future__ import annotations

from orchestrator.core.deadlines.periods import Period
from orchestrator.core.deadlines.rule import Confidence, Duty, Notice, Rule, Start

__all__ = ["AMERICAS"]

_CCPA_REGULATIONS = "https://cppa.ca.gov/regulations/"
_DELETE_ACT = "https://leginfo.legislature.ca.gov/faces/codes_displaySection.xhtml?lawCode=CIV&sectionNum=1798.99.86."
_CONNECTICUT = "https://www.cga.ct.gov/current/pub/chap_743jj.htm"
_LGPD = "https://www.planalto.gov.br/ccivil_03/_ato2015-2018/2018/lei/l13709.htm"
_PIPEDA = "https://laws-lois.justice.gc.ca/eng/acts/P-8.6/"

AMERICAS: tuple[Rule, ...] = (
    Rule(
        id="us.ccpa.ack",
        right="know, delete, correct: confirm receipt",
        period=Period.of("10 business_days"),
        duty=Duty.ACKNOWLEDGE,
        list_name="US-CA*",
        source="11 CCR 7021(a); the list of business days is ours",
        link=_CCPA_REGULATIONS,
        confidence=Confidence.VERIFIED,
    ),
    Rule(
        id="us.ccpa",
        right="know, delete, correct",
        period=Period.of("45 days"),
        total=Period.of("90 days"),
        acknowledge=Period.of("10 business_days"),
        list_name="US-CA*",
        strict_days=1,
        answer_note="verification included; may be denied if unverifiable by then",
        extension_note="with the reason, within the first 45 days",
        counting_note='the period "begins on the day of receipt": strict reading one day earlier',
        source="11 CCR 7021(b) (2023 text); Civ. Code 1798.130(a)(2)(A); the strict reading is ours",
        link=_CCPA_REGULATIONS,
        confidence=Confidence.VERIFIED,
    ),
    Rule(
        id="us.ccpa.optout",
        right="opt-out of sale or sharing, limit sensitive data",
        period=Period.of("15 business_days"),
        duty=Duty.STOP,
        list_name="US-CA*",
        acknowledge_note="show that it was honoured",
        answer_note="as soon as feasible, no verification; tell third parties it went to meanwhile",
        counting_note="ask for opt-in again only after 12 months",
        source="11 CCR 7026(f), 7027(g); Civ. Code 1798.135(c); beyond the 15 days likely",
        link=_CCPA_REGULATIONS,
        confidence=Confidence.VERIFIED,
    ),
    Rule(
        id="us.ccpa.admt",
        right="opt-out of automated decisions",
        period=Period.of("15 business_days"),
        duty=Duty.STOP,
        list_name="US-CA*",
        acknowledge_note="confirm",
        answer_note="stop, and instruct recipients",
        counting_note="ask again only after 12 months",
        source="11 CCR 7221 (2026 rules; compliance from 1 Jan 2027)",
        link=_CCPA_REGULATIONS,
        confidence=Confidence.VERIFIED,
    ),
    Rule(
        id="us.ca.delete_act",
        right="data brokers: the deletion platform",
        period=Period.of("45 days"),
        answer_note="pull the list and delete, again every 45 days; unverifiable: opt out of sale, also at processors",
        source="Civ. Code 1798.99.86(c)-(d), from 1 Aug 2026",
        link=_DELETE_ACT,
        confidence=Confidence.VERIFIED,
    ),
    Rule(
        id="us.state",
        right="VA, CO, CT, TX and most others",
        period=Period.of("45 days"),
        total=Period.of("90 days"),
        answer_note="a refusal too, with how to appeal",
        extension_note="once, with the reason, within the first 45 days",
        source="Conn. Gen. Stat. 42-518(c); other states likely",
        link=_CONNECTICUT,
        confidence=Confidence.VERIFIED,
    ),
    Rule(
        id="us.state.iowa",
        right="Iowa",
        period=Period.of("90 days"),
        total=Period.of("135 days"),
        source="Iowa Code 715D; the extension is unverified",
        link="https://www.legis.iowa.gov/docs/code/715D.pdf",
        confidence=Confidence.VERIFIED,
    ),
    Rule(
        id="us.state.appeal",
        right="appeal of a refusal",
        period=Period.of("60 days"),
        answer_note="CT, VA, TX; Colorado has 45 days and 60 more: override; none in CA and UT",
        source="Conn. Public Act 22-15 s. 4(d); other states unverified",
        link=_CONNECTICUT,
        confidence=Confidence.VERIFIED,
    ),
    Rule(
        id="br.lgpd",
        right="confirmation, access: full statement",
        period=Period.of("15 days"),
        starts=Start.SENT,
        answer_note="the simple form at once",
        counting_note="from the date of the request, that day excluded; sector rules may differ (19(4))",
        source="LGPD art. 19 I-II; excluding the first day is ours",
        link=_LGPD,
        confidence=Confidence.VERIFIED,
    ),
    Rule(
        id="br.lgpd.small",
        right="confirmation, access: small agents",
        period=Period.of("30 days"),
        starts=Start.SENT,
        answer_note="doubled for small agents",
        counting_note="from the date of the request, that day excluded",
        source="Resolution CD/ANPD 2/2022",
        link="https://www.gov.br/anpd/",
        confidence=Confidence.LIKELY,
    ),
    Rule(
        id="br.lgpd.other",
        right="other rights of art. 18",
        period=Period.of("15 days"),
        starts=Start.SENT,
        answer_note="at once, else say why not; the law counts no days, they are our default target",
        source="LGPD art. 18(3)-(5)",
        link=_LGPD,
        confidence=Confidence.VERIFIED,
    ),
    Rule(
        id="ca.qc.law25",
        right="access, rectification",
        period=Period.of("30 days"),
        answer_note="promptly, in writing (likely); silence is a refusal",
        source="P-39.1 s. 32",
        link="https://www.legisquebec.gouv.qc.ca/en/document/cs/P-39.1",
        confidence=Confidence.VERIFIED,
    ),
    Rule(
        id="ca.pipeda",
        right="access (written request)",
        period=Period.of("30 days"),
        total=Period.of("60 days"),
        notice=Notice.DATE_OF_REQUEST,
        answer_note="silence is a refusal",
        extension_note=(
            "for interference or consultations; the notice, within 30 days of the date of the request, names the new limit, "
            "the reasons and the right to complain. Conversion to another format may take as long as it needs: override"
        ),
        source="PIPEDA 8(3)-(5)",
        link=_PIPEDA,
        confidence=Confidence.VERIFIED,
    ),
)
