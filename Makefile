# `make help` lists what there is. Everything runs in .venv, which is made when it is first needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

RUN ?= $(shell date +train-%Y%m%d-%H%M%S)

.DEFAULT_GOAL := help
.PHONY: help install train test lint site format clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## Make .venv and install the package with the extras train and dev (PYTHON=python3.12 to choose)

train: $(INSTALLED) ## GRPO of the built-in model on short videos, into runs/ (RUN=name to choose the folder)
	$(BIN)/python experiments/run_grpo.py --preset tracks --name $(RUN)

test: lint ## Lint, then run all tests: those in one process on all cores, then those that start others, two files at a time
	$(BIN)/pytest -m "not ray and not e2e" -n auto --maxprocesses 8
	$(BIN)/pytest -m "ray or e2e" -n 2 --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED) ## Check style, formatting, types, the direction of imports, prose and the site
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.prose
	$(BIN)/mkdocs build --strict

site: $(INSTALLED) ## Build the site of all pages and public names into site/; a broken link fails, here and in lint
	$(BIN)/mkdocs build --strict

format: $(INSTALLED) ## Mend what ruff can mend, and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Delete caches; runs/ and .venv stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist site
	find . \( -path ./$(VENV) -o -path ./runs -o -path ./.git \) -prune -o -name __pycache__ -prune -exec rm -rf {} +

# Nothing here needs a download at run time, so none is tried.
train test: export HF_HUB_OFFLINE := 1
lint site test: export NO_MKDOCS_2_WARNING := 1

# The stamp saves the installation until pyproject.toml changes.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON): expected Python 3.11 or newer, got $$($(PYTHON) --version 2>&1);" \
			"name another, for example: make install PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e '.[train,dev]'
	@touch $@
