# make lab | make test | make bench | make clean      (needs python3 >= 3.11 and a package index)
# Another Python:  make lab PYTHON=python3.12         Options for JupyterLab:  make lab LAB="--port 9999"

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# What JupyterLab shall not show: news pop-ups, and the menu of nbgrader, which is for teachers.
QUIET := @jupyterlab/apputils-extension:announcements @jupyter/nbgrader
QUIET_SERVER := $(addprefix nbgrader.server_extensions.,formgrader validate_assignment \
  assignment_list course_list)
LAB ?=
BENCH ?=

# The course is written for two cores: one process with two threads, or two test processes with one each.
export OMP_NUM_THREADS ?= 2
export TOKENIZERS_PARALLELISM ?= false
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# compiled files halve the start of a second test run; some containers switch them off
unexport PYTHONDONTWRITEBYTECODE
export PYDEVD_DISABLE_FILE_VALIDATION = 1

.PHONY: help env lab test test-unit test-notebooks test-browser test-portable \
  test-portable-part notebooks book teach recipes bench lock clean
RECIPES = block_pruning deep_compression fullyqt kdlsq_bert kronecker_bert qtc

help:
	@echo 'make lab        open the course in JupyterLab (the first time: creates $(VENV), minutes)'
	@echo 'make test       unit tests, every notebook, and the browser tests if there is a Chromium'
	@echo 'make test-portable   unit tests and notebooks as on older processors, 1 and 2 threads (hours)'
	@echo 'make recipes    run the six recipes on the data in the package, minutes each'
	@echo 'make bench      run every script in benchmarks/ (hours; BENCH=--quick for minutes)'
	@echo 'make notebooks  run the notebooks and store their outputs'
	@echo 'make book       build the documentation site in _site/'
	@echo 'make teach      write assignments, hidden tests and solutions for nbgrader to teaching/'
	@echo 'make lock       write requirements.lock and environment.yml from what $(VENV) holds'
	@echo 'make clean      remove $(VENV) and everything else that was built'

env: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
	  echo "$(PYTHON) was not found. Install Python 3.11 or newer, or name one: make lab PYTHON=/path/to/python3"; \
	  exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "tqlearn needs Python 3.11 or newer, and $(PYTHON) is `$(PYTHON) -V 2>&1`."; \
	  echo "Name a newer one: make lab PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "This Python cannot create environments: its venv module is missing."; \
	  echo "On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@test -x $(BIN)/python || { echo "Creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing the pinned packages (some minutes the first time)"
	@$(BIN)/python -m pip install -qq -r requirements.lock
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation -e .
	@$(BIN)/python -m ipykernel install --sys-prefix --name tqlearn --display-name "Python (tqlearn)" >/dev/null
	@{ $(BIN)/jupyter labextension disable --level=sys_prefix $(QUIET) && \
	   $(BIN)/jupyter server extension disable --sys-prefix $(QUIET_SERVER); } >$(VENV)/quiet.log 2>&1 || { \
	  cat $(VENV)/quiet.log; exit 1; }
	@touch $@

# JupyterLab listens on this machine only and asks for its token. Root (a container) must be allowed by name.
lab: $(STAMP)
	@echo "JupyterLab opens in your browser; if it does not, use the last address below. Control-C ends it."
	@$(BIN)/jupyter lab --ip=127.0.0.1 --ServerApp.root_dir=. --ServerApp.log_level=WARN \
	  --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb \
	  `test "$$(id -u)" != 0 || echo --allow-root` $(LAB)

NBVAL := -p tests.warm --nbval-lax -p tests.nbval_budget -p tests.nbval_solutions \
  --nbval-kernel-name warm --nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout 900 \
  --nbval-kernel-startup-timeout 300
test test-unit test-notebooks test-browser: export OMP_NUM_THREADS = 1

test: $(STAMP)
	@$(BIN)/python -m pytest -q -rs -n 3 $(NBVAL) -m "not gpu and not timing" \
	  tests tqlearn docs/sitekit notebooks
	@$(TIMING)

TIMING = $(BIN)/python -m pytest -q -rs -m "timing and not gpu" \
  `grep -rl --include="test_*.py" mark.timing tests`
test-unit: $(STAMP)
	@$(BIN)/python -m pytest -q -rs -m "not gpu and not browser and not timing"
	@$(TIMING)

test-notebooks: $(STAMP)
	@$(BIN)/python -m pytest -q -rs -n 2 $(NBVAL) notebooks

test-browser: $(STAMP)
	@$(BIN)/python -m pytest -q -rs -n 2 --dist load --maxschedchunk 1 -m browser tests/browser

# What the check runs of it; more or less:  make test-portable SETS=avx2 THREADS=2 TESTS=tests/factors
test-portable-part:
	@$(MAKE) --no-print-directory test-portable SETS=default THREADS=2 \
	  TESTS="tests/factors/test_svd.py tests/course/test_explorer_kronecker.py" \
	  NOTEBOOKS="notebooks/04_learned_step_quantization.ipynb notebooks/11_kdlsq_bert.ipynb"

SETS ?= native avx2 default
THREADS ?= 1 2
TESTS ?= tests
NOTEBOOKS ?= notebooks
# Pages, forms and damaged files: no sum in them depends on the processor
FORMS := $(addprefix --ignore tests/,fuzz benchmarks/test_benchmarks_fuzz.py $(addprefix course/test_,\
  book.py book_planted.py canary.py instructors.py nbgrader.py stored.py teach.py))
test-portable: $(STAMP)
	@red=; for set in $(SETS); do for threads in $(THREADS); do \
	  echo "As on another processor: instruction set $$set, threads: $$threads"; \
	  export `$(BIN)/python -m tqlearn.lab.portable --env $$set` OMP_NUM_THREADS=$$threads \
	    OMP_WAIT_POLICY=passive; \
	  $(BIN)/python -m pytest -q -n 2 $(NBVAL) -m "not gpu and not browser and not timing" \
	    $(FORMS) $(TESTS) $(NOTEBOOKS) || red="$$red $$set/$$threads"; \
	  done; done; test -z "$$red" || { echo "red:$$red"; exit 1; }

notebooks: $(STAMP)
	@$(BIN)/python -m tqlearn.lab.build
	@$(BIN)/python -m tqlearn.lab.grids
	@$(BIN)/python -m tqlearn.lab.instructors

book: $(STAMP)
	@$(BIN)/python docs

teach: $(STAMP)
	@$(BIN)/python -m tqlearn.lab.teach

recipes: export OMP_NUM_THREADS = 1
recipes: $(STAMP)
	@set -e; for name in $(RECIPES); do start=`date +%s`; \
	  $(BIN)/python -m tqlearn.recipes.$$name --disable_tqdm True --output_dir runs/recipes/$$name; \
	  echo "tqlearn.recipes.$$name: $$((`date +%s` - start)) seconds"; done

bench: $(STAMP)
	@set -e; for script in benchmarks/*.py; do \
	  case $$script in \
	    */common.py|*/runs.py|*/pareto_[alns]*.py|*/readme_*.py|*/architectures_*.py|*/*engines.py) continue;; \
	    */kdlsq.py) tasks="sst2 atis squad";; \
	    */block_pruning.py) tasks="sst2 atis squad squad_long";; \
	    */deep_compression.py) tasks="bert_sst2 bert_atis vit_cifar10 wav2vec2_fsdd";; \
	    */pareto.py) tasks="flights atis sst2";; \
	    *) tasks=none;; esac; \
	  for task in $$tasks; do \
	    command="$$script $${task#none} $(BENCH)"; \
	    echo $$command; $(BIN)/python $$command; done; done
	@$(BIN)/python benchmarks/readme_tables.py

lock: $(STAMP)
	@$(BIN)/python binder/lock.py

clean:
	rm -rf $(VENV) _site build dist *.egg-info .pytest_cache .ruff_cache test-results
	find . -name __pycache__ -prune -exec rm -rf {} + -o -name .ipynb_checkpoints -prune -exec rm -rf {} +
