"""The base of the classes that users write parts of: what such a class lacks is said when an object of it is made."""

from __future__ import annotations

import inspect
import re
from abc import ABCMeta
from typing import Any, ClassVar

from wgflow.calls.explained import failed_to_bind, words_of_call
from wgflow.errors import InvalidType

__all__ = ["Contract"]

#: Formulas and names in docstrings, of which a message shows what is inside.
MARKUP = re.compile(r"(?::math:)?`+([^`]*)`+")


class _ContractMeta(ABCMeta):
    NEEDS: tuple[str, ...]
    EXAMPLE: str

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls.__abstractmethods__:
            raise InvalidType(_message(cls, sorted(cls.__abstractmethods__)))
        try:
            made = super().__call__(*args, **kwargs)
        except TypeError as error:
            if not failed_to_bind(error):
                raise
            signature = inspect.signature(getattr(cls, "__init__"))  # noqa: B009 - mypy knows no class here
            words = words_of_call(cls.__name__, signature, (cls, *args), kwargs, vars(cls).get("EXAMPLE", ""),
                                  _relatives(cls))
            raise InvalidType(words) from None
        for name in cls.NEEDS:
            if not (name in vars(made) or hasattr(cls, name)):
                raise InvalidType(f"{_own(cls)} lacks {name}; set it in the class or in __init__")
        return made

    @property
    def __signature__(cls) -> inspect.Signature:
        """The arguments of ``__init__``, which help and editors would look for in ``__call__`` above."""
        whole = inspect.signature(cls.__init__)  # type: ignore[misc]
        return whole.replace(parameters=list(whole.parameters.values())[1:])


class Contract(metaclass=_ContractMeta):
    """A class whose abstract methods and properties a subclass must give.

    Calls of it with arguments that it does not have are answered in the package's words.

    Attributes
    ----------
    NEEDS : tuple of str
        Attributes that a subclass must set in the class or in ``__init__``.

    Raises
    ------
    InvalidType
        (from the call of a subclass) If it lacks one; the message says what each of them is.
    """

    NEEDS: ClassVar[tuple[str, ...]] = ()
    #: A call that is right, for the message where one is not.
    EXAMPLE: ClassVar[str] = ""


def _message(cls: type, missing: list[str]) -> str:
    lines = [f"{_own(cls)} lacks {', '.join(missing)}; define in the class:"]
    for name in missing:
        member = getattr(cls, name)
        meaning = MARKUP.sub(r"\1", (inspect.getdoc(member) or "").partition("\n")[0])
        if isinstance(member, property):
            lines.append(f"  {name}, a property or an attribute of the class (what only __init__ sets comes too late): "
                         f"{meaning}")
        else:
            lines.append(f"  {name}{_arguments(member)}: {meaning}")
    return "\n".join(lines)


def _relatives(cls: type) -> list[type]:
    """Return the classes of the same kind: all that derive from the same contract."""
    roots = [base for base in cls.__mro__ if Contract in base.__bases__]
    found: list[type] = []
    for root in roots:
        found += root.__subclasses__()
    for each in found[:]:
        found += each.__subclasses__()
    return found


def _own(cls: type) -> str:
    """Return the class in words, with the class of wgflow that it derives from."""
    base = next((base for base in cls.__mro__ if base.__module__.partition(".")[0] == "wgflow"), cls)
    return cls.__name__ if base is cls else f"{cls.__name__}, derived from {base.__name__},"


def _arguments(member: Any) -> str:
    parameters = [p.replace(annotation=inspect.Parameter.empty)
                  for p in list(inspect.signature(member).parameters.values())[1:]]
    return str(inspect.Signature(parameters))
