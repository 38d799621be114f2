# `make demo` and `make test` need nothing but Python and make: each sets up .venv with what it uses.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE ?= 1
export GRADIO_ANALYTICS_ENABLED := False

.PHONY: demo test quality style clean

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[space,search,dev]"
	touch $@

demo: .venv/ready
	$(BIN)/python benchmarks/demo.py

test: .venv/ready quality
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

quality: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

style: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv runs build *.egg-info
