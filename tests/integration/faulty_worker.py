"""The Celery app of celery_app.py with a fault in it."""

from llm_provider.bootstrap import build_worker
from llm_provider.config import load_settings
from tests.integration.faults import plant

app = build_worker(load_settings(), customise=plant)
