# make quickstart   train, evaluate and draw on generated data
# make test         the test suite; ARGS="-k swin" selects tests
# make versions     a fast part of it with the oldest and the newest libraries
# make lint         ruff, its formatter, mypy
# make docs         the API reference, in build/docs
# make bench        speed against other implementations; ARGS=evaluation selects cases
# make doctor       check the environment
# make venv         create only the environment
#
# The environment .venv is created on first use. To use an existing one, which is not changed:
#     PYTHON=/path/to/python make test

BASE_PYTHON ?= python3
ARGS ?=

ifdef PYTHON
ENVIRONMENT := environment-given
else
PYTHON := .venv/bin/python
ENVIRONMENT := venv
endif

export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))

.PHONY: quickstart test versions lint docs bench doctor venv environment-given help

quickstart: $(ENVIRONMENT)
	$(PYTHON) tools/quickstart.py $(ARGS)

# Two processes with one thread each: small tensors do not benefit from threads inside an operator.
test: $(ENVIRONMENT)
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 $(ARGS)

# The oldest and the newest versions that pyproject.toml allows.
versions: $(ENVIRONMENT)
	$(PYTHON) tools/try_versions.py $(or $(ARGS),oldest newest)

lint: $(ENVIRONMENT)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

docs: $(ENVIRONMENT)
	$(PYTHON) -m pdoc -d google -o build/docs segzoo segzoo.layers segzoo.utils segzoo.projects

bench: $(ENVIRONMENT)
	$(PYTHON) tools/benchmark.py $(or $(ARGS),all)

doctor: $(ENVIRONMENT)
	$(PYTHON) tools/doctor.py $(ARGS)

venv:
	@$(BASE_PYTHON) tools/install_environment.py

environment-given:
	@$(PYTHON) tools/doctor.py --needs $(MAKECMDGOALS)

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile
