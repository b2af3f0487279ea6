"""All rules by id, which of them answers which right under which regime, and a controller's overrides.

Room rules: look-ups in closed tables; an unknown name lists the known ones, the closest first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType

from orchestrator.core.deadlines.calendars import check_calendar
from orchestrator.core.deadlines.errors import unknown_name
from orchestrator.core.deadlines.rule import Override, Rule
from orchestrator.core.deadlines.table_americas import AMERICAS
from orchestrator.core.deadlines.table_elsewhere import ELSEWHERE
from orchestrator.core.deadlines.table_europe import EUROPE
from schemas.vocabulary import Right

__all__ = ["REGIMES", "RULES", "check_overrides", "effective_rule", "rule_named", "rules_for"]

#: Every rule by its id.
RULES: Mapping[str, Rule] = MappingProxyType({rule.id: rule for rule in (*EUROPE, *AMERICAS, *ELSEWHERE)})


def _regime(others: str, **by_right: str) -> Mapping[Right, str]:
    return MappingProxyType({right: by_right.get(right.value, others) for right in Right})


#: Which rule answers which right, by regime. A regime without a rule of its own for a right uses its nearest dated one.
REGIMES: Mapping[str, Mapping[Right, str]] = MappingProxyType(
    {
        "eu.gdpr": _regime("eu.gdpr", objection="eu.gdpr.object_marketing", unsubscribe="mail.oneclick"),
        "uk.gdpr": _regime("uk.gdpr", objection="uk.gdpr.object_marketing", unsubscribe="mail.oneclick"),
        "us.ccpa": _regime("us.ccpa", restriction="us.ccpa.optout", objection="us.ccpa.optout", unsubscribe="mail.canspam"),
        "us.state": _regime("us.state", unsubscribe="mail.canspam"),
        "us.state.iowa": _regime("us.state.iowa", unsubscribe="mail.canspam"),
        "br.lgpd": _regime("br.lgpd.other", access="br.lgpd", unsubscribe="mail.oneclick"),
        "br.lgpd.small": _regime("br.lgpd.other", access="br.lgpd.small", unsubscribe="mail.oneclick"),
        "ca.qc.law25": _regime("ca.qc.law25", unsubscribe="mail.casl"),
        "ca.pipeda": _regime("ca.pipeda", unsubscribe="mail.casl"),
        "ch.fadp": _regime("ch.fadp", unsubscribe="mail.oneclick"),
        "in.dpdp": _regime("in.dpdp.grievance", unsubscribe="mail.oneclick"),
    }
)


def rule_named(rule_id: str) -> Rule:
    """Return the rule; raises `ConfigurationError` with the valid ids."""
    rule = RULES.get(rule_id)
    if rule is None:
        raise unknown_name("rule", rule_id, RULES)
    return rule


def rules_for(regime: str, right: Right) -> str:
    """Return the id of the rule that dates a right under a regime; raises `ConfigurationError` for an unknown regime."""
    rights = REGIMES.get(regime)
    if rights is None:
        raise unknown_name("regime", regime, REGIMES)
    return rights[right]


@lru_cache(maxsize=1024)
def effective_rule(rule_id: str, override: Override | None) -> Rule:
    """Return the rule as it binds this controller: with the override's period, business-day list, source and link."""
    rule = rule_named(rule_id)
    if override is None:
        return rule
    rule = replace(rule, source=override.source, link=override.link, list_name=override.calendar or rule.list_name)
    if override.period is None:
        return rule
    return replace(rule, period=override.period, total=override.total, open_extension=False, strict_days=0)


def check_overrides(overrides: Mapping[str, Override]) -> None:
    """Check a controller's overrides when its configuration is read: known rules, known calendars.

    Raises `ConfigurationError`.
    """
    for rule_id, override in overrides.items():
        rule_named(rule_id)
        if override.calendar is not None:
            check_calendar(override.calendar)
