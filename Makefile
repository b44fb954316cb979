# Everything runs in .venv, which each target makes and fills where it is missing or out of date.

PYTHON ?= python3
CONFIG ?= configs/default.yaml
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help train test lint clean

help: ## say what can be made
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

train: .venv/.installed ## install, train on the Python library's source code for two minutes, print samples
	$(BIN)/charrnn train --config $(CONFIG)
	@echo; echo 'A sample of it, by: charrnn sample --prefix "def "'; echo
	@$(BIN)/charrnn sample --prefix "def " --length 400 --seed 1; echo
	@echo; echo 'More:  source .venv/bin/activate, then charrnn --help, or train on a text of yours: charrnn train FILE'

test: .venv/.installed-dev ## install, run the tests
	$(BIN)/python -m pytest --numprocesses auto

lint: .venv/.installed-dev ## check the style and the types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## remove the virtual environment and caches; runs/ and data/ stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "charrnn needs Python 3.10 or newer; this is $$($(PYTHON) --version). make PYTHON=python3.12 ... names another"; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/.installed: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) --editable .
	@touch $@

.venv/.installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) --editable '.[dev]'
	@touch $@ .venv/.installed
