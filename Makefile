# Two commands do everything: `make demo` and `make test`. Both make the environment that they need.
# Overrides: PYTHON=python3.12  VENV=/path  DETECTRON2=<URL, wheel or folder>  PYTEST_ARGS='-k name'

PYTHON ?=
VENV ?= .venv
DETECTRON2 ?=
PYTEST_ARGS ?=

run = "$(VENV)/bin/python"
prepare = python3 scripts/make_venv.py --venv "$(VENV)" --python "$(PYTHON)" --detectron2 "$(DETECTRON2)" $(oldest)
pytest = $(run) -m pytest -n auto -rfEs
fast = -m "not slow and not gpu and not e2e and not golden" --hypothesis-profile=fast

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast test-oldest test-all lint format docs bench clean

help:  ## show this list
	@echo "Usage: make <target> [PYTHON=python3.12] [VENV=.venv] [DETECTRON2=<URL, wheel or folder>]"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1@\2/p' Makefile | awk -F@ '{printf "%-14s%s\n", $$1, $$2}'

install:  ## make the environment, or bring it up to date
	@$(prepare) --retry

demo:  ## train a small panoptic model on synthetic scenes, measure and draw it (in output/demo)
	@$(prepare)
	@$(run) -m freqfusion.tools.demo --output output/demo

test:  ## run the tests
	@$(prepare)
	@$(pytest) $(PYTEST_ARGS)

test-fast:  ## run a quick part of the tests, up to the first failure
	@$(prepare)
	@$(pytest) -x $(fast) $(PYTEST_ARGS)

test-oldest: PYTHON = python3.11
test-oldest: VENV = .venv-oldest
test-oldest: oldest = --oldest
test-oldest:  ## run the quick part with the lowest versions that setup.py allows (in .venv-oldest)
	@$(prepare)
	@$(pytest) $(fast) $(PYTEST_ARGS)

test-all:  ## run all tests, also the slow ones and those that want a GPU
	@$(prepare)
	@$(pytest) -m "" $(PYTEST_ARGS)

lint:  ## check style, formatting and types
	@$(prepare)
	@$(run) -m ruff check .
	@$(run) -m ruff format --check .
	@$(run) -m mypy

format:  ## put the code into the common format
	@$(prepare)
	@$(run) -m ruff check --fix .
	@$(run) -m ruff format .

docs:  ## make the documentation site (in site); site/index.html opens in a browser
	@$(prepare)
	@NO_MKDOCS_2_WARNING=1 $(run) -m mkdocs build --strict --quiet
	@echo "Written: site/index.html"

bench:  ## measure the operators
	@$(prepare)
	@$(run) -m benchmarks.operators reassemble

clean:  ## remove what the commands wrote; the environment stays (rm -r .venv removes it)
	@rm -rf build dist output site projects/*.egg-info *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find projects scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
