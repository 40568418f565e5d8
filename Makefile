# The two commands: `make up` sets everything up and starts a research organisation in ./research; `make test` sets
# everything up and passes the tests. Both make .venv on first use (bootstrap.sh) and are instant about it afterwards.

VENV ?= .venv
DIR ?= research
ARGS ?=
BIN := $(VENV)/bin

.PHONY: help up test test-fast lint clean
.DEFAULT_GOAL := help

help:
	@echo 'make up          start a research organisation in ./$(DIR) (ARGS="--for 10m", DIR=elsewhere)'
	@echo 'make test        linters, types, import contracts and all tests'
	@echo 'make test-fast   the tests without whole runs and organisations, under a minute'
	@echo 'make lint        linters, types and import contracts only'
	@echo 'make clean       remove $(VENV) and caches; ./$(DIR) stays'

$(VENV)/.up: pyproject.toml constraints.txt bootstrap.sh
	@VENV=$(VENV) sh bootstrap.sh

$(VENV)/.dev: pyproject.toml constraints.txt bootstrap.sh
	@VENV=$(VENV) sh bootstrap.sh dev

up: $(VENV)/.up
	@bin="$$(cd $(BIN) && pwd)" && mkdir -p $(DIR) && cd $(DIR) && exec "$$bin/orgctl" up $(ARGS)

test: lint
	$(BIN)/pytest -n 2 --dist worksteal --reruns 1 --reruns-delay 5 -raR

test-fast: $(VENV)/.dev
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .grimp_cache
	find . -name __pycache__ -type d -not -path './$(DIR)/*' -prune -exec rm -rf {} +
