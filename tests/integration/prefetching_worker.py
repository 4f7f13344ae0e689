"""The Celery app of celery_app.py, but fetching messages before a thread is free for them: Celery's default."""

from llm_provider.bootstrap import build_worker
from llm_provider.config import load_settings

app = build_worker(load_settings())
app.conf.update(worker_disable_prefetch=False, worker_prefetch_multiplier=4)
