# The verbs of this project. `make` alone lists them.
# Everything is installed into .venv: a verb adds what it needs and leaves the rest alone.

PYTHON  ?= python3
WORKERS ?= 2
ARGS    ?=

BIN     := .venv/bin
PINNED  := pyproject.toml constraints.txt
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

THREADS := 1
LIMITS   = OMP_NUM_THREADS=$(1) MKL_NUM_THREADS=$(1) OPENBLAS_NUM_THREADS=$(1)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint types docs bench constraints clean

help: ## List the verbs
	@echo "make VERB, where VERB is one of"
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  \1 \2/p' $(MAKEFILE_LIST) | awk '{ v = $$1; $$1 = ""; printf "  %-12s%s\n", v, $$0 }'
	@echo "Another interpreter: make test PYTHON=python3.12. Some tests only: make test ARGS='-k entropy'."

demo: .venv/.core ## Train a small net, record it, write the report and say where it is
	@$(BIN)/cofire demo $(ARGS)

test: .venv/.test ## Run the tests and the examples in the docstrings
	@$(call LIMITS,$(THREADS)) $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal --doctest-modules $(ARGS) tests src

lint: .venv/.lint ## Check style and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: .venv/.test .venv/.lint ## Check types
	@$(BIN)/pyright --pythonpath $(BIN)/python

docs: .venv/.docs ## Build the pages; a warning is an error
	@$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo "The pages are in docs/_build/html/index.html"

bench: .venv/.bench ## Time cofire and its peers side by side, one thread
	@for script in record graphs ablation monitor; do \
	    echo "benchmarks/$$script.py"; $(call LIMITS,1) $(BIN)/python benchmarks/$$script.py $(ARGS) || exit 1; \
	done

# torch and torchvision must be built for each other, so these two are chosen by hand and the rest follows.
constraints: ## Pin the newest versions that work together (needs uv)
	@command -v uv >/dev/null || { echo "'make constraints' needs uv: python3 -m pip install uv"; exit 1; }
	@printf 'torch==2.15.0\ntorchvision==0.29.2\n' | uv pip compile pyproject.toml --constraints - --upgrade --universal \
	    --all-extras --group test --group lint --group docs --no-header --no-annotate --quiet -o constraints.txt
	@echo "constraints.txt is new; run make test before you commit it"

clean: ## Remove what was built; .venv stays
	@rm -rf build dist docs/_build docs/api cofire-demo .pytest_cache .ruff_cache .hypothesis
	@find src tests docs benchmarks -name __pycache__ -prune -exec rm -rf {} +
	@echo "Clean. The installed packages are still in .venv; 'rm -rf .venv' removes them too."

# A stamp in .venv says what is installed. A change of the pins makes it stale.
.venv/.ready:
	@found=$$($(PYTHON) -c 'import sys; print(sys.version.split()[0])' 2>/dev/null) || found="not there"; \
	    $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "cofire needs Python 3.11 or newer; '$(PYTHON)' is $$found. Name another: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu the package python3-venv is missing."; exit 1; }
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --upgrade 'pip>=25.1'
	@touch $@

.venv/.core: .venv/.ready $(PINNED)
	@echo "Installing cofire and what it needs into .venv (the first time a few minutes; PyTorch is large)"
	@$(INSTALL) -e .
	@touch $@

.venv/.test: .venv/.core $(PINNED)
	@echo "Installing what the tests need"
	@$(INSTALL) -e '.[vision,hf,lightning,prune,track,onnx]' --group test
	@touch $@

.venv/.lint: .venv/.ready $(PINNED)
	@echo "Installing ruff and pyright"
	@$(INSTALL) --group lint
	@touch $@

.venv/.docs: .venv/.core $(PINNED)
	@echo "Installing what the pages need"
	@$(INSTALL) -e . --group docs
	@touch $@

.venv/.bench: .venv/.test $(PINNED)
	@echo "Installing the peers to compare with"
	@$(INSTALL) -e '.[vision,hf,lightning,prune,track,onnx]' --group bench
	@touch $@
