"""Write the generated files, or tell whether they are what their sources say: `python -m deploy.observability.generate`.

Room rules: a development tool; it writes into this folder's `generated/` and the marked part of `docs/operations.md` only.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from deploy.observability.alerts import rules
from deploy.observability.dashboards import dashboard
from deploy.observability.vocabulary_table import BEGIN, END, table

__all__ = ["FILES", "main", "outdated"]

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
_NOTICE = "# Generated from deploy/observability/alerts.py by `python -m deploy.observability.generate`. Do not edit.\n"
_ALERTS = _HERE / "generated" / "alerts.yaml"
_DASHBOARD = _HERE / "generated" / "dashboard.json"
_OPERATIONS = _ROOT / "docs" / "operations.md"

#: Where generated text stands.
FILES = (_ALERTS, _DASHBOARD, _OPERATIONS)


def _wanted() -> dict[Path, str]:
    operations = _OPERATIONS.read_text(encoding="utf-8")
    before, begin, rest = operations.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{_OPERATIONS.name}: put back the two lines {BEGIN!r} and {END!r}, the table goes between them")
    return {
        _ALERTS: _NOTICE + yaml.safe_dump(rules(), sort_keys=False, width=120, allow_unicode=True),
        _DASHBOARD: json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n",
        _OPERATIONS: f"{before}{BEGIN}\n{table()}{END}{after}",
    }


def outdated() -> list[str]:
    """Return the names of files that differ from what their sources generate."""
    return [
        path.relative_to(_ROOT).as_posix()
        for path, text in _wanted().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, or with `--check` return 1 and name those that would change."""
    parser = argparse.ArgumentParser(prog="python -m deploy.observability.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if something would change")
    if parser.parse_args(arguments).check:
        stale = outdated()
        for name in stale:
            sys.stderr.write(f"{name} is not what its source generates: run `python -m deploy.observability.generate`\n")
        return 1 if stale else 0
    for path, text in _wanted().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
