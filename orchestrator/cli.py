"""`dsr`, for operators: joins the command groups of `orchestrator.commands`."""

from __future__ import annotations

import sys

import typer

from orchestrator.commands.access_package import access_package_command
from orchestrator.commands.acl import acl_app
from orchestrator.commands.audit import audit_command, dump_command
from orchestrator.commands.bench import bench_command
from orchestrator.commands.blobs import blobs_app
from orchestrator.commands.checkpoints import checkpoint_app
from orchestrator.commands.confirmations import confirmations_command
from orchestrator.commands.decisions import register as register_decisions
from orchestrator.commands.demo import demo_command
from orchestrator.commands.doctor import doctor_command
from orchestrator.commands.due import due_command
from orchestrator.commands.kafka import kafka_app
from orchestrator.commands.keys import keys_app
from orchestrator.commands.lifecycle import lifecycle_command
from orchestrator.commands.mailbox import mailbox_app
from orchestrator.commands.many import register as register_many
from orchestrator.commands.quarantine import quarantine_app
from orchestrator.commands.registry import registry_app
from orchestrator.commands.schemas import schemas_app
from orchestrator.commands.status import list_command, show_command, status_command
from orchestrator.commands.submit import submit_command
from orchestrator.commands.topics import topics_app
from orchestrator.commands.verify import verify_command
from orchestrator.commands.worker import store_app, worker_command
from schemas.core_dumps import forbid_core_dumps
from schemas.errors import DsrError

__all__ = ["app", "main"]

app = typer.Typer(
    name="dsr",
    help="Orchestrate data-subject requests over Kafka.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(acl_app, name="acl")
app.add_typer(checkpoint_app, name="checkpoint")
app.add_typer(keys_app, name="keys")
app.add_typer(kafka_app, name="kafka")
app.add_typer(mailbox_app, name="mailbox")
app.add_typer(blobs_app, name="blobs")
app.add_typer(quarantine_app, name="quarantine")
app.add_typer(registry_app, name="registry")
app.add_typer(schemas_app, name="schemas")
app.add_typer(topics_app, name="topics")
app.add_typer(store_app, name="store")
app.command("bench")(bench_command)
app.command("access-package")(access_package_command)
app.command("audit")(audit_command)
app.command("demo")(demo_command)
app.command("doctor")(doctor_command)
app.command("due")(due_command)
app.command("lifecycle")(lifecycle_command)
app.command("dump")(dump_command)
app.command("verify")(verify_command)
app.command("worker")(worker_command)
app.command("submit")(submit_command)
app.command("status")(status_command)
app.command("show")(show_command)
app.command("list")(list_command)
app.command("confirmations")(confirmations_command)
register_decisions(app)
register_many(app)


@app.callback()
def _root() -> None:
    """Orchestrate data-subject requests over Kafka."""


def main() -> None:
    """Run the command line; an error of ours is one sentence on standard error and exit code 1."""
    forbid_core_dumps()
    try:
        app()
    except DsrError as error:
        print(f"dsr: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
