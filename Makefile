# install: the environment in .venv      demo: the main job at CPU size, with a report
# test: the tests                        test-fast: those that take seconds
# check: linters and types               test-oldest: these, with the oldest versions that are promised
#                                        test-ray: clusters of Ray whose nodes are killed
# bench: the benchmarks                  gpu-check: all that needs a GPU, on one
# demo-service: the web service on the sample, http://127.0.0.1:8000
# docs: the pages and the API reference, into site/
# Needs python3 (3.10 or later, for these versions of torch) and the Python package index; no GPU.

VENV := .venv
PYTHON := $(VENV)/bin/python
PYTHON3 := python3
TORCH := torch==2.14.1 torchvision==0.29.1
# Detectron2 is not on the package index under its own name. This distribution holds its main branch
# of April 2024; the wheel is tagged for Python 3.10 but is pure Python where Mask R-CNN is concerned.
DETECTRON2 := sal-detectron2==0.7.2
# setup.py of fvcore and of ours run in .venv itself.
BUILD_NEEDS := "setuptools>=77,<81" wheel
# The oldest versions that pyproject.toml promises, in an environment of their own.
OLDEST := .venv-oldest
OLDEST_PYTHON := python3.10
export DETECTRON2_DATASETS ?= $(CURDIR)/datasets
DEMO := output/demo
TEST_PROCESSES ?= 2
SERVICE := output/service
SERVICE_PORT := 8000
PROVIDER_PORT := 8001
SERVICE_DOMAINS := street room meadow harbour desert shelf

# MMDetection, without a compiler: OpenMMLab's own line in the environment, the line that is maintained in a folder
# of its own (both have the same import names). Each without its needs, which ask for GUIs and old versions; the extra
# mmdetection has them.
MMDET := mmdet==3.3.0 mmcv-lite==2.1.0 mmengine==0.10.7
ONEDL := build/onedl
ONEDL_MMDET := onedl-mmengine==0.10.12 onedl-mmcv==2.3.6 onedl-mmdetection==3.5.1 imaug
ONEDL_NEEDS := scikit-image imageio

.PHONY: install demo demo-service test test-fast test-oldest test-ray check bench gpu-check docs clean

install: $(VENV)/.installed

$(VENV)/.installed: setup.py pyproject.toml Makefile
	test -x $(PYTHON) || $(PYTHON3) -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --upgrade pip
	$(PYTHON) -m pip install --quiet $(TORCH) $(BUILD_NEEDS)
	$(PYTHON) -m pip install --quiet --no-deps --only-binary=:all: --python-version 3.10 --implementation cp \
		--upgrade --target "$$($(PYTHON) -c 'import site; print(site.getsitepackages()[0])')" $(DETECTRON2)
	$(PYTHON) -m pip install --quiet --no-build-isolation -e ".[dev]"
	# Without its needs: only its label table is used, and they hold a backport of typing.
	$(PYTHON) -m pip install --quiet --no-deps cityscapesscripts
	# Its loss alone, which MoCo's is held against.
	$(PYTHON) -m pip install --quiet --no-deps lightly
	$(PYTHON) -m pip install --quiet --no-deps $(MMDET)
	touch $@

# The second line; pip's build isolation stays on, since it is what builds mmcv without compiled operators.
$(ONEDL)/.installed: $(VENV)/.installed
	rm -rf $(ONEDL)
	$(PYTHON) -m pip install --quiet $(ONEDL_NEEDS)
	$(PYTHON) -m pip install --quiet --no-deps --target $(ONEDL) $(ONEDL_MMDET)
	touch $@

demo: install
	$(PYTHON) tools/train_net.py --config none_sample.yaml OUTPUT_DIR $(DEMO)/none NDS.WORK_DIR $(DEMO)/nds
	$(PYTHON) tools/train_net.py --config uniform_sample.yaml OUTPUT_DIR $(DEMO)/uniform NDS.WORK_DIR $(DEMO)/nds
	$(PYTHON) tools/train_net.py --config nds_sample.yaml OUTPUT_DIR $(DEMO)/selected NDS.WORK_DIR $(DEMO)/nds
	$(PYTHON) tools/compare_runs.py $(DEMO)/none $(DEMO)/uniform $(DEMO)/selected --output $(DEMO)/report.html

# A file server plays the provider of the images; configs/service/sample.yaml has its links, with its port.
demo-service: install
	$(PYTHON) tools/partition_source.py $(SERVICE_DOMAINS:%=--dataset nds_sample_%_train) \
		--num-clusters 6 --crop-size 64 --output $(SERVICE)
	$(PYTHON) tools/train_experts.py --index $(SERVICE)/index.parquet --partition $(SERVICE)/partition.parquet \
		--crop-size 64 --share 0.25 --output $(SERVICE)/experts
	$(PYTHON) tools/serve.py publish --store $(SERVICE)/store --index $(SERVICE)/index.parquet \
		--partition $(SERVICE)/partition.parquet --experts $(SERVICE)/experts --sources configs/service/sample.yaml
	@echo 'To play a client, in another terminal:'
	@echo '  $(VENV)/bin/nds-client score --images $(DETECTRON2_DATASETS)/nds_sample/farm/images --output scores.json'
	$(PYTHON) -m http.server $(PROVIDER_PORT) --bind 127.0.0.1 --directory $(DETECTRON2_DATASETS)/nds_sample \
		>/dev/null 2>&1 & provider=$$!; trap "kill $$provider 2>/dev/null" EXIT; trap "exit 130" INT TERM; sleep 1; \
		kill -0 $$provider 2>/dev/null || { echo 'error: port $(PROVIDER_PORT) of the file server is taken.'; exit 2; }; \
		$(PYTHON) tools/serve.py run --store $(SERVICE)/store --thumbnails --port $(SERVICE_PORT)

test: install $(ONEDL)/.installed
	$(PYTHON) -m pytest -n $(TEST_PROCESSES) --dist loadfile
	# The main job's own tests are long, and run on the first line alone.
	PYTHONPATH=$(CURDIR)/$(ONEDL) $(PYTHON) -m pytest -n $(TEST_PROCESSES) --dist loadfile tests/mm \
		--ignore tests/mm/job/test_mm_main_job.py

test-fast: install
	$(PYTHON) -m pytest -n $(TEST_PROCESSES) --dist loadfile -m "not slow" $(TEST_OPTIONS)

# Old packages warn of the new ones that they run with; that is no news of ours.
test-oldest: install
	$(PYTHON) .ci/oldest.py >.oldest.txt
	PIP_CONSTRAINT=$(CURDIR)/.oldest.txt $(MAKE) VENV=$(OLDEST) PYTHON3=$(OLDEST_PYTHON) \
		TORCH="torch torchvision numpy" TEST_OPTIONS="-o filterwarnings=default" test-fast

test-ray: install
	NDS_RAY_TESTS=1 $(PYTHON) -m pytest tests/engine/test_ray.py

check: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: install
	$(PYTHON) benchmarks/sampler.py
	$(PYTHON) benchmarks/scoring.py
	$(PYTHON) benchmarks/service.py
	$(PYTHON) benchmarks/privacy.py
	$(PYTHON) benchmarks/mmdet.py

gpu-check: install
	$(PYTHON) benchmarks/gpu_check.py --page output/gpu_check.md

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

$(VENV)/.docs: $(VENV)/.installed
	$(PYTHON) -m pip install --quiet --no-build-isolation -e ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) .oldest.txt build site *.egg-info $(DEMO) $(SERVICE) datasets/nds_sample
