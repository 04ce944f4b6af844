# Greenroom from a fresh clone: `make demo`. All is made inside the checkout, from a Python and the package index.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory --no-builtin-rules

# A shell set up for something else must not change what is installed or how fast it starts.
unexport PYTHONDONTWRITEBYTECODE PYTHONPATH PYTHONHOME VIRTUAL_ENV

ready := .venv/.ready
inputs := tools/bootstrap.sh .python-version requirements/build.txt requirements/dev.txt \
	$(wildcard libs/*/pyproject.toml services/*/pyproject.toml)

.PHONY: help demo up call test lint format bench chaos requirements docs clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

demo: $(ready) ## start everything, place a spoken call, show what was kept, stop
	@.venv/bin/greenroom demo $(args)

up: $(ready) ## start everything and stay; Ctrl-C stops it
	@.venv/bin/greenroom up $(args)

call: $(ready) ## speak with a bot of a running `make up`: make call agent=frontdesk
	@.venv/bin/greenroom call $(or $(agent),frontdesk) $(args)

test: $(ready) ## run all tests, or some: make test only=tests/unit
	@tools/test.sh $(only) $(args)

lint: $(ready) ## check style, types and imports
	@status=0; \
	for check in 'ruff check' 'ruff format --check' pyright 'lint-imports --no-logo'; do \
		printf '==> %s\n' "$$check"; .venv/bin/$$check || status=1; \
	done; \
	exit $$status

format: $(ready) ## put the code into the shape that lint asks for
	@.venv/bin/ruff check --fix-only --quiet
	@.venv/bin/ruff format

bench: $(ready) ## measure, all or some: make bench only=start
	@.venv/bin/python -m tests.bench $(only) $(args)

chaos: $(ready) ## kill the recorder and its servers under calls, as seeds say: make chaos runs=200 seed=1
	@.venv/bin/python -m tests.chaos $(or $(runs),10) $(or $(seed),1)

requirements: ## pin again after a change of dependencies; upgrade=1 takes the newest
	@uv=$$(tools/bootstrap.sh uv); UV=$$uv tools/export_requirements.sh $(if $(upgrade),upgrade)

docs: $(ready) ## write the generated pages of docs/ anew: messages, lifecycle, errors, configuration, OpenAPI
	@.venv/bin/python -m greenroom.common.docgen_messages docs
	@.venv/bin/python -m greenroom.devtools.all_errors > docs/errors.md
	@.venv/bin/python -m greenroom.devtools.configuration > docs/configuration.md
	@.venv/bin/python -m greenroom.api.openapi docs/openapi.json

clean: ## remove all that was made here: .greenroom (with its recordings), .venv, .uv, caches
	@rm -rf .greenroom .venv .uv .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find libs services tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

$(ready): $(inputs)
	@tools/bootstrap.sh
