# `make demo` and `make test` do everything on a fresh machine with Python 3.11.
PYTHON ?= python3
SEED ?= 0
BIN := .venv/bin
STAMP := .venv/.ready
UPSTREAM := .venv-upstream
REQUIREMENTS := $(wildcard requirements/*.txt)

.PHONY: setup setup-ops demo test test-slow test-gpu bench-gpu test-upstream lint docs wheel

setup: $(STAMP)

$(STAMP): setup.py pyproject.toml $(REQUIREMENTS)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements/mminstall.txt
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

# What PointRend, CCNet, PSANet, SAN, MaskFormer and Mask2Former need beside, and models of timm and Hugging Face.
# Compiles the ops of mmcv, which the wheel lacks: some twenty minutes on two cores. mmcv's setup.py asks for C++17, torch for C++20.
setup-ops: setup
	$(BIN)/python -m pip install --quiet -r requirements/ops.txt
	rm -rf .venv/ops
	$(BIN)/python -m pip download --quiet --no-deps --no-binary onedl-mmcv --dest .venv/ops $$(grep onedl-mmcv requirements/mminstall.txt)
	tar xzf .venv/ops/onedl_mmcv-*.tar.gz -C .venv/ops
	sed -i 's/c++17/c++20/' .venv/ops/onedl_mmcv-*/setup.py
	$(BIN)/python -m pip install --no-deps --force-reinstall --no-cache-dir --no-build-isolation .venv/ops/onedl_mmcv-*/

demo: setup
	$(BIN)/python tools/demo.py --seed $(SEED)

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

# Models of full size, builds of the site, and long runs.
test-slow: setup
	$(BIN)/python -m pip install --quiet -r requirements/docs.txt
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow --numprocesses auto --dist worksteal

# What only a GPU can show. `make test` skips these tests where there is none.
test-gpu: setup
	$(BIN)/python -m pytest tests/gpu

# Seconds of the rounds of each pair, for docs/performance.md, with batches that give a GPU enough to do.
bench-gpu: setup
	for pair in lenet:512 resnet34_resnet18:256 resnet56_resnet20:256 deeplab:64 vit:64; do \
		$(BIN)/python tools/analysis_tools/benchmark_rounds.py --pair $${pair%:*} --batch-size $${pair#*:} --repeats 20 || exit 1; \
	done

# The same tests with OpenMMLab's own packages, in an environment of their own.
test-upstream: $(UPSTREAM)/.ready
	OMP_NUM_THREADS=1 $(UPSTREAM)/bin/python -m pytest --numprocesses auto --dist worksteal

$(UPSTREAM)/.ready: setup.py pyproject.toml $(REQUIREMENTS)
	test -x $(UPSTREAM)/bin/python || $(PYTHON) -m venv $(UPSTREAM)
	$(UPSTREAM)/bin/python -m pip install --quiet -r requirements/upstream.txt
	$(UPSTREAM)/bin/python -m pip install --quiet --editable '.[demo,onnx,pictures,test]'
	touch $@

lint: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" pre-commit run --all-files

docs: setup
	$(BIN)/python -m pip install --quiet -r requirements/docs.txt
	$(BIN)/python -m sphinx -W --keep-going --conf-dir docs . docs/_build/html

# In a copy, because a build here would replace the links of the development install.
wheel: setup
	rm -rf build/sources && mkdir -p build/sources dist
	git ls-files -z | xargs -0 cp --parents --target-directory build/sources
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist build/sources
