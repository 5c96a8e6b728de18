"""Third property: a recorded training step leaves everything as a plain one does, to the bit."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from typing import Any

import numpy
import torch
from torch.nn.parameter import UninitializedTensorMixin

from modelviz_callbacks.tracing import Capture, to_graph
from tests.zoo.captured import seed_of
from tests.zoo.cases import Built, Case, seed_everything
from tests.zoo.leaves import difference, frozen, parts, tensors
from tests.zoo.replayed import generators_in
from tests.zoo.switches import hooks, switches

Forward = Callable[[torch.nn.Module, tuple[Any, ...], dict[str, Any]], Any]


def assert_untouched(case: Case) -> None:
    """Compares a plain training step with a recorded one, on two equal builds."""
    case.make()  # what a library keeps from the first model of a class is there for both
    plain = state_after_step(case, plain_forward)
    recorded = state_after_step(case, recorded_forward)
    found = difference(plain, recorded, "state")
    assert not found, f"recording changed the training step: {found}"


def plain_forward(model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The forward as the user runs it."""
    return model(*args, **kwargs)


def recorded_forward(model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The same, recorded and lowered before the backward: the worst moment to leave a trace."""
    before = switches()
    capture = Capture(model, keeps_state=False)  # as hooks do
    capture.start(args, kwargs)
    try:
        result = model(*args, **kwargs)
    finally:
        capture.stop()
    to_graph(capture.finish(result))
    found = difference(before, switches())
    assert not found, f"the recording left something behind: {found}"
    return result


def state_after_step(case: Case, forward: Forward) -> Any:
    """Everything that can be seen after one training step of a fresh build, `frozen`."""
    built = case.make()
    model, args, kwargs = built
    seed_everything(3)
    result = forward(model, args, kwargs)
    state: dict[str, Any] = {"result": frozen(result)}
    loss = loss_of(result)
    optimizer = None
    if loss is not None:
        state["loss"] = frozen(loss)
        loss.backward()
        optimizer = optimizer_for(case, model)
        if optimizer is not None:
            optimizer.step()
    return frozen(state | described(built, optimizer))


def loss_of(result: Any) -> torch.Tensor | None:
    """The model's own loss, else the sum of the means of what is differentiable."""
    own = getattr(result, "loss", None)
    if isinstance(own, torch.Tensor) and own.requires_grad and own.numel() == 1:
        return own.sum()
    found = {id(tensor): tensor for _, tensor in tensors(result) if tensor.requires_grad}
    means = [seed_of(tensor) / max(1, tensor.numel()) for tensor in found.values()]
    return sum(means[1:], means[0]).float() if means else None


def optimizer_for(case: Case, model: torch.nn.Module) -> torch.optim.Optimizer | None:
    """SGD with momentum or Adam, by the case's name; ``None`` where nothing is trained."""
    trained = [p for p in model.parameters() if p.grad is not None]
    if not trained:
        return None
    any_sparse = any(p.grad is not None and p.grad.layout != torch.strided for p in trained)
    if any_sparse or zlib.crc32(case.name.encode()) % 2:
        return torch.optim.SGD(trained, lr=0.1, momentum=0.9)
    return torch.optim.Adam(trained, lr=0.01)


def described(built: Built, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    """A model, its arguments, its optimizer and the process, as plain comparable data."""
    model, args, kwargs = built
    state: dict[str, Any] = {
        f"module {name!r}": _module(module) for name, module in model.named_modules()
    }
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        state[f"state {name!r}"] = _state_tensor(tensor)
    state["arguments"] = (args, kwargs)
    state["memory of arguments"] = [_can_be_resized(one) for _, one in tensors((args, kwargs))]
    state["gradients of arguments"] = [
        tensor.grad for _, tensor in tensors((args, kwargs)) if tensor.is_leaf
    ]
    if optimizer is not None:
        state["optimizer"] = optimizer.state_dict()
        state["optimizer hooks"] = hooks(vars(optimizer))
    state["torch random state"] = torch.get_rng_state()
    state["python random state"] = list(random.getstate()[1])
    state["numpy random state"] = list(numpy.random.get_state()[1:3])
    state["generators"] = [
        generator.get_state() for generator in generators_in((model, args, kwargs))
    ]
    state["switches"] = switches()
    return state


def _module(module: torch.nn.Module) -> dict[str, Any]:
    attributes = {
        name: value
        for name, value in vars(module).items()
        if name not in ("_parameters", "_buffers", "_modules") and "_hooks" not in name
    }
    if parts(module) is None:
        attributes = {}  # a compiler's own wrapper, which keeps addresses
    return {
        "class": type(module).__qualname__,
        "training": module.training,
        "attributes": list(vars(module)),
        "values": attributes,
        "names": [
            list(table.keys()) for table in (module._parameters, module._buffers, module._modules)
        ],
        "hooks": hooks(vars(module)),
    }


def _state_tensor(tensor: torch.Tensor) -> dict[str, Any]:
    if isinstance(tensor, UninitializedTensorMixin):
        return {"value": tensor}
    return {
        "value": tensor,
        "grad": tensor.grad if tensor.is_leaf else None,
        "requires_grad": tensor.requires_grad,
        "version": 0 if tensor.is_inference() else tensor._version,
        # torch.compile marks the parameters of what it compiles, which is later when recorded.
        "attributes": [name for name in vars(tensor) if not name.startswith("_dynamo")],
        "hooks": len(tensor._backward_hooks or ()),
        "memory": _can_be_resized(tensor),
    }


def _can_be_resized(tensor: torch.Tensor) -> bool:
    """Whether torch may resize its memory: no more once an array has shown it."""
    try:
        return tensor.untyped_storage().resizable()
    except (RuntimeError, NotImplementedError):
        return False  # it has none of its own
