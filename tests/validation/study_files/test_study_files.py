"""Studies in TOML by the command line: right solutions, a line for each fault before anything is computed, restart."""

from __future__ import annotations

import contextlib
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import wgflow as wg
from wgflow import cli
from wgflow.errors import StorageError, WGFlowError
from wgflow.validation.study_files.reading import json_schema
from wgflow.validation.study_files.study import MODELS, load_study

PAGE = Path(__file__).resolve().parents[3] / "docs" / "command-line.md"
STUDY = """
[grid]
bounds = [-4, 4]
cells = 60

[energy]
beta = 2.0
potential = "x**4/4 - x**2/2"

[start]
mean = 0.5
cov = 0.2

[solve]
t_end = 0.5

[output]
folder = "results"
picture = false
"""
MODEL = """
[model]
name = "IsotropicGaussian"
d = 40
delta = 0.4
beta = 100
ridge = 0.1
kappa = 0.8
cells = 60
[solve]
t_end = 0.1
t_eval = [0, 0.1]
[output]
folder = "results"
picture = false
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "study.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = cli.main([str(each) for each in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_the_study_of_the_page_runs_as_the_page_says(run, write, tmp_path):
    page = PAGE.read_text(encoding="utf-8")
    study = write(re.search(r"^```toml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)[1])
    code, out, err = run("run", "--check", study)
    assert (code, out) == (0, f"{study} is in order\n"), err
    assert not (tmp_path / "out").exists()
    code, out, err = run("run", study)
    assert code == 0, err
    assert out.startswith("Two wells with attraction\n")
    assert "certificate: all checks passed" in out
    files = {path.name for path in (tmp_path / "out" / "run" / "study").iterdir() if not path.name.startswith(".")}
    assert files == {"solution.npz", "density.csv", "solution.png", "report.txt", "checkpoint.npz"}
    grid = wg.Grid((-4, 4), cells=200)
    energy = (wg.Entropy(4.0) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2)
              + wg.Interaction(wg.Convolution(lambda z: z**2 / 2)))
    expected = wg.solve(energy, wg.Density.gaussian(grid, 0.3, 0.2), (0, 2.0), t_eval=[0, 0.5, 1, 1.5, 2])
    found = wg.load(tmp_path / "out" / "run" / "study" / "solution.npz")
    np.testing.assert_array_equal(found.t, expected.t)
    np.testing.assert_array_equal(found.final.values, expected.final.values)
    for command in ("info", "cite"):
        code, out, err = run(command, tmp_path / "out" / "run" / "study" / "checkpoint.npz", "--json")
        assert code == 0, err
        assert json.loads(out)


def test_the_page_names_every_key():
    page, schema = PAGE.read_text(encoding="utf-8"), json_schema()
    rows = {row[0].strip(" `[]"): set(re.findall(r"`([\w]+)`", row[1])) for row in
            (line.strip("| ").split("|") if not line.startswith("| |") else ["", *line.strip("| ").split("|")]
             for line in page.splitlines() if line.startswith("|"))}
    tables = {name: schema["$defs"][f"{name.capitalize()}Table"]["properties"] for name in
              ("grid", "energy", "start", "solve", "compare", "output")}
    for name, keys in tables.items():
        assert rows[name] == set(keys), name
    assert rows["model"] == {"name"}
    models = [name for name, row in rows.items() if name in MODELS]
    assert models == [each["$ref"].rpartition("/")[2].removesuffix("Table") for each in
                      schema["properties"]["model"]["anyOf"][0]["oneOf"]] == list(MODELS)
    for name in models:
        assert rows[name] | {"name"} == set(schema["$defs"][f"{name}Table"]["properties"]), name
        assert all(shape.get("description") or key == "name" for key, shape in
                   schema["$defs"][f"{name}Table"]["properties"].items())
    assert rows[""] == {"title"}
    assert set(schema["properties"]) == {"title", "model", *tables}
    for properties in [*tables.values(), schema["properties"]]:
        assert all(shape["description"] for shape in properties.values())


def test_the_page_names_every_command_and_option():
    from typer.main import get_command

    page = PAGE.read_text(encoding="utf-8")
    commands = get_command(cli.app).commands
    assert {f"wgflow {name}" for name in commands if name != "versions"} <= set(re.findall(r"wgflow [a-z]+", page))
    for name, command in commands.items():
        told = [option for each in command.params for option in each.opts if option.startswith("--")]
        assert [option for option in told if not re.search(rf"{option}\b", page)] == [], name
        assert all(each.help for each in command.params), name


def test_the_schema_is_printed_as_json(run):
    code, out, _ = run("run", "--schema")
    assert code == 0
    assert json.loads(out)["properties"]["solve"]


@pytest.mark.parametrize("method", ["FiniteVolume", "JKO", "Lagrangian", "FiPy"])
def test_methods_have_the_settings_that_studies_name(method):
    from dataclasses import fields

    known = {field.name for field in fields(getattr(wg, method))}
    assert set(json_schema()["$defs"][f"{method}Table"]["properties"]) - {"name"} <= known


def test_a_model_is_solved_as_by_hand(run, write, tmp_path):
    code, out, err = run("run", write(MODEL), "--json")
    assert code in (0, 1), err
    told = json.loads(out)
    model = wg.reduced_models.IsotropicGaussian(d=40, delta=0.4)
    grid = model.grid(cells=60, kappa=0.8, beta=100.0, ridge=0.1, t_end=0.1)
    expected = wg.solve(model.energy(100.0, 0.1), model.initial_density(0.8, grid), (0, 0.1), t_eval=[0, 0.1],
                        time_scale=model.time_scale)
    np.testing.assert_array_equal(wg.load(tmp_path / "results" / "solution.npz").final.values, expected.final.values)
    assert told["energy"] == expected.energy.tolist()
    assert code == (0 if expected.certificate.ok else 1)


@pytest.mark.parametrize("kind", [pytest.param("model", marks=pytest.mark.slow), "energy"])
def test_particles_are_compared_with_the_solution(run, write, tmp_path, kind):
    # A longer step would show its own bias.
    text = MODEL if kind == "model" else STUDY.replace("t_end = 0.5", "t_end = 0.5\nt_eval = 3")
    text = text.replace("cells = 60", "cells = 200").replace("t_end = 0.1\nt_eval = [0, 0.1]",
                                                             "t_end = 0.05\nt_eval = [0, 0.05]")
    particles = f"[compare]\nn_particles = 200\nseed = 5\n{'step_size = 2e-5' if kind == 'model' else ''}\n[output]"
    code, out, err = run("run", write(text.replace("[output]", particles)), "--json")
    told = json.loads(out)
    assert (code, told["comparison"]["passed"]) == (0, True), out + err
    assert (tmp_path / "results" / "comparison.txt").read_text().startswith(told["comparison"]["verdict"])
    # Of another flow they are not the particles.
    other = load_study(write(text.replace("[output]", particles)))
    wrong = wg.Density.from_values(other.rho0.grid, other.rho0.values[::-1], normalize=True)
    solution = wg.solve(other.energy, wrong, (0, other.t_end), t_eval=other.t_eval, time_scale=other.time_scale)
    assert not other.compare(solution).passed


def test_two_axes_functions_in_files_and_methods(write, tmp_path):
    (tmp_path / "model.py").write_text("import numpy as np\ndef V(u, v):\n    return u**2/2 + v**2\n"
                                       "def rho(u, v):\n    return np.exp(-u**2 - v**2)\n"
                                       "def W(a, b):\n    return -np.exp(-a**2 - b**2)\n")
    formulas = write("""
[grid]
bounds = [[-4, 4], [-3, 3]]
cells = [20, 16]
names = ["u", "v"]
boundary = ["infinity", ["no-flux", "infinity"]]
[energy]
potential = "u**2/2 + v**2"
interaction = "-exp(-z1**2 - z2**2)"
power = 2
[start]
formula = "exp(-u**2 - v**2)"
[solve]
t_end = 1
method = {name = "JKO", tau = 0.1, inner = "entropic"}
""")
    first = load_study(formulas)
    text = formulas.read_text().replace('potential = "u**2/2 + v**2"', 'potential_file = "model.py:V"')
    text = text.replace('interaction = "-exp(-z1**2 - z2**2)"', 'interaction_file = "model.py:W"')
    second = load_study(write(text.replace('formula = "exp(-u**2 - v**2)"', 'file = "model.py:rho"')))
    np.testing.assert_array_equal(first.rho0.values, second.rho0.values)
    assert first.energy(first.rho0) == second.energy(second.rho0)
    assert first.rho0.grid.names == ("u", "v")
    assert first.rho0.grid.open_ends == ((True, True), (False, True))
    assert first.method == wg.JKO(tau=0.1, inner="entropic")


BOX = """
[grid]
bounds = [-4, 4]
cells = 60
[energy]
beta = 1.0
potential = "x**2/2"
[start]
mean = 1.0
cov = 0.2
[solve]
t_end = 1.0
"""


@pytest.mark.parametrize(("words", "settings"), [
    ('time_scale = "1 + t"', {"time_scale": lambda t: 1 + t}),
    ("time_scale = 2.0", {"time_scale": 2.0}),
    ('mobility = "1 + x**2"', {"mobility": lambda x: 1 + x**2}),
    ("mobility = [2.0]", {"mobility": [2.0]}),
    ("stop = {stationary = 0.1, energy_below = -10.0}",
     {"stop": [wg.stop.stationary(0.1), wg.stop.energy_below(-10.0)]}),
    ('method = {name = "FiPy", dt = 0.1}', {"method": wg.FiPy(dt=0.1)}),
    ('method = {name = "Lagrangian", n_particles = 40, rng = 7, dt = 0.1}',
     {"method": wg.Lagrangian(n_particles=40, rng=7, dt=0.1)})])
def test_what_solve_takes_a_study_takes(write, words, settings):
    ours = load_study(write(BOX + words)).run()
    energy = wg.Entropy(1.0) + wg.Potential(lambda x: x**2 / 2)
    theirs = wg.solve(energy, wg.Density.gaussian(wg.Grid((-4, 4), cells=60), 1.0, 0.2), (0, 1), **settings)
    assert ours.t[-1] == theirs.t[-1]
    ours, theirs = (sol.final.points if sol.is_atomic else sol.final.values for sol in (ours, theirs))
    assert np.array_equal(ours, theirs)


def test_a_run_with_functions_of_the_study_goes_on(write, tmp_path):
    study = load_study(write(BOX + 'time_scale = "1 + t"\nmobility = "1 + x**2"\n[output]\nfolder = "out"'))
    whole = study.run()
    study.checkpoint_file.unlink()
    part = wg.solve(study.energy, study.rho0, (0, 1), study.method, time_scale=study.time_scale,
                    mobility=study.mobility, checkpoint=study.checkpoint_file, stop=lambda t, rho: t > 0.3)
    assert part.t[-1] < 1
    assert np.array_equal(study.resume(study.checkpoint_file).final.values, whole.final.values)


def test_a_singular_kernel_asks_for_averages(write):
    text = STUDY.replace("beta = 2.0", 'beta = 2.0\ninteraction = "-log(abs(z))"')
    with pytest.raises(wg.InvalidInput, match=r"in \[energy\]: interaction is inf at displacement 0; with inter"):
        load_study(write(text))
    study = load_study(write(text.replace("beta = 2.0", "beta = 2.0\ninteraction_average = true")))
    expected = (wg.Entropy(2.0) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2)
                + wg.Interaction(wg.interactions.log(-1.0)))(study.rho0)
    assert study.energy(study.rho0) == pytest.approx(expected, rel=1e-9)


FAULTS = [
    ("beta = 2.0", "bta = 2.0", "unknown key 'bta' in [energy]: did you mean 'beta'?"),
    ("beta = 2.0", "frobnicate = 2.0", "unknown key 'frobnicate' in [energy]: there are beta, power, potential"),
    ("[energy]", "[enrgy]", "unknown key 'enrgy' in the study: did you mean 'energy'?"),
    ("beta = 2.0", 'beta = "2"', "beta = '2' in [energy]: need a finite number > 0"),
    ("beta = 2.0", "beta = nan", "beta = nan in [energy]: need a finite number"),
    ("beta = 2.0", "beta = inf", "beta = inf in [energy]: need a finite number"),
    ("beta = 2.0", "beta = true", "beta = true in [energy]: need a finite number"),
    ("beta = 2.0", "beta = -1", "beta = -1 in [energy]: need a finite number > 0"),
    ("beta = 2.0", "beta = 1979-05-27", "in [energy]: need a finite number > 0"),
    ("beta = 2.0", "beta = 2\nbeta = 3", "is not a TOML file: a key or a table is given twice"),
    ("beta = 2.0", "[grid]", "is not a TOML file: a key or a table is given twice"),
    ("beta = 2.0", "beta = 2,0", "is not a TOML file"),
    ("beta = 2.0", "beta = " + "[" * 3000, "is not a TOML file"),
    ("beta = 2.0", "power = 1", "in [energy]: m=1 is the entropy"),
    ('beta = 2.0\npotential = "x**4/4 - x**2/2"', "", "[energy] is empty: need at least one of beta"),
    ("beta = 2.0", "interaction_average = true", "there is no interaction; leave it out"),
    ("x**4/4", "__import__('os')", "potential in [energy] = \"__import__('os') - x**2/2\": name '__import__' is not"),
    ("x**4/4", "y", "name 'y' is not known in a formula; "),
    ("x**4/4", "log(x)", "in [energy]: V is nan at (-3.93333)"),
    ("beta = 2.0", 'interaction = "z"', "in [energy]: W not even"),
    ("beta = 2.0", 'potential_file = "a.py:V"', "potential and potential_file in [energy]: leave one of them out"),
    ("beta = 2.0", 'interaction_file = "no.py:V"', "in [energy]: cannot read"),
    ("beta = 2.0", 'interaction_file = "broken.py:V"', "cannot be imported: SyntaxError"),
    ("beta = 2.0", 'interaction_file = "empty.py:V"', "has no function V"),
    ("beta = 2.0", 'interaction_file = "empty.py"', 'need a function of the displacement in a Python file, "file.py:'),
    ("cells = 60", "", "[grid] needs cells, an integer >= 2"),
    ("cells = 60", "cells = 2.5", "cells = 2.5 in [grid]: need an integer >= 2, or a list with one for each axis"),
    ("cells = 60", "cells = [60, 'a']", "cells = [60, 'a'] in [grid]: need"),
    ("cells = 60", "cells = " + "9" * 400, "cells = 1e400 in [grid]: need"),
    ("cells = 60", "cells = 2000000000000", "in [grid]: cells=(2000000000000,): a solve with so many cells needs"),
    ("cells = 60", 'cells = 60\nboundary = "no-flx"', "boundary = 'no-flx' in [grid]: did you mean 'no-flux'?"),
    ("cells = 60", 'cells = 60\nboundary = ["periodic", "no-flux"]', "in [grid]: boundary has 2 entries, the grid 1"),
    ("cells = 60", 'cells = 60\nnames = ["exp"]', "in [energy]: a coordinate cannot be called 'exp'"),
    ("[-4, 4]", "[4, -4]", "in [grid]: bounds[0]: lo=4 must be < hi=-4"),
    ("[-4, 4]", "[[-4, 4], [1]]", "bounds = [[-4, 4], [1]] in [grid]: need a pair [lo, hi], or a list"),
    ("cov = 0.2", "", "[start] needs cov too"),
    ("cov = 0.2", "cov = 0.2\nuniform = true", "[start] has mean and cov and uniform: need mean and cov, or uniform"),
    ("mean = 0.5\ncov = 0.2", "", "[start] is empty: need mean and cov, or uniform, or formula, or file"),
    ("mean = 0.5\ncov = 0.2", 'formula = "x"', "in [start]: function is -3.9"),
    ("mean = 0.5", "mean = [1, 2]", "in [start]: mean has shape (2,)"),
    ("t_end = 0.5", "", "[solve] needs t_end, a finite number > 0"),
    ("t_end = 0.5", "t_end = 0", "t_end = 0 in [solve]: need a finite number > 0"),
    ("t_end = 0.5", "t_end = 0.5\nt_eval = [0, 3]", "in [solve]: t_eval runs from 0 to 3"),
    ("t_end = 0.5", "t_end = 0.5\nt_eval = 100000000000", "t_eval = 100000000000 in [solve]: need a list"),
    ("t_end = 0.5", "t_end = 0.5\ntol = 2", "tol=2: need a number between"),
    ("t_end = 0.5", 't_end = 0.5\nmethod = "JKO"', "method = 'JKO' in [solve]: need a table with name"),
    ("t_end = 0.5", 't_end = 0.5\nmethod = {name = "JK0"}', "name = 'JK0' in [solve.method]: did you mean 'JKO'?"),
    ("t_end = 0.5", "t_end = 0.5\nmethod = {tau = 1}", '[solve.method] needs name = "FiniteVolume" or "JKO" or'),
    ("t_end = 0.5", 't_end = 0.5\nmethod = {name = "JKO", tau = 1, order = true}', "order = true in [solve.method]:"),
    ("mean = 0.5\ncov = 0.2", "uniform = 1", "uniform = 1 in [start]: need true"),
    ("mean = 0.5\ncov = 0.2", "uniform = false", "uniform = false in [start]: leave it out"),
    ("t_end = 0.5", 't_end = 0.5\nmethod = {name = "JKO"}', "[solve.method] needs tau, a finite number > 0, the step"),
    ("t_end = 0.5", 't_end = 0.5\nmethod = {name = "JKO", tau = 1, inr = 1}', "'inr' in [solve.method]: did you mean"),
    ("t_end = 0.5", 't_end = 0.5\nmethod = {name = "JKO", tau = 1, inner = "entropc"}', "did you mean 'entropic'?"),
    ("t_end = 0.5", 't_end = 0.5\ntol = 1e-3\nmethod = {name = "JKO", tau = 1}', "tol = 0.001 in [solve]: it belongs"),
    ("t_end = 0.5", 't_end = 0.5\ntol = 1e-3\nmethod = {name = "FiniteVolume", tol = 1e-3}', "leave one of them out"),
    ("[output]", "[compare]\nn_particles = 9\nseed = 1\n[output]", "[compare] needs t_eval in [solve]"),
    ("[output]", "[compare]\nn_particles = 9\n[output]", "[compare] needs seed, an integer >= 0"),
    ('folder = "results"', 'files = ["png"]', "files = ['png'] in [output]: need a list of"),
    ("[output]", '[model]\nname = "IsotropicGaussian"\nd = 4\ndelta = 0.4\nkappa = 1\n[output]', "beside [model]:"),
]


@pytest.mark.parametrize(("old", "new", "words"), FAULTS, ids=range(len(FAULTS)))
def test_a_fault_has_a_line_and_nothing_is_computed(run, write, tmp_path, old, new, words):
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "broken.py").write_text("def V(x:\n")
    assert old in STUDY
    study = write(STUDY.replace(old, new))
    code, out, err = run("run", study)
    assert (code, out) == (2, "")
    line = next((line for line in err.splitlines() if words in line), None)
    assert line, err
    assert all(str(study) in each for each in err.splitlines())
    assert not (tmp_path / "results").exists()


def test_all_faults_of_the_tables_are_told_at_once(run, write):
    code, _, err = run("run", write(STUDY.replace("beta", "bta").replace("cells = 60", "cells = 1.5")))
    assert code == 2
    assert len(err.splitlines()) == 2
    assert "bta" in err
    assert "1.5" in err


PLAIN = st.one_of(st.integers(-(10**20), 10**20), st.integers(-3, 70), st.floats(), st.booleans(),
                  st.sampled_from(["", "JKO", "periodic", "x", "npz", "a.py:b", "x**", "\u00e9"]))
VALUES = st.recursive(PLAIN, lambda inner: st.one_of(
    st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["name", "tau", "a"]), inner, max_size=2)),
    max_leaves=4)
KEYS = sorted({key for table in json_schema()["$defs"].values() for key in table["properties"]}
              | set(json_schema()["properties"]) | {"a.b"})


def in_toml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {in_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(in_toml, value)) + "]"
    return json.dumps(value) if isinstance(value, (bool, str)) else repr(value)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(STUDY.splitlines() + MODEL.splitlines()), st.sampled_from(KEYS), VALUES)
def test_no_value_of_any_key_raises_a_foreign_exception(tmp_path, line, key, value):
    for text in (STUDY, MODEL):
        (tmp_path / "study.toml").write_text(text.replace(line, f"{line}\n{key} = {in_toml(value)}"), encoding="utf-8")
        with contextlib.suppress(WGFlowError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load_study(tmp_path / "study.toml")


def test_what_is_no_study_is_refused(run, tmp_path):
    assert run("run")[0] == 2
    for content, words in ((b"\xff\xfe", "not a TOML file"), (b" " * 1_000_001, "larger than 1000000 bytes")):
        (tmp_path / "bad.toml").write_bytes(content)
        code, _, err = run("run", tmp_path / "bad.toml")
        assert code == 2
        assert words in err
    for place in ("missing.toml", "."):
        assert run("run", place)[0] == 2


def test_a_stopped_run_goes_on_with_the_same_bits(run, write, tmp_path):
    code, _, err = run("run", write(STUDY))
    assert code == 0, err
    straight = wg.load(tmp_path / "results" / "solution.npz")
    limited = write(STUDY.replace("t_end = 0.5", 't_end = 0.5\nmethod = {name = "FiniteVolume", max_steps = 3}'))
    code, out, err = run("run", limited)
    assert code == 1, err
    assert "go on with: wgflow resume" in out
    assert wg.load(tmp_path / "results" / "solution.npz").t[-1] < 0.5
    checkpoint = tmp_path / "results" / "checkpoint.npz"
    other = write(STUDY.replace("beta = 2.0", "beta = 2.1"))
    code, _, err = run("resume", checkpoint, other)
    assert code == 2
    assert len(err.splitlines()) == 1
    study = write(STUDY)
    code, out, err = run("resume", checkpoint, study, "--json")
    assert code == 0, err
    assert json.loads(out)["status"] == 0
    np.testing.assert_array_equal(wg.load(tmp_path / "results" / "solution.npz").final.values, straight.final.values)
    # A later end is gone on to.
    later = write(STUDY.replace("t_end = 0.5", "t_end = 0.7\nt_eval = [0, 0.6, 0.7]"))
    code, _, err = run("resume", checkpoint, later)
    assert code == 0, err
    assert {0.6, 0.7} <= set(wg.load(tmp_path / "results" / "solution.npz").t)
    with pytest.raises(StorageError):
        load_study(later).resume(tmp_path / "results" / "solution.npz")
