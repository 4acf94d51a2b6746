"""The catalogue run and judged: what passes, what must not, the table, the files, the command line."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest

import wgflow as wg
from wgflow import cli
from wgflow.errors import InvalidInput, StorageError
from wgflow.validation import exact
from wgflow.validation.verification import runs as verification
from wgflow.validation.verification import verify
from wgflow.validation.verification.catalogue import Case, CollapseCase, DistanceCase, catalogue, families


def only(monkeypatch, *cases):
    monkeypatch.setattr(verification, "catalogue", lambda: cases)
    monkeypatch.setattr(verification, "families", lambda: tuple(case.family for case in cases))


def test_the_catalogue_names_every_family_once():
    cases = catalogue()
    assert len({(case.family, case.name) for case in cases}) == len(cases)
    shown = {type(case.problem) for case in cases}
    every = {getattr(exact, name) for name in exact.__all__} - {
        exact.ExactProblem, exact.StateProblem, exact.ExactDistance, exact.GaussianPair}
    assert shown == every
    assert all(isinstance(case, DistanceCase) or case.problem.has_jko_steps for case in cases
               if getattr(case, "jko", None))
    assert set(families()) == {case.family for case in cases}


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted({case.family for case in catalogue() if not case.slow}))
def test_families_pass_at_the_quick_scale(family):
    shares = []
    found = verify(family, quick=True, report=shares.append)
    assert found.passed, found.table()
    assert found.verdict.startswith("PASS: ")
    assert {case.family for case in found.cases} == {family}
    assert all(case.cells[-1] <= 201 for case in found.cases)
    assert shares[-1] == 1.0
    assert shares == sorted(shares)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in catalogue() if isinstance(case, Case) and case.ndim == 2],
                         ids=lambda case: f"{case.family}-{case.name}".replace(" ", "-"))
def test_planes_pass(case, monkeypatch):
    only(monkeypatch, case)
    # The order of a jump shows on larger grids than a test has time for.
    found = verify(cells=(64,) if case.name == "disk" else (32, 40, 48, 64, 80))
    assert found.passed, found.table()


def test_a_wrong_equation_fails(monkeypatch):
    """A diffusion three per cent too strong: the errors, the order and the verdict show it."""

    class Wrong(exact.OrnsteinUhlenbeck):
        def energy(self):
            return super().energy() + wg.Entropy(1.0 / 0.03)

    only(monkeypatch, Case("wrong", "OU", Wrong(), (50, 71, 100, 141, 200), order=1.9, settings={"rtol": 1e-7}))
    found = verify()
    assert not found.passed
    words = " ".join(found.failures())
    assert "variance is off by" in words
    assert "observed order" in words
    assert found.table().splitlines()[-1].startswith("FAIL: 0 of 1")


def test_a_front_in_a_wrong_place_fails(monkeypatch):
    class Wrong(exact.Barenblatt):
        def front(self, t):
            return 1.1 * super().front(t)

    only(monkeypatch, Case("wrong", "front", Wrong(), (100,)))
    (words,) = verify().failures()
    assert "the front is" in words


def test_a_solver_error_is_a_failure_of_its_case(monkeypatch):
    class Broken(exact.Heat):
        def energy(self):
            return super().energy() + wg.Potential(lambda x: np.where(x > 0, np.nan, 0.0))

    only(monkeypatch, Case("broken", "heat", Broken(), (50, 71)))
    found = verify()
    (case,) = found.cases
    assert not case.passed
    assert case.failures[0].startswith("50 cells: ")
    assert "FAIL" in found.table()
    assert math.isnan(case.order)


def test_jko_steps_that_are_off_fail(monkeypatch):
    class Wrong(exact.OrnsteinUhlenbeck):
        def jko_step(self, state, tau):
            return super().jko_step(state, 1.1 * tau)

    only(monkeypatch, Case("wrong", "JKO", Wrong(), (200,), jko=(0.1, 3)))
    flow, jko = verify().cases
    assert flow.passed
    assert not jko.passed
    assert "mean is off" in jko.failures[0]


def test_a_blow_up_that_is_not_told_fails(monkeypatch):
    class Held(exact.KellerSegelLine):
        """Too weak an attraction to collapse, which pretends that it must."""

        collapse_time = 0.3

    only(monkeypatch, CollapseCase("told", "blow-up", exact.KellerSegelLine(attraction=3.0), (64, 100)),
         CollapseCase("not told", "blow-up", Held(attraction=0.5), (64,)))
    told, silent = verify().cases
    assert told.passed, told.failures
    assert told.mass_drift < 1e-13
    (words,) = silent.failures
    assert words.startswith("the blow-up was not reported on 64 cells")


def test_dataset_and_files(tmp_path):
    found = verify(["heat", "distances"], cells=(160, 80, 112), quick=True)
    data = found.to_dataset()
    assert data.sizes == {"case": 4, "grid": 3, "quantity": len(data.quantity)}
    np.testing.assert_array_equal(data.cells[0], [80, 112, 160])
    heat = found.cases[0]
    error = data.error.sel(quantity="variance").values
    np.testing.assert_array_equal(error[0], heat.errors["variance"])
    assert np.isnan(data.error.sel(quantity="W2").values[0]).all()
    assert heat.orders["density"] == pytest.approx(4.0, abs=0.15)
    assert heat.errors["density"][2] == pytest.approx(heat.errors["density"][0] / 16, rel=0.2)
    found.save(tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(case.cells) * len(case.errors) for case in found.cases)
    first = next(row for row in rows if row["quantity"] == "variance")
    assert float(first["error"]) == heat.errors["variance"][0]
    assert first["cells"] == "80"
    found.save(tmp_path / "table.nc")
    import xarray

    with xarray.open_dataset(tmp_path / "table.nc", engine="h5netcdf") as back:
        np.testing.assert_array_equal(back.error, data.error)
        assert list(back.family.values) == [case.family for case in found.cases]
    with pytest.raises(InvalidInput, match="csv"):
        found.save(tmp_path / "table.txt")
    with pytest.raises(StorageError, match="cannot write"):
        found.save(tmp_path / "none" / "table.csv")


def test_bad_requests():
    with pytest.raises(InvalidInput, match="no family is called 'warm'; there are heat"):
        verify("warm")
    for cells in ((), (4,), (20, 30.5)):
        with pytest.raises(InvalidInput, match="cells="):
            verify("heat", cells=cells)


# ---- the command line


def test_command(capsys, tmp_path):
    path = tmp_path / "table.csv"
    assert cli.main(["verify", "--family", "heat", "--family", "distances", "--quick", "--save", str(path)]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0].split()[:3] == ["family", "problem", "method"]
    assert lines[-1].startswith("PASS: 4 of 4 cases")
    assert sum(line.split()[-1] == "ok" for line in lines[1:-1]) == 4
    assert path.read_text(encoding="utf-8").count("\n") > 10


def test_command_fails_with_a_failing_case(capsys, monkeypatch):
    monkeypatch.setattr(verification, "MOMENT_LIMIT", 1e-13)
    assert cli.main(["verify", "--family", "heat", "--quick"]) == 1
    out = capsys.readouterr().out
    assert "FAIL" in out
    assert "variance is off by" in out


@pytest.mark.parametrize(("arguments", "words"), [
    (["--family", "warm"], "no family is called 'warm'"),
    (["--cells", "20,x"], "--cells 20,x: must be integers"),
    (["--cells", "2"], "cells=[2]"),
    (["--save", "table.txt"], ".csv or as NetCDF"),
])
def test_command_with_bad_options(capsys, arguments, words):
    assert cli.main(["verify", *arguments]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def test_command_lists_the_families(capsys):
    assert cli.main(["verify", "--list"]) == 0
    assert capsys.readouterr().out.split() == list(families())
