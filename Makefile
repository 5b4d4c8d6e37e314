# fapool: `make` alone lists the targets.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed

# Side by side, a thread each. The others have the machine to themselves: timed ranks, browsers, GPUs.
BESIDE := (not ranks or untimed) and not browser and not gpu

.DEFAULT_GOAL := help
.PHONY: help setup demo test lab clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-6s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) ## create .venv and install everything (nothing to do the second time)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -e ".[ranks,lab,dev]" -c constraints.txt
	@touch $@

demo: setup ## a first measured run on this machine's CPUs; TRACE=path replays a trace of requests
	$(BIN)/python -m fapool demo $(if $(TRACE),--trace "$(TRACE)")

test: setup ## lint, formatting, tests; ARGS="-k store" goes to pytest
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
ifdef ARGS
	$(BIN)/python -m pytest $(ARGS)
else
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 -m "$(BESIDE)"
	$(BIN)/python -m pytest -m "not ($(BESIDE))"
endif

# Loopback only, and with the token that Jupyter draws. Jupyter refuses root unless told: tell it, and say so.
lab: setup ## open the workbench in JupyterLab
	$(if $(filter 0,$(shell id -u)),@echo "running as root: JupyterLab gets --allow-root")
	$(BIN)/jupyter lab notebooks/00_workbench.ipynb --ip=127.0.0.1 $(if $(filter 0,$(shell id -u)),--allow-root)

clean: ## remove build and cache files; .venv and profiles/ stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find fapool widgets tests notebooks -depth -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) \
		-exec rm -rf {} + 2>/dev/null || true
