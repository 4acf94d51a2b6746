"""Mutation testing of what figures rest on: one small fault at a time, and whether the tests see it.

``python benchmarks/mutations.py --mutants 40 --seed 1`` draws so many mutants of each file of `TARGETS`, prints what
became of each, and the score by group: killed mutants over all but those that change no result
(`equivalent_mutants.EQUIVALENT`). The status is 1 if a group has less than `LEAST`. ``--only checks`` takes the files
whose path has the word, ``--lines 40-60,75`` mutants of those lines alone.

A group runs in a process of its own, which collects the tests once; for fluxes kernels stay functions of Python
(``NUMBA_DISABLE_JIT=1``). One run of the tests, in a forked copy of the process, notes the lines each test reaches and
how long it takes; each mutant then is put in place in a copy of its own, and meets only the tests that reach it, the
quickest first, until one fails.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
if "--group=fluxes" in sys.argv:
    os.environ["NUMBA_DISABLE_JIT"] = "1"

import coverage
import pytest
from equivalent_mutants import EQUIVALENT
from mutants import ROOT, Mutant, Statements, drawn, places, put_in_place

#: The least part of the mutants of a group that tests must kill.
LEAST = 0.85
#: Processor seconds that a run with a mutant may take beside twice the time of its tests without one.
SECONDS = 20
_W, _ENERGIES, _FV = "tests/wgflow/", "tests/wgflow/energies/", "tests/solvers/finite_volume/"
_AUDIT, _MODELS, _COMPARISON = _W + "audit/test_audit.py", "tests/reduced_models/", "tests/validation/comparison/"
#: The files that are mutated, by group, and the tests that their mutants meet.
TARGETS: dict[str, dict[str, list[str]]] = {
    "fluxes": {
        "wgflow/compiled/sweep.py": [_W + "compiled/test_kernels.py",
                                     _FV + "test_midpoint_kernels.py::test_kept_factors",
                                     _FV + "test_midpoint_kernels.py::test_sweeps_are_their_twins"],
        "wgflow/compiled/explicit.py": [_W + "compiled/test_explicit_kernels.py"],
        "wgflow/compiled/compact.py": [_W + "compiled/test_compact_kernels.py", _W + "compiled/test_compact_lines.py",
                                       _FV + "test_field_loop.py::test_extrapolation",
                                       _FV + "test_field_loop.py::test_interactions",
                                       _FV + "test_field_loop.py::test_the_loop_takes_the_steps_of_python[osc",
                                       _FV + "test_compact.py::test_one_compiled_loop"],
        "wgflow/compiled/transport.py": [_FV + "test_transport.py::test_the_", _FV + "test_transport.py::test_any_step",
                                         _FV + "test_transport.py::test_where_psi"],
        "wgflow/compiled/nonlinear_sweep.py": [_W + "compiled/test_nonlinear_kernels.py"],
        "wgflow/compiled/chains.py": [_W + "compiled/test_chains.py", _FV + "test_mobility.py::test_a_chain"],
    },
    "energies": {
        "wgflow/energies/on_grid.py": [_ENERGIES + "test_dissipation.py", _ENERGIES + "test_energies.py",
                                       _ENERGIES + "test_functionals.py"],
        "wgflow/energies/dissipation.py": [_ENERGIES + "test_dissipation.py", _ENERGIES + "test_energies.py",
                                           _ENERGIES + "test_mobility_flows.py", _W + "test_atoms.py"],
        "wgflow/energies/internal_energies.py": [_ENERGIES + "test_internal_energies.py"],
    },
    "checks": {
        "wgflow/checks.py": [_W + "test_checks.py", _W + "test_bad_inputs.py", _W + "test_sizes.py"],
        "wgflow/grid_checks.py": [_W + "test_grid_checks.py", _W + "test_bad_inputs.py", _W + "test_grids.py"],
        "wgflow/energies/term_checks.py": [_ENERGIES + "test_functionals.py"],
        "wgflow/interactions/kernel_checks.py": [_W + "interactions/test_kernel_checks.py", _W + "test_bad_inputs.py"],
    },
    "audit": {
        "wgflow/audit/weak_form.py": [_AUDIT],
        "wgflow/audit/modes.py": [_AUDIT],
        "wgflow/audit/quadrature.py": [_AUDIT],
        "wgflow/audit/differences.py": [_AUDIT],
        "wgflow/audit/resolution.py": [_W + "audit/test_resolution.py"],
        "wgflow/audit/step_record.py": [_W + "audit/test_step_record.py"],
    },
    "models": {
        "reduced_models/radial_laws.py": [_MODELS + "test_radial_laws.py"],
        "reduced_models/gaussian_laws.py": [_MODELS + "test_linear_neuron.py"],
        "reduced_models/linear_neuron.py": [_MODELS + "test_linear_neuron.py"],
        "reduced_models/critical_deltas.py": [_MODELS + "test_isotropic_gaussian.py"],
        "reduced_models/isotropic_gaussian.py": [_MODELS + "test_isotropic_gaussian.py"],
    },
    "comparison": {
        "validation/comparison/bands.py": [_COMPARISON + "test_compare.py"],
        "validation/comparison/small_samples.py": [_COMPARISON + "test_compare.py"],
        "validation/comparison/statistics.py": [_COMPARISON + "test_compare.py", _COMPARISON + "test_statistics.py"],
        "validation/comparison/more_statistics.py": [_COMPARISON + "test_more_statistics.py"],
    },
}


class Tests:
    """The collected tests, run one by one in copies of this process."""

    def __init__(self, session: pytest.Session):
        self.session = session

    def of(self, paths: Sequence[str]) -> list[pytest.Item]:
        """Return the tests of files, or those that are named."""
        return [item for item in self.session.items if item.nodeid.startswith(tuple(paths))]

    def reached(self, file: str, items: list[pytest.Item]) -> dict[str, tuple[float, set[int]]] | None:
        """Return for each test its processor seconds and the lines of a file that it reaches; None if one fails."""
        with tempfile.TemporaryDirectory(prefix="wgflow-mutants-") as place:
            data = str(Path(place) / "lines")

            def noted() -> None:
                seconds, measured = {}, coverage.Coverage(data_file=data, config_file=False, include=[str(ROOT / file)])
                measured.start()
                for k, item in enumerate(items):
                    measured.switch_context(item.nodeid)
                    begin = time.process_time()
                    self._run(items[k:k + 2])
                    seconds[item.nodeid] = time.process_time() - begin
                measured.stop()
                measured.get_data().touch_file(str(ROOT / file))
                measured.save()
                Path(place, "seconds").write_text(json.dumps(seconds), encoding="utf-8")

            if self._forked(noted, 3600.0)[0] != "survived":
                return None
            seconds = json.loads(Path(place, "seconds").read_text(encoding="utf-8"))
            lines: dict[str, set[int]] = {name: set() for name in seconds}
            read = coverage.CoverageData(data)
            read.read()
            for line, names in read.contexts_by_lineno(str(ROOT / file)).items():
                for name in filter(None, names):
                    lines[name].add(line)
        return {name: (seconds[name], lines[name]) for name in seconds}

    def outcome(self, mutant: Mutant, text: str, items: list[pytest.Item], seconds: float) -> tuple[str, float]:
        """Return how tests end with a mutant in place: "survived", "killed" or "hung"; and processor seconds."""
        module = import_module("wgflow." + mutant.file.removeprefix("wgflow/").removesuffix(".py").replace("/", "."))

        def changed() -> None:
            put_in_place(module, text)
            for k in range(len(items)):
                self._run(items[k:k + 2])

        return self._forked(changed, seconds)

    def _run(self, items: list[pytest.Item]) -> None:
        """Run the first of the tests given; what the second needs is kept."""
        following = items[1] if len(items) > 1 else None
        self.session.config.hook.pytest_runtest_protocol(item=items[0], nextitem=following)

    @staticmethod
    def _forked(function, seconds: float) -> tuple[str, float]:
        begin = resource.getrusage(resource.RUSAGE_CHILDREN)
        child = os.fork()
        if not child:
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1), os.dup2(silent, 2)
            signal.signal(signal.SIGXCPU, signal.SIG_DFL)
            used = int(time.process_time())
            resource.setrlimit(resource.RLIMIT_CPU, (used + int(seconds) + 1, used + int(seconds) + 2))
            status = 1
            try:
                function()
                status = 0
            finally:
                os._exit(status)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
        return ("survived" if code == 0 else "hung" if code < 0 else "killed",
                end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime)


class Plugin:
    """What pytest calls in place of its own loop over the tests."""

    def __init__(self, given: argparse.Namespace):
        self.given, self.score = given, 2

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        session.config.option.maxfail = 1
        self.score = judged(Tests(session), self.given)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            os._exit(1)


def chosen(group: str, word: str) -> dict[str, list[str]]:
    return {file: tests for file, tests in TARGETS[group].items() if word in file}


def judged(tests: Tests, given: argparse.Namespace) -> int:
    """Print what becomes of each mutant of a group, and the score; return the status of the command."""
    counts = [0, 0, 0]
    for file, paths in chosen(given.group, given.only).items():
        found = judged_file(tests, file, paths, given)
        if found is None:
            return 2
        counts = [sum(pair) for pair in zip(counts, found)]
        print(f"{file}: {found[0]} of {found[1]} killed, {found[2]} more change no result", flush=True)
    score = counts[0] / max(1, counts[1])
    print(f"{given.group}: mutation score {score:.3f} ({counts[0]} of {counts[1]}); at least {LEAST}\n", flush=True)
    return int(score < LEAST)


def judged_file(tests: Tests, file: str, paths: list[str], given: argparse.Namespace) -> tuple[int, int, int] | None:
    """Return how many mutants were killed, of how many that change a result, and how many do not."""
    items = tests.of(paths)
    reached = tests.reached(file, items)
    if reached is None:
        print(f"{file}: without any mutant one of its tests fails")
        return None
    total = sum(seconds for seconds, _ in reached.values())
    print(f"{file}: {len(items)} tests take {total:.1f} s", flush=True)
    items.sort(key=lambda item: reached[item.nodeid][0])
    statements, killed, count, equal = Statements(file), 0, 0, 0
    for mutant in asked(file, given):
        text = mutant.text()
        difference = mutant.difference(text)
        if (file, difference.partition("\n+")[2].strip()) in EQUIVALENT:
            equal += 1
            continue
        lines = statements.lines(mutant.line)
        own = [item for item in items if lines is None or not reached[item.nodeid][1].isdisjoint(lines)]
        limit = 2 * sum(reached[item.nodeid][0] for item in own) + SECONDS
        outcome, seconds = tests.outcome(mutant, text, own, limit) if own else ("unseen", 0.0)
        count += 1
        killed += outcome in ("killed", "hung")
        print(f"{outcome}: {file}:{mutant.line} {mutant.operator[5:]}, {len(own)} tests, {seconds:.1f} s"
              + f"\n{difference}" * (outcome in ("survived", "unseen")), flush=True)
    return killed, count, equal


def asked(file: str, given: argparse.Namespace) -> list[Mutant]:
    """Return the mutants to be judged: drawn, or all those of the lines given."""
    if not given.lines:
        return drawn(file, given.mutants, given.seed)
    spans = [tuple(map(int, (part + "-" + part).split("-")[:2])) for part in given.lines.split(",")]
    return [mutant for mutant in places(file) if any(a <= mutant.line <= b for a, b in spans)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=40, help="mutants of each file")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="a word in the paths of the files")
    parser.add_argument("--lines", default="", help="every mutant of these lines, such as 40-60,75")
    parser.add_argument("--group", choices=TARGETS, help="one group, in this process")
    given = parser.parse_args()
    if given.group is None:
        groups = [group for group in TARGETS if chosen(group, given.only)]
        return max([subprocess.run([sys.executable, __file__, *sys.argv[1:], f"--group={group}"]).returncode
                    for group in groups], default=2)
    os.chdir(ROOT)
    plugin = Plugin(given)
    paths = sorted({path.split("::")[0] for tests in chosen(given.group, given.only).values() for path in tests})
    pytest.main(["-s", "-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", "-m", "not slow", "--hypothesis-seed=1",
                 *paths], [plugin])
    return plugin.score


if __name__ == "__main__":
    sys.exit(main())
