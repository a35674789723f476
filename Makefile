# make demo   install, then train SD-Search end to end on this machine's CPU; results in runs/demo; PROTOCOL=tool_call in tool calls
# make demo-llm   the same with SmolLM2-135M on real questions, in 35 minutes; results in runs/smollm2/
# make test   install, then all tests
# make lint   install, then ruff and mypy
# make docs   install, then the documentation's site in site/
# make release-check   build wheel and sdist into dist/, install each in a clean environment of $(PYTHON), and use it there
# make licenses        licence list and SBOM of the CPU set
# Makes $(VENV).
PYTHON ?= python3.11
VENV ?= .venv
# PyTorch's own package index for CPU wheels, needed where the default index answers `torch` with a CUDA build.
TORCH_INDEX ?=
# Questions, passages and trajectories of `make demo-llm`; `python -m benchmarks.data.wiki18_mini_data` writes them.
DATA ?= data/wiki18-mini
# A wheel of flash-attn, file or address, that was built for the torch of requirements/gpu.txt.
FLASH_ATTN_WHEEL ?=
# Oldest NVIDIA driver branch for CUDA 13, for which torch and vLLM of requirements/gpu.txt are built; 0 = do not check.
MIN_DRIVER ?= 580
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
# Of 30,000 files some 5,000 are ever imported; these write their bytecode then. An image, which keeps none, compiles all.
COMPILE ?= --no-compile
INSTALL = $(PIP) install $(COMPILE)
unexport PYTHONDONTWRITEBYTECODE
SETS = requirements/versions.txt requirements/cpu.txt
export PIP_NO_INPUT = 1

.PHONY: demo demo-llm test lint format docs release-check licenses install install-retriever install-gpu clean

demo: $(VENV)/.cpu
	PATH="$(abspath $(VENV))/bin:$$PATH" recipes/cpu_demo.sh

demo-llm: $(VENV)/.cpu
	@[ -d "$(DATA)" ] || { echo "no $(DATA); make it: $(VENV)/bin/python -m benchmarks.data.wiki18_mini_data --out data"; exit 1; }
	PATH="$(abspath $(VENV))/bin:$$PATH" recipes/cpu_smollm2.sh "$(DATA)"

test: $(VENV)/.dev
	$(VENV)/bin/python -m pytest

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.dev
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

docs: $(VENV)/.dev
	$(VENV)/bin/python -m mkdocs build --strict

RELEASE = build/release
$(RELEASE)/tools: requirements/release.txt
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet -r requirements/release.txt
	@touch $@

release-check: $(RELEASE)/tools
	rm -rf dist
	$(RELEASE)/tools/bin/python -m build --outdir dist
	$(RELEASE)/tools/bin/twine check --strict dist/*
	for file in dist/*; do requirements/use_release.sh $(PYTHON) $$file $(RELEASE)/clean || exit 1; done

licenses: $(VENV)/.cpu $(RELEASE)/tools
	$(RELEASE)/tools/bin/python requirements/describe.py $(VENV)/bin/python

install: $(VENV)/.cpu

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# --no-deps: the set is complete, see its head.
$(VENV)/.cpu: $(SETS) setup.py | $(VENV)/bin/python
	@echo "installing the CPU set into $(VENV) (2 to 3 minutes, 4 GB; once)"
	@$(if $(TORCH_INDEX),$(INSTALL) --no-deps --index-url $(TORCH_INDEX) -c requirements/versions.txt "$$(grep '^torch==' requirements/cpu.txt)")
	@$(INSTALL) --no-deps -r requirements/cpu.txt
	@$(INSTALL) --no-deps -e .
	@$(VENV)/bin/python -c "import torch" 2>/dev/null || { \
	  echo "the package index gave a CUDA build of torch; remove $(VENV) and run make again with"; \
	  echo "TORCH_INDEX=<address of PyTorch's CPU wheel index>"; exit 1; }
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.cpu
	@$(INSTALL) --no-deps -r requirements/dev.txt
	@touch $@

# The retrieval server alone, without torch or verl.
install-retriever: | $(VENV)/bin/python
	@$(INSTALL) -r requirements/retriever.txt
	@$(INSTALL) --no-deps -c requirements/versions.txt pyserini

# Into the Python environment that is active; for machines with an accelerator. flash-attn publishes no wheel for this torch
# with CUDA 13, so it is compiled (nvcc 13, an hour and more) unless it is there already or FLASH_ATTN_WHEEL is given. pip
# cannot see for which torch a wheel was built: an index whose wheel is for another one gives undefined symbols, which
# `sd-search doctor` finds. make install-gpu PYTHON=... installs into another environment.
install-gpu: PYTHON = python
install-gpu:
	@echo "installing the GPU set into the active environment: 250 packages, 11 GB, built for CUDA 13;"
	@echo "it needs an NVIDIA driver of R580 or newer, and nvcc 13 for flash-attn"
	@driver=$$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1); \
	  [ "$${driver%%.*}" -lt $(MIN_DRIVER) ] 2>/dev/null || exit 0; \
	  echo "this machine's driver is $$driver, too old for CUDA 13: update it to R$(MIN_DRIVER) or newer, or install"; \
	  echo "all the same (for other nodes, or with NVIDIA's cuda-compat package) with make install-gpu MIN_DRIVER=0"; exit 1
	$(PYTHON) -m pip install -r requirements/gpu.txt
	$(PYTHON) -m pip install --no-build-isolation -c requirements/versions.txt $(or $(FLASH_ATTN_WHEEL),flash-attn)
	$(PYTHON) -m pip install --no-deps -c requirements/versions.txt pyserini
	$(PYTHON) -m pip install --no-deps -e .

clean:
	rm -rf $(VENV) runs build dist site *.egg-info
