# The front door. Everything happens in .venv; nothing else on the machine is touched, except that
# `make test` as root on Debian installs the servers that some tests speak to.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -qq

# Most tests wait for servers and processes, so more workers than processors wait side by side: with
# six, tests took 70 % of the time of two processors. Each worker starts servers of its own, which
# takes 12 s of processor time.
PYTEST := $(BIN)/python -m pytest -n 8 --dist loadfile --no-loadscope-reorder
ON_A_BROKER := tests/conformance tests/integration tests/chaos tests/test_runner*.py \
	$(shell grep -l 'versions.chosen()' tests/test_*.py)

# The tests start some thousand processes. Each would compile feedbus again if it kept no byte code.
unexport PYTHONDONTWRITEBYTECODE

# What has passed of the order test, by its seed: an interrupted `make order` goes on behind it.
SEED_OF_ORDER := $(or $(FEEDBUS_CHAOS_SEED),20)
ORDER := dist/order/seed-$(SEED_OF_ORDER)

CHAOS_ROWS := $(addprefix chaos-,$(shell grep -o '^    "[a-z]*": Row' tests/chaos/faults/rows.py | cut -d '"' -f 2))

# The folder instead of its files: pytest needs 7 s to find 250 files by name, and 4 s in a folder.
UNIT := tests --ignore-glob="tests/*/*" -m "not (integration or chaos or browser or processes)" -rfE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo up check docs test coverage test-all model simulate chaos chaos-all $(CHAOS_ROWS) order order-embedded order-classic order-quorum hosts fuzz lint cluster bench bench-short clean

help:  ## this list
	@echo "usage: make TARGET [PYTHON=python3.12]"
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  \1\t\2/p' Makefile

demo: $(VENV)/.runtime  ## seed a graph, post tweets, show the spread and the rates
	@$(BIN)/feedbus demo

up: $(VENV)/.runtime  ## start everything in the foreground; Ctrl-C stops it
	@$(BIN)/feedbus up

check: lint  ## lint and unit tests, in two minutes; needs no server
	@FEEDBUS_SERVERS=none $(PYTEST) -n 10 --dist worksteal $(UNIT) $(PYTEST_ARGS)

test: $(VENV)/.dev  ## all tests, with the servers they need where they can be installed
	@sh servers/install.sh
	@$(PYTEST) $(PYTEST_ARGS)

coverage: $(VENV)/.dev  ## all tests, and which lines and branches none of them runs; takes twice as long
	@sh servers/install.sh
	@$(PYTEST) --cov --cov-report=term $(PYTEST_ARGS)

test-all: $(VENV)/.dev  ## all tests and models; then those of the broker on each RabbitMQ that is installed
	@sh servers/install.sh all
	@$(MAKE) test model
	@FEEDBUS_CHAOS_ROWS=all $(PYTEST) tests/chaos/faults $(PYTEST_ARGS)
	@for version in $$($(BIN)/python -m servers.versions); do \
		echo "RabbitMQ $$version" && FEEDBUS_RABBITMQ_VERSIONS=$$version $(PYTEST) $(ON_A_BROKER) $(PYTEST_ARGS) || exit 1; \
	done

model: $(VENV)/.dev  ## every order of events of the protocols; `make test` has a short form
	@FEEDBUS_LONG_MODELS=1 $(BIN)/python -m pytest tests/chaos/test_*_model.py

simulate: $(VENV)/.dev  ## the real code under a scheduler that seeds decide: SEEDS=1..1000, SEED=7 replays, FAULT=all plants faults
	@SEEDS=$(SEEDS) SEED=$(SEED) FAULT=$(FAULT) $(BIN)/python -m tests.simulation

cluster: $(VENV)/.dev  ## three RabbitMQ nodes and two hosts that die in turn, three times over
	@FEEDBUS_CLUSTER_ROUNDS=3 $(BIN)/python -m pytest tests/chaos/cluster $(PYTEST_ARGS)

chaos: order chaos-all  ## every fault under full load, on each broker; what has passed is not run again: SEED=20 SIZE=records COLUMN=embedded

chaos-all $(CHAOS_ROWS): chaos-%: $(VENV)/.dev
	@sh servers/install.sh
	@$(BIN)/python -m tests.chaos.faults $* $(if $(SEED),--seed $(SEED)) $(if $(SIZE),--size $(SIZE)) $(if $(COLUMN),--column $(COLUMN))

order: order-embedded order-classic order-quorum  ## the order test with a million records; what has passed is not run again

order-quorum: export FEEDBUS_RABBITMQ_VERSIONS ?= 4.3

order-embedded order-classic order-quorum: order-%: $(ORDER)/%

$(ORDER)/%: | $(VENV)/.dev
	@sh servers/install.sh
	@FEEDBUS_CHAOS_RECORDS=$${FEEDBUS_CHAOS_RECORDS:-1000000} FEEDBUS_CHAOS_SEED=$(SEED_OF_ORDER) \
		$(BIN)/python -m pytest -s tests/chaos/reshard/test_order.py -k $* $(PYTEST_ARGS)
	@mkdir -p $(@D) && touch $@

hosts: $(VENV)/.dev  ## three hosts share twelve shards, come, end and are killed; classic and quorum
	@sh servers/install.sh
	@FEEDBUS_HOSTS=long $(BIN)/python -m pytest -s tests/integration/test_hosts_share_shards.py $(PYTEST_ARGS)

fuzz: $(VENV)/.dev  ## 100,000 foreign messages on each broker; each ends in one verdict
	@sh servers/install.sh
	@FEEDBUS_FUZZ_EXAMPLES=$${FEEDBUS_FUZZ_EXAMPLES:-100000} $(BIN)/python -m pytest -s --timeout=0 tests/integration/test_foreign_messages.py $(PYTEST_ARGS)

lint: $(VENV)/.dev  ## format, rules, types and layers
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m mypy
	@$(BIN)/lint-imports --no-logo

docs: $(VENV)/.docs  ## write the reference from the code and build the site into dist/docs
	@$(BIN)/python docs/generate.py
	@$(BIN)/python -m sphinx -q -W --keep-going docs dist/docs
	@echo "dist/docs/index.html"

bench: $(VENV)/.runtime  ## measure against private servers; see docs/measurements.md
	@sh servers/install.sh
	@$(BIN)/python -m bench $(BENCH_ARGS)

bench-short: $(VENV)/.dev  ## every measurement in its short form: proof that it runs, no figures
	@sh servers/install.sh
	@FEEDBUS_LONG_BENCH=1 $(BIN)/python -m pytest -s --timeout=0 tests/test_bench.py $(PYTEST_ARGS)

clean:  ## remove .venv and caches; var/, which holds messages and feeds, stays
	rm -rf $(VENV) dist .coverage .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: installed anew only when pyproject.toml changed. What .dev installs includes .runtime.

$(VENV)/.runtime: pyproject.toml | $(BIN)/python
	@test $(VENV)/.dev -nt pyproject.toml || { echo "installing feedbus into $(VENV)" && $(PIP) install -e ".[app]"; }
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "installing feedbus and its development tools into $(VENV)"
	@$(PIP) install -e ".[dev]"
	@touch $@ $(VENV)/.runtime

$(VENV)/.docs: pyproject.toml | $(VENV)/.dev
	@echo "installing what builds the site into $(VENV)"
	@$(PIP) install -e ".[docs]"
	@touch $@

$(BIN)/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: expected Python 3.11 or newer, got $$("$(PYTHON)" --version 2>&1); try make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -m venv --clear $(VENV) || \
		{ rm -rf $(VENV); echo "error: $(PYTHON) -m venv failed; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
