"""The registry's file: what it reads, and that every mistake names its line, its field and the remedy."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator.adapters.registry_file import examine, load
from schemas.errors import ConfigurationError
from schemas.vocabulary import IdentifierKind, Right

EXAMPLE = Path(__file__).parents[2] / "deploy" / "registry" / "example-company.yaml"

GOOD = """\
version: "1.10"
controller:
  title: Example
  zone: Europe/Amsterdam
  calendar: NL
portals:
  - id: website
    title: Website
    owner: Web team
systems:
  - id: crm
    title: CRM
    role: processor
    owner: Sales
    connector: hubspot
    rights: [access, erasure]
    needs:
      - kind: email
        form: lower
    patience: PT30S
  - id: accounts
    title: Accounts
    role: controller
    owner: Web team
    after: [crm]
"""


def _written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "registry.yaml"
    path.write_text(text)
    return path


def _mistakes(tmp_path: Path, text: str) -> list[str]:
    registry, mistakes = examine(_written(tmp_path, text))
    assert registry is None
    return [str(mistake) for mistake in mistakes]


def test_good_file_becomes_a_registry(tmp_path: Path):
    """A correct file is read, durations in ISO 8601, scalars as they were written."""
    registry = load(_written(tmp_path, GOOD))
    assert registry.version == "1.10"
    assert registry.by_id["crm"].patience == timedelta(seconds=30)
    assert registry.by_id["crm"].rights == (Right.ACCESS, Right.ERASURE)
    assert registry.by_id["accounts"].patience == timedelta(days=3)


@pytest.mark.parametrize("country", ["NO", "NL", "GB-ENG", "NL-ATW", "-", "US-CA*"])
def test_calendar_no_is_norway(tmp_path: Path, country: str):
    """A calendar is read as text: YAML's reading of NO as false does not reach it."""
    text = GOOD.replace("calendar: NL", f'calendar: "{country}"' if country == "-" else f"calendar: {country}")
    assert load(_written(tmp_path, text)).controller.calendar == country


#: name -> what is replaced, by what, and the beginning of the one expected mistake.
BAD: dict[str, tuple[str, str, str]] = {
    "unknown_right": (
        "rights: [access, erasure]",
        "rights:\n      - access\n      - deletion",
        "18: systems.crm.rights.1: 'deletion' is not a right (did you mean erasure?); valid are access, rectification,",
    ),
    "right_twice": ("[access, erasure]", "[access, access]", "16: systems.crm.rights.1: 'access' stands twice"),
    "rights_as_text": ("[access, erasure]", "access", "16: systems.crm.rights: must be a list, is text"),
    "unknown_key": (
        "owner: Sales",
        "owner: Sales\n    onwer: Sales",
        "15: systems.crm.onwer: is not known here (did you mean owner?)",
    ),
    "key_twice": ("owner: Sales", "owner: Sales\n    role: processor", "15: systems.crm.role: stands twice, first on line 13"),
    "missing_owner": ("    owner: Sales\n", "", "11: systems.crm.owner: is missing: The team that is told when it fails"),
    "unknown_role": (
        "role: processor",
        "role: vendor",
        "13: systems.crm.role: 'vendor' is not a role (did you mean processor?)",
    ),
    "unknown_kind": (
        "kind: email",
        "kind: e-mail",
        "18: systems.crm.needs.0.kind: 'e-mail' is not an identifier kind (did you mean email?)",
    ),
    "unknown_form": ("form: lower", "form: upper", "19: systems.crm.needs.0.form: 'upper' is not an identifier form"),
    "unknown_after": (
        "after: [crm]",
        "after: [crn]",
        "25: systems.accounts.after.0: there is no system 'crn' (did you mean crm?)",
    ),
    "after_itself": (
        "after: [crm]",
        "after: [accounts]",
        "25: systems.accounts.after.0: runs in a circle: accounts after accounts",
    ),
    "doubled_system": ("id: accounts", "id: crm", "21: systems.crm.id: 'crm' stands twice, first on line 11"),
    "bad_system_id": ("id: accounts", "id: Accounts", "21: systems.Accounts.id: 'Accounts' must match"),
    "english_duration": ("PT30S", "30 seconds", "20: systems.crm.patience: '30 seconds' is not an ISO 8601 duration"),
    "bare_number": ("PT30S", "30", "20: systems.crm.patience: '30' is not an ISO 8601 duration"),
    "a_month": ("PT30S", "P1M", "20: systems.crm.patience: 'P1M' is not an ISO 8601 duration"),
    "negative_duration": ("PT30S", "-PT30S", "20: systems.crm.patience: '-PT30S' is not an ISO 8601 duration"),
    "no_patience": ("PT30S", "PT0S", "20: systems.crm.patience: must be longer than nothing"),
    "unknown_zone": (
        "Europe/Amsterdam",
        "Europe/Amsterdm",
        "4: controller.zone: 'Europe/Amsterdm' is not an IANA zone (did you mean Europe/A",
    ),
    "zone_outside": ("Europe/Amsterdam", "../../etc/passwd", "4: controller.zone: '../../etc/passwd' is not an IANA zone"),
    "unknown_calendar": ("calendar: NL", "calendar: XX", "5: controller.calendar: 'XX' is not a calendar"),
    "unknown_region": ("calendar: NL", "calendar: NL-XX", "5: controller.calendar: 'NL-XX' is not a calendar"),
    "null_title": ("title: CRM", "title:", "12: systems.crm.title: must be text, is empty"),
    "system_as_text": ("  - id: accounts", "  - accounts\n  - id: accounts", "21: systems.1: must be a mapping with id, title"),
    "version_with_space": ('"1.10"', '"1 10"', "1: version: '1 10' must match"),
    "broken_yaml": ("title: CRM", "title: [CRM", "13: not YAML: "),
    "alias_of_itself": ("title: CRM", "title: &a [*a]", "12: systems.crm.title.0: an alias refers to itself"),
    "not_a_mapping": (GOOD, "- crm", "1: must be a mapping with version"),
    "empty": (GOOD, "", "1: must be a mapping with version"),
}


@pytest.mark.parametrize("name", BAD)
def test_mistake_points_at_its_line(tmp_path: Path, name: str):
    """Each kind of mistake names line, field and what is valid."""
    old, new, expected = BAD[name]
    assert old in GOOD
    found = _mistakes(tmp_path, GOOD.replace(old, new, 1))
    assert any(mistake.startswith(expected) for mistake in found), found


def test_all_mistakes_are_reported_in_line_order(tmp_path: Path):
    """Mistakes of every kind come out of one run, by line, also circles beside wrong words."""
    text = GOOD.replace("calendar: NL", "calendar: XX").replace("[access, erasure]", "[acces]").replace("PT30S", "3 days")
    text = text.replace("owner: Sales", "owner: Sales\n    after: [accounts]")
    found = _mistakes(tmp_path, text)
    assert [mistake.split(": ")[1] for mistake in found] == [
        "controller.calendar",
        "systems.crm.rights.0",
        "systems.crm.patience",
        "systems.accounts.after.0",
    ]
    assert found[3].endswith("runs in a circle: crm after accounts after crm")


def test_every_circle_is_found(tmp_path: Path):
    """Two separate circles are two mistakes."""
    text = GOOD.replace("owner: Sales", "owner: Sales\n    after: [accounts]")
    for one, other in (("left", "right"), ("right", "left")):
        text += f"  - id: {one}\n    title: Side\n    role: processor\n    owner: Team\n    after: [{other}]\n"
    assert len(_mistakes(tmp_path, text)) == 2


def test_load_raises_one_error_naming_the_file(tmp_path: Path):
    """`load` raises a configuration error with one line per mistake, each beginning with file and line."""
    path = _written(tmp_path, GOOD.replace("Europe/Amsterdam", "Mars/Olympus").replace("vendor", "x").replace("PT30S", "soon"))
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"{path}:4", f"{path}:20"]


def test_unreadable_files_are_configuration_errors(tmp_path: Path):
    """A missing file, a folder, and bytes that are no text are told apart from an empty registry."""
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            load(path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"version: \xff\xfe")
    with pytest.raises(ConfigurationError, match="1: not YAML"):
        load(binary)
    huge = tmp_path / "huge.yaml"
    huge.write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(ConfigurationError, match="larger than"):
        load(huge)


def test_example_company_is_correct_and_complete():
    """The example company lists its places, runs the CRM first, and plans only what has a connector."""
    registry = load(EXAMPLE)
    assert {s.id for s in registry.systems} == {
        "accounts", "web-forms", "web-logs", "cookies", "chat", "newsletter", "events", "crm", "hotjar", "unbounce",
        "linkedin", "google-analytics", "subsidiary-one", "subsidiary-two", "authorities",
        "eventbrite", "support-mailbox",
    }  # fmt: skip
    assert {s.id: s.connector for s in registry.active()} == {
        "crm": "hubspot",
        "accounts": "accounts",
        "newsletter": "mailchimp",
        "google-analytics": "google_analytics",
        "subsidiary-one": "opendsr",
        "subsidiary-two": "opendsr",
        "web-forms": "accounts",
        "web-logs": "weblogs",
        "cookies": "cookies",
        "chat": "intercom",
        "support-mailbox": "mailbox",
        "events": "manual",
        "eventbrite": "eventbrite",
        "unbounce": "unbounce",
        "hotjar": "hotjar",
        "linkedin": "linkedin",
        "authorities": "ledger",
    }
    assert registry.portal_ids == {"website", "newsletter-footer", "service-desk", "parent-group"}
    assert registry.by_id["google-analytics"].rights == (Right.ERASURE,)
    assert IdentifierKind.GA_CLIENT_ID in registry.by_id["crm"].yields
    for system in registry.systems:
        assert system.is_planned_for or system.status == "planned", system.id


def test_example_company_systems_wait_for_the_identifiers_they_need():
    """Whatever needs an identifier that the CRM yields runs after the CRM."""
    registry = load(EXAMPLE)
    yielded = set(registry.by_id["crm"].yields)
    for system in registry.systems:
        if system.id != "crm" and yielded & {need.kind for need in system.needs}:
            assert "crm" in system.after, system.id


KEYED = GOOD.replace("    owner: Web team\nsystems", "    owner: Web team\n    blob_key: {BLOB_KEY}\nsystems")
X = "AGy2CCsMh9a7OzHClfnUQmLzbjaMqx7gVOJ_ve9KX0c"


def test_a_portals_key_is_read(tmp_path: Path):
    """The public JWK of a portal is part of the registry."""
    text = KEYED.replace("{BLOB_KEY}", f"{{kty: OKP, crv: X25519, x: {X}, kid: website-2026}}")
    key = load(_written(tmp_path, text)).blob_key("website")
    assert key is not None and (key.x, key.kid) == (X, "website-2026")


@pytest.mark.parametrize(
    ("given", "field", "message"),
    [
        (f"{{kty: OKP, crv: Ed25519, x: {X}, kid: a}}", "blob_key.crv", "'Ed25519' is not valid here (did you mean X25519?)"),
        (f"{{kty: OKP, crv: X25519, x: {X}}}", "blob_key.kid", "is missing: Name of the key"),
        ("{kty: OKP, crv: X25519, x: short, kid: a}", "blob_key.x", "'short' must match"),
        (f"{{kty: OKP, crv: X25519, x: {'A' * 43}, kid: a}}", "blob_key.x", "is a point of low order"),
        (f"{{kty: OKP, crv: X25519, x: {X[:-1]}d, kid: a}}", "blob_key.x", "is not the one base64url spelling"),
        (f"{{kty: OKP, crv: X25519, x: {X}, kid: a, d: {X}}}", "blob_key.d", "is not known here"),
    ],
)
def test_a_wrong_key_of_a_portal_is_named(tmp_path: Path, given: str, field: str, message: str):
    """Each mistake in a portal's key, a private key above all, is named with line and field."""
    (mistake,) = _mistakes(tmp_path, KEYED.replace("{BLOB_KEY}", given))
    assert mistake.startswith(f"10: portals.website.{field}") or mistake.startswith(f"10: website.{field}"), mistake
    assert message in mistake and "BLOB" not in mistake
