"""`dsr`, for operators: joins the command groups of `orchestrator.commands`."""

from __future__ import annotations

import typer

from orchestrator.commands.registry import registry_app
from orchestrator.commands.schemas import schemas_app

__all__ = ["app", "main"]

app = typer.Typer(
    name="dsr",
    help="Orchestrate data-subject requests over Kafka.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(registry_app, name="registry")
app.add_typer(schemas_app, name="schemas")


@app.callback()
def _root() -> None:
    """Orchestrate data-subject requests over Kafka."""


def main() -> None:
    """Run the command line."""
    app()
