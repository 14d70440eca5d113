# What a person types. Needs Python >= 3.11, make and git; everything else is installed into .venv from the hashed locks.
#   make serve      install, then run the gateway with the built-in model on 127.0.0.1:7171
#   make test       set up and run the test suite            make test-long  the full figures as well
#   make bench      measure against nginx                    make lint       style, types, imports, house rules
#   make install    everything serve and test need           make fmt        format
#   make lock       renew requirements/ (needs uv)           make clean      remove .venv and caches

VENV := .venv
BIN := $(VENV)/bin
SERVE := $(VENV)/.installed-serve
DEV := $(VENV)/.installed-dev
COMPONENTS := $(VENV)/.installed-components
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --no-input
WORKERS ?= 2
# the built-in model's file is fetched once per checkout; every home gets a link of its own
export POTLUCK_MODEL_CACHE ?= $(CURDIR)/$(VENV)/models
BENCH_ARGS ?=
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install serve test test-long bench lint fmt lock clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -n 6

install: $(SERVE) $(DEV) $(COMPONENTS)
	@$(BIN)/potluck local-model install
	@$(BIN)/python -m potluck.admin.installers

# exec: signals reach the gateway itself, and no shell stands between it and make
serve: $(SERVE)
	@$(BIN)/potluck local-model install || echo "The built-in model is not installed (the lines above say why); serving without it."
	@exec $(BIN)/potluck serve

test: $(DEV) $(COMPONENTS)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not long" $(PYTEST_ARGS)

test-long: $(DEV) $(COMPONENTS)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

bench: $(DEV)
	@$(BIN)/python -m bench $(BENCH_ARGS)

lint: $(DEV)
	@echo "ruff check" && $(BIN)/ruff check
	@echo "ruff format --check" && $(BIN)/ruff format --check
	@echo "mypy" && $(BIN)/mypy
	@echo "import contracts" && report=$$($(BIN)/lint-imports 2>&1) || { echo "$$report"; exit 1; }
	@echo "house rules" && $(BIN)/python -m pytest -q -n 0 tests/unit/house

fmt: $(DEV)
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

lock:
	@command -v uv >/dev/null || { echo "make lock needs uv: https://docs.astral.sh/uv/"; exit 1; }
	@uv pip compile --universal --generate-hashes --no-header --no-annotate --quiet --python-version 3.11 $(UPGRADE) \
	  pyproject.toml --extra local --group build --output-file requirements/serve.txt
	@uv pip compile --universal --generate-hashes --no-header --no-annotate --quiet --python-version 3.11 $(UPGRADE) \
	  pyproject.toml --extra local --group dev --constraints requirements/serve.txt --output-file requirements/dev.txt
	@uv pip compile --universal --generate-hashes --no-header --no-annotate --quiet --python-version 3.11 $(UPGRADE) \
	  --group node --constraints requirements/serve.txt --output-file requirements/node.txt
	@echo xllamacpp | uv pip compile --universal --generate-hashes --no-header --no-annotate --quiet --python-version 3.11 $(UPGRADE) \
	  - --constraints requirements/serve.txt --output-file requirements/node-local.txt

clean:
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage htmlcov build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@scripts/make-venv $(VENV)

$(SERVE): requirements/serve.txt pyproject.toml | $(BIN)/python
	@echo "installing $$(grep -c '==' $<) packages for serving (locked, hashes checked)..."
	@$(PIP) install --require-hashes --requirement $<
	@$(PIP) install --no-deps --no-build-isolation --no-index --editable .
	@touch $@

$(DEV): requirements/dev.txt pyproject.toml | $(BIN)/python
	@echo "installing $$(grep -c '==' $<) packages for development (locked, hashes checked)..."
	@$(PIP) install --require-hashes --requirement $<
	@$(PIP) install --no-deps --no-build-isolation --no-index --editable .
	@touch $@

$(COMPONENTS): scripts/test-components $(wildcard tests/clients/node/package-lock.json) $(DEV)
	@scripts/test-components
	@touch $@
