# One command a chore; the same ones on a laptop and in CI.
# PYTHON chooses the interpreter (3.11 or newer) the environment is made with.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test lint types imports format bench storm docs clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## Make the environment and install everything into it

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "This project needs Python 3.11 or newer; set PYTHON=/path/to/python3.12, say.")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP) ## Run the whole chain on real parts and show it (KEEP=1 keeps it running)
	@$(BIN)/python scripts/demo.py

# Most tests wait for processes, so two run side by side; a file stays together, with servers of its own. In their own
# order the files that wait longest come first, and the quick ones fill in at the end.
test: lint types imports ## Run every check and every test
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: $(STAMP) ## ruff: style and likely bugs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## mypy --strict
	$(BIN)/mypy

imports: $(STAMP) ## The rules of who may import whom
	$(BIN)/lint-imports

format: $(STAMP) ## Bring the code into its one format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) ## Measure speed, memory and CPU beside a bare chain
	@$(BIN)/python scripts/bench.py

storm: $(STAMP) ## Kill, freeze and restart everything under load, and account for every request
	@$(BIN)/python scripts/storm.py

docs: $(STAMP) ## Write what is generated: configuration table, JSON Schemas
	$(BIN)/python scripts/generate_docs.py

clean: ## Remove the environment, local servers' data and caches
	rm -rf $(VENV) .local build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
