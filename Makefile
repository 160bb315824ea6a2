# A fresh clone needs make and Python 3.11 or newer with pip; the rest is installed at the versions of constraints.txt.
#   make demo    let the model that ships draw, into demo/; installs what its users install, without PyTorch, into .venv-cpu
#   make test    lint, type-check and run the tests: what continuous integration runs; installs everything into .venv, and .venv-cpu
#   make test-slow   run the tests that take a minute or more each, which make test leaves out
#   make check   lint and type-check only
#   .venv/bin/python -m tests.fuzz --cases 100000   run the fuzz suites of tests/fuzz for longer than make test does
#   make clean   remove everything that these leave, environments too

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CPU_VENV := .venv-cpu
CPU_INSTALLED := $(CPU_VENV)/.installed
PIP_INSTALL := install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt

.PHONY: test test-slow check demo clean
.DELETE_ON_ERROR:

# Two processes: most tests keep one core busy. A file's tests stay together and share what they set up; files go in their order, because
# the longest of them have few tests and would otherwise come last, on one core.
# mypy runs beside them, which keeps the other core busy for its first half minute.
test: $(INSTALLED)
	$(BIN)/ruff check .
	@$(BIN)/mypy & types=$$!; \
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder; tests=$$?; \
	wait $$types && exit $$tests

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/mypy

demo: $(CPU_INSTALLED)
	mkdir -p demo
	$(CPU_VENV)/bin/omnigen2 demo --out demo/sheet.png

# The mark says that an environment holds what pyproject.toml and constraints.txt ask for. Running one pip for both environments
# is quicker than letting venv install another into each first, and Python compiles the modules that are imported quicker than pip
# compiles all of them.
$(INSTALLED) $(CPU_INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed; name one with make PYTHON=…")'
	@$(PYTHON) -c 'import importlib.util, sys; importlib.util.find_spec("pip") or sys.exit("$(PYTHON) has no pip: install it first")'
	$(PYTHON) -m venv --without-pip $(VENV_OPTIONS) $(@D)
	$(PYTHON) -m pip --python $(@D)/bin/python $(PIP_INSTALL) pip --editable '.[$(EXTRAS)]'
	touch $@

$(INSTALLED): EXTRAS := cpu,export,parquet,serve,stores,dev
$(CPU_INSTALLED): EXTRAS := cpu
# The tests look at all that lies in it, so nothing of an earlier installation may stay.
$(CPU_INSTALLED): VENV_OPTIONS := --clear

clean:
	rm -rf $(VENV) $(CPU_VENV) .cache .mypy_cache .pytest_cache .ruff_cache build demo dist omnigen2_rt.egg-info
	rm -rf nano/checkpoint/compiled nano/checkpoint/engines
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
