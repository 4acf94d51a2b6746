"""Files, checkpoints and locks where what POSIX has is missing, and open files can neither be replaced nor removed.

No Windows is at hand: a process of its own takes the names away that Windows lacks, before wgflow is imported, and
gives files and locks the rules of Windows.
"""

import subprocess
import sys
import textwrap

import pytest

#: What Python has on POSIX systems alone, by the documentation of its modules.
ELSEWHERE = """
import os, signal, sys

MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty")
NAMES = {
    os: ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY", "O_SYNC", "fork", "forkpty", "geteuid", "getuid",
         "getegid", "getgid", "getpgid", "killpg", "mkfifo", "chown", "fchown", "sched_getaffinity", "sysconf",
         "getloadavg", "uname", "fdatasync", "pread", "pwrite", "setsid", "nice", "posix_fallocate"),
    signal: ("SIGKILL", "SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGCHLD", "SIGSTOP", "SIGCONT",
             "alarm", "setitimer", "pthread_kill", "pthread_sigmask"),
}

# The libraries are their own business.
import filelock, numba, numpy, pydantic, scipy.fft, scipy.linalg, scipy.optimize, scipy.sparse.linalg, scipy.special
import concurrent.futures.process, multiprocessing.util, pathlib, shutil, tempfile, platform

try:
    import h5netcdf, h5py, xarray
    endings = (".npz", ".nc")
except ImportError:
    endings = (".npz",)

real = {name: getattr(os, name) for name in ("open", "read", "replace", "unlink", "kill")}
folder = sys.argv[1]
for name in MODULES:
    sys.modules[name] = None
for module, names in NAMES.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)


def is_open(path):
    # Whether this process has a file open: Windows then neither replaces nor removes it.
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            pass
    return os.path.realpath(path) in found


def shut(path):
    return os.path.realpath(path).startswith(os.path.realpath(folder)) and is_open(path)


def replace(source, target):
    if shut(source) or shut(target):
        raise PermissionError(13, "The process cannot access the file", str(target))
    real["replace"](source, target)


def unlink(path, *args, **kwargs):
    if shut(path):
        raise PermissionError(13, "The process cannot access the file", str(path))
    real["unlink"](path, *args, **kwargs)


def open_file(path, *args, **kwargs):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    return real["open"](path, *args, **kwargs)


def kill(pid, number):
    raise AssertionError("os.kill ends the process on Windows, whatever the signal")


def read(descriptor, size):
    # The first byte of a locked file is read by its holder alone.
    holder = Lock.held.get(os.fstat(descriptor).st_ino)
    if holder not in (None, descriptor) and os.lseek(descriptor, 0, os.SEEK_CUR) == 0:
        raise PermissionError(13, "Permission denied")
    return real["read"](descriptor, size)


class Lock:
    held = {}

    def __init__(self, path, timeout, thread_local, fallback_to_soft, on_acquired):
        self.path, self.on_acquired = path, on_acquired

    def acquire(self):
        self.descriptor = real["open"](self.path, os.O_RDWR | os.O_CREAT)
        self.key = os.fstat(self.descriptor).st_ino
        if self.key in Lock.held:
            os.close(self.descriptor)
            raise filelock.Timeout(self.path)
        Lock.held[self.key] = self.descriptor
        self.on_acquired(self.descriptor)

    def release(self):
        del Lock.held[self.key]
        os.close(self.descriptor)
        unlink(self.path)


class Windows(type(os)):
    name = "nt"

    def __getattr__(self, name):
        return getattr(os, name)


filelock.FileLock = Lock
import wgflow as wg
from wgflow import cli, reduced_models, solvers, testing, validation  # noqa: F401
from wgflow.files import archives, checkpoints, locks, snapshots, solutions, streams  # noqa: F401
from wgflow.compiled import stored_code  # noqa: F401

for name, module in list(sys.modules.items()):
    if name.split(".")[0] == "wgflow" and getattr(module, "os", None) is os:
        module.os = Windows("os")
os.replace, os.unlink, os.open, os.kill, os.read = replace, unlink, open_file, kill, read
os.chdir(folder)

grid = wg.Grid((-3, 3), cells=64)
energy = wg.Entropy(2.0) + wg.Potential(lambda x: x**2 / 2)
rho = wg.Density.gaussian(grid, 0.5, 0.3)
"""
TRIALS = {
    "save and load, over the same file, twice": """
        sol = wg.solve(energy, rho, (0, 0.5), t_eval=[0, 0.25, 0.5])
        for ending in endings:
            for _ in range(2):
                sol.save("run" + ending)
                back = wg.load("run" + ending)
                assert (back.final.values == sol.final.values).all()
                back.save("run" + ending)
        sol.to_csv("run.csv")
        sol.to_csv("run.csv")
        assert sorted(os.listdir()) == sorted(["run.csv", *("run" + ending for ending in endings)])
    """,
    "a run is stopped and resumed": """
        whole = wg.solve(energy, rho, (0, 1))
        part = wg.solve(energy, rho, (0, 1), stop=lambda t, law: t > 0.3, checkpoint="run.npz")
        assert 0.3 < part.t[-1] < 1 and wg.load("run.npz").t[-1] == part.t[-1]
        again = wg.resume("run.npz", energy=energy)
        assert (again.final.values == whole.final.values).all()
        assert os.listdir() == ["run.npz"]
    """,
    "a second run on the same checkpoint is refused": """
        def look(t, law):
            try:
                wg.solve(energy, rho, (0, 1), checkpoint="run.npz")
            except wg.StorageError as error:
                told.append(str(error))

        told = []
        wg.solve(energy, rho, (0, 1), checkpoint="run.npz", callback=look)
        assert told and all(f"locked by pid {os.getpid()}" in text for text in told), told[:1]
    """,
    "snapshots in a file, and in a folder": """
        sol = wg.solve(energy, rho, (0, 0.5), t_eval=[0, 0.25, 0.5], stream="laws.npy", checkpoint="run.npz")
        plain = wg.solve(energy, rho, (0, 0.5), t_eval=[0, 0.25, 0.5])
        assert (sol.densities[1].values == plain.densities[1].values).all()
        later = wg.resume("run.npz", t_end=0.7, energy=energy, stream="laws.npy")
        assert later.t[-1] == 0.7
        walk = validation.run_langevin(energy, rho, 20, [0.0, 0.1], rng=7, n_runs=2, dt=0.05, folder="walk")
        opened = validation.load_trajectories("walk")
        assert opened.coordinates.shape == (2, 2, 20, 1)
    """,
    "a file that another program reads for a moment is replaced": """
        sol = wg.solve(energy, rho, (0, 0.1))
        sol.save("run.npz")
        busy = [1, 1, 1]

        def reluctant(source, target):
            if busy:
                busy.pop()
                raise PermissionError(13, "The process cannot access the file", str(target))
            replace(source, target)

        os.replace = reluctant
        sol.save("run.npz")
        assert not busy and os.listdir() == ["run.npz"]
        archives.PATIENCE = (0.0, 0.0)
        busy[:] = [1] * 9
        try:
            sol.save("run.npz")
        except wg.StorageError as error:
            assert "run.npz" in str(error)
        else:
            raise AssertionError("nothing was said")
        assert len(busy) == 6 and os.listdir() == ["run.npz"]
        wg.load("run.npz")
    """,
}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at open files in /proc")
@pytest.mark.parametrize("trial", TRIALS)
def test_files_by_the_rules_of_windows(trial, tmp_path):
    script = tmp_path / "trial.py"
    script.write_text(ELSEWHERE + textwrap.dedent(TRIALS[trial]), encoding="utf-8")
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run([sys.executable, "-P", script, home], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
