"""Build wheel and sdist, look into them, install the wheel in new environments, and try it there (`make dist-check`).

Every Python from 3.11 on is used that is found on the path or below ~/.pyenv/versions; packages come from the index
that pip is set up with. A line is printed for each; the exit code is 1 if one failed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("wgflow", "solvers", "reduced_models", "validation")
OLDEST = (3, 11)

#: What an installation must be able to do, outside of the repository.
TRIAL = """
import sys, tempfile
from pathlib import Path
import numpy as np
import wgflow as wg
assert Path(wg.__file__).is_relative_to(sys.prefix), wg.__file__
grid = wg.Grid((-5, 5), cells=100)
energy = wg.Entropy(beta=1.0) + wg.Potential(lambda x: x**2 / 2)
sol = wg.solve(energy, wg.Density.gaussian(grid, 2.0, 0.25), (0, 1))
assert abs(sol.final.mean() - 2 * np.exp(-1)) < 1e-3 and sol.certificate.ok
path = Path(tempfile.mkdtemp()) / "run.npz"
sol.save(path)
assert np.array_equal(wg.load(path).final.values, sol.final.values)
sol.plot(path.with_suffix(".png"))
model = wg.reduced_models.IsotropicGaussian(d=20, delta=0.5)
assert abs(model.risk(model.initial_density(0.8, model.grid(cells=200))) - model.initial_risk(0.8)) < 1e-2
assert "wgflow" in wg.cite(sol) and (Path(wg.__file__).parent / "py.typed").is_file()
for name in wg.__all__:
    getattr(wg, name)
print("numpy", np.__version__, "numba", __import__("numba").__version__)
"""


def run(*command: object, **options) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))[:200]}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}")
    return done.stdout.strip()


def pythons() -> dict[tuple[int, int], Path]:
    """The interpreters from `OLDEST` on, one for each version."""
    candidates = [Path(sys.executable), *sorted((Path.home() / ".pyenv" / "versions").glob("3.*/bin/python"))]
    candidates += [Path(found) for minor in range(OLDEST[1], 20) if (found := shutil.which(f"python3.{minor}"))]
    found: dict[tuple[int, int], Path] = {}
    for path in candidates:
        code = "import sys, venv, ensurepip; print(*sys.version_info[:2])"
        done = subprocess.run([path, "-c", code], capture_output=True, text=True)
        if done.returncode == 0:
            version = tuple(map(int, done.stdout.split()))
            if version >= OLDEST:
                found.setdefault(version, path)  # type: ignore[arg-type]
    return dict(sorted(found.items()))


def look_into(wheel: Path, sdist: Path) -> None:
    """The wheel has each module and nothing else; the sdist has what the wheel is built from, and the tests."""
    inside = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    expected = {name if name.startswith("wgflow/") else f"wgflow/{name}" for name in modules} | {"wgflow/py.typed"}
    packed = {name for name in inside if ".dist-info/" not in name}
    if packed != expected:
        raise RuntimeError(f"the wheel lacks {sorted(expected - packed)}, has besides {sorted(packed - expected)}")
    if not any(name.endswith("/licenses/LICENSE") for name in inside):
        raise RuntimeError("the wheel has no license")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    missing = (modules | {"pyproject.toml", "setup.cfg", "README.md", "LICENSE"}) - names
    if missing:
        raise RuntimeError(f"the sdist lacks {sorted(missing)}")


def try_out(python: Path, wheel: Path, scratch: Path) -> str:
    """Install the wheel in a new environment and run `TRIAL` there; return what it prints."""
    home = scratch / f"venv-{python.name}-{time.time_ns()}"
    run(python, "-m", "venv", home)
    inside = home / ("Scripts" if os.name == "nt" else "bin")
    run(inside / "python", "-m", "pip", "--disable-pip-version-check", "--quiet", "install", wheel)
    run(inside / "python", "-m", "pip", "check")
    settings = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    settings["NUMBA_CACHE_DIR"] = str(home / "cache")
    printed = run(inside / "python", "-c", TRIAL, cwd=scratch, env=settings)
    return f"{printed}, {run(inside / 'wgflow', '--version', cwd=scratch, env=settings)}"


def main() -> int:
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        # From a copy, as of a commit: setuptools leaves build/ and *.egg-info beside the sources.
        copy = scratch / "copy"
        leave = shutil.ignore_patterns(".*", "build", "dist", "out", "*.egg-info", "__pycache__", "_build")
        shutil.copytree(ROOT, copy, ignore=leave)
        # The wheel is built from the sdist, so that the sdist is known to be complete.
        run(sys.executable, "-P", "-m", "build", "--outdir", scratch / "dist", copy)
        wheel, sdist = next((scratch / "dist").glob("*.whl")), next((scratch / "dist").glob("*.tar.gz"))
        look_into(wheel, sdist)
        print(f"{wheel.name} {wheel.stat().st_size / 1e3:.0f} kB, {sdist.name} {sdist.stat().st_size / 1e3:.0f} kB")
        for version, python in pythons().items():
            start = time.perf_counter()
            try:
                words = try_out(python, wheel, scratch)
            except RuntimeError as error:
                failed, words = True, f"FAILED: {error}"
            print(f"python {version[0]}.{version[1]}: {words} ({time.perf_counter() - start:.0f} s)", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
