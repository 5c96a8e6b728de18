"""Hard cases of tensors of other kinds, and of training set-ups around the forward."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.zoo.cases import Shelf

shelf = Shelf("tensors")
CASES = shelf.cases
_HERE = "written for the zoo"


class _WithLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)


# --- kinds of tensors


@shelf.builder("torch.nested: jagged layout")
def nested_jagged() -> Any:
    class Model(_WithLayer):
        def forward(self, parts: list[torch.Tensor]) -> torch.Tensor:
            ragged = torch.nested.as_nested_tensor(parts, layout=torch.jagged)
            return torch.nested.to_padded_tensor(self.fc(ragged).relu() * 2, 0.0)

    return Model(), ([torch.randn(3, 4), torch.randn(2, 4)],), {}


@shelf.builder("torch.nested: strided layout, taken and given back")
def nested_strided() -> Any:
    class Model(_WithLayer):
        def forward(self, ragged: torch.Tensor) -> Any:
            h = self.fc(ragged)
            return torch.nested.to_padded_tensor(h, 0.0), [part.sum() for part in h.unbind()]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ragged = torch.nested.nested_tensor([torch.randn(3, 4), torch.randn(2, 4)])
    return Model(), (ragged,), {}


@shelf.model("torch.sparse: COO and CSR matrices times dense ones")
class SparseMatrices(_WithLayer):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("links", torch.eye(3).roll(1, 0).to_sparse())
        self.values = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.sparse.mm(self.links, self.fc(x)) + self.links @ x
        places = torch.tensor([[0, 1, 2], [2, 0, 1]])
        weights = torch.sparse_coo_tensor(places, self.values, (3, 3)).coalesce()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows = torch.eye(3).to_sparse_csr()
        return torch.sparse.softmax(weights, 1).to_dense() @ h + weights.values().sum() + rows @ x


@shelf.builder("torch.sparse: a sparse input and a sparse result")
def sparse_in_and_out() -> Any:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, adjacency: torch.Tensor, x: torch.Tensor) -> Any:
            return adjacency * self.scale, torch.sparse.mm(adjacency, x) * self.scale

    return Model(), (torch.eye(3).roll(1, 0).to_sparse().coalesce(), torch.randn(3, 4)), {}


@shelf.builder("torch.nn: an embedding and an embedding bag with sparse gradients")
def sparse_gradients() -> Any:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(9, 4, sparse=True)
            self.bag = nn.EmbeddingBag(9, 4, mode="sum", sparse=True)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.embedding(ids).sum(1) + self.bag(ids)

    return Model(), (torch.tensor([[1, 2], [2, 8]]),), {}


@shelf.builder("torch.ao.quantization: dynamically quantised layers")
def quantized_dynamic() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        model = torch.ao.quantization.quantize_dynamic(body, {nn.Linear}, dtype=torch.qint8)
    return nn.Sequential(nn.Linear(4, 4), model), (torch.randn(3, 4),), {}


@shelf.model("torch: quantised tensors made, used and taken back")
class QuantizedTensors(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            q = torch.quantize_per_tensor(x.detach(), 0.1, 0, torch.qint8)
            return self.fc(q.dequantize()) + torch.relu(q).dequantize()


@shelf.builder("torch.ao.quantization: quantisation-aware training with observers")
def quantization_aware() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao.quantization import FakeQuantize, MovingAverageMinMaxObserver

        fake = FakeQuantize(MovingAverageMinMaxObserver, quant_min=0, quant_max=255)
    return nn.Sequential(nn.Linear(4, 4), fake, nn.Linear(4, 2)), (torch.randn(3, 4),), {}


class Tagged(torch.Tensor):
    """A subclass that keeps its class through ops, with an attribute."""

    tag = "none"


class Logged(torch.Tensor):
    """A subclass with a ``__torch_function__`` of its own."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})
        if func is torch.add:
            return result * 2
        return result


class Angle:
    """No tensor, but torch functions take it."""

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        plain = [item.value if isinstance(item, cls) else item for item in args]
        return func(*plain, **(kwargs or {})) % 6.28


@shelf.builder(f"{_HERE}: a tensor subclass goes through")
def tensor_subclass() -> Any:
    class Model(_WithLayer):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.fc(x) + x).relu()

    return Model(), (torch.randn(3, 4).as_subclass(Tagged),), {}


@shelf.builder(
    f"{_HERE}: a subclass that handles torch functions itself",
    replay="the subclass changes its class with torch functions off",
)
def subclass_with_torch_function() -> Any:
    class Model(_WithLayer):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.add(self.fc(x), x).as_subclass(torch.Tensor)

    return Model(), (torch.randn(3, 4).as_subclass(Logged),), {}


@shelf.builder(f"{_HERE}: an object that torch functions take by __torch_function__")
def torch_function_argument() -> Any:
    class Model(nn.Module):
        def forward(self, angle: Angle, other: torch.Tensor) -> torch.Tensor:
            return torch.add(angle, other).sin()

    return Model(), (Angle(torch.randn(3, 4)), torch.randn(3, 4)), {}


class TwoParts(torch.Tensor):
    """A wrapper subclass with ``__torch_dispatch__``: a sum of two plain tensors."""

    first: torch.Tensor
    second: torch.Tensor

    @staticmethod
    def __new__(cls, first: torch.Tensor, second: torch.Tensor) -> TwoParts:
        made = torch.Tensor._make_wrapper_subclass(cls, first.shape, dtype=first.dtype)
        made.first, made.second = first, second
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        plain = [item.first + item.second if isinstance(item, cls) else item for item in args]
        return func(*plain, **(kwargs or {}))


@shelf.model(f"{_HERE}: a wrapper subclass with __torch_dispatch__ inside")
class WrapperSubclass(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = TwoParts(x.detach(), torch.ones(3, 4))
        return self.fc(both + 1) * x


@shelf.model("torch.masked: masked tensors")
class MaskedTensors(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            masked = torch.masked.masked_tensor(self.fc(x), x > 0)
            return torch.masked.mean(self.fc(x), dim=1, mask=x > 0) + masked.to_tensor(0.0).sum(1)


@shelf.builder(f"{_HERE}: a parameter class of the user's own")
def parameter_subclass() -> Any:
    class Weight(nn.Parameter):
        pass

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = Weight(torch.randn(4, 4))
            self.bias = nn.Buffer(torch.zeros(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(x, self.weight, self.bias)

    return Model(), (torch.randn(3, 4),), {}


# --- modes, compilation, threads and training set-ups


@shelf.builder(f"{_HERE}: the user's own function mode is on in the forward")
def users_own_modes() -> Any:
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    class Doubles(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            return result * 2 if func is torch.sin else result

    class Counts(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            return func(*args, **(kwargs or {}))

    class Model(_WithLayer):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with Doubles(), Counts():
                h = torch.sin(self.fc(x))
            return h + x

    return Model(), (torch.randn(3, 4),), {}


@shelf.model(
    f"{_HERE}: recording switched off and on inside (DisableTorchFunctionSubclass)",
    replay="the author switched torch functions off",
)
class DisablesTorchFunction(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch._C.DisableTorchFunctionSubclass():
            h = self.fc(x).relu()
        with torch._C.DisableTorchFunction():
            h = (h * 2).tanh()
        return h + 1


@shelf.model(f"{_HERE}: a worker thread computes a part", replay="another thread computes it")
class ComputesInThread(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: list[torch.Tensor] = []
        worker = threading.Thread(target=lambda: made.append(self.fc(x).tanh()))
        worker.start()
        worker.join()
        return made[0] + x


@shelf.model("torch.jit: fork and wait")
class ForksAndWaits(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        future = torch.jit.fork(self.fc, x)
        return torch.jit.wait(future) + self.fc(x * 2)


@shelf.model(f"{_HERE}: an exception is raised and caught in the forward")
class CatchesExceptions(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.fc(x)
        try:
            h = h @ torch.ones(7, 7)
        except RuntimeError:
            h = h * 2
        return h


@shelf.builder(f"{_HERE}: gradients were accumulated before this step")
def accumulated_gradients() -> Any:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model(torch.randn(3, 4)).sum().backward()
    return model, (torch.randn(3, 4),), {}


@shelf.builder("torch.nn.parallel: DataParallel without a device calls the module itself")
def data_parallel() -> Any:
    return nn.DataParallel(nn.Sequential(nn.Linear(4, 4), nn.ReLU())), (torch.randn(3, 4),), {}


@shelf.builder("torch.optim.swa_utils: an averaged model beside the trained one")
def averaged_model() -> Any:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.live = nn.Linear(4, 4)
            self.average = torch.optim.swa_utils.AveragedModel(self.live).requires_grad_(False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.average.update_parameters(self.live)
            return F.mse_loss(self.live(x), self.average(x + 1))

    return Model(), (torch.randn(3, 4),), {}


@shelf.builder("torch.autograd.graph: saved tensors packed by hooks")
def saved_tensor_hooks() -> Any:
    class Model(_WithLayer):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autograd.graph.saved_tensors_hooks(
                lambda t: t.detach().half(), lambda t: t.float()
            ):
                return self.fc(x).tanh()

    return Model(), (torch.randn(3, 4),), {}
