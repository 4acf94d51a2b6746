"""`cite`: the references for what was used."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

from wgflow.errors import InvalidInput, InvalidType

from .references import BEHIND, REFERENCES, Reference, software

__all__ = ["cite"]

#: The classes of JKO's inner solvers by the strings that stand for them in the settings of a run.
_INNER = {"linearized": "Linearized", "back-and-forth": "BackAndForth", "entropic": "Entropic"}


def cite(*results: object, style: str = "text") -> str:
    """Return the references for what was used: wgflow, and the publications behind its methods and models.

    Parameters
    ----------
    *results : Solution, Method, Term, model, Stationary, Comparison, SGDResult, Scatter, ...
        What the report is about. A solution brings the references of its method, and of nonlinear diffusion; a
        comparison those of its parts. Without any the reference of wgflow alone.
    style : {"text", "bibtex"}
        One line for each reference, or entries for BibTeX.

    Returns
    -------
    str

    Raises
    ------
    InvalidType
        If there is nothing to cite for an object, such as an array.
    InvalidInput
        If there is no such style.

    Examples
    --------
    >>> import wgflow as wg
    >>> print(cite(wg.JKO(tau=0.1, inner="back-and-forth")).splitlines()[-1])
    M. Jacobs, W. Lee and F. Leger, The back-and-forth method for Wasserstein gradient flows, ESAIM: COCV 27 (2021) 28.
    """
    if style not in ("text", "bibtex"):
        raise InvalidInput(f"style={style!r}: choose 'text' or 'bibtex'")
    keys = dict.fromkeys(key for result in results for key in _keys_of(result))
    found: list[Reference] = [software(version("wgflow")), *(REFERENCES[key] for key in keys)]
    if style == "text":
        return "\n".join(reference.text() for reference in found)
    return "\n\n".join(reference.bibtex() for reference in found)


def _keys_of(result: object) -> Iterator[str]:
    """The keys of the references behind an object, of its class first, then of its parts."""
    names = [kind.__name__ for kind in type(result).__mro__ if kind.__module__.split(".")[0] == "wgflow"]
    if not names:
        raise InvalidType(f"results: there is nothing to cite for {type(result).__name__}; give solutions, methods, "
                          "models, or what they return")
    yield from next((BEHIND[name] for name in names if name in BEHIND), ())
    settings = getattr(getattr(result, "certificate", None), "settings", None)
    if settings is not None:
        yield from BEHIND.get(settings["method"], ())
        yield from _keys_of_inner(settings.get("inner"), settings.get("order"), settings["method"])
    elif names[0] == "JKO":
        yield from _keys_of_inner(getattr(result, "inner", None), getattr(result, "order", None), "JKO")
    for part in _parts(result):
        yield from _keys_of(part)


def _keys_of_inner(inner: object, order: object, method: str) -> Iterator[str]:
    """The references of an inner solver of JKO, a string or an object, and of steps of second order."""
    if method != "JKO":
        return
    name = _INNER.get(inner, "") if isinstance(inner, str) else type(inner).__name__
    yield from BEHIND.get(name, ())
    if order == 2:
        yield "gallouet2024"


def _parts(result: object) -> Iterator[object]:
    """What an object was made of and has references of its own: terms, the model, the predicted scatter."""
    energy = getattr(result, "free_energy", None)
    for owner in (result, energy):
        for term in getattr(owner, "terms", ()) or ():
            yield term[1] if isinstance(term, tuple) else term
    for name in ("model", "particles", "solution"):
        part = getattr(result, name, None)
        if part is not None and type(part).__module__.split(".")[0] == "wgflow":
            yield part
