# make demo   see it work          make test   everything a change must pass
# make check  linters and types    make slow   the tests that take minutes
# make docs   the documentation    make format, make clean
# make gpu-check   on a machine with a GPU: build, compare, time, and write a report
# make pycuda-env  pycuda without a GPU, for its tests; says which variable to set

PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
FCN := $(BIN)/fcn-deploy

.DEFAULT_GOAL := help
export NO_MKDOCS_2_WARNING := 1
.DELETE_ON_ERROR:
.PHONY: help demo test check format docs slow gpu-check pycuda-env clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev,docs]'
	@touch $@

demo: $(STAMP)
	@mkdir -p $(DEMO)
	$(FCN) doctor
	$(FCN) export --weights bundled -o $(DEMO)/model.onnx
	$(FCN) export --weights bundled -o $(DEMO)/model.safetensors
	$(FCN) inspect $(DEMO)/model.onnx
	$(FCN) clip $(DEMO)/clip --frames 24
	$(FCN) export --weights bundled --outputs labels,confidence -o $(DEMO)/confidence.onnx
	$(FCN) run $(DEMO)/confidence.onnx $(DEMO)/clip/images --overlay $(DEMO)/overlay.mp4 \
	  --masks $(DEMO)/labels --confidence $(DEMO)/confidence
	$(FCN) quantize $(DEMO)/model.onnx --target cpu --calib $(DEMO)/clip/images -o $(DEMO)/model.int8.onnx
	$(FCN) bench $(DEMO)/model.safetensors $(DEMO)/model.onnx $(DEMO)/model.int8.onnx --typical \
	  --json $(DEMO)/bench.json --report $(DEMO)/report.html
	@echo
	@echo 'Look at:'
	@echo '  $(DEMO)/report.html      speed, agreement and pictures; open it in a browser'
	@echo '  $(DEMO)/overlay.mp4      the clip with its labels drawn over it'
	@echo '  $(DEMO)/labels           label maps as PNG, one a frame'
	@echo '  $(DEMO)/confidence       how sure the model is of each pixel'
	@echo '  $(DEMO)/bench.json       every number of the report'
	@echo 'And in a browser, while it runs:'
	@echo '  $(FCN) run $(DEMO)/model.int8.onnx $(DEMO)/clip/images --real-time --fps 2 --serve 8080'

test: check
	$(BIN)/python -m pytest -m 'not slow and not gpu'
	$(BIN)/mkdocs build --strict

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)
	$(BIN)/mkdocs build --strict
	@echo 'Look at: site/index.html'

slow: $(STAMP)
	$(BIN)/python -m pytest -m 'slow or gpu'

gpu-check: $(STAMP)
	$(BIN)/python benchmarks/gpu_check.py

pycuda-env:
	tests/device_simulator/build_pycuda.sh $(HOME)/.cache/fcn-deploy-pycuda
	@echo 'Now: export FCN_DEPLOY_PYCUDA_PYTHON=$(HOME)/.cache/fcn-deploy-pycuda/env/bin/python'

clean:
	rm -rf $(VENV) $(DEMO) site build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
