# Each target sets up what it needs in .venv; python3 >= 3.11 and make are enough.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.ready

.PHONY: setup demo test check docs bench full clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "evomm needs Python 3.11 or newer; set PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

# The main job: evolve a Japanese math model out of two parents, and test it.
demo: setup
	$(BIN)/evomm zoo verify llm
	$(BIN)/evomm evolve configs/demo-llm.yaml

test: setup
	$(BIN)/pytest -m 'not slow'

# Format, lint, types, and whether the documentation holds together.
check: docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The documentation site, in build/site; a dead link fails. The variable silences an advertisement.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Speed and memory beside mergekit and sd-mecha (in environments of their own, made on first use) and the floor, as ratios.
bench: setup
	$(BIN)/python -m benchmarks.merge --out docs/results/merge.md
	$(BIN)/python -m benchmarks.turnaround --out docs/results/turnaround.md
	$(BIN)/python -m benchmarks.diffusion --work build/unet --out docs/results/diffusion.md

# Everything, the slow checks included.
full: check setup
	$(BIN)/pytest
	$(BIN)/python -m benchmarks.merge --no-peer --repeats 1

clean:
	rm -rf .venv .venv-mergekit .venv-sd-mecha .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
