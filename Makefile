# Every target needs nothing but Python and make: it sets up .venv with what it uses.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE ?= 1
export GRADIO_ANALYTICS_ENABLED := False

.PHONY: demo test quality style docs clean

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[space,search,dev]"
	touch $@

demo: .venv/ready
	$(BIN)/splip demo --out runs/demo

test: .venv/ready quality
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

quality: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

style: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site, in site/. Strict: a broken link or a name that is not there stops it.
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

.venv/docs: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

clean:
	rm -rf .venv runs build site *.egg-info
