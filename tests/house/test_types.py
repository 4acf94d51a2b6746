"""Types as a user's editor sees them: right scripts pass mypy, misspelled names and wrong arguments do not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

RIGHT = '''
import numpy as np

import wgflow as wg

grid = wg.Grid((-4, 4), cells=400)
energy = 2 * wg.Entropy(beta=4.0) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2) + wg.LowRank(lambda x: x[None])
rho0 = wg.Density.gaussian(grid, mean=0.5, cov=0.2)
sol = wg.solve(energy, rho0, (0, 2), t_eval=[1.0, 2.0])
print(sol.final.mean(), sol.energy[-1], sol.certificate.ok, sol.density(1.5).values.sum())
stepped = wg.solve(energy, rho0, (0, 2), method=wg.JKO(tau=0.1, inner=wg.solvers.Quantile(cells=300)))
number: float = stepped.jko_steps[0].energy
atoms = wg.solve(wg.Potential(np.cos) + wg.Entropy(), rho0, (0, 1), method=wg.Lagrangian(rng=7))
print(atoms.final.points.shape)
print(wg.load("run.npz").t, wg.resume("run.ckpt.npz", energy=energy, t_end=3.0).final)
model = wg.reduced_models.IsotropicGaussian(d=40, delta=0.5)
runs = wg.validation.run_sgd(model, 100, 1e-4, [0.0, 0.1], rng=7)
print(wg.validation.compare(sol, runs).verdict, wg.stationary(energy, grid).gap)
'''

WRONG = [
    ('wg.Densty.uniform(grid)', 'no attribute "Densty"'),
    ('wg.solve(energy, rho0, (0, 2), teval=[1.0])', '"teval"'),
    ('wg.solve(energy, rho0, (0, 2), method="JKO")', "No overload"),
    ('wg.solve(lambda x: x, rho0, (0, 2))', "No overload"),
    ('wg.JKO(tua=0.1)', '"tua"'),
    ('wg.JKO(tau=0.1, inner=3)', '"inner"'),
    ('sol.finl', 'no attribute "finl"'),
    ('sol.final.points', '"Density" has no attribute "points"'),
    ('sol.certificate.okay', 'no attribute "okay"'),
    ('wg.load(3.0)', '"load"'),
    ('wg.resume("run", enrgy=energy)', '"enrgy"'),
    ('wg.validation.compare(sol, sol, statistic=())', '"statistic"'),
    ('wg.validation.comparee', 'no attribute "comparee"'),
]


@pytest.fixture(scope="module")
def complaints(tmp_path_factory):
    """What mypy says of the two scripts: (file, line, message). The package is seen as it is once it is installed."""
    folder = tmp_path_factory.mktemp("user")
    package = folder / "site" / "wgflow"
    package.mkdir(parents=True)
    for entry in (ROOT / "wgflow").iterdir():
        (package / entry.name).symlink_to(entry)
    for name in ("solvers", "reduced_models", "validation"):
        (package / name).symlink_to(ROOT / name)
    start = RIGHT.strip().split("stepped")[0]
    (folder / "right.py").write_text(RIGHT, encoding="utf-8")
    (folder / "wrong.py").write_text(start + "\n".join(line for line, _ in WRONG), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file=", "--ignore-missing-imports", "--follow-imports=silent",
               "--cache-dir", str(folder / "cache"), "right.py", "wrong.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=folder,
                          env={"MYPYPATH": str(folder / "site"), "PATH": ""})
    assert done.returncode == 1, done.stdout + done.stderr
    found = re.findall(r"^(\w+\.py):(\d+): error: (.*)$", done.stdout, re.MULTILINE)
    return [(file, int(line) - start.count("\n") - 1 if file == "wrong.py" else int(line), text)
            for file, line, text in found]


@pytest.mark.slow
def test_a_right_script_is_not_complained_of(complaints):
    assert [c for c in complaints if c[0] == "right.py"] == []


@pytest.mark.slow
@pytest.mark.parametrize("k", range(len(WRONG)), ids=[line for line, _ in WRONG])
def test_a_wrong_line_is(k, complaints):
    line, words = WRONG[k]
    texts = [text for file, number, text in complaints if (file, number) == ("wrong.py", k)]
    assert any(words in text for text in texts), f"{line}: {texts}"
