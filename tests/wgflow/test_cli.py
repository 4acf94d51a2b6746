"""The command line: help, one-line errors, the demo with its cache, and what happens to damaged files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer

import wgflow as wg
from wgflow import cli
from wgflow.cli import main
from wgflow.validation.studies.demo import SGD_TIMES

SMALL = ["demo", "--neurons", "40", "--step-size", "1e-3", "--runs", "2", "--cells", "200"]


def run(capsys, *arguments):
    code = cli.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_lists_every_command(capsys):
    for arguments in ((), ("--help",)):
        code, out, _ = run(capsys, *arguments)
        assert code == 0
        for command in ("demo", "run", "resume", "cite", "reproduce", "sweep", "verify", "convergence", "warmup",
                        "versions"):
            assert command in out
    code, out, _ = run(capsys, "demo", "--help")
    assert code == 0
    for option in ("--out", "--neurons", "--step-size", "--runs", "--cells", "--seed", "--fresh"):
        assert option in out


def rows_of(command):
    """The rows of docs/command-line.md for the arguments and options of a command, in the words of its help."""
    for each in command.params:
        word = each.opts[0] if each.param_type_name == "option" else each.name.upper()
        default = each.default if each.default not in (None, False, "") else None
        shown = f"{default:g}" if isinstance(default, float) else str(default)
        yield f"| `{word}` | {each.help} | {'' if default is None else f'`{shown}`'} |"


def test_help_and_docs_have_the_same_commands_and_options_in_the_same_words():
    page = (Path(__file__).resolve().parents[2] / "docs" / "command-line.md").read_text(encoding="utf-8")
    group = typer.main.get_command(cli.app)
    commands = [f"| `wgflow {name}` | {each.help.rstrip('.')} |" for name, each in group.commands.items()]
    options = [f"| `wgflow {name}` {row}" for name, each in group.commands.items() for row in rows_of(each)]
    options += [f"| `wgflow` {row}" for row in rows_of(group)]
    assert len(commands) >= 12
    assert len(options) >= 35
    listed = [line for line in page.splitlines() if line.startswith("| `wgflow")]
    assert sorted(listed) == sorted(commands + options)


@pytest.mark.parametrize(("arguments", "words"), [
    (["dmeo"], "No such command 'dmeo'"),
    (["demo", "--nurons", "3"], "No such option"),
    (["demo", "--neurons", "many"], "--neurons"),
    (["demo", "--neurons", "0"], "--neurons"),
    (["demo", "--runs"], "--runs"),
    (["demo", "--seed", "-3"], "--seed"),
    (["versions", "extra"], "extra"),
])
def test_a_bad_option_gives_one_line(capsys, arguments, words):
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("wgflow: ")
    assert words in err


def test_bad_values_give_one_line(capsys, tmp_path):
    code, _, err = run(capsys, *SMALL, "--out", tmp_path, "--step-size", "-1")
    assert code == 2
    assert err.splitlines()[-1].startswith("wgflow: step_size=-1")
    (tmp_path / "file").write_text("")
    code, _, err = run(capsys, *SMALL, "--out", tmp_path / "file" / "below")
    assert code == 2
    assert "cannot use the folder" in err.splitlines()[-1]


def test_versions(capsys):
    code, out, _ = run(capsys, "versions")
    assert code == 0
    for name in ("python", "wgflow", "numpy", "scipy", "numba"):
        assert name in out


@pytest.mark.slow
def test_demo_writes_its_results_and_reuses_them(capsys, tmp_path, monkeypatch):
    # At this coarse step SGD's own bias may show: the verdict is either word, but it is consistent with the exit code.
    code, out, _ = run(capsys, *SMALL, "--out", tmp_path)
    assert (code == 0) == ("PASS" in out)
    assert ("FAIL: " in out) == (code == 1)
    files = sorted(p.name for p in tmp_path.iterdir())
    assert files[:3] == ["comparison.png", "report.txt", "sgd-" + files[2][4:]]
    assert len([f for f in files if f.startswith("sgd-")]) == 2
    assert not [f for f in files if f.endswith(".part")]
    for picture in ("comparison.png", "solution.png"):
        assert (tmp_path / picture).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    report = (tmp_path / "report.txt").read_text()
    assert "certificate: all checks passed" in report
    assert "W2 of r" in report

    from wgflow import validation

    calls = []
    real = validation.run_sgd
    monkeypatch.setattr("wgflow.validation.sgd_runs.run_sgd", lambda *a, **k: (calls.append(1), real(*a, **k))[1])
    code_again, _, _ = run(capsys, *SMALL, "--out", tmp_path)
    assert code_again == code
    assert calls == []
    assert (tmp_path / "report.txt").read_text() == report
    # One file damaged, one run more: exactly those two are computed, and the rest stays as it was.
    damaged = next(tmp_path.glob("sgd-*-1.npz"))
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    run(capsys, *SMALL, "--out", tmp_path, "--runs", "3")
    assert len(calls) == 2
    with np.load(damaged, allow_pickle=False) as data:
        assert data["coordinates"].shape == (len(SGD_TIMES), 40, 1)
    # Other settings are other files.
    run(capsys, *SMALL, "--out", tmp_path, "--seed", "9")
    assert len(calls) == 4


AFTER_WARMUP = """
import numpy as np
from numba.core import event

import wgflow as wg

class Listener(event.Listener):
    def on_start(self, ev):
        print("compiled:", ev.data["dispatcher"].__name__, ev.data["args"])

    def on_end(self, ev):
        pass

event.register("numba:compile", Listener())
well = wg.Potential(lambda *x: x[0] ** 4 / 4 - x[0] ** 2 / 2 + sum(c * c for c in x[1:]))
bump = wg.Interaction(wg.Convolution(lambda *z: -np.exp(-sum(c * c for c in z))))
line, space = wg.Grid((-3, 3), cells=50), wg.Grid([(-2, 2)] * 3, cells=(8, 9, 10))
plane = wg.Grid([(-2, 2), (0, 1)], cells=(14, 12))
strip = wg.Grid([(-2, 2), (0, 1)], cells=(14, 12), boundary=("no-flux", "periodic"))
circle = wg.Grid((0, 6.3), cells=50, boundary="periodic")
laws = [wg.Density.from_function(grid, lambda *x: 1.1 + np.sin(sum(x))) for grid in (line, plane, strip, space, circle)]
box = wg.Density.from_function(line, lambda x: 1.0 * (abs(x) < 1))
noisy = well + wg.Entropy(4.0)
round_ = {2: wg.Potential(lambda x, y: x**4 / 4), 4: wg.Potential(lambda x: np.cos(2 * np.pi * x / 6.3))}
noises = [round_[k] + wg.Entropy(4.0) if k in round_ else noisy for k in range(5)]
driven = wg.Entropy(4.0) + wg.TimeDependent(lambda t: wg.Potential(lambda x: (x - t) ** 2))
runs = [(*pair, None) for pair in zip(noises, laws)] + [(noisy + bump, law, None) for law in laws[:2]]
runs += [(driven, laws[0], None), (well + wg.PowerEntropy(3.0), box, None)]
runs += [(well + wg.PowerEntropy(2.0), laws[1], None), (noisy, laws[0], wg.FiniteVolume(corrected=False))]
runs += [(noisy + bump, laws[0], wg.FiniteVolume(scheme="midpoint"))]
runs += [(*pair, wg.FiniteVolume(order=2)) for pair in zip(noises, laws)]
runs += [(energy, law, wg.JKO(0.1, inner)) for inner in ("quantile", "linearized", "back-and-forth", "entropic")
         for energy, law in ((noisy, laws[0]), (well + wg.PowerEntropy(2.0), box))]
runs += [(noisy, laws[1], wg.JKO(0.1, inner)) for inner in ("linearized", "back-and-forth", "entropic")]
runs += [(noisy, laws[0], wg.JKO(0.1, inner, order=2)) for inner in ("quantile", "linearized")]
for energy, law, method in runs:
    wg.solve(energy, law, (0.0, 0.2), method=method, throw=False)
print("ended after", len(runs), "runs")
"""


@pytest.mark.slow
def test_nothing_is_compiled_after_warmup(tmp_path):
    """Grids, energies and steps other than those of the warm-up take kernels that are stored."""
    subprocess.run([sys.executable, "-m", "wgflow.cli", "warmup"], check=True, capture_output=True, cwd=tmp_path)
    path = tmp_path / "runs.py"
    path.write_text(AFTER_WARMUP)
    done = subprocess.run([sys.executable, "-W", "ignore", str(path)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "ended after" in done.stdout
    assert "compiled:" not in done.stdout, done.stdout


@pytest.mark.slow
def test_the_installed_script(tmp_path):
    script = [sys.executable, "-m", "wgflow.cli"]
    done = subprocess.run([*script, "warmup"], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "compiled functions ready" in done.stdout
    done = subprocess.run([*script, "nothing"], capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_files_are_described_and_drawn(tmp_path, capsys):
    grid = wg.Grid((-4, 4), cells=60)
    energy, rho = wg.Entropy(1.0) + wg.Potential(lambda x: x**2 / 2), wg.Density.gaussian(grid, 0.5, 0.3)
    wg.solve(energy, rho, (0, 1)).save(tmp_path / "run.npz")
    wg.solve(energy, rho, (0, 9), checkpoint=tmp_path / "state.npz", stop=lambda t, law: t > 0.5)
    assert main(["info", str(tmp_path / "run.npz")]) == 0
    assert "certificate: all checks passed" in capsys.readouterr().out
    assert main(["info", str(tmp_path / "state.npz"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == 1
    assert found["t"][-1] > 0.5
    assert found["checks"]["completed"] is False
    assert main(["plot", str(tmp_path / "run.npz")]) == 0
    assert (tmp_path / "run.png").stat().st_size > 5000
    assert main(["plot", str(tmp_path / "run.npz"), "--out", str(tmp_path / "run.html")]) == 0
    assert (tmp_path / "run.html").exists()
    assert main(["plot", str(tmp_path / "none.npz")]) == 2
    assert "none.npz" in capsys.readouterr().err


@pytest.mark.parametrize(("call", "words"), [
    (["reproduce", "finite-widht"], "did you mean finite-width?"),
    (["verify", "--family", "heta"], "did you mean heat?"),
])
def test_unknown_names_are_answered_with_the_nearest(call, words, capsys):
    assert main(call) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_python_m_wgflow():
    done = subprocess.run([sys.executable, "-m", "wgflow", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"wgflow {wg.__version__}\n"
