"""Settings for reaching a broker: what a client is given, and which mistakes are named before it tries."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth
from pydantic import SecretStr

from connectors.sdk.settings import RuntimeSettings, read
from orchestrator.adapters.broker import connection_to
from orchestrator.settings import load_broker
from orchestrator.shell.faust_app import credentials
from schemas.broker import BrokerReach, TokenGrant
from schemas.errors import ConfigurationError

SECRET = "not-to-be-shown"
SCRAM = {"security_protocol": "SASL_SSL", "sasl_username": "system-crm", "sasl_password": SECRET}
BEARER = {
    "security_protocol": "SASL_SSL",
    "sasl_mechanism": "OAUTHBEARER",
    "sasl_oauth_token_url": "https://login.example.org/token",
    "sasl_oauth_client_id": "system-crm",
    "sasl_oauth_client_secret": SECRET,
}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"security_protocol": "SSL"},
        SCRAM,
        {**SCRAM, "security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN"},
        {**SCRAM, "sasl_mechanism": "SCRAM-SHA-256"},
        BEARER,
    ],
)
def test_faust_is_given_what_aiokafka_is_given(settings):
    """Whatever the settings, Faust's consumer connects as our own clients do."""
    connection = connection_to(BrokerReach(**settings))
    by_faust = credentials_to_aiokafka_auth(credentials(connection))
    assert {name: value for name, value in by_faust.items() if value is not None} == connection


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"sasl_password": SECRET}, "SECURITY_PROTOCOL is PLAINTEXT, so the SASL settings have no effect"),
        ({"security_protocol": "SASL_SSL", "sasl_password": SECRET}, "set SASL_USERNAME: SASL_SSL with SCRAM-SHA-512 needs it"),
        ({"security_protocol": "SASL_SSL", "sasl_username": "crm"}, "set SASL_PASSWORD or SASL_PASSWORD_FILE"),
        ({**SCRAM, "sasl_password_file": "/nowhere"}, "set one of SASL_PASSWORD and SASL_PASSWORD_FILE, not both"),
        (
            {**SCRAM, "sasl_password": None, "sasl_password_file": "/nowhere"},
            "SASL_PASSWORD_FILE: cannot be read (FileNotFound",
        ),
        ({**BEARER, "sasl_oauth_client_id": None}, "set SASL_OAUTH_CLIENT_ID: SASL_SSL with OAUTHBEARER needs it"),
        ({**BEARER, "sasl_oauth_token_url": "http://login.example.org/token"}, "SASL_OAUTH_TOKEN_URL: use https"),
        ({"security_protocol": "SSL", "ssl_cert_file": "/nowhere"}, "set both SSL_CERT_FILE and SSL_KEY_FILE, or none"),
        ({"security_protocol": "SSL", "ssl_ca_file": "/nowhere"}, "SSL_CA_FILE: cannot be used (FileNotFoundError)"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(settings, told):
    """Nothing is tried with settings that cannot work, or that would not do what they seem to; no value is quoted."""
    with pytest.raises(ConfigurationError) as caught:
        connection_to(BrokerReach(**settings))
    assert told in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_password_may_stand_in_a_file(tmp_path: Path):
    """The file's last line end is not part of the password; an empty file is no password."""
    path = tmp_path / "password"
    given = {**SCRAM, "sasl_password": None, "sasl_password_file": path}
    path.write_text(f"{SECRET}\n")
    assert connection_to(BrokerReach(**given))["sasl_plain_password"] == SECRET
    path.write_text("\n")
    with pytest.raises(ConfigurationError, match="is empty"):
        connection_to(BrokerReach(**given))


def test_both_sides_read_the_same_variables(monkeypatch):
    """What an operator sets for the worker is what a connector reads; neither shows a secret."""
    for name, value in SCRAM.items():
        monkeypatch.setenv(f"DSR_{name.upper()}", value)
    monkeypatch.setenv("DSR_KEYS_URL", "http://127.0.0.1:9464")
    ours, theirs = load_broker(), read(RuntimeSettings)
    for reach in (ours, theirs):
        assert reach.sasl_password == SecretStr(SECRET)
        assert SECRET not in repr(reach)
    monkeypatch.delenv("DSR_SASL_USERNAME")
    with pytest.raises(ConfigurationError, match="set DSR_SASL_USERNAME"):
        connection_to(load_broker())


def test_a_token_is_kept_until_shortly_before_it_ends():
    """It is renewed a minute early, a short one at half its life; one without an end is kept."""
    grant = TokenGrant(url="https://login.example.org", client_id="c", secret=SECRET, scope="kafka")
    assert grant.form() == {
        "grant_type": "client_credentials", "client_id": "c", "client_secret": SECRET, "scope": "kafka",
    }  # fmt: skip
    assert grant.current(0.0) is None
    for seconds, good_until in ((600, 640.0), (60, 130.0), (None, math.inf)):
        assert grant.take({"access_token": "t", "expires_in": seconds}, 100.0) == "t"
        assert grant.current(min(good_until - 0.1, 1e9)) == "t"
        assert grant.current(good_until) is None
    with pytest.raises(ValueError, match="no access_token"):
        grant.take({"token": "t"}, 100.0)
