"""Hard cases of values that Python reads, of packed, empty and unusual tensors."""

from __future__ import annotations

import math

import numpy
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import rnn

from tests.zoo.cases import Shelf

shelf = Shelf("reads")
CASES = shelf.cases
_HERE = "written for the zoo"


@shelf.model(f"{_HERE}: item, bool, int, float, tolist, len and format read values")
class ReadsValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.fc(x)
        if h.sum() > 0:
            h = h * 2
        scale = h.abs().max().item()
        count = int((x > 0).sum())
        first = x[0].tolist()
        h = h / max(scale, 1e-3) + count + first[0] + float(x[1, 1])
        for index in range(len(x)):
            if bool(x[index, 0] < 0):
                h = h - index
        return h if f"{h.sum():.2f}" else x


@shelf.model(f"{_HERE}: loops until a tensor says stop")
class LoopsOnData(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps = 0
        while x.norm() > 0.05 and steps < 20:
            x = self.fc(x) * 0.3
            steps += 1
        return x / steps


@shelf.model(f"{_HERE}: numpy computes in the middle")
class NumpyInBetween(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        order = numpy.argsort(x.detach().numpy(), axis=1)
        weights = torch.from_numpy(numpy.exp(-order.astype(numpy.float32)))
        return self.fc(x) * weights


@shelf.model(f"{_HERE}: numpy writes into a tensor's memory")
class NumpyWritesThrough(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        table = torch.zeros(3, 4)
        view = table.numpy()
        view[1] = 5.0
        return x + table


@shelf.model(f"{_HERE}: Python's lists and math computed from read values")
class PythonInBetween(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.detach().tolist()
        softened = [[math.tanh(value) for value in row] for row in rows]
        return x * torch.tensor(softened)


@shelf.model(f"{_HERE}: a packed sequence goes in, another comes out", args=lambda: (_packed(),))
class PackedIn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 5)

    def forward(self, packed: rnn.PackedSequence) -> tuple[rnn.PackedSequence, torch.Tensor]:
        return self.rnn(packed)


def _packed() -> rnn.PackedSequence:
    return rnn.pack_sequence([torch.randn(3, 4), torch.randn(2, 4), torch.randn(1, 4)])


@shelf.model(
    "torch tutorials: pack_padded_sequence around an LSTM",
    args=lambda: (torch.randn(3, 5, 4), torch.tensor([5, 3, 2])),
)
class PacksSequences(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 6, num_layers=2, bidirectional=True, batch_first=True, dropout=0.2)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        padded, sizes = rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return padded.sum(1) / sizes[:, None]


@shelf.model(f"{_HERE}: tensors without elements", args=lambda: (torch.randn(0, 4),))
class EmptyTensors(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.fc(x)
        return torch.cat([h, h.new_zeros(1, 2)]), h[:, :0]


@shelf.model(f"{_HERE}: NaN and infinities go through")
class NotANumber(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.where(x > 0, x.log(), x * float("nan"))
        return torch.nan_to_num(y, nan=-1.0) + torch.tensor(float("inf")) - y


@shelf.model(f"{_HERE}: many outputs")
class ManyOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({f"head {i}": nn.Linear(4, 1) for i in range(40)})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: head(x) for name, head in self.heads.items()}


@shelf.model(f"{_HERE}: sizes taken from tensors rule later shapes")
class SizesFromData(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = torch.nonzero(x > 0)
        values, counts = torch.unique(places[:, 0], return_counts=True)
        padded = F.pad(x[x > 0], (0, 12 - len(places)))
        rows = torch.repeat_interleave(x[: len(values)], counts, dim=0)
        return padded.reshape(3, 4) + rows.sum(0)


@shelf.model(f"{_HERE}: a scalar, an integer, a bool and a half-precision tensor come out")
class ManyDtypes(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.bool)
        cast = tuple(x.to(kind) for kind in kinds)
        return (*cast, x.argmax(), x.to(torch.float8_e4m3fn).float(), x.double().float())
