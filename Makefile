# Two commands: `make lab` opens the lab, `make test` proves it. Contributors: `make quick` after each change.
# `make help` lists the rest.
#
#   PYTHON=python3.12   the Python to make .venv with (3.11 to 3.14; found by itself otherwise)
#   PORT=8889           where JupyterLab listens; the next free port where that one is taken
#   PYTEST=-x           more arguments for pytest

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# Jupyter wants a home folder to be named, and does without it: for users whom the system does not know.
export HOME := $(or $(HOME),$(shell cd ~ 2>/dev/null && pwd),/nonexistent)

PYTHON ?=
PORT ?= 8888
PYTEST ?=
PARALLEL := -n auto --dist loadfile
TORCH := torch==2.13.0
QUIET := $(if $(CI),--quiet)
PIP := .venv/bin/python -m pip --disable-pip-version-check
STAMP := .venv/installed

# What `make quick` tests: the files that find most in little time. Measured by `--durations`, without what is marked slow.
QUICK := $(addprefix tests/, attention/test_attention.py attention/test_attention_errors.py \
	attention/test_attention_causal.py clustering figures/test_figures_lines.py kernels/test_kernels_launch.py \
	lessons measure/test_operation_counts.py package/test_house.py package/test_suggesting.py package/test_words.py \
	search/test_method_text.py testing)

# An editable install remembers where it stands: a moved repository installs again. Names below stay relative,
# because make cannot hold a path with spaces.
$(shell [ "$$(cat $(STAMP) 2>/dev/null)" = "$$(pwd -P)" ] || rm -f $(STAMP))

.PHONY: help install lab test quick lint coverage strip docs app constraints clean

help: ## list these commands
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 22

install: $(STAMP) ## set up .venv with the pinned packages and multipole_lab in editable mode

# Written last, so an interrupted install is resumed, and a finished one is never repeated.
$(STAMP): pyproject.toml constraints.txt
	@.ci/venv "$(PYTHON)"
	$(PIP) install $(QUIET) --constraint constraints.txt setuptools "$(TORCH)"
	$(PIP) install $(QUIET) --constraint constraints.txt --no-build-isolation --editable ".[course,lab,models,test]"
	@pwd -P > $(STAMP)

lab: install ## open JupyterLab on the tour, on 127.0.0.1 only
	.venv/bin/python -m jupyterlab --config=notebooks/settings/jupyter_lab_config.py --ServerApp.port="$(PORT)" \
		--ServerApp.root_dir="$$(pwd -P)"

# The hub is switched off: a test that needs the network would pass here and fail at a reader's desk. Python's -P
# keeps this folder off sys.path, so that the tests see what is installed.
test quick coverage docs: export HF_HUB_OFFLINE := 1
test quick coverage docs: export OMP_NUM_THREADS := 1
test: lint ## ruff, imports, types, all tests, all notebooks; no network
	.venv/bin/python -P -m pytest $(PARALLEL) $(PYTEST) tests
	.venv/bin/python -P -m pytest $(PARALLEL) $(PYTEST) --nbmake --nbmake-timeout=120 notebooks

quick: lint ## after each change: ruff, imports, types, and the tests that are fast
	.venv/bin/python -P -m pytest $(PARALLEL) -m "not slow and not browser" $(PYTEST) $(QUICK)

lint: install
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m ruff check .
	.ci/imports
	.venv/bin/python -P -m mypy

# `make coverage PYTEST=tests/attention` for a part of it.
coverage: install ## which lines of the library the tests run, as a table and in build/coverage
	.venv/bin/python -P -m pytest $(PARALLEL) --cov --cov-report=term --cov-report=html:build/coverage $(or $(PYTEST),tests)

strip: install ## format the code and take the outputs out of the notebooks
	.venv/bin/python -m ruff check --fix .
	.venv/bin/python -m ruff format .
	find notebooks -name '*.ipynb' -not -path '*/.*' -exec .venv/bin/python -m nbstripout --keep-id {} +

# What only these two need is installed when one of them is first asked for.
.venv/docs: $(STAMP)
	$(PIP) install $(QUIET) --constraint constraints.txt --no-build-isolation --editable ".[docs]"
	@touch $@

docs: .venv/docs ## executed notebooks, panels that move without a kernel, the reference: build/site/html, links checked
	.venv/bin/python docs/site/pages.py make notebooks build/site/source
	.venv/bin/python -m sphinx --builder html --fail-on-warning --keep-going --quiet \
		build/site/source build/site/html
	.venv/bin/python docs/site/live.py build/site/html/panels
	.venv/bin/python docs/site/pages.py check build/site/html
	@echo "Open build/site/html/index.html"

# Only this computer, and only who has the address with its token. Voila's page asks a CDN for icons: it may not.
OWN := default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob: ws://127.0.0.1:*
app: export MULTIPOLE_LAB_PICTURES := none
app: .venv/docs ## the tour as an app without code, on 127.0.0.1 only
	.venv/bin/python -m voila notebooks/00_tour.ipynb --Voila.ip=127.0.0.1 --Voila.port="$(PORT)" --token \
		--Voila.tornado_settings="{'headers': {'Content-Security-Policy': \"$(OWN)\"}}"

# One resolution for all Pythons (needs the network). The nvidia-* and cuda-* packages are torch's own business.
constraints: install ## resolve the newest versions into constraints.txt, and their hashes beside it
	$(PIP) install --quiet uv
	sed '/^[^#]/,$$d' constraints.txt > constraints.new
	.venv/bin/python -m uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade \
		--fork-strategy fewest --no-build --no-annotate --no-header --quiet --constraint <(echo "$(TORCH)") \
		| grep -vE '^(nvidia-|cuda-)' | sed 's/ *;.*//' >> constraints.new
	mv constraints.new constraints.txt
	sed '/^[^#]/,$$d' constraints-hashed.txt > constraints-hashed.new
	.venv/bin/python -m uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
		--fork-strategy fewest --no-build --no-annotate --no-header --quiet --generate-hashes \
		--constraint constraints.txt --default-index https://pypi.org/simple >> constraints-hashed.new
	mv constraints-hashed.new constraints-hashed.txt

clean: ## remove .venv and everything made
	rm -rf .venv build dist *.egg-info .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache test-output
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
