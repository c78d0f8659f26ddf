PYTHON ?= python3
VENV ?= .venv
# Where to take torch from, as in `make venv TORCH_INDEX=https://download.pytorch.org/whl/cpu`; empty: the default index
TORCH_INDEX ?=
# Processes that run tests: the quick ones compute, so one a core; the slow ones mostly wait for processes of their own
JOBS ?= 2
SLOW_JOBS ?= 4

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL_TORCH = $(if $(TORCH_INDEX),$(PIP) install --quiet $$(grep ^torch== constraints.txt) --index-url $(TORCH_INDEX))

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow test-all test-long test-containers lint format types imports bench docs requirements build clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(VENV)/dev.stamp ## Make .venv with fedha (editable) and the developer tools, when something changed

demo: $(VENV)/run.stamp ## Train the quickstart experiment; needs no data files
	$(BIN)/fedha run configs/quickstart.yaml

test: $(VENV)/dev.stamp ## Run the quick tests, in JOBS processes: every law; some minutes
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS)

test-slow: $(VENV)/dev.stamp ## Run the tests of real processes: deployments, killed workers, SuperLinks
	$(BIN)/python -m pytest -m "slow and not long" -n $(SLOW_JOBS)

test-all: $(VENV)/dev.stamp ## Run both: while real processes are waited for, the quick tests compute
	$(BIN)/python -m pytest -m "not long" -n $(SLOW_JOBS)

test-long: $(VENV)/dev.stamp ## Run what computes for minutes: bounds of privacy measured over thousands of runs
	$(BIN)/python -m pytest -m long -n $(JOBS)

test-containers: $(VENV)/run.stamp ## Build the images, start a federation in containers, train, compare; takes minutes
	FEDHA=$(BIN)/fedha PYTHON=$(BIN)/python bash tests/containers/run.sh
	PYTHON=$(BIN)/python bash tests/containers/page.sh

lint: $(VENV)/dev.stamp ## Check style and formatting with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/dev.stamp ## Rewrite the code in ruff's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/dev.stamp ## Check types with mypy --strict
	$(BIN)/mypy

imports: $(VENV)/dev.stamp ## Check the arrows between modules with import-linter
	$(BIN)/lint-imports

bench: $(VENV)/run.stamp ## Run the benchmarks
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script"; done

docs: $(VENV)/run.stamp ## Write docs/recipes.md from the table of recipes
	$(BIN)/fedha recipes --markdown > docs/recipes.md.new
	mv docs/recipes.md.new docs/recipes.md

PIN := $(BIN)/uv pip compile --quiet --no-deps --generate-hashes --no-annotate --no-header --python-version 3.11

requirements: $(VENV)/dev.stamp ## Write images/*.txt, what the images install by hash, from constraints.txt
	@for wanted in requirements: build:hatchling; do \
	    $(BIN)/python images/needed.py $${wanted#*:} > images/.needed.txt && \
	    { echo "# Made by \`make requirements\` from constraints.txt."; $(PIN) images/.needed.txt; } \
	        > images/$${wanted%%:*}.txt || exit 1; \
	done; rm images/.needed.txt

build: $(VENV)/dev.stamp ## Build the wheel and the source archive into dist/
	$(BIN)/python -m build --no-isolation

clean: ## Remove builds and caches; keeps .venv and runs/
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fedha needs Python 3.11 or newer; set PYTHON=…")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL_TORCH)
	$(PIP) install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL_TORCH)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(VENV)/run.stamp $@
