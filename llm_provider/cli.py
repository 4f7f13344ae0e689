"""What an operator does by hand on a running system: `llm-provider dead-letters ...`, `llm-provider callbacks ...`."""

import json
import sys
from typing import Any

import click

from llm_provider.bootstrap import build_operator
from llm_provider.callbacks import build_callback
from llm_provider.config import load_settings
from llm_provider.errors import ServiceError
from llm_provider.ledger import DeadLetter, DeadLettersProtocol, RequestView


@click.group()
@click.pass_context
def commands(context: click.Context) -> None:
    """Operate a running llm-provider; it reads the same LLM_PROVIDER_ settings as the service."""
    context.obj = build_operator(load_settings())


@commands.group("dead-letters")
def dead_letters() -> None:
    """Events that Kafka refuses, and requests that killed their workers; kept until somebody decides."""


@dead_letters.command("list")
@click.option("--limit", default=100, show_default=True, help="How many, the oldest first.")
@click.pass_obj
def list_letters(ledger: DeadLettersProtocol, limit: int) -> None:
    """One line each: when, queue id, topic, attempts, worker deaths, reason."""
    letters = ledger.dead_letters(limit)
    for letter in letters:
        click.echo(_line(letter))
    if not letters:
        click.echo("No dead letters.")


def _line(letter: DeadLetter) -> str:
    when, topic = letter.buried.isoformat(timespec="seconds"), letter.request.callback_topic or "(polled)"
    counts = f"{letter.attempts} attempts, {letter.lapses} deaths"
    return f"{when}  {letter.request.queue_id}  {topic}  {counts}  {letter.reason}"


@dead_letters.command()
@click.argument("queue_id")
@click.pass_obj
def show(ledger: DeadLettersProtocol, queue_id: str) -> None:
    """Everything about one, its event included, as JSON."""
    click.echo(json.dumps(_described(_found(ledger, queue_id)), indent=2))


def _described(letter: DeadLetter) -> dict[str, Any]:
    event = build_callback(letter.request, letter.outcome) if letter.outcome else None
    return {
        "queue_id": letter.request.queue_id,
        "callback_topic": letter.request.callback_topic,
        "reason": letter.reason,
        "buried_at": letter.buried.isoformat(),
        "refused_since": letter.refused_since and letter.refused_since.isoformat(),
        "attempts": letter.attempts,
        "worker_deaths": letter.lapses,
        "event": event and event.model_dump(mode="json"),
    }


@dead_letters.command()
@click.argument("queue_id")
@click.pass_obj
def replay(ledger: DeadLettersProtocol, queue_id: str) -> None:
    """Publish the identical event again; a worker does it within seconds."""
    _found(ledger, queue_id)
    _reopened(ledger, queue_id)


@dead_letters.command()
@click.argument("queue_id")
@click.pass_obj
def drop(ledger: DeadLettersProtocol, queue_id: str) -> None:
    """Give one up for good: its event will not be published."""
    _found(ledger, queue_id)
    ledger.drop(queue_id)
    click.echo(f"{queue_id} is dropped.")


@commands.group()
def callbacks() -> None:
    """Events that have been published."""


@callbacks.command()
@click.argument("queue_id")
@click.pass_obj
def resend(ledger: Any, queue_id: str) -> None:
    """Publish a request's event once more, the identical one; consumers drop it by its event_id if they have it."""
    view: RequestView | None = ledger.view(queue_id)
    if view is None:
        raise click.ClickException(f"No request {queue_id} is known; records are kept for a day after their delivery.")
    if view.request.callback_topic is None:
        raise click.ClickException(f"{queue_id} named no callback topic; its result is polled.")
    _reopened(ledger, queue_id)


def _found(ledger: DeadLettersProtocol, queue_id: str) -> DeadLetter:
    letter = ledger.dead_letter(queue_id)
    if letter is None:
        raise click.ClickException(f"{queue_id} is no dead letter; `llm-provider dead-letters list` shows them.")
    return letter


def _reopened(ledger: DeadLettersProtocol, queue_id: str) -> None:
    if not ledger.reopen(queue_id):
        raise click.ClickException(f"{queue_id} is still being worked on or delivered; nothing to do.")
    click.echo(f"{queue_id} will be published again by a worker.")


def main() -> None:
    """The console script: an error is one sentence."""
    try:
        commands()
    except ServiceError as error:
        sys.exit(f"llm-provider: {error.message}")
