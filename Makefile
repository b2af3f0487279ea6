# Two commands matter: `make demo` and `make test`. Each sets up what it needs.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

help: ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

setup: $(STAMP) ## create .venv with exactly the locked versions

$(STAMP): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setup: installing the locked packages into $(VENV) (a minute on a fresh machine)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

lock: ## resolve requirements.lock again (versions and hashes, no addresses)
	uv pip compile --quiet --python-version 3.11 --extra orchestrator --group dev \
	  --generate-hashes --no-strip-extras --no-emit-index-url --no-header --output-file requirements.lock pyproject.toml

# What needs no server, by folder: quick enough for every save.
FAST := tests/core tests/schemas tests/shell tests/registry tests/commands tests/privacy tests/gateway tests/architecture tests/receipts

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

check: lint ## lint, strict types, import contracts, fast tests: under a minute
	@$(BIN)/python -m pytest -q -n 2 -m "not kafka and not postgres and not slow" $(FAST)

# Most of the time of a test here is waiting for brokers, workers and vendors: more of them than cores.
PARALLEL ?= 3

test: lint ## everything: the above, the core's coverage, then all tests on a real Kafka and PostgreSQL
	@$(BIN)/python -m pytest -q -n0 -m "not slow" tests/core --cov=orchestrator/core --cov-branch --cov-fail-under=100 --cov-report=term
	@$(BIN)/python -m pytest -n $(PARALLEL) --dist loadfile --durations=15

demo: setup ## the main job, on a real Kafka, in front of your eyes
	@$(BIN)/dsr demo

fuzz: setup ## damaged input for every decoder: SECONDS_EACH=10, SEED=n
	@$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS_EACH),10) $(if $(SEED),--first $(SEED))

simulate: setup ## deterministic simulation: SEED=n replays one world, SEEDS=a..b runs many, LARGE=1 large ones
	@$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),0..1000)) $(if $(LARGE),--large)

bench: setup ## throughput and latency beside plain aiokafka, one run: one worker, two, and one with signatures and keys off
	@$(BIN)/dsr bench --requests 10000 --latency-requests 1000 --pair --off-too

backlog: setup ## one connector process with 10,000 waiting orders: its memory, and how often it calls
	@BACKLOG_ORDERS=$(or $(ORDERS),10000) $(BIN)/python -m pytest -q -s -n0 --timeout 900 tests/integration/test_connector_backlog.py

CHAOS_SEED ?= 1
CHAOS_REQUESTS ?= 2000
CHAOS_MINUTES ?= 3
CHAOS_MINUTES_SQLITE ?= $(CHAOS_MINUTES)
CHAOS := $(BIN)/python -m tests.chaos --seed $(CHAOS_SEED) --requests $(CHAOS_REQUESTS)

chaos: setup ## a long run under kills: two workers on PostgreSQL, one and two on SQLite (CHAOS_MINUTES each), three brokers, a bad network
	@$(CHAOS) --minutes $(CHAOS_MINUTES) --store postgresql --workers 2
	@$(CHAOS) --minutes $(CHAOS_MINUTES_SQLITE) --store sqlite --no-control
	@$(CHAOS) --minutes $(CHAOS_MINUTES_SQLITE) --store sqlite --workers 2 --no-control
	@$(BIN)/python -m pytest -q -n0 -m long tests/chaos

long: setup ## what takes too long for make test: more worlds, rare mistakes, brokers that die, bad networks
	@$(BIN)/python -m pytest -q -n $(PARALLEL) --dist loadfile -m long

.PHONY: help setup lock lint check test long demo bench chaos simulate fuzz backlog
