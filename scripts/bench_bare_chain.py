"""The chain that promises nothing, to measure the service beside: no ledger, no lease, no stored outcome.

A Flask view that only validates and calls `apply_async`; a Celery task that only calls the SDK and sends one record.
It reads the service's own settings, so that both have the same servers and the same numbers of processes and threads.
"""

import json
from functools import cache
from typing import Any
from uuid import uuid4

import httpx2
from celery import Celery, signals
from flask import Flask, Response, request
from kafka import KafkaProducer
from openai import OpenAI

from contracts.enums import LLMProviderType
from llm_provider.adapters.providers.openai_provider import OpenAIProvider
from llm_provider.api_models import LLMComparisonRequest
from llm_provider.config import load_settings
from llm_provider.prompts import SYSTEM_PROMPT
from llm_provider.verdicts import VERDICT_SCHEMA

SETTINGS = load_settings()

app = Flask(__name__, static_folder=None)
celery = Celery("bare_chain", broker=SETTINGS.redis_url)
celery.conf.update(
    task_ignore_result=True,
    worker_pool="threads",
    worker_concurrency=SETTINGS.worker_concurrency,
    broker_pool_limit=SETTINGS.web_threads,
    broker_connection_retry_on_startup=True,
)


@app.get("/healthz")
def healthz() -> str:
    return "ok"


@app.post("/api/v1/comparison")
def accept() -> Response:
    comparison = LLMComparisonRequest.model_validate_json(request.get_data(cache=False))
    queue_id = str(uuid4())
    compare.apply_async((comparison.model_dump(mode="json"),), task_id=queue_id)
    return Response(json.dumps({"queue_id": queue_id}), status=202, mimetype="application/json")


@celery.task  # type: ignore[untyped-decorator] # Celery ships no types.
def compare(comparison: dict[str, Any]) -> None:
    completion = client().chat.completions.create(
        model=OpenAIProvider.default_model,
        messages=[
            {"role": "system", "content": SYSTEM_PROMPT},
            {"role": "user", "content": "\n\n".join(comparison[k] for k in ("user_prompt", "essay_a", "essay_b"))},
        ],
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "verdict", "strict": True, "schema": VERDICT_SCHEMA},
        },
    )
    value = {"correlation_id": comparison["correlation_id"], "answer": completion.choices[0].message.content}
    sent = producer().send(
        comparison["callback_topic"], key=comparison["correlation_id"].encode(), value=json.dumps(value).encode()
    )
    sent.get(timeout=10)


def connect(**_: Any) -> None:
    """Before the first task, so that its threads share one of each."""
    client()
    producer()


signals.worker_init.connect(connect, weak=False)


@cache
def client() -> OpenAI:
    # As many connections as there are calls at once, and kept: the SDK's own client allows 1,000 and keeps 100.
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=60.0)
    return OpenAI(
        api_key=SETTINGS.vendor(LLMProviderType.OPENAI).key,
        base_url=SETTINGS.vendor(LLMProviderType.OPENAI).base_url,
        max_retries=0,
        http_client=httpx2.Client(limits=limits),
    )


@cache
def producer() -> KafkaProducer:
    # With idempotence, kafka-python's default, a broker that hangs would stop it for ever.
    return KafkaProducer(
        bootstrap_servers=SETTINGS.kafka_bootstrap_servers.split(","),
        acks="all",
        enable_idempotence=False,
        allow_auto_create_topics=False,
    )
