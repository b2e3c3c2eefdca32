# The same targets locally and in CI. `source scripts/setup.sh toy,train,eval,notebooks,dev` makes the environment.
PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,python)
WORKERS ?= 2
PROCESSES ?= 2
PYTEST = OMP_NUM_THREADS=1 $(PYTHON) -m pytest

.PHONY: check format test test-slow test-gpu test-dist golden docs bench bench-full-size bench-chaos bench-gpu bench-controls bench-whose bench-ordering

# Format, lint, types, spelling and the quick house rules.
check:
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m codespell_lib
	$(PYTHON) -m pyright --pythonpath $(PYTHON)
	$(PYTEST) -q --durations=0 --durations-min=5 tests/house -k "not commands"

# What can be mended by a tool.
format:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

test:
	$(PYTEST) -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-slow:
	$(PYTEST) -m slow

test-gpu:
	$(PYTEST) -m gpu

test-dist:
	PROCESSES=$(PROCESSES) $(PYTEST) -m dist

# Each script answers one question and writes a dated report.
bench:
	set -e; for script in $(filter-out benchmarks/full_size.py benchmarks/chaos.py benchmarks/gpu.py benchmarks/controls.py benchmarks/subjects.py benchmarks/pictures.py benchmarks/composition.py benchmarks/ordering.py,$(wildcard benchmarks/*.py)); do OMP_NUM_THREADS=1 $(PYTHON) $$script; done

# LLaVA-7B's size: fifty gigabytes of disk, twenty of memory.
bench-full-size:
	$(PYTHON) benchmarks/full_size.py --folder .

# Training on a GPU: under ten minutes, nothing is fetched.
bench-gpu:
	$(PYTHON) benchmarks/gpu.py

# Masks and layouts on the releases of the recipes tiny and tiny_layout, which must be there.
bench-controls:
	OMP_NUM_THREADS=1 $(PYTHON) benchmarks/controls.py --model _ckpt/tiny --layout _ckpt/tiny_layout --seeds 1 2 3

# Subjects, and pictures in instructions: three trainings of each, over the release of the recipe tiny, which must be there.
bench-whose:
	OMP_NUM_THREADS=1 $(PYTHON) benchmarks/subjects.py --model _ckpt/tiny --seeds 1 2 3
	OMP_NUM_THREADS=1 $(PYTHON) benchmarks/pictures.py --recipe tiny_mige --alone --seeds 1 2 3
	OMP_NUM_THREADS=1 $(PYTHON) benchmarks/pictures.py --recipe tiny_pictures --start _ckpt/tiny --seeds 1 2 3
	OMP_NUM_THREADS=1 $(PYTHON) -m mgie personalize _ckpt/benchmark-subjects/seed-1/photos --config tiny_subjects \
		--model _ckpt/benchmark-pictures/tiny_pictures/seed-1/joint/model --out _ckpt/benchmark-composed
	OMP_NUM_THREADS=1 $(PYTHON) benchmarks/composition.py --subjects _ckpt/benchmark-composed --seeds 1 2 3 \
		--model _ckpt/benchmark-pictures/tiny_pictures/seed-1/joint/model

# The ways to train, twelve trainings of the recipe tiny: one and a half hours on two cores.
bench-ordering:
	$(PYTHON) benchmarks/ordering.py --seeds 1 2 3

# Kills, damage and nonsense, some two thousand times: 40 minutes on two cores.
bench-chaos:
	$(PYTHON) benchmarks/chaos.py

# Rewrites the golden files and the README's tree, and shows what changed; say in the change why.
golden:
	$(PYTEST) --rewrite-golden -m "not gpu and not network"
	git --no-pager diff --stat -- tests/golden README.md

# The site of docs/ and the docstrings, in site/: needs the extra `docs`; a link that leads nowhere is an error.
docs:
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict
