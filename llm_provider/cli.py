"""What an operator does by hand on a running system: `llm-provider providers`, `... dead-letters`, `... callbacks`."""

import json
import sys
from typing import Any

import click

from contracts.enums import LLMProviderType
from llm_provider import logs
from llm_provider.admission import BreakerView, ProviderLoad
from llm_provider.boot_checks import check_redis
from llm_provider.bootstrap import OperatorParts, base_url, build_operator
from llm_provider.callbacks import build_callback
from llm_provider.config import VENDORS, VendorSettings, load_settings
from llm_provider.errors import LedgerUnavailable, ServiceError
from llm_provider.ledger import DeadLetter, DeadLettersProtocol, RequestView
from llm_provider.protocols import LLMProviderProtocol


@click.group()
@click.pass_context
def commands(context: click.Context) -> None:
    """Operate a running llm-provider; it reads the same LLM_PROVIDER_ settings as the service."""
    settings = load_settings()
    # What keeps a command from its work is told in a sentence, and not a second time as a log line.
    logs.configure("ERROR")
    check_redis(settings)
    context.obj = build_operator(settings)


@commands.group(invoke_without_command=True)
@click.pass_context
def providers(context: click.Context) -> None:
    """Every provider: whether it has a key, where its calls go, how it is, and what it may be asked."""
    if context.invoked_subcommand is None:
        _show_providers(context.obj)


def _show_providers(parts: OperatorParts) -> None:
    header: tuple[str, ...] = (
        "PROVIDER",
        "CONFIGURED",
        "CIRCUIT",
        "HELD BACK BY THE VENDOR",
        "DEFAULT MODEL",
        "LIMITS",
        "BASE URL",
    )
    redis_answers = _redis_answers(parts)
    rows = [header, *(_provider_row(parts, provider, redis_answers) for provider in parts.caller.all())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@providers.command()
@click.argument("provider", type=click.Choice([name.value for name in VENDORS]))
@click.pass_obj
def release(parts: OperatorParts, provider: str) -> None:
    """Close a provider's circuit, and call the models again that its vendor wanted left alone: it is well again."""
    if not parts.caller.release(LLMProviderType(provider)):
        raise click.ClickException("Redis does not answer, so nothing is changed.")
    click.echo(f"{provider} is called again from now on; requests that wait for its circuit come within seconds.")


def _redis_answers(parts: OperatorParts) -> bool:
    try:
        parts.ledger.ping()
    except LedgerUnavailable:
        click.echo("Redis does not answer, so nobody knows of circuits; calls go on without them.", err=True)
        return False
    return True


def _provider_row(parts: OperatorParts, provider: LLMProviderProtocol, redis_answers: bool) -> tuple[str, ...]:
    return (
        provider.name,
        "yes" if provider.is_configured() else "no",
        _circuit(parts.caller.breaker(provider)) if redis_answers else "unknown",
        _held(parts.caller.load(provider)) if redis_answers else "unknown",
        provider.default_model,
        _limits(parts.settings.vendor(provider.name)),
        base_url(parts.settings, provider.name) or "-",
    )


def _circuit(view: BreakerView) -> str:
    wait = "" if view.retry_in_seconds is None else f" for {view.retry_in_seconds:.0f} s"
    return f"{view.state.replace('_', '-')}{wait}"


def _held(load: ProviderLoad) -> str:
    held = [f"{model} for {seconds:.0f} s" for model, seconds in load.held_models.items()]
    slowed = [f"{model} to a call each {seconds:.1f} s" for model, seconds in load.slowed_models.items()]
    return ", ".join([*held, *slowed]) or "none"


def _limits(vendor: VendorSettings) -> str:
    limits = {
        "requests/min": vendor.requests_per_minute,
        "tokens/min": vendor.tokens_per_minute,
        "at once": vendor.max_concurrent_calls,
        "models with their own": len(vendor.model_limits) or None,
    }
    return ", ".join(f"{limit:,} {what}" for what, limit in limits.items() if limit is not None) or "none"


@commands.group("dead-letters")
def dead_letters() -> None:
    """What Kafka refuses, what killed its workers, and what cannot be read; kept until somebody decides."""


@dead_letters.command("list")
@click.option("--limit", default=100, show_default=True, help="How many, the oldest first.")
@click.pass_obj
def list_letters(parts: OperatorParts, limit: int) -> None:
    """One line each: when, queue id, topic, attempts, worker deaths, reason."""
    letters = parts.ledger.dead_letters(limit)
    for letter in letters:
        click.echo(_line(letter))
    if not letters:
        click.echo("No dead letters.")


def _line(letter: DeadLetter) -> str:
    when = letter.buried.isoformat(timespec="seconds")
    topic = (letter.request.callback_topic or "(polled)") if letter.request else "(unknown)"
    counts = f"{letter.attempts} attempts, {letter.lapses} deaths"
    return f"{when}  {letter.queue_id}  {topic}  {counts}  {letter.reason}"


@dead_letters.command()
@click.argument("queue_id")
@click.pass_obj
def show(parts: OperatorParts, queue_id: str) -> None:
    """Everything about one, its event included, as JSON."""
    click.echo(json.dumps(_described(_found(parts.ledger, queue_id)), indent=2))


def _described(letter: DeadLetter) -> dict[str, Any]:
    request, outcome = letter.request, letter.outcome
    event = build_callback(request, outcome) if request and outcome else None
    return {
        "queue_id": letter.queue_id,
        "callback_topic": request and request.callback_topic,
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
def replay(parts: OperatorParts, queue_id: str) -> None:
    """Publish the identical event again, or go on with a record that is repaired; a worker does it within seconds."""
    _found(parts.ledger, queue_id)
    _reopened(parts.ledger, queue_id)


@dead_letters.command()
@click.argument("queue_id")
@click.pass_obj
def drop(parts: OperatorParts, queue_id: str) -> None:
    """Give one up for good: its event will not be published."""
    _found(parts.ledger, queue_id)
    parts.ledger.drop(queue_id)
    click.echo(f"{queue_id} is dropped.")


@commands.group()
def callbacks() -> None:
    """Events that have been published."""


@callbacks.command()
@click.argument("queue_id")
@click.pass_obj
def resend(parts: OperatorParts, queue_id: str) -> None:
    """Publish a request's event once more, the identical one; consumers drop it by its event_id if they have it."""
    view: RequestView | None = parts.ledger.view(queue_id)
    if view is None:
        raise click.ClickException(f"No request {queue_id} is known; records are kept for a day after their delivery.")
    if view.request.callback_topic is None:
        raise click.ClickException(f"{queue_id} named no callback topic; its result is polled.")
    _reopened(parts.ledger, queue_id)


def _found(ledger: DeadLettersProtocol, queue_id: str) -> DeadLetter:
    letter = ledger.dead_letter(queue_id)
    if letter is None:
        raise click.ClickException(f"{queue_id} is no dead letter; `llm-provider dead-letters list` shows them.")
    return letter


def _reopened(ledger: DeadLettersProtocol, queue_id: str) -> None:
    if not ledger.reopen(queue_id):
        raise click.ClickException(f"{queue_id} is still being worked on or delivered; nothing to do.")
    click.echo(f"{queue_id} is taken up again by a worker.")


def main() -> None:
    """The console script: an error is one sentence."""
    try:
        commands()
    except ServiceError as error:
        sys.exit(f"llm-provider: {error.message}")
