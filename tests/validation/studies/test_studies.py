"""The experiments: each at its quick scale, with its pictures, tables, certificates and verdict."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from wgflow import cli
from wgflow.errors import InvalidInput, StorageError
from wgflow.validation import studies

#: What a picture or an animation begins with.
MAGIC = {".png": b"\x89PNG\r\n\x1a\n", ".gif": b"GIF89a"}
#: Studies without a certified flow.
WITHOUT_FLOW = ("finite-width", "double-descent", "max-margin", "quadratic-target", "staircase")
#: A study in a file of its own.
MINE = """
from wgflow.validation.studies import Check, Study, StudyReport

class Mine(Study):
    name = "own-study"
    title = "One is one"

    def run(self, folder, *, quick=False, fresh=False):
        return StudyReport(self.name, self.title, "none", (Check("one", 1 == 1),))

STUDY = Mine()
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", studies.names())
def test_an_experiment_passes_at_its_quick_scale(name, tmp_path, capsys):
    code = cli.main(["reproduce", name, "--quick", "--out", str(tmp_path)])
    out = capsys.readouterr().out
    assert code == 0, out
    assert out.startswith("PASS: ")
    assert "FAIL" not in out
    folder = tmp_path / f"{name}-quick"
    pictures = [p for p in folder.iterdir() if p.suffix in MAGIC]
    assert pictures
    for picture in pictures:
        assert picture.read_bytes().startswith(MAGIC[picture.suffix])
    report = (folder / "report.txt").read_text(encoding="utf-8")
    assert "Conventions: " in report
    assert "certificate: all checks passed" in report or name in WITHOUT_FLOW
    tables = list(folder.glob("*.csv"))
    assert tables
    for table in tables:
        with table.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        assert len(rows) > 1
        assert all(len(row) == len(rows[0]) for row in rows)


def test_the_list(capsys):
    assert cli.main(["reproduce", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(studies.names())


def test_an_unknown_experiment_gives_one_line(capsys):
    assert cli.main(["reproduce", "perpetuum-mobile"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("wgflow: no study is called 'perpetuum-mobile'; there are isotropic-histogram")
    assert cli.main(["reproduce"]) == 2
    assert "needs the name" in capsys.readouterr().err
    with pytest.raises(InvalidInput, match="no study"):
        studies.get("")


def test_a_study_in_a_file_of_ones_own(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(MINE, encoding="utf-8")
    assert studies.get(str(file)).title == "One is one"
    assert cli.main(["reproduce", str(file), "--quick", "--out", str(tmp_path / "out")]) == 0
    assert "ok   one" in capsys.readouterr().out
    assert (tmp_path / "out" / "own-study-quick" / "report.txt").is_file()


#: A study whose second check fails, and whose third has no numbers.
JUDGED = """
import numpy as np
from wgflow.validation.studies import Check, Study, StudyReport, Table

class Judged(Study):
    name = "judged"
    title = "Three checks"

    def run(self, folder, *, quick=False, fresh=False):
        print("not JSON", file=__import__("sys").stderr)
        checks = (Check.at_most("small", np.float64(0.5), 1), Check.at_most("lost", float("nan"), 1e-8),
                  Check("in words", np.bool_(True)))
        return StudyReport(self.name, self.title, "none", checks, {"All rows": Table(("a",), [(1,)])})

STUDY = Judged()
"""


def test_a_report_as_json(tmp_path, capsys):
    file = tmp_path / "judged.py"
    file.write_text(JUDGED, encoding="utf-8")
    assert cli.main(["reproduce", str(file), "--quick", "--json", "--out", str(tmp_path / "out")]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["name"], found["title"], found["scale"]) == ("judged", "Three checks", "quick")
    assert found["passed"] is False
    assert found["verdict"] == "FAIL: Three checks: 2 of 3 checks hold."
    assert found["checks"] == [{"text": "small", "passed": True, "value": 0.5, "bound": 1.0},
                               {"text": "lost", "passed": False, "value": None, "bound": 1e-8},
                               {"text": "in words", "passed": True, "value": None, "bound": None}]
    folder = tmp_path / "out" / "judged-quick"
    assert found["files"] == [str(folder / "report.txt"), str(folder / "all-rows.csv")]
    assert 0 <= found["seconds"] < 60
    assert {"wgflow", "numpy", "numba"} <= set(found["versions"])
    file.write_text(MINE, encoding="utf-8")
    assert cli.main(["reproduce", str(file), "--json", "--out", str(tmp_path / "out")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["scale"], found["passed"], found["checks"][0]["passed"]) == ("full", True, True)


def test_the_list_as_json(capsys):
    assert cli.main(["reproduce", "--list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in found] == list(studies.names())
    assert all(each["title"] == studies.get(each["name"]).title for each in found)


def test_a_file_without_a_study_gives_one_line(tmp_path, capsys):
    file = tmp_path / "empty.py"
    file.write_text("STUDY = 3\n", encoding="utf-8")
    for name, words in ((str(file), "end the file with STUDY = "), (str(tmp_path / "none.py"), "there is no file ")):
        assert cli.main(["reproduce", name]) == 2
        err = capsys.readouterr().err
        assert words in err
        assert err.count("\n") == 1


def test_a_wrong_line_in_the_table_is_named(monkeypatch):
    monkeypatch.setitem(studies._HOMES, "lost", "nowhere")
    with pytest.raises(InvalidInput, match=r"has 'lost' in .*studies\.nowhere, which is not there"):
        studies.get("lost")


def test_reports():
    table = studies.Table(("t", "value"), [(0.0, 1.25), (0.5, float("nan"))])
    assert table.text().splitlines()[0].split() == ["t", "value"]
    assert table.csv() == "t,value\n0.0,1.25\n0.5,nan\n"
    checks = (studies.Check("one", True), studies.Check("two", False))
    report = studies.StudyReport("n", "a title", "clock", checks, {"numbers": table})
    assert not report.passed
    assert report.verdict == "FAIL: a title: 1 of 2 checks hold."
    assert "FAIL two" in report.text()


def test_a_report_that_cannot_be_written(tmp_path):
    report = studies.StudyReport("n", "a title", "clock", ())
    with pytest.raises(StorageError, match="cannot write the report"):
        report.write(tmp_path / "none")


def test_times_of_output():
    times = studies.base.flow_times((0.03, 1.0, 8.0), count=5)
    np.testing.assert_allclose(times, [0.0, 0.03, 0.125, 1.0, 3.375, 8.0])
    # What was asked for is kept to the bit, and cubes that miss it by rounding are left out.
    assert {0.03, 1.0, 8.0} <= set(times.tolist())
    longer = studies.base.flow_times([0.0, 0.7], 27.0, 4)
    np.testing.assert_allclose(longer, [0.0, 0.7, 1.0, 8.0, 27.0])
    assert longer[-1] == 27.0
    third = studies.base.flow_times((0.1, 0.3, 2.0), count=61)
    assert np.diff(third).min() > 1e-9
    assert third[-1] == 2.0
