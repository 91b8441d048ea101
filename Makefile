# Two commands do everything on a machine with Python 3.11+, make and a compiler:
#   make atlas   real models on the starter structures, ending with the page to open
#   make test    every test
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= out/starter
WORKERS ?= 2
MODELS ?= starter

# One thread a process: on few cores oversubscription costs far more than it gives.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_OFFLINE ?= 1

PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := $(shell find atlas registry builders schemas analysis -type f -not -name '*.pyc')

.PHONY: atlas test test-families test-small-weights lint docs install clean

atlas: $(VENV)/.linked
	$(BIN)/matteratlas build --sets starter --out $(OUT) --models $(MODELS) \
		--workers $(WORKERS)
	$(BIN)/matteratlas validate $(OUT) --deep
	$(BIN)/matteratlas analyze $(OUT)
	$(BIN)/matteratlas report $(OUT)

test: $(VENV)/.dev $(VENV)/.linked
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Models in environments of their own; installs packages. What ran and has not changed is kept.
test-families: $(VENV)/.dev $(VENV)/.linked
	$(BIN)/python tests/families/run.py $(FAMILIES) $(if $(AGAIN),--again)

# Adapters of models from a hub, on small random weights; notes what `models list` says of them.
test-small-weights: $(VENV)/.dev $(VENV)/.linked
	$(BIN)/python tests/builders/adapters/record_small_weights.py

lint: $(VENV)/.dev $(VENV)/.linked
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.dev $(VENV)/.linked
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

install: $(VENV)/.dev $(VENV)/.linked

# torch goes first: with it in place no later requirement pulls another build.
$(VENV)/.models: constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt torch setuptools wheel
	$(PIP) install --quiet --constraint constraints.txt ".[cpu,models]"
	$(PIP) uninstall --quiet --yes matteratlas
	touch $@

$(VENV)/.dev: $(VENV)/.models
	$(PIP) install --quiet --constraint constraints.txt ".[dev]"
	$(PIP) uninstall --quiet --yes matteratlas
	touch $@

# A strict editable install is a farm of links, so tools that walk the package see a real tree;
# it is laid anew whenever a file appears or changes.
$(VENV)/.linked: $(VENV)/.models $(SOURCES)
	rm -rf build/__editable__.*
	$(PIP) install --quiet --no-deps --no-build-isolation --editable . \
		--config-settings editable_mode=strict
	touch $@

clean:
	rm -rf build out docs/_build *.egg-info
