# make demo    the whole line on simulated EEG, ten to fifteen minutes on two free cores
# make demo-images   from EEG to the picture that was seen, on simulated people, under ten minutes
# make test    all tests that this machine can run
# make quick   the tests that take a minute or two
# make lint    ruff
# make doctor  what is wrong on this machine, before a run is started (ARGS="--hostfile F ...")
# Each sets up what it needs, in .venv, and can be run again at any time.
SHELL := /bin/bash
PYTHON ?= python3
VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
RANKS ?= 2

export PATH := $(BIN):$(PATH)
# DeepSpeed builds a small C++ extension on first use: keep it here, so that it is built once.
export TORCH_EXTENSIONS_DIR ?= $(CURDIR)/.torch_extensions
# One thread a rank: more ranks, not more threads, use the cores.
export OMP_NUM_THREADS ?= 1

.PHONY: demo demo-images test quick lint doctor setup clean

setup: $(VENV)/ready

$(VENV)/ready: requirements.txt requirements-use.txt requirements-images.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "error: $(PYTHON) is older than 3.10" >&2; \
	    echo "  -> make PYTHON=python3.11 (on an Alliance cluster: module load python/3.11)" >&2; exit 2; }
	@command -v c++ >/dev/null || \
	  { echo "error: no C++ compiler (c++): DeepSpeed builds an extension with it" >&2; \
	    echo "  -> apt-get install g++   or   module load gcc" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

demo: setup
	@RANKS=$(RANKS) bash demo.sh

demo-images: setup
	@RANKS=$(RANKS) bash demo_images.sh

test: setup
	python -m pytest

quick: setup
	python -m pytest -m "not slow and not cluster"

lint: setup
	ruff check .
	ruff format --check .

doctor: setup
	python trainer/doctor.py $(ARGS)

clean:
	rm -rf .venv .torch_extensions demo
