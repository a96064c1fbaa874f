# Everything runs in .venv, which is made once and again when the requirements change.
#   make serve ARGS="--model-id ./checkpoint"     make test ARGS="tests/text -x"
#   make serve TORCH=cu128

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Modules are compiled when they are first imported; most of what is installed never is.
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --no-compile
# And kept for all processes that import them later, whatever the caller's environment says.
unexport PYTHONDONTWRITEBYTECODE
REQUIREMENTS := pyproject.toml client/pyproject.toml requirements/embedded.txt requirements/perf_analyzer.txt requirements/charts.txt
ARGS ?=
# The build of torch: cpu, cu126, rocm6.4 and the like, pypi, or what fits the machine.
TORCH ?= auto
# Files share the cores; threads that wait give theirs away, or every test would wait for them.
# Tests of servers leave a third of the time of two cores to others.
WORKERS ?= 3
PYTEST := $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile

.PHONY: help serve test lint format type docs site release clean

help:
	@echo "make serve    install into $(VENV) and serve the two embedded models"
	@echo "make test     install the test tools and run every test"
	@echo "make lint     ruff and mypy;  make type: mypy alone;  make format: ruff format"
	@echo "make docs     render the pages of docs/ that come from code, and the README's table"
	@echo "make site     the documentation as a site, in site/"
	@echo "make release  wheels, source distributions, bill of materials and checksums, in dist/"
	@echo "make clean    remove $(VENV) and caches"

serve: $(VENV)/.installed $(VENV)/.torch-$(TORCH)
	@$(BIN)/atoll serve $(ARGS)

test: $(VENV)/.installed-test
	OMP_WAIT_POLICY=passive $(PYTEST) $(ARGS)

lint: $(VENV)/.installed-lint type
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(VENV)/.installed-lint
	$(BIN)/mypy python_backends/atoll kernels/atoll_kernels client/atoll_client

docs: $(VENV)/.installed
	$(BIN)/python -m atoll.cli.pages

site: $(VENV)/.installed-test
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

release: $(VENV)/.installed-test
	@cd deploy/tools && ../../$(BIN)/python -m release $(ARGS)

format: $(VENV)/.installed-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) site dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 10) <= sys.version_info[:2] <= (3, 12) else "Atoll needs Python 3.10, 3.11 or 3.12: make PYTHON=python3.11 ...")'
	@echo "creating $(VENV) with $$($(PYTHON) --version)"
	$(PYTHON) -m venv $(VENV)

# Before everything that would bring another build of it; another TORCH replaces it.
$(VENV)/.torch-$(TORCH): $(BIN)/python
	$(BIN)/python deploy/tools/torch_build.py $(TORCH)
	@rm -f $(VENV)/.torch-*
	@touch $@

# Stamps: the second call of make installs nothing.
$(VENV)/.installed: $(BIN)/python $(REQUIREMENTS) | $(VENV)/.torch-$(TORCH)
	@echo "installing into $(VENV); the first time takes minutes, most of it torch"
	$(INSTALL) --editable '.[server]' --editable './client[gateway]'
	$(INSTALL) --no-deps --requirement requirements/embedded.txt
	@touch $@

# Everything at once, since resolving and building what is edited here takes as long each time.
$(VENV)/.installed-test: $(BIN)/python $(REQUIREMENTS) | $(VENV)/.torch-$(TORCH)
	@echo "installing into $(VENV); the first time takes minutes, most of it torch"
	$(INSTALL) --editable '.[server,test,release]' --editable './client[gateway]'
	$(INSTALL) --no-deps --requirement requirements/embedded.txt
	$(INSTALL) --no-deps --upgrade --target $(VENV)/perf_analyzer --requirement requirements/perf_analyzer.txt
	$(INSTALL) --no-deps --upgrade --target $(VENV)/charts --requirement requirements/charts.txt
	@touch $(VENV)/.installed $@

$(VENV)/.installed-lint: $(VENV)/.installed-test
	$(INSTALL) --editable '.[server,test,release,lint]' --editable './client[gateway]'
	@touch $@
