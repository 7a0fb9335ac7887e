# The commands of the project. `make demo` and `make test` set up what they need and need nothing typed before.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONDONTWRITEBYTECODE :=
NEXUS_HOME ?= $(CURDIR)/.nexus
export NEXUS_HOME

help: ## what can be typed
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: ## install all that the checkout needs into .venv
	@deploy/local/setup

demo: setup ## start the sandbox and the UI; deploys blue-green and as a canary, a killed run, backups and a restore
	@python -m nexus_ops.sandbox demo

down: ## end the sandbox and the UI; releases, runs, databases and backups stay in .nexus, clusters begin anew
	@if [ -x .venv/bin/python ]; then python -m nexus_ops.sandbox stop; else echo "nothing was set up"; fi

clean: down ## end them, and forget all that they knew: releases, runs, databases, backups
	@if [ -d "$(NEXUS_HOME)/clusters" ] && [ -e "$(NEXUS_HOME)/backup-identity.txt" ]; then rm -rf "$(NEXUS_HOME)" && echo "$(NEXUS_HOME) is gone"; \
	  else echo "$(NEXUS_HOME) is no folder of a sandbox: nothing was removed"; fi

browser: setup ## what the tests of the UI need besides: Playwright, and Debian's Chromium
	@deploy/local/setup browser

test: browser lint ## everything that must hold: lint, types, layers, definitions, tests
	@python -m pytest -n 2 --dist worksteal -m "not soak and not alone"
	@python -m pytest -m "not soak and alone"

lint: setup ## ruff, pyright, import-linter, dagster definitions
	@ruff check . && ruff format --check .
	@pyright
	@lint-imports
	@DAGSTER_HOME= dagster definitions validate -w workspace.yaml

bench: setup ## measure, each figure beside what it is compared with
	@python -m benchmarks

pictures: browser ## take the pictures of the README and the docs anew, by the test that drives the UI
	@NEXUS_PICTURES=$(CURDIR)/docs/images python -m pytest -m browser tests/ui

soak: setup ## the exhaustive tests: killed at every single request, and the like (hours)
	@python -m pytest -m soak

test-cluster: setup ## the same tests against a real cluster: NEXUS_TEST_KUBECONFIG=~/.kube/config make test-cluster
	@test -n "$$NEXUS_TEST_KUBECONFIG" || { echo "Set NEXUS_TEST_KUBECONFIG to the kubeconfig of a cluster that may be written to."; exit 2; }
	@python -m pytest -m "not soak and not browser" --no-fold-skipped

lock: setup ## write requirements.lock anew from pyproject.toml
	@uv pip compile --quiet --generate-hashes --no-header --no-annotate --no-emit-index-url --all-extras --python-version 3.11 pyproject.toml -o requirements.lock

.PHONY: help setup browser demo down clean test lint bench pictures soak test-cluster lock
