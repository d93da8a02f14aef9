# make demo: set up and see it work · make test: everything CI runs · make bench, record, lint
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
RECORDED := tests/llm/recorded
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo test lint bench record clean

help:
	@echo "make demo    set up, then answer prompts in-process and over HTTP"
	@echo "make test    set up, then run everything CI runs"
	@echo "make lint    ruff and mypy"
	@echo "make bench   speed beside llama.cpp and transformers: tables and plots (half an hour;"
	@echo "             .venv/bin/python engine/bench/run.py --quick takes minutes)"
	@echo "make record  record the cassettes anew from real servers (see cassettes/README.md)"

demo: $(VENV)/.ready-all
	$(BIN)/python examples/demo.py

test: lint
	$(BIN)/python -m pytest

lint: $(VENV)/.ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.ready-test
	$(BIN)/python engine/bench/run.py
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python engine/bench/conversations.py
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python engine/bench/embeddings.py
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python engine/bench/kernels.py
	$(BIN)/python engine/bench/import_time.py

record: $(VENV)/.ready-test
	@if env | grep -q '^LIBERTAI_RECORD_'; then \
	  $(BIN)/python -m pytest $(RECORDED) --ignore $(RECORDED)/test_cassettes.py \
	  && env -i PATH="$$PATH" $(BIN)/python -m pytest $(RECORDED)/test_cassettes.py; \
	else \
	  echo "Nothing recorded: name a running server, such as"; \
	  echo "  LIBERTAI_RECORD_DEC2023=http://127.0.0.1:8091 make record"; \
	  echo "All names and how to start the servers: cassettes/README.md"; \
	fi

$(VENV)/.ready-%: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing (torch is large, this takes a few minutes the first time) ..."
	$(PIP) -e '.[all$(if $(filter test,$*),$(comma)test)]'
	@touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

comma := ,
