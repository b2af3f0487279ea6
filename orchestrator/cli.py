"""`dsr`, for operators: joins the command groups of `orchestrator.commands`."""

from __future__ import annotations

import typer

from orchestrator.commands.kafka import kafka_app
from orchestrator.commands.due import due_command
from orchestrator.commands.registry import registry_app
from orchestrator.commands.topics import topics_app
from orchestrator.commands.schemas import schemas_app

__all__ = ["app", "main"]

app = typer.Typer(
    name="dsr",
    help="Orchestrate data-subject requests over Kafka.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(kafka_app, name="kafka")
app.add_typer(registry_app, name="registry")
app.add_typer(topics_app, name="topics")
app.add_typer(schemas_app, name="schemas")
app.command("due")(due_command)


@app.callback()
def _root() -> None:
    """Orchestrate data-subject requests over Kafka."""


def main() -> None:
    """Run the command line."""
    app()
