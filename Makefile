# make demo | test | check | bench | sanitize | lint | clean. All of it happens in .venv, with pip alone.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PROMPT ?= Why is the sky blue? Answer in two sentences.
MODEL ?= smolLM2_135M

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check
# The packages of an extra, one a line; installing them by themselves spares a second build of the kernels.
EXTRA = $(BIN)/python -c 'import sys, tomllib; \
	print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"][sys.argv[1]], sep="\n")'
# What the installed package is built from; Python files are read where they lie.
BUILT_FROM := pyproject.toml CMakeLists.txt $(wildcard mlxlm/kernels/cpu/*)
# The folders that `make check` runs, without the tests that are marked slow.
FAST := tests/test_structure.py tests/cli tests/generate tests/layers tests/names tests/registry tests/text tests/tools
# The parity cases among them: one plain decoder, and the ones with the most parts of their own.
FAST_PARITY := llama- or gemma3_text or deepseek_v3 or gpt_oss or nemotron_h

.PHONY: demo test check bench sanitize lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	@$(BIN)/mlxlm generate $(MODEL) --prompt "$(PROMPT)" --max-tokens 200

test: $(VENV)/.test
	@$(BIN)/pytest tests

check: $(VENV)/.test
	@$(BIN)/pytest -m "not slow" $(wildcard $(FAST))
	@$(BIN)/pytest tests/parity/test_parity.py -k "$(FAST_PARITY)"

sanitize: $(VENV)/.test
	@$(BIN)/pytest tests/kernels/test_native.py

bench: $(VENV)/.test
	@$(BIN)/python scripts/bench.py

lint: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/pyright

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
	find mlxlm scripts tests -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { \
	  echo "mlxlm needs Python 3.11 or later; python3 here is: $$(python3 --version 2>&1)."; \
	  echo "Install a newer one, or name it: make demo PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "mlxlm needs Python 3.11 or later, and $(PYTHON) isn't."; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || { \
	  echo "$(PYTHON) can't make virtual environments. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BUILT_FROM) | $(BIN)/python
	@echo "Installing mlxlm and what it needs (a few minutes the first time: its CPU kernels are compiled)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.installed
	@echo "Installing what the tests need (torch is the largest part)"
	@$(EXTRA) test > $(VENV)/test.txt
	@$(PIP) torch==2.13.0
	@$(PIP) --requirement $(VENV)/test.txt
	@# Apart from the rest: its compiled half doesn't load beside the CPU's PyTorch, and transformers would stumble on it.
	@$(PIP) --no-deps --upgrade --target $(VENV)/torchvision torchvision==0.28.0
	@touch $@

$(VENV)/.dev: $(VENV)/.test
	@echo "Installing ruff and pyright"
	@$(EXTRA) dev > $(VENV)/dev.txt
	@$(PIP) --requirement $(VENV)/dev.txt
	@touch $@
