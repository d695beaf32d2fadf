# make train: pretrain and fine-tune on two ranks. make test: the whole suite. make soak: kills by the dozen. Each sets
# up what it needs first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup train test soak check format clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,deepspeed,mlflow,onnx,optuna,tensorboard]'
	touch $(STAMP)

train: setup
	$(BIN)/launcher run quickstart-pretrain --ranks 2
	$(BIN)/launcher run quickstart-finetune --ranks 2
	$(BIN)/launcher run quickstart-finetune --ranks 2 name=quickstart-from-random model.weights=random
	$(BIN)/launcher compare runs/quickstart-pretrain runs/quickstart-finetune runs/quickstart-from-random

test: setup
	$(BIN)/python -m compileall -q launcher
	$(BIN)/python -m pytest

soak: setup
	$(BIN)/python -m pytest -m soak -n 0 -s

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
