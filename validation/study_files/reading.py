"""Studies read from TOML: every fault in words, a line each, that name key, value and rule."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wgflow.calls.explained import nearest
from wgflow.checks import described
from wgflow.errors import InvalidInput
from wgflow.files.texts import read_toml

if TYPE_CHECKING:
    from .tables import StudyTables

__all__ = ["json_schema", "read_study"]

#: Models whose networks no simulator trains.
WITHOUT_SGD = ("KernelLimit", "KLRegularizedNetwork")
#: The ways to give the initial law, by their keys.
STARTS = (("mean", "cov"), ("uniform",), ("formula",), ("file",))


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of studies, by which editors complete keys and show what they mean."""
    from .tables import StudyTables

    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **StudyTables.model_json_schema()}


def read_study(path: Path) -> StudyTables:
    """Return the tables of a study, each key checked by itself and beside the others.

    Raises
    ------
    InvalidInput
        With a line for each fault, if the file is not a study.
    StorageError
        If it cannot be read.
    """
    from pydantic import ValidationError

    from .tables import StudyTables

    raw = read_toml(path)
    try:
        tables = StudyTables.model_validate(raw)
    except ValidationError as error:
        faults = dict.fromkeys(_words(raw, fault["loc"], fault["type"]) for fault in
                               error.errors(include_url=False, include_context=False))
        raise InvalidInput("\n".join(f"{path}: {words}" for words in faults)) from error
    faults = dict.fromkeys(_faults_of_tables(tables))
    if faults:
        raise InvalidInput("\n".join(f"{path}: {words}" for words in faults))
    return tables


def _words(raw: dict[str, Any], location: tuple[int | str, ...], kind: str) -> str:
    """What is wrong with a value, from the place where pydantic found it and the kind of fault.

    Pydantic's own places have the names of kinds between the keys; they are left out.
    """
    from .tables import StudyTables

    table = shape = StudyTables.model_json_schema()
    value: Any = raw
    place: list[str] = []
    for part in location:
        known = _table_of(shape, value, table)
        if known is None:
            break
        shape = known
        last = part == location[-1]
        if isinstance(value, dict) and (part in value or (last and kind == "missing")):
            key = str(part)
            if kind == "extra_forbidden" and last:
                return _unknown(key, place, list(shape["properties"]))
            if key not in value:
                return f"{_name(place)} needs {_shown(key, shape)}"
            place, value, shape = [*place, key], value[key], shape["properties"][key]
    *above, key = place
    words = [each for each in _allowed(shape, table) if isinstance(each, str)]
    if kind == "union_tag_not_found":
        return f"{_name(place)} needs name = " + " or ".join(f'"{word}"' for word in words)
    if kind == "union_tag_invalid":
        key, above, value = "name", place, value["name"]
    wrong = next((each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)), "")
    near = nearest(wrong, words)
    hint = f"did you mean {near!r}? " if near and near != wrong else ""
    return f"{key} = {_value(value)} in {_name(above)}: {hint}need {shape['description']}"


def _allowed(shape: Any, root: dict[str, Any]) -> Iterator[object]:
    """The words that a schema allows, and the names of the tables that it refers to."""
    if isinstance(shape, list):
        for each in shape:
            yield from _allowed(each, root)
    elif isinstance(shape, dict):
        yield from shape.get("enum", [])
        for key in ("anyOf", "oneOf", "items"):
            yield from _allowed(shape.get(key), root)
        if "$ref" in shape:
            yield root["$defs"][shape["$ref"].rpartition("/")[2]]["properties"].get("name", {}).get("const")


def _table_of(shape: dict[str, Any], value: Any, root: dict[str, Any]) -> dict[str, Any] | None:
    """The schema of a table below a schema, of several that whose name the value has; None if it is no table."""
    if "properties" in shape:
        return shape
    choices = [shape, *shape.get("anyOf", []), *shape.get("oneOf", [])]
    choices += [deeper for each in choices for deeper in each.get("oneOf", [])]
    tables = [root["$defs"][each["$ref"].rpartition("/")[2]] for each in choices if "$ref" in each]
    named = [each for each in tables if each["properties"].get("name", {}).get("const") in
             (None, value.get("name") if isinstance(value, dict) else None)]
    return named[0] if named and isinstance(value, dict) else None


def _unknown(key: str, place: list[str], known: list[str]) -> str:
    near = nearest(key, known)
    where = _name(place) if place else "the study"
    hint = f"did you mean {near!r}?" if near else f"there are {', '.join(known)}"
    return f"unknown key {key!r} in {where}: {hint}"


def _shown(key: str, shape: dict[str, Any]) -> str:
    words = shape["properties"][key].get("description", "")
    return f"{key}, {words}" if not words.startswith("the table") else words


def _name(place: list[str]) -> str:
    return f"[{'.'.join(place)}]" if place else "the study"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return described(value)


def _faults_of_comparison(tables: StudyTables) -> list[str]:
    """What is wrong with [compare] beside the other tables."""
    faults = []
    if tables.solve.t_eval is None:
        faults.append("[compare] needs t_eval in [solve], the times at which particles and solution are compared")
    if tables.model is not None and tables.compare is not None and tables.compare.step_size is None:
        faults.append("[compare] needs step_size, a finite number > 0, the step of SGD")
    if tables.model is not None and tables.model.name in WITHOUT_SGD:
        faults.append(f"[compare] beside [model] of {tables.model.name}: SGD is of models without an output scale "
                      "alpha; leave [compare] out")
    if tables.model is not None:
        faults += [f"{name} in [model] beside [compare]: SGD starts from normal weights of mean 0, with a and b at 1; "
                   "leave one of them out" for name in ("a", "b", "width", "mean0")
                   if getattr(tables.model, name, None) is not None]
    if tables.energy is not None and (tables.energy.beta is None or tables.energy.power is not None):
        faults.append("[compare] beside [energy]: Langevin particles need beta, and no power")
    return faults


def _faults_of_tables(tables: StudyTables) -> list[str]:
    """What is wrong with keys beside each other."""
    faults = []
    if tables.model is not None:
        faults += [f"[{name}] beside [model]: leave one of them out; a model has its own grid, energy and start"
                   for name in ("grid", "energy", "start") if getattr(tables, name) is not None]
    else:
        faults += [f"the study needs [{name}], or [model] in place of [grid], [energy] and [start]"
                   for name in ("grid", "energy", "start") if getattr(tables, name) is None]
    if tables.energy is not None:
        given = tables.energy.model_dump(exclude_none=True)
        faults += [f"{name} and {name}_file in [energy]: leave one of them out" for name in ("potential", "interaction")
                   if name in given and f"{name}_file" in given]
        if "interaction_average" in given and not {"interaction", "interaction_file"} & set(given):
            faults.append("interaction_average in [energy]: there is no interaction; leave it out")
        if not set(given) - {"interaction_average"}:
            faults.append("[energy] is empty: need at least one of beta, power, potential, interaction")
    if tables.start is not None:
        given = tables.start.model_dump(exclude_none=True)
        if given.get("uniform") is False:
            faults.append("uniform = false in [start]: leave it out, and give another law")
        chosen = [keys for keys in STARTS if any(key in given for key in keys)]
        if len(chosen) != 1:
            words = " and ".join(key for keys in chosen for key in keys if key in given) or "is empty"
            faults.append(f"[start] {'has ' if chosen else ''}{words}: need mean and cov, or uniform, or formula, or "
                          "file")
        faults += [f"[start] needs {key} too" for keys in chosen for key in keys if key not in given]
    if tables.compare is not None:
        faults += _faults_of_comparison(tables)
    if tables.model is not None and tables.solve.time_scale is not None:
        faults.append("time_scale in [solve] beside [model]: a model has its own; leave it out")
    if tables.model is not None and tables.compare is not None and tables.solve.mobility is not None:
        faults.append("mobility in [solve] beside [model] and [compare]: SGD has mobility 1; leave one of them out")
    method, tol = tables.solve.method, tables.solve.tol
    if tol is not None and method is not None:
        if method.name != "FiniteVolume":
            faults.append(f"tol = {tol:g} in [solve]: it belongs to FiniteVolume; {method.name} has its own in "
                          "[solve.method]")
        elif method.tol is not None:
            faults.append(f"tol = {tol:g} in [solve] and {method.tol:g} in [solve.method]: leave one of them out")
    return faults
