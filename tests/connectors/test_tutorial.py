"""The tutorial's code is taken out of the page and run: a page that does not work is a red build."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.demo.stage import free_port

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "tutorial-connector.md"
BLOCK = re.compile(r"^```(?:python|yaml|ini) file=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PYTEST = re.compile(r"^```sh\npython (-m pytest .*)\n```$", re.MULTILINE)


def blocks():
    return dict(BLOCK.findall(PAGE.read_text(encoding="utf-8")))


def marked(mark):
    """Return the one block whose first line ends in this mark."""
    (found,) = re.findall(rf"^```\w+ {mark}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return found


def written(folder):
    for file, text in blocks().items():
        (folder / file).write_text(text, encoding="utf-8")


def environment(**more):
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DSR_", "PYTEST_"))}
    return kept | {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}"} | more


def test_the_page_holds_the_files_it_speaks_of():
    """Connector, stand-in, test, and the same as a file with its test."""
    assert set(blocks()) == {
        "guestbook.py",
        "guestbook_standin.py",
        "test_guestbook.py",
        "pytest.ini",
        "guestbook.yaml",
        "test_guestbook_file.py",
    }


@pytest.mark.parametrize("name", ["guestbook.py", "guestbook.yaml"])
def test_the_connector_is_under_sixty_lines(name):
    """An afternoon's work: lines that say something, blank ones left out."""
    assert 0 < len([line for line in blocks()[name].splitlines() if line.strip()]) < 60


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_guestbook.py", "test_guestbook_file.py"])
def test_the_code_of_the_page_passes_the_conformance_suite(name, tmp_path):
    """Both forms of the connector, taken out as they stand, pass every test of the suite by the command of the page."""
    written(tmp_path)
    (command,) = [found for found in PYTEST.findall(PAGE.read_text(encoding="utf-8")) if found.endswith(f" {name}")]
    ended = subprocess.run(
        [sys.executable, *command.split(), "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert ended.returncode == 0, ended.stdout[-3000:]
    assert re.search(r"\d\d passed", ended.stdout)


#: What pip would leave of the package where Python looks for entry points.
INSTALLED = r"""
mkdir guestbook-0.1.0.dist-info
printf 'Metadata-Version: 2.1\nName: guestbook\nVersion: 0.1.0\n' > guestbook-0.1.0.dist-info/METADATA
sed -n 's/.*entry-points.*/[dsr.connectors]/p; s/^guestbook = "\(.*\)"/guestbook = \1/p' pyproject.toml \
    > guestbook-0.1.0.dist-info/entry_points.txt
"""

#: What the owner of an installation has done before: a worker with keys of its own, and a portal.
INSTALLATION = """
dsr keys new orchestrator --trust trust.json
dsr keys new portal:website --trust trust.json
{registry}
DSR_SIGNING_KEY_FILE=orchestrator.jwk dsr worker --worker-id worker-1 &
(
{connector}
) &
DSR_SIGNING_KEY_FILE=portal-website.jwk dsr submit --right erasure --email someone@example.org --verified login:high --wait 60
"""


@pytest.mark.kafka
@pytest.mark.slow
def test_what_is_typed_makes_it_answer_a_request(kafka_bootstrap, tmp_path):
    """The files become the package that `new` writes; it passes, is tried, is run, and its answer is in the confirmation.

    The one line that is not carried out is pip's: its entry point is laid where Python looks for one.
    """
    home, files, work = (tmp_path / name for name in ("home", "files", "work"))
    for folder in (home, files, work):
        folder.mkdir()
    written(files)
    registry = (ROOT / "docs" / "examples" / "registry.yaml").read_text(encoding="utf-8")
    (work / "registry.yaml").write_text(registry[: registry.index("  - id: crm")] + marked("registry"), encoding="utf-8")
    package = home / "dsr-guestbook"
    assert "\npip install -e .\n" in marked("run=package")
    steps = [
        marked("run=package").replace("pip install -e .", INSTALLED),
        marked("run=try").replace("email=-", "email=someone@example.org"),
        f"cd {work}",
        INSTALLATION.format(registry=marked("run=registry"), connector=marked("run=connector")),
    ]
    port, standin = free_port(), free_port()
    script = "\n".join(steps).replace("127.0.0.1:9092", kafka_bootstrap)
    for shown, ours in (("9464", port), ("8766", standin)):
        script = script.replace(shown, str(ours))
    given = {
        "HOME": str(home),
        "PYTHONPATH": f"{ROOT}:{package}",
        "DSR_KAFKA_BOOTSTRAP": kafka_bootstrap,
        "DSR_TOPIC_PREFIX": f"tutorial-{port}",
        "DSR_REGISTRY": "registry.yaml",
        "DSR_TRUST_FILE": "trust.json",
        "DSR_HTTP_PORT": str(port),
        "DSR_KEY_ENCRYPTION_KEY": "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=",
    }
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail\ntrap 'kill $(jobs -p)' EXIT\n{script}"],
        cwd=files,
        env=environment(**given),
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert re.search(r"\d\d passed", done.stdout)
    assert "guestbook: token accepted" in done.stdout
    assert "Guest book at the reception: holds nothing about you." in done.stdout
