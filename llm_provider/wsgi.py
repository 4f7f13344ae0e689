"""The web process's entry: `gunicorn --config python:llm_provider.gunicorn_config llm_provider.wsgi:app`."""

from llm_provider.bootstrap import build_web
from llm_provider.config import load_settings

app = build_web(load_settings())
