# Needs Python 3.11 or 3.12 and nothing else.
#   make run    start the app on http://127.0.0.1:7860
#   make test   run every test (finds Chromium or installs it)
#   make lint   ruff and mypy
#   make bench  Votetune against what people would use instead, one table
#   make figures  the other slow measurements that the README reports

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
TEST_ARGS ?=
PYTEST := $(BIN)/python -m pytest

.PHONY: run test lint bench figures chromium clean

run: $(VENV)/.installed
	@$(BIN)/python app.py

test: $(VENV)/.installed-tests chromium
	@$(PYTEST) $(TEST_ARGS)

lint: $(VENV)/.installed-tests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(VENV)/.installed-tests chromium
	@$(BIN)/python -m tests.benchmarks.peers

figures: $(VENV)/.installed-tests chromium
	@$(BIN)/python -m tests.benchmarks

chromium: $(VENV)/.installed-tests
	@bash tests/browser/install_chromium.sh $(BIN)/python

# A name on the path proves nothing (version managers leave shims that only print an error):
# each candidate must say its version and make a working environment before it is used.
$(VENV)/bin/python:
	@for candidate in $(PYTHON) python3.11 python3.12 python3 python /usr/bin/python3.11 /usr/bin/python3.12 /usr/bin/python3; do \
	  "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1 || continue; \
	  rm -rf $(VENV); \
	  "$$candidate" -m venv $(VENV) >/dev/null 2>&1 && $(BIN)/python -m pip --version >/dev/null 2>&1 || continue; \
	  echo "Using $$($(BIN)/python --version) from $$candidate"; exit 0; \
	done; rm -rf $(VENV); \
	echo "No working Python 3.11 or 3.12 with venv was found: install one (Debian: python3 and python3-venv), or name it with PYTHON=/path/to/python." >&2; exit 1

$(VENV)/.installed: requirements.txt | $(VENV)/bin/python
	@echo "Installing Votetune's packages (once, a few minutes)..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.installed-tests: $(VENV)/.installed tests/requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
