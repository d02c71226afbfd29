# Needs make and a Python 3.11 to 3.13, nothing else. Another Python: make PYTHON=/path/to/python ...
VENV ?= .venv
BIN := $(VENV)/bin
TRAIN := $(VENV)/.train-installed
DEV := $(VENV)/.dev-installed
INPUTS := pyproject.toml requirements.lock scripts/install.sh
# The tests run in this many processes, a file's tests all in one: they share what it has trained.
WORKERS ?= logical
PARALLEL = --numprocesses $(WORKERS) --maxprocesses 4 --dist loadfile
export PYTHON

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test test-all coverage lint format typecheck check check-base quote weights lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /:/' | \
	  awk -F: '{ printf "  make %-12s %s\n", $$1, $$2 }'

$(TRAIN): $(INPUTS)
	@sh scripts/install.sh $(VENV) train
	@touch $@

# Everything in [train] is in [dev]: one installation serves both.
$(DEV): $(INPUTS)
	@sh scripts/install.sh $(VENV) dev
	@touch $(TRAIN) $@

install: $(DEV)  ## make .venv with everything for development

demo: $(TRAIN)  ## train, compress and compare detectors on built-in data; opens the report
	$(BIN)/lydite study demo -o runs/demo
	@$(BIN)/python scripts/show_report.py runs/demo

test: $(DEV)  ## the tests (ARGS="-k word" chooses; WORKERS=0 runs them in one process)
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-all: $(DEV)  ## the tests, slow ones included
	$(BIN)/python -m pytest $(PARALLEL) -m "not gpu" $(ARGS)

coverage: $(DEV)  ## the tests, with what they do not reach
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=term --cov-report=html $(ARGS)

lint: $(DEV)  ## style and direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo

format: $(DEV)  ## mend what can be mended by itself
	$(BIN)/ruff check --fix-only --exit-zero
	$(BIN)/ruff format

typecheck: $(DEV)  ## mypy, strict
	$(BIN)/mypy

check: lint typecheck test  ## lint, typecheck and test

check-base: $(DEV)  ## build the wheel; install it alone; size, import time, a prediction
	$(BIN)/python scripts/check_base.py

quote: $(DEV)  ## put the results of studies/ into README and docs
	$(BIN)/python scripts/quote_results.py $(ARGS)

weights: $(TRAIN)  ## make the detector inside the package anew (needs LYDITE_FIELDPACK; hours)
	$(BIN)/lydite study studies/packaged -o runs/packaged
	$(BIN)/lydite publish runs/packaged large-qat --out src/lydite/weights/default --title "lydite large"

lock:  ## resolve requirements.lock anew (ARGS=--upgrade)
	@python=$$(sh scripts/find_python.sh) && bash scripts/lock.sh "$$python" $(ARGS)

clean:  ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) build dist htmlcov .coverage* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
