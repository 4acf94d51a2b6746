# Everything a newcomer needs: `make demo`, `make test`. Both set themselves up in .venv on a machine that has only
# Python >= 3.11 (with venv) and make; afterwards they need no network. `make help` lists the targets.

SHELL := /bin/sh
VENV ?= .venv
BIN := $(VENV)/bin
# The first interpreter that is new enough; `make demo PYTHON=/path/to/python3.12` chooses another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; exit; }; done; echo python3)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet
TESTARGS ?= -n 2

.DEFAULT_GOAL := help
COVERED := --cov --cov-report=
# Experiments run at their quick scale in slow tests alone.
STUDY_TESTS := tests/validation/studies tests/validation/study_files tests/wgflow/test_cli.py
# Kernels that Numba compiles are seen by no tracer: these tests run them once more as functions of Python.
KERNEL_TESTS := tests/wgflow/compiled tests/solvers/finite_volume/test_transport.py \
	--deselect tests/solvers/finite_volume/test_transport.py::test_a_disk_that_is_carried_is_of_second_order \
	tests/solvers/finite_volume/test_midpoint_kernels.py::test_sweeps_are_their_twins \
	tests/solvers/finite_volume/test_mobility.py::test_a_chain_is_swept_as_dense_matrices_say \
	tests/solvers/finite_volume/test_compact.py::test_one_compiled_loop_takes_the_steps_of_python \
	tests/solvers/jko/quantile tests/solvers/jko/entropic/test_entropic_kernels.py \
	tests/solvers/jko/linearized/test_linearized_kernels.py tests/solvers/jko/linearized/test_linearized_remap.py \
	tests/solvers/jko/back_and_forth/test_dual.py tests/wgflow/interactions/test_distance_tables.py \
	tests/wgflow/activations/test_of_function.py::test_the_table_of_compiled_loops \
	tests/wgflow/losses tests/validation/test_particles.py::test_kernel_equals_its_twin \
	tests/validation/test_particles.py::test_strong_ridge_does_not_underflow \
	tests/validation/test_sampling.py::test_batches_equal_their_twin \
	tests/validation/test_sampling.py::test_strong_ridge_does_not_underflow_in_batches \
	tests/solvers/finite_volume/test_field_loop.py::test_extrapolation_and_speed_against_numpy \
	tests/solvers/finite_volume/test_field_loop.py::test_interactions_of_a_line_in_all_forms \
	tests/solvers/finite_volume/test_midpoint_kernels.py::test_kept_factors_give_the_same_move_again_and_are_those_of_the_first_psi \
	tests/solvers/finite_volume/test_fronts.py::test_masses_of_powers_are_exact_wherever_the_end_is \
	tests/solvers/finite_volume/test_fronts.py::test_node_weights_keep_the_mass \
	tests/solvers/finite_volume/test_fronts.py::test_an_implicit_step_is_a_minimum \
	tests/solvers/finite_volume/test_fronts.py::test_charges_on_a_semicircle_dilate_it \
	tests/solvers/finite_volume/test_fronts.py::test_derivatives_of_the_charges_velocities_and_their_steps \
	tests/reduced_models/test_isotropic_gaussian.py::test_population_risk_in_blocks

.PHONY: help demo test test-quick check lint typing coverage bench storm docs docs-test notebook dist-check clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.stamp-test  ## solve the first model, run SGD beside it, write picture and verdict to out/demo
	@$(BIN)/wgflow demo

test: $(VENV)/.stamp-test  ## run every test, the slow ones too, as CI does (TESTARGS="-n auto": on all cores)
	@$(BIN)/wgflow warmup >/dev/null
	@$(BIN)/python -m pytest -n auto --dist worksteal $(TESTARGS)

test-quick: $(VENV)/.stamp-test  ## run the tests that are not marked slow: two minutes on two cores
	@$(BIN)/wgflow warmup >/dev/null
	@$(BIN)/python -m pytest -n auto --dist worksteal $(TESTARGS) -m 'not slow'

check: lint typing  ## lint and types

lint: $(VENV)/.stamp-dev  ## ruff
	@$(BIN)/ruff check .

# A type checker reads folders, not setup.cfg: give it the import package as a tree of links.
typing: $(VENV)/.stamp-dev  ## mypy, on a tree of links that has the import package's shape
	@rm -rf .typing && mkdir -p .typing/wgflow
	@for entry in wgflow/*; do ln -s "../../$$entry" ".typing/$$entry"; done
	@for folder in solvers reduced_models validation; do ln -s "../../$$folder" ".typing/wgflow/$$folder"; done
	@cd .typing && ../$(BIN)/mypy --config-file ../pyproject.toml --cache-dir ../.mypy_cache -p wgflow

coverage: $(VENV)/.stamp-dev  ## the part of the branches that the quick tests and the studies take: three quarters of an hour
	@$(BIN)/wgflow warmup >/dev/null
	@$(BIN)/python -m pytest -n auto --dist worksteal $(TESTARGS) $(COVERED) -m 'not slow'
	@$(BIN)/python -m pytest -n auto --dist worksteal $(TESTARGS) $(COVERED) --cov-append -m slow $(STUDY_TESTS)
	@NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest -n auto --dist worksteal $(TESTARGS) $(COVERED) --cov-append -m 'not slow' $(KERNEL_TESTS)
	@$(BIN)/python -m coverage report

bench: $(VENV)/.stamp-test  ## the quick benchmarks (benchmarks/README.md has the long ones)
	@$(BIN)/python benchmarks/speed.py --quick

storm: $(VENV)/.stamp-test  ## kill, starve, damage and crowd runs: a quarter of an hour (FULL=1: hours)
	@$(BIN)/wgflow warmup >/dev/null
	@$(BIN)/python benchmarks/storm/storm.py $(if $(FULL),--full)

# -P: Python is not to look for wgflow in this folder, where its parts lie apart. -W: a warning is an error.
docs: $(VENV)/.stamp-docs  ## build the site of the docs in docs/_build/html, without a network
	@$(BIN)/python -P -m sphinx -b html -q -W --keep-going docs docs/_build/html
	@echo "docs/_build/html/index.html"

docs-test: $(VENV)/.stamp-test  ## run every code block of the README and docs/, and every example
	@$(BIN)/python -m pytest tests/house -q

notebook: $(VENV)/.stamp-docs  ## execute docs/tutorial.ipynb anew, from docs/tutorial.md
	@$(BIN)/python -P docs/_extensions/notebook.py

dist-check: $(VENV)/.stamp-dev  ## build wheel and sdist, install and try them with every Python that is found
	@$(BIN)/python -P .ci/dist_check.py

clean:  ## remove what the other targets made, the compiled kernels too
	@rm -rf $(VENV) .typing .cache out build dist docs/_build docs/api *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON) found: wgflow needs Python >= 3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "wgflow needs Python >= 3.11, but %s is Python %d.%d: run make with PYTHON=/path/to/a/newer/python" % (sys.executable, v[0], v[1]))'
	@echo "setting up $(VENV) with $$($(PYTHON) --version) (once; about a minute)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make a virtual environment: install its venv module (Debian: apt install python3-venv)" >&2; exit 1; }

$(VENV)/.stamp-test: pyproject.toml setup.cfg | $(VENV)/bin/python
	@$(PIP) install -e '.[test]'
	@touch $@

$(VENV)/.stamp-dev: pyproject.toml setup.cfg | $(VENV)/.stamp-test
	@$(PIP) install -e '.[test,dev]'
	@touch $@

$(VENV)/.stamp-docs: pyproject.toml setup.cfg | $(VENV)/.stamp-test
	@$(PIP) install -e '.[test,docs]'
	@touch $@
