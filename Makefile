# A fresh clone needs Python 3.11 or newer and make; the rest is installed into .venv at the versions of constraints.txt.
#   make test    lint, type-check and run the tests: what continuous integration runs
#   make demo    leave pictures in demo/
#   make check   lint and type-check only
#   make clean   remove everything that these leave, environments too

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: test check demo clean
.DELETE_ON_ERROR:

test: check
	$(BIN)/python -m pytest

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/mypy

demo: $(INSTALLED)
	rm -rf demo
	$(BIN)/omnigen2 export tests/data/goldens/A/checkpoint demo/bundle --precision fp32
	$(BIN)/omnigen2 generate "a red square" --bundle demo/bundle --height 128 --width 128 --steps 8 --out demo/drawn.png
	$(BIN)/omnigen2 generate "make it blue" --bundle demo/bundle --image demo/drawn.png --image-guidance 2 --steps 8 --out demo/edited.png

# The mark says that this environment holds what pyproject.toml and constraints.txt ask for.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed; name one with make PYTHON=…")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[cpu,export,dev]'
	touch $@

clean:
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache build demo dist omnigen2_rt.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
