"""The model that ``MODULE:FACTORY`` names."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from modelviz_callbacks.errors import CaptureError, OptionError


@dataclass(frozen=True)
class Subject:
    """A model, and the arguments of its forward where the factory gave some."""

    model: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


def load(name: str, arguments: dict[str, Any]) -> Subject:
    """Makes the model.

    Args:
        name: ``package.module:factory`` or ``path/to/file.py:factory``; the factory may be a
            function, a class, or a module that is made already, and may have dots in it.
        arguments: Keyword arguments for the factory.

    Returns:
        The model.

    Raises:
        OptionError: There is no such module, file or factory.
        CaptureError: The module or the factory raised, or it is not a model what came out.
    """
    place, sign, path = name.rpartition(":")
    if not sign or not place or not path:
        raise OptionError(
            f"{name!r} names no model: expected MODULE:FACTORY, as in my_models:make_net, "
            "torch.nn:Identity or path/to/file.py:Net."
        )
    made: Any = _imported(place)
    for part in path.split("."):
        if not hasattr(made, part):
            known = [key for key, value in vars(made).items() if callable(value) and key[0] != "_"]
            raise OptionError(
                f"{place} has no {path!r}. It has {', '.join(known[:20]) or 'nothing to call'}."
            )
        made = getattr(made, part)
    if not isinstance(made, nn.Module):
        made = _called(made, name, arguments)
    elif arguments:
        raise OptionError(f"{name} is a model already: it takes no --factory-kwarg.")
    return _subject(made, name)


def _subject(made: Any, name: str) -> Subject:
    parts = made if isinstance(made, tuple) else (made,)
    if not parts or not isinstance(parts[0], nn.Module) or len(parts) > 3:
        raise CaptureError(
            f"{name} gave a {type(made).__name__}: expected a torch.nn.Module, or a tuple of a "
            "module, its positional arguments and its keyword arguments."
        )
    args = parts[1] if len(parts) > 1 else ()
    kwargs = parts[2] if len(parts) > 2 else {}
    return Subject(parts[0], args if isinstance(args, tuple) else (args,), dict(kwargs))


def _imported(place: str) -> ModuleType:
    is_file = place.endswith(".py")
    if is_file and not Path(place).is_file():
        raise OptionError(f"There is no file {place}.")
    sys.path.insert(0, str(Path(place).parent.absolute() if is_file else Path.cwd()))
    try:
        return _from_file(Path(place)) if is_file else importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise _raised(f"Importing {place}", error) from error  # something that it imports
        raise OptionError(
            f"There is no module {place!r}, neither installed nor in {Path.cwd()}. "
            "Give its import name, or the path of its file."
        ) from error
    except Exception as error:
        raise _raised(f"Importing {place}", error) from error


def _from_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise OptionError(f"{path} cannot be imported as Python.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses and pickles look their module up
    spec.loader.exec_module(module)
    return module


def _called(factory: Any, name: str, arguments: dict[str, Any]) -> Any:
    if not callable(factory):
        raise OptionError(f"{name} is a {type(factory).__name__}: it cannot be called.")
    try:
        return factory(**arguments)
    except Exception as error:
        raise _raised(f"Calling {name}", error) from error


def _raised(what: str, error: Exception) -> CaptureError:
    """An error that shows where in the user's code another one came from."""
    own = (str(Path(__file__).parent), "<frozen importlib")
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(own) and "importlib" not in frame.filename
    ]
    shown = "".join(traceback.format_list(frames)).rstrip()
    text = "".join(traceback.format_exception_only(type(error), error)).rstrip()
    return CaptureError(f"{what} raised:\n{shown}\n{text}" if shown else f"{what} raised {text}")
