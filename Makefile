# `make` lists the targets. Needed beforehand: a Rust toolchain, Python 3.11 or newer with venv, make.
# Everything else is set up here, in .venv and cargo's target folder.

PYTHON ?= python3
VENV := .venv
BIN := $(abspath $(VENV)/bin)
PYBIND_SOURCES := Cargo.toml Cargo.lock pybind/Cargo.toml pybind/pyproject.toml \
	$(shell find engine sql-adapters pybind/src -name '*.rs' -o -name Cargo.toml -not -path '*/tests/*')

RUFF := $(BIN)/ruff --config pyproject.toml
PYTHON_SOURCES := . ../benches ../engine

# What is linted, built and tested as one, so that every dependency is compiled once. The benches bring rivals and build alone.
WORKSPACE := --workspace --exclude eventuali-benches
TEST_FEATURES := --features eventuali/testing

# Runs what follows with a Postgres server to test against: EVENTUALI_TEST_POSTGRES_URL if set, else a throwaway one.
WITH_POSTGRES := $(BIN)/python $(abspath pybind/tools/with_postgres.py)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(VENV)/.built ## import 262,200 loan events, rebuild every aggregate, check it, print a report
	@cd pybind && $(BIN)/python -m demo

.PHONY: demo-postgres
demo-postgres: $(VENV)/.built postgres ## move those events to Postgres, killed half-way and resumed, and go on there
	@cd pybind && $(BIN)/python -m demo.postgres

.PHONY: test
test: lint test-rust test-python ## every test and lint: Rust, documents, Python, types

.PHONY: lint
lint: fmt-check clippy deny ruff types ## formats, clippy, ruff, types, stubs

.PHONY: fmt-check clippy deny ruff types test-rust rust-tests test-python
fmt-check: | lint-tools
	cargo fmt --all -- --check

clippy: | lint-tools
	cargo clippy --locked $(WORKSPACE) $(TEST_FEATURES) --all-targets -- -D warnings

# The licences, bans, sources and duplicates of deny.toml are also checked by pybind/tests/repository, without this tool.
deny: | toolchain
ifneq ($(shell command -v cargo-deny),)
	cargo deny --offline check licenses bans sources
else
	@echo 'cargo-deny is not installed: deny.toml is checked by pybind/tests/repository alone'
endif

ruff: $(VENV)/.test-tools
	cd pybind && $(RUFF) check $(PYTHON_SOURCES) && $(RUFF) format --check $(PYTHON_SOURCES)

types: $(VENV)/.built $(VENV)/.test-tools
	cd pybind && $(BIN)/mypy
	cd pybind && $(BIN)/basedpyright
	cd pybind && $(BIN)/python -m mypy.stubtest --mypy-config-file pyproject.toml eventuali._eventuali

test-rust: $(VENV)/.build-tools postgres | toolchain
	$(WITH_POSTGRES) $(MAKE) --no-print-directory rust-tests

rust-tests:
ifneq ($(shell command -v cargo-nextest),)
	cargo nextest run --locked --status-level slow $(WORKSPACE) $(TEST_FEATURES)
else
	cargo test --locked $(WORKSPACE) $(TEST_FEATURES) --lib --bins --tests
endif
	for example in $(basename $(notdir $(wildcard engine/examples/*.rs))); do \
		echo "example $$example"; cargo run --locked --quiet -p eventuali $(TEST_FEATURES) --example $$example || exit 1; done
	cargo test --locked $(WORKSPACE) --exclude eventuali-python $(TEST_FEATURES) --doc

test-python: $(VENV)/.built $(VENV)/.test-tools postgres
	cd pybind && $(WITH_POSTGRES) $(BIN)/pytest

.PHONY: wheel
wheel: $(VENV)/.build-tools ## an abi3 wheel in dist/, installed and tried in a fresh environment without Rust
	rm -rf dist
	cd pybind && $(BIN)/maturin build --locked --release --out ../dist
	$(BIN)/python pybind/tools/check_wheel.py dist/*.whl

.PHONY: bench
bench: $(VENV)/.built $(VENV)/.test-tools | postgres ## the figures, each beside the bare limit of the same run
	cargo bench --locked -p eventuali-benches
	$(WITH_POSTGRES) cargo run --locked --release -p eventuali-benches --bin figures
	$(BIN)/python benches/python/figures.py
	$(WITH_POSTGRES) $(BIN)/python benches/python/rivals.py

.PHONY: soak
soak: $(VENV)/.built $(VENV)/.test-tools postgres ## power cuts, faults and kill -9 by the ten thousand: everything acknowledged is there
	EVENTUALI_SOAK=1 cargo test --locked --release -p eventuali --test faults --test processes
	EVENTUALI_SOAK=1 $(WITH_POSTGRES) cargo test --locked --release -p eventuali-sql $(TEST_FEATURES) --test moving_faults -- --nocapture --test-threads=1
	cd pybind && EVENTUALI_KILL_ROUNDS=10000 $(BIN)/pytest --timeout 0 -k kill

.PHONY: fmt
fmt: $(VENV)/.test-tools | lint-tools ## write the sources in the house format
	cargo fmt --all
	cd pybind && $(RUFF) check --fix $(PYTHON_SOURCES) && $(RUFF) format $(PYTHON_SOURCES)

.PHONY: clean
clean: ## remove what was built and the demo's store
	cargo clean
	rm -rf $(VENV) dist demo-store

.PHONY: toolchain lint-tools
toolchain:
	@cargo --version >/dev/null || { echo 'There is no Rust toolchain: install one with rustup'; exit 1; }

lint-tools: toolchain
	@cargo clippy --version >/dev/null && cargo fmt --version >/dev/null || \
		{ echo 'The Rust toolchain lacks clippy or rustfmt: rustup component add clippy rustfmt'; exit 1; }

$(VENV)/.build-tools: pybind/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --group pybind/pyproject.toml:build
	@touch $@

$(VENV)/.test-tools: $(VENV)/.build-tools
	$(BIN)/python -m pip install --quiet --group pybind/pyproject.toml:test
	@touch $@

# Programs to start a server with: installed ones, else those of a wheel, which therefore need not be made for this Python.
.PHONY: postgres
postgres: $(VENV)/.build-tools
	@$(WITH_POSTGRES) --find >/dev/null 2>&1 || \
		$(BIN)/python -m pip install --quiet --no-deps --only-binary=:all: --python-version 3.12 \
			--target $(VENV)/postgres --upgrade --group pybind/pyproject.toml:postgres || \
		test -n "$$EVENTUALI_TEST_POSTGRES_URL" || $(WITH_POSTGRES) --find

$(VENV)/.built: $(VENV)/.build-tools $(PYBIND_SOURCES) | toolchain
	cd pybind && VIRTUAL_ENV=$(abspath $(VENV)) PIP_QUIET=1 $(BIN)/maturin develop --quiet --locked --release
	@touch $@
