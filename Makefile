# make demo   install, then train SD-Search end to end on this machine's CPU; results in runs/demo
# make test   install, then all tests
# make lint   install, then ruff and mypy
PYTHON ?= python3.11
VENV ?= .venv
# PyTorch's own package index for CPU wheels, needed where the default index answers `torch` with a CUDA build.
TORCH_INDEX ?=
FLASH_ATTN_INDEX ?=
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
SETS = requirements/versions.txt requirements/cpu.txt
export PIP_NO_INPUT = 1

.PHONY: demo test lint format install install-retriever install-gpu clean

demo: $(VENV)/.cpu
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" recipes/cpu_demo.sh

test: $(VENV)/.dev
	$(VENV)/bin/python -m pytest

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.dev
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

install: $(VENV)/.cpu

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# --no-deps: the set is complete, see its head.
$(VENV)/.cpu: $(SETS) setup.py | $(VENV)/bin/python
	@echo "installing the CPU set into $(VENV) (about 4 minutes, 4 GB; once)"
	@$(if $(TORCH_INDEX),$(PIP) install --no-deps --index-url $(TORCH_INDEX) -c requirements/versions.txt "$$(grep '^torch==' requirements/cpu.txt)")
	@$(PIP) install --no-deps -r requirements/cpu.txt
	@$(PIP) install --no-deps -e .
	@$(VENV)/bin/python -c "import torch" 2>/dev/null || { \
	  echo "the package index gave a CUDA build of torch; remove $(VENV) and run make again with"; \
	  echo "TORCH_INDEX=<address of PyTorch's CPU wheel index>"; exit 1; }
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.cpu
	@$(PIP) install --no-deps -r requirements/dev.txt
	@touch $@

# The retrieval server alone, without torch or verl.
install-retriever: | $(VENV)/bin/python
	@$(PIP) install -r requirements/retriever.txt
	@$(PIP) install --no-deps -c requirements/versions.txt pyserini

# Into the Python environment that is active; for machines with an accelerator. flash-attn is compiled (needs nvcc)
# unless it is there already or FLASH_ATTN_INDEX is an index that has its wheel, such as verl's wheelhouse.
install-gpu:
	$(PYTHON) -m pip install -r requirements/gpu.txt
	$(PYTHON) -m pip install --no-build-isolation -c requirements/versions.txt \
	  $(if $(FLASH_ATTN_INDEX),--extra-index-url $(FLASH_ATTN_INDEX)) flash-attn
	$(PYTHON) -m pip install --no-deps -c requirements/versions.txt pyserini
	$(PYTHON) -m pip install --no-deps -e .

clean:
	rm -rf $(VENV) runs build *.egg-info
