"""The Celery app: `celery -A celery_app worker` and `celery -A celery_app flower`."""

import sys

from llm_provider.bootstrap import build_worker
from llm_provider.config import load_settings
from llm_provider.errors import ConfigurationError

try:
    app = build_worker(load_settings())
except ConfigurationError as error:
    sys.exit(f"llm-provider: {error.message}")
