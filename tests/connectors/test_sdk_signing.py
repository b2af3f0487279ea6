"""A connector signs what it reports, as its own system, or does not start."""

from __future__ import annotations

import json

import pytest
from sdk_world import NOW, Scripted, World, an_order

from connectors.sdk.protocol import Result
from connectors.sdk.settings import RuntimeSettings
from connectors.sdk.speaking import signer_of
from schemas.errors import ConfigurationError, ProtocolViolation
from schemas.outcomes import Fulfilled
from schemas.signatures import Verifier, leaf_of, signature_in
from schemas.trust import SigningKey, Trust

CRM = SigningKey.new("system:crm")


def settings(**changes):
    return RuntimeSettings(keys_url="http://127.0.0.1:1", **changes)


async def test_reports_that_go_out_together_share_a_signature(tmp_path):
    """Every report verifies as said by the system, alone and without the others; nobody else's trust believes it."""
    world = World(tmp_path, Scripted(Result(Fulfilled(count=1))), signer=CRM)
    async with world.running():
        world.send(*(an_order(number) for number in range(1, 6)))
        await world.reported(5)
    verifier = Verifier(Trust.of(CRM))
    records = [record for record in world.bus.published if record.topic == world.topics.reports]
    assert len(records) == 5
    for record in records:
        leaf = leaf_of("FulfilmentReport", "reports", record.key, record.value)
        assert verifier.verify(leaf, signature_in(record.headers), principal="system:crm", at=NOW) == CRM.kid
        with pytest.raises(ProtocolViolation):
            verifier.verify(leaf, signature_in(record.headers), principal="system:mail", at=NOW)


def test_a_connector_without_its_own_key_does_not_start(tmp_path):
    """A missing key, another's key and a public key are refused by name; off must be chosen."""
    with pytest.raises(ConfigurationError, match="dsr keys new system:crm"):
        signer_of(settings(), "crm")
    with pytest.raises(ConfigurationError, match="the key of system:crm; sign as system:mail"):
        signer_of(settings(signing_key=CRM.to_json()), "mail")
    with pytest.raises(ConfigurationError, match="public key"):
        signer_of(settings(signing_key=json.dumps(CRM.public())), "crm")
    with pytest.raises(ConfigurationError, match="DSR_SIGNING_KEY_FILE cannot be read"):
        signer_of(settings(signing_key_file=tmp_path / "nothing"), "crm")
    assert signer_of(settings(signatures="off"), "crm") is None
    file = tmp_path / "key"
    file.write_text(CRM.to_json())
    for given in ({"signing_key": CRM.to_json()}, {"signing_key_file": file}):
        found = signer_of(settings(**given), "crm")
        assert found is not None and found.kid == CRM.kid
        assert json.loads(CRM.to_json())["d"] not in repr(settings(**given))
