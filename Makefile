# make quickstart | test | versions | lint | docs | bench | venv | doctor
#
# The environment .venv is made on first use. To use one that you have, which is then not changed:
#     PYTHON=/path/to/python make test
# Arguments: make test ARGS="-k swin", make bench ARGS=evaluation (all cases otherwise)

BASE_PYTHON ?= python3
ARGS ?=

ifdef PYTHON
ENVIRONMENT := environment-given
else
PYTHON := .venv/bin/python
ENVIRONMENT := venv
endif

export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))

.PHONY: quickstart test versions lint docs bench doctor venv environment-given

quickstart: $(ENVIRONMENT)
	$(PYTHON) tools/quickstart.py $(ARGS)

# Two processes of one thread each: tiny tensors gain nothing from threads inside an operator.
test: $(ENVIRONMENT)
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 $(ARGS)

# A fast part of the tests with the oldest and the newest libraries that pyproject.toml allows.
versions: $(ENVIRONMENT)
	$(PYTHON) tools/try_versions.py $(or $(ARGS),oldest newest)

lint: $(ENVIRONMENT)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

# The API reference, from the docstrings: build/docs/index.html.
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
