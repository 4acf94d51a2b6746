"""`cite` and `show_versions`: what a report of results needs beside the numbers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import wgflow as wg
from wgflow.about.references import BEHIND, REFERENCES, software
from wgflow.certificate import library_versions

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def law():
    return wg.Density.gaussian(wg.Grid((-3, 3), cells=60), 0.3, 0.2)


def cited(*things):
    """The keys of what is cited, of wgflow itself first."""
    return re.findall(r"^@\w+\{(\w+),$", wg.cite(*things, style="bibtex"), re.MULTILINE)


def test_wgflow_itself_is_cited_as_in_citation_cff():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    reference = software(re.search(r"^version: (.+)$", text, re.MULTILINE)[1])
    assert reference.title == re.search(r'^title: "(.+)"$', text, re.MULTILINE)[1]
    assert reference.pages == re.search(r'^repository-code: "(.+)"$', text, re.MULTILINE)[1]
    assert f'name: "{reference.authors[0]}"' in text
    assert wg.cite().startswith(f"{reference.authors[0]}, {reference.title}, {reference.where} ")
    assert cited() == ["wgflow"]


def test_every_class_that_rests_on_something_exists_and_so_does_what_it_rests_on():
    from wgflow import reduced_models, solvers, validation

    for name, keys in BEHIND.items():
        assert any(hasattr(home, name) for home in (wg, solvers, reduced_models, validation)), name
        assert keys
        assert set(keys) <= set(REFERENCES)
    # Each reference is behind something, but that of steps of second order, which a setting asks for.
    assert set(REFERENCES) - {"gallouet2024"} == {key for keys in BEHIND.values() for key in keys}


def test_a_solution_cites_its_method_and_its_terms(law, tmp_path):
    energy = wg.PowerEntropy(2.0) + wg.Potential(lambda x: x**2 / 2)
    sol = wg.solve(energy, law, (0, 0.01))
    assert cited(sol) == ["wgflow", "scharfetter1969", "bailo2020"]
    sol = wg.solve(wg.Entropy(1.0) + wg.Potential(lambda x: x**2 / 2), law, (0, 0.1),
                   method=wg.JKO(tau=0.05, inner="linearized", order=2))
    assert cited(sol) == ["wgflow", "jordan1998", "cances2020", "gallouet2024"]
    sol.save(tmp_path / "run.npz")
    assert cited(wg.load(tmp_path / "run.npz")) == cited(sol)


def test_methods_models_and_particles_are_cited():
    assert cited(wg.JKO(tau=0.1, inner="back-and-forth")) == ["wgflow", "jordan1998", "jacobs2021"]
    assert cited(wg.JKO(tau=0.1, inner=wg.solvers.Quantile(cells=50))) == ["wgflow", "jordan1998"]
    model = wg.reduced_models.LinearNeuron(1.5, 1.0)
    sgd = wg.validation.run_sgd(model, 10, step_size=1e-2, t_eval=[0.0, 0.1], rng=7)
    assert cited(sgd, wg.FiPy()) == ["wgflow", "mei2018", "guyer2009"]
    kernel = wg.reduced_models.KernelLimit([[1.0]], [0.5], wg.activations.Tanh(), 2.0)
    assert cited(kernel) == ["wgflow", "mei2019", "chizat2019", "jacot2018"]


def test_a_term_of_your_own_has_nothing_to_cite(law):
    class Pull(wg.Term):
        def energy(self, rho):
            return 0.5 * rho.mean() ** 2

        def first_variation(self, rho):
            return rho.mean() * rho.grid.centers[0]

    assert cited(Pull()) == ["wgflow"]


@pytest.mark.parametrize("style", ["text", "bibtex"])
def test_every_reference_can_be_printed(style):
    for reference in REFERENCES.values():
        text = getattr(reference, style)()
        assert reference.title in text
        assert str(reference.year) in text
        assert all(author in text for author in reference.authors)
        assert text.count("{") == text.count("}")


def test_what_cannot_be_cited_is_refused(law):
    with pytest.raises(wg.InvalidInput, match=r"nothing to cite for ndarray"):
        wg.cite(np.zeros(3))
    with pytest.raises(wg.InvalidInput, match=r"style='apa': choose 'text' or 'bibtex'"):
        wg.cite(style="apa")


def test_versions_are_complete(capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    wg.show_versions()
    lines = {line[:21].strip(): line[22:] for line in capsys.readouterr().out.splitlines()}
    assert lines["wgflow"] == wg.__version__
    assert lines["numpy"] == np.__version__
    assert lines["OMP_NUM_THREADS"] == "3"
    assert Path(lines["wgflow at"]).name == "wgflow"
    for name in ("python", "platform", "processors", "scipy", "numba", "fipy", "matplotlib", "xarray", "POT"):
        assert lines[name]


def test_what_is_shown_does_not_enter_certificates():
    """The table of versions was once one for all: after `show_versions` certificates held the machine's paths."""
    first = wg.solve(wg.Entropy(1.0), wg.Density.gaussian(wg.Grid((-3, 3), cells=10), 0.0, 1.0), (0, 0.1))
    library_versions()["numpy"] = "none"
    wg.show_versions()
    again = wg.solve(wg.Entropy(1.0), wg.Density.gaussian(wg.Grid((-3, 3), cells=10), 0.0, 1.0), (0, 0.1))
    assert again.certificate == first.certificate
    assert set(again.certificate.versions) == {"python", "machine", "wgflow", "numpy", "scipy", "numba"}
    assert again.certificate.versions["numpy"] == np.__version__
