# `make demo` and `make test` create the environment $(VENV); a second run reuses the environment.
VENV ?= .venv
PYTHON ?= python3
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo test check clean

help:
	@echo 'make demo   a server, its bundled models and a client at work (installs no torch)'
	@echo 'make test   every check and every test'
	@echo 'make check  the checks alone: ruff, mypy, stub drift'
	@echo 'make clean  removes the environment and all caches'

demo: $(VENV)/.server
	$(VENV)/bin/elman demo

test: check
	PYTHON=$(VENV)/bin/python scripts/test

check: $(VENV)/.development
	PYTHON=$(VENV)/bin/python scripts/check

clean:
	rm -rf $(VENV) .proto-tools .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.server: pyproject.toml | $(VENV)/bin/python
	@echo 'Installing the server into $(VENV), once; it takes up to a minute.'
	$(VENV)/bin/pip install -q -e '.[server]'
	touch $@

# Dependency groups need a recent pip.
$(VENV)/.development: pyproject.toml tests/packages.txt | $(VENV)/bin/python
	@echo 'Installing everything, torch too, into $(VENV), once; it takes minutes.'
	$(VENV)/bin/pip install -q --upgrade 'pip>=25.1'
	$(VENV)/bin/pip install -q -e '.[server,export]' --group dev
	$(VENV)/bin/pip install -q --no-deps -r tests/packages.txt
	touch $@ $(VENV)/.server

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
