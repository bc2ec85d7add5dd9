# `make` lists the targets. Every target that needs Python packages makes its environment first.
#
#   PYTHON=python3.11  the Python to build the environment on (default: python3, or a fitting one)
#   PADDLE=2.6.2       the Paddle version (default: the one of the requirements file)
#   DEVICE=cpu|gpu     the build of Paddle (default: gpu where an NVIDIA GPU is visible)

.DEFAULT_GOAL := help
.NOTPARALLEL:

# Each choice has an environment of its own, so that going to and fro reinstalls nothing.
VENV := .venv$(addprefix -,$(PADDLE))$(addprefix -,$(DEVICE))
VENV_PYTHON := $(VENV)/bin/python
SETUP := $(or $(PYTHON),python3) tools/setup_env.py --venv $(VENV) \
	$(addprefix --paddle ,$(PADDLE)) $(addprefix --device ,$(DEVICE)) $(if $(PYTHON),--this_python)

# The comparison with PyTorch runs in one environment of its own.
ALIGN_VENV := .venv-align
ALIGN_PYTHON := $(ALIGN_VENV)/bin/python

# PaddleSeg, whose own files the tests run as plugins and which the comparison reads: apart, as its package has this
# one's name, and without its dependencies, whose versions exclude this Paddle. $(1) is a Python with pip. The folder
# gets its name when it is whole.
PADDLESEG := .venv-paddleseg
get_paddleseg = test -d $(PADDLESEG) || { rm -rf $(PADDLESEG).part && PIP_USER=0 $(1) -m pip install -qq --retries 1 \
	--no-deps --target $(PADDLESEG).part paddleseg==2.8.0 && mv $(PADDLESEG).part $(PADDLESEG); }

# What ONNX needs, beside the list that this environment is made of.
get_onnx = $(ALIGN_PYTHON) -c "import paddle2onnx, onnxruntime" 2>/dev/null || \
	PIP_USER=0 $(ALIGN_PYTHON) -m pip install --quiet -r requirements-onnx.txt

.PHONY: help env demo ablation test test-all soak lint bench align-env align align-quick align-mutations clean distclean

help:  ## list the targets
	@sed -n 's/^#   /  /p' $(firstword $(MAKEFILE_LIST))
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

env:  ## make the environment and report on it
	@$(SETUP)
	@$(VENV_PYTHON) tools/check_env.py

demo:  ## draw scenes, train, evaluate, predict (DEMO_ARGS=--quick: a short run)
	@$(SETUP)
	$(VENV_PYTHON) tools/demo.py $(addprefix --device ,$(DEVICE)) $(DEMO_ARGS)

ablation:  ## FCN, + Encoding, + SE-loss over five seeds, about 13 minutes (ABLATION_ARGS=--quick: a short run)
	@$(SETUP)
	$(VENV_PYTHON) tools/ablation.py $(addprefix --device ,$(DEVICE)) $(ABLATION_ARGS)

test:  ## ruff, then the tests of every change, under 4 minutes (TEST_ARGS=... goes to pytest)
	@$(SETUP)
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m pytest -q -n 2 --dist loadfile -m "not slow" $(TEST_ARGS)

test-all: test  ## then launches of several processes, survival, browser and PaddleSeg's own files
	@$(call get_paddleseg,$(VENV_PYTHON)) || echo "no PaddleSeg from PyPI: the tests that read its files are skipped"
	$(VENV_PYTHON) -m pytest -q -rs -m slow $(TEST_ARGS)

soak:  ## ruin runs in every way we know, in full: 20 minutes (SOAK=0.1: a tenth; SOAK_ARGS="-k kill" goes to pytest)
	@$(SETUP)
	SOAK=$(or $(SOAK),1) $(VENV_PYTHON) -m pytest -q -s -rs tests/survival $(SOAK_ARGS)

lint:  ## ruff alone
	@$(SETUP)
	$(VENV_PYTHON) -m ruff check .

# A benchmark that fails leaves its place in the report empty and doesn't stop the others.
QUESTIONS = $(filter-out benchmarks/harness.py benchmarks/report.py,$(sort $(wildcard benchmarks/*.py)))

bench: align-env  ## measure ours and its peers, up to 25 minutes (BENCH_ARGS="--rounds 1": a short run)
	@$(get_onnx)
	@set -e; failed=; for file in $(QUESTIONS); do \
		echo "== $$file"; $(ALIGN_PYTHON) $$file $(BENCH_ARGS) || failed="$$failed $$file"; done; \
		$(ALIGN_PYTHON) benchmarks/report.py; if [ -n "$$failed" ]; then echo "failed:$$failed"; exit 1; fi

align-env:
	@$(or $(PYTHON),python3) tools/setup_env.py --venv $(ALIGN_VENV) --device cpu \
		--requirements requirements-align.txt $(if $(PYTHON),--this_python)
	@$(call get_paddleseg,$(ALIGN_PYTHON))

align: align-env  ## compare every step with the PyTorch references on ResNet-101, in numbers
	$(ALIGN_PYTHON) diff/run.py $(ALIGN_ARGS)

align-quick: align-env  ## the same on small networks, and the tests that need PyTorch or ONNX
	$(ALIGN_PYTHON) diff/run.py --quick $(ALIGN_ARGS)
	@$(get_onnx)
	$(ALIGN_PYTHON) -m pytest -q tests/diff tests/tools/test_convert_weights.py tests/test_deploy.py

align-mutations: align-env  ## prove that the comparison sees small mistakes in the models
	$(ALIGN_PYTHON) diff/mutations.py

clean:  ## remove the demo's files and the caches; your data and runs stay
	rm -rf output/demo data/scenes diff/output .pytest_cache .ruff_cache build *.egg-info
	find . \( -path './.venv*' -o -path ./data -o -path ./output \) -prune -o \
		-name __pycache__ -prune -exec rm -rf {} +

distclean: clean  ## remove the environments too
	rm -rf .venv .venv.lock .venv-*
