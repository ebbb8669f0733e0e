# `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
MODE ?= auto
STACK ?= auto
BACKUP ?=
PARTS ?=
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate

.PHONY: help run logs stop deploy secrets backup restore test check format bench chaos k8s-test lock supply assets clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: ## serve, in containers where an engine answers (MODE=auto|containers|embedded); Ctrl-C stops it
	@scripts/run $(MODE)

logs: ## follow the containers' logs (STACK=auto|development|production)
	@scripts/stack $(STACK) logs --follow --tail 100

stop: ## stop the containers; volumes stay (STACK)
	@scripts/stack $(STACK) --profile deploy down

deploy: ## build and replace what compose.production.yaml runs, without a failed request
	@scripts/deploy

secrets: ## write the files that are missing in secrets/
	@scripts/secrets

backup: ## copy database and media of the containers to backups/ (STACK)
	@scripts/backup $(STACK)

restore: ## fill an empty stack from BACKUP=backups/... (STACK=production|development)
	@scripts/restore "$(BACKUP)" $(if $(filter auto,$(STACK)),production,$(STACK))

test: .venv/dev ## set up servers where they are missing, then the whole test suite
	@scripts/test-servers
	@scripts/tests $(PYTEST)

check: .venv/dev .venv-lint/done ## formatter, linter, types, import contract, lock, shell, containers, server configuration
	@scripts/test-servers
	@scripts/check

format: .venv/dev ## rewrite the code as the formatter wants it
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

bench: .venv/dev ## the benchmarks, as a table and in bench/results.json
	@scripts/test-servers
	@$(BIN)/python -m bench

chaos: .venv/dev ## the fault suite on real processes, as tables and in bench/chaos.json (PARTS="deploys --short")
	@scripts/test-servers
	@$(BIN)/python -m chaos $(PARTS)

k8s-test: .venv/dev ## the manifests on the cluster of KUBECONFIG, under load: see docs/kubernetes.md (PARTS="--only TEXT")
	@scripts/test-servers
	@$(BIN)/python -m chaos $(PARTS) kubernetes

lock: .venv/dev ## renew requirements*.txt from pyproject.toml (UPGRADE=1: to the newest versions)
	@$(COMPILE) $(if $(UPGRADE),--upgrade) pyproject.toml -o requirements.txt
	@$(COMPILE) $(if $(UPGRADE),--upgrade) --group dev --constraint requirements.txt pyproject.toml -o requirements-dev.txt
	@$(COMPILE) $(if $(UPGRADE),--upgrade) --group pyproject.toml:build -o requirements-build.txt
	@$(COMPILE) $(if $(UPGRADE),--upgrade) --group pyproject.toml:lint -o requirements-lint.txt
	@$(COMPILE) $(if $(UPGRADE),--upgrade) --group pyproject.toml:release -o requirements-release.txt

supply: .venv/dev .venv-release/done ## what a release is made of, into dist/: SBOM, licences, known vulnerabilities
	@scripts/supply
	@scripts/audit

assets: ## renew Swagger UI and the pages, from package-lock.json and frontend/ (needs npm; nothing else does)
	@scripts/assets

clean: ## remove what the other targets made, but not your data under var/
	@rm -rf .venv .venv-lint .venv-release build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

.venv/runtime: requirements.txt requirements-build.txt pyproject.toml
	@PYTHON=$(PYTHON) scripts/venv requirements.txt
	@touch $@

.venv/dev: requirements-dev.txt requirements-build.txt pyproject.toml
	@PYTHON=$(PYTHON) scripts/venv requirements-dev.txt
	@touch $@ .venv/runtime

.venv-lint/done: requirements-lint.txt | .venv/dev
	@rm -rf .venv-lint && $(BIN)/uv venv --quiet .venv-lint
	@VIRTUAL_ENV=.venv-lint $(BIN)/uv pip install --quiet --require-hashes -r requirements-lint.txt
	@touch $@

.venv-release/done: requirements-release.txt | .venv/dev
	@rm -rf .venv-release && $(BIN)/uv venv --quiet .venv-release
	@VIRTUAL_ENV=.venv-release $(BIN)/uv pip install --quiet --require-hashes -r requirements-release.txt
	@touch $@
