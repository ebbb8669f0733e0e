# `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
MODE ?= auto
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate

.PHONY: help run test check format bench lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/runtime ## serve on http://127.0.0.1:8000 (MODE=auto|embedded); Ctrl-C stops it
	@scripts/run $(MODE)

test: .venv/dev ## set up servers where they are missing, then the whole test suite
	@scripts/test-servers
	@$(BIN)/python -m pytest $(PYTEST)

check: .venv/dev ## formatter, linter, types, import contract, lock, shell, server configuration
	@scripts/check

format: .venv/dev ## rewrite the code as the formatter wants it
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

bench: .venv/dev ## the benchmarks, as a table and in bench/results.json
	@scripts/test-servers
	@$(BIN)/python -m bench

lock: .venv/dev ## renew requirements*.txt from pyproject.toml (UPGRADE=1: to the newest versions)
	@$(COMPILE) $(if $(UPGRADE),--upgrade) pyproject.toml -o requirements.txt
	@$(COMPILE) $(if $(UPGRADE),--upgrade) --group dev pyproject.toml -o requirements-dev.txt
	@$(COMPILE) $(if $(UPGRADE),--upgrade) --group pyproject.toml:build -o requirements-build.txt

clean: ## remove what the other targets made, but not your data under var/
	@rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

.venv/runtime: requirements.txt requirements-build.txt pyproject.toml
	@PYTHON=$(PYTHON) scripts/venv requirements.txt
	@touch $@

.venv/dev: requirements-dev.txt requirements-build.txt pyproject.toml
	@PYTHON=$(PYTHON) scripts/venv requirements-dev.txt
	@touch $@ .venv/runtime
