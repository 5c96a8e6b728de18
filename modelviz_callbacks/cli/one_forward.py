"""One forward of a model that the command line names, recorded."""

from __future__ import annotations

import argparse

import torch

from modelviz_callbacks.cli.inputs import named, tensor
from modelviz_callbacks.cli.models import Subject, load
from modelviz_callbacks.tracing import Capture, Recording


def model_of(options: argparse.Namespace) -> Subject:
    """The model that the arguments of `commands.add_model` name, in the mode they say.

    Raises:
        OptionError: There is no such module, file or factory.
        CaptureError: It raised, or it is not a model what came out.
    """
    torch.manual_seed(options.seed)
    subject = load(options.model, _named(options.factory_kwargs, "--factory-kwarg"))
    if options.train or options.eval:
        subject.model.train(options.train)
    return subject


def record(subject: Subject, options: argparse.Namespace) -> tuple[Recording, Exception | None]:
    """Runs one forward.

    Args:
        subject: The model.
        options: Say what goes into it; see `commands.add_model`.

    Returns:
        Its recording, and what it raised.

    Raises:
        OptionError: An input is none.
    """
    args = tuple(map(tensor, options.inputs)) or subject.args
    kwargs = subject.kwargs | _named(options.kwargs, "--kwarg")
    capture = Capture(subject.model)
    capture.start(args, kwargs)
    try:
        result = subject.model(*args, **kwargs)
    except Exception as error:
        return capture.abandon(error), error
    finally:
        capture.stop()
    return capture.finish(result), None


def _named(texts: list[str], option: str) -> dict[str, object]:
    return dict(named(text, option) for text in texts)
