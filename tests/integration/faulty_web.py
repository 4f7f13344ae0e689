"""The web application of llm_provider/wsgi.py with a fault in it."""

from llm_provider.bootstrap import build_web
from llm_provider.config import load_settings
from tests.integration.faults import plant

app = build_web(load_settings(), customise=plant)
