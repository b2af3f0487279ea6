"""`dsr blobs` and `dsr access-package` on real files."""

from __future__ import annotations

import asyncio
import json
import stat
from datetime import UTC, date, datetime

import pytest
import yaml
from typer.testing import CliRunner

from connectors.sdk.blobs import FolderOfBlobs, folder_of
from connectors.sdk.protocol import Exported
from connectors.sdk.standin import serve
from orchestrator.cli import app
from schemas.blobs import BlobKey, BlobSecret
from schemas.confirmations import Confirmation, DueDates, SystemResult
from schemas.ids import confirmation_id, order_id
from schemas.orders import FulfilmentOrder
from schemas.outcomes import Fulfilled
from schemas.sealed import Sealed
from schemas.vocabulary import RequestResult, Right, Role
from schemas.wire import encode
from tests.s3_kit import BUCKET, KEY_ID, REGION, SECRET, S3StandIn

RUN = CliRunner()
REQUEST = "3f8a1c52-7d4e-4b6a-9c10-2e5f7a8b9c0d"
AT = datetime(2026, 3, 5, 9, tzinfo=UTC)


@pytest.fixture
def kept(tmp_path):
    """A portal's key, one result in the store, and the confirmation that names it."""
    made = RUN.invoke(app, ["blobs", "key", "--out", str(tmp_path / "portal.jwk"), "--kid", "website-2026"])
    key = BlobKey.model_validate(yaml.safe_load(made.output)["blob_key"])
    order = FulfilmentOrder(
        order_id=order_id(REQUEST, "crm"), subject_request_id=REQUEST, system="crm", right=Right.ACCESS, attempt=1,
        issued_at=AT, received_at=AT, due_on=date(2026, 4, 7), respond_by=AT, registry_version="1", blob_key=key,
        sealed=Sealed(kid="dev", nonce="A" * 16, ciphertext="A" * 24),
    )  # fmt: skip
    store = FolderOfBlobs(folder_of(tmp_path, "crm"), kept_days=30)
    result = asyncio.run(store.keep(order, 0, Exported("contact", {"email": "zoe@example.org"}), AT))
    told = Confirmation(
        confirmation_id=confirmation_id(REQUEST), subject_request_id=REQUEST, portal="website", right=Right.ACCESS,
        result=RequestResult.FULFILLED, received_at=AT, closed_at=AT, due=DueDates(rule="eu.gdpr", due_at=AT), in_time=True,
        registry_version="1", journal_head="0" * 64, text={"en": "Done.", "nl": "Klaar."},
        systems=(SystemResult(system="crm", title="CRM", role=Role.PROCESSOR, outcome=Fulfilled(count=1), settled_at=AT,
                              attempts=1, results=(result,)),),
    )  # fmt: skip
    (tmp_path / "told.json").write_bytes(encode(told))
    return tmp_path


def _pack(folder, *more):
    given = ["--key", folder / "portal.jwk", "--store", folder, "--confirmation", folder / "told.json"]
    return RUN.invoke(app, ["access-package", REQUEST, *map(str, given), "--out", str(folder / "package.zip"), *more])


def test_key_makes_a_pair_and_never_shows_the_private_half(tmp_path):
    """The file is its owner's alone and holds the printed key's other half; a second key never takes its place."""
    path = tmp_path / "a.jwk"
    said = RUN.invoke(app, ["blobs", "key", "--out", str(path)])
    jwk = json.loads(path.read_bytes())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert jwk["d"] not in said.output and BlobSecret.from_jwk(jwk).public.x in said.output
    assert RUN.invoke(app, ["blobs", "key", "--out", str(path)]).exit_code == 2
    assert json.loads(path.read_bytes()) == jwk


def test_the_package_is_written_for_its_owner_alone(kept):
    """Key, store and confirmation give an archive; a second one does not take its place."""
    done = _pack(kept, "--language", "nl")
    assert done.exit_code == 0, done.output
    package = kept / "package.zip"
    assert stat.S_IMODE(package.stat().st_mode) == 0o600 and b"zoe@example.org" in package.read_bytes()
    assert b"Uw persoonsgegevens" in package.read_bytes()
    assert _pack(kept).exit_code == 2


def test_a_changed_file_gives_no_package(kept):
    """One changed byte in the store: exit 2, the reason, and no archive."""
    (path,) = kept.rglob("*.sealed")
    stored = path.read_bytes()
    path.write_bytes(stored[:-1] + bytes([stored[-1] ^ 1]))
    said = _pack(kept)
    assert said.exit_code == 2 and "crm.results.1.sha256" in said.output
    assert not (kept / "package.zip").exists()


def test_dropped_results_are_gone(kept):
    """After `drop` the file is deleted and the package says until when it was to be kept; a second drop finds nothing."""
    assert "1 files deleted" in RUN.invoke(app, ["blobs", "drop", REQUEST, "--store", str(kept)]).output
    assert not list(kept.rglob("*.sealed"))
    assert "2026-04-04" in _pack(kept).output
    assert "0 files deleted" in RUN.invoke(app, ["blobs", "drop", REQUEST, "--store", str(kept)]).output


def test_a_reference_never_leads_out_of_the_store(kept):
    """A confirmation that names another file of this machine is refused."""
    told = (kept / "told.json").read_text()
    begin = told.index('"reference":"') + len('"reference":"')
    (kept / "told.json").write_text(told[:begin] + "../portal.jwk" + told[told.index('"', begin) :])
    said = _pack(kept)
    assert said.exit_code == 2 and "reference" in said.output


def test_a_bucket_serves_package_and_drop(tmp_path, kept, monkeypatch):
    """With the connectors' DSR_BLOBS_ settings the package is made from the bucket, and drop empties it."""
    with serve(s3 := S3StandIn()) as url:
        given = {"ENDPOINT": url, "BUCKET": BUCKET, "REGION": REGION, "ACCESS_KEY_ID": KEY_ID, "SECRET_ACCESS_KEY": SECRET}
        for name, value in {**given, "PRIVATE": "true"}.items():
            monkeypatch.setenv(f"DSR_BLOBS_{name}", value)
        told = Confirmation.model_validate_json((kept / "told.json").read_bytes())
        (path,) = kept.rglob("*.sealed")
        stored = path.read_bytes()
        (old,) = told.systems[0].results
        name = f"{old.reference.removesuffix('.sealed')}.{old.sha256}.sealed"
        s3.objects[f"results/crm/{name}"] = stored
        path.unlink()
        (kept / "told.json").write_text((kept / "told.json").read_text().replace(old.reference, name))
        done = _pack(kept)
        assert done.exit_code == 0, done.output
        assert "1 files deleted" in RUN.invoke(app, ["blobs", "drop", REQUEST]).output
        assert not s3.objects
        monkeypatch.delenv("DSR_BLOBS_BUCKET")
        said = RUN.invoke(app, ["blobs", "drop", REQUEST])
        assert said.exit_code == 2 and "DSR_BLOBS_BUCKET" in said.output
