"""Hard cases of memory: in-place ops, views, aliases, writes that autograd does not see."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.zoo.cases import Shelf

shelf = Shelf("memory")
CASES = shelf.cases
_HERE = "written for the zoo"


@shelf.model(f"{_HERE}: in-place operators and methods")
class WritesInPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.fc(x)
        h += x
        h.mul_(2).sub_(0.5)
        h **= 2
        return h.clamp_(max=3.0)


@shelf.model(f"{_HERE}: out= under no_grad")
class WritesToOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.fc(x)
        scale = torch.empty(4)
        largest, where = torch.empty(3), torch.empty(3, dtype=torch.long)
        with torch.no_grad():
            torch.mul(x[0], 2, out=scale)
            torch.max(x, 1, out=(largest, where))
        return h * scale + largest[:, None] + where[:, None]


@shelf.model(f"{_HERE}: out= a slice of a buffer allocated by the forward")
class WritesToASliceByOut(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result = x.new_zeros(6, 4)
        with torch.no_grad():
            torch.exp(x, out=result[:3])
            torch.sin(x, out=result[3:])
        return result * x.sum()


@shelf.model(f"{_HERE}: assignment to slices, with a tensor as index")
class AssignsItems(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.row = nn.Parameter(torch.randn(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.zeros(3, 4)
        y[0] = self.row
        y[1:, ::2] = x[1:, ::2]
        y[torch.tensor([1, 2]), 1] = 5.0
        y[x > 1] = 0.25
        y[..., -1:] += x[..., :1]
        return y


@shelf.model(f"{_HERE}: a write through a chain of views is read through the base")
class WritesThroughViews(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        base = torch.zeros(4, 3)
        base.t()[1].copy_(x[1])
        base.view(2, 6).narrow(1, 0, 2).add_(x[0, 0])
        base.select(0, 3).mul_(3).add_(x[2, :3])
        return base


@shelf.model(f"{_HERE}: a write to the base is read through an older view")
class ReadsThroughOldView(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        base = torch.zeros(3, 4)
        view = base[1:]
        other = base[:1]
        base.copy_(x)
        return view.sum() + 2 * other.sum()


@shelf.model(f"{_HERE}: views that do not overlap depend on their own writes only")
class WritesToDisjointViews(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        both = x.new_zeros(3, 4)
        left, right = both[:, :2], both[:, 2:]
        with torch.no_grad():  # autograd ties both halves to both writes
            left.copy_(self.left(x))
            right.copy_(self.right(x))
        return left * x.sum(), right * x.sum()


@shelf.model(f"{_HERE}: .data written and read")
class UsesData(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.fc(x)
        h.data.clamp_(min=0)
        h.data[0] = x.data[0] * 2
        return h + x.data.mean()


@shelf.model(f"{_HERE}: a parameter renormalised through .data in the forward")
class RenormalisesParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.weight.data /= self.weight.data.norm(dim=1, keepdim=True)
        return x @ self.weight


@shelf.model(f"{_HERE}: .data set to another tensor")
class SetsData(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.zeros(3, 4)
        y.data = x * 2
        return y + 1


@shelf.model(f"{_HERE}: detach in the middle, and a stop-gradient target")
class Detaches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.online, self.target = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        online, target = self.online(x), self.target(x).detach()
        return {"loss": F.mse_loss(online, target), "target": target}


@shelf.model(f"{_HERE}: straight-through estimator")
class StraightThrough(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        soft = self.fc(x).sigmoid()
        hard = (soft > 0.5).float()
        return hard + soft - soft.detach()


@shelf.model(f"{_HERE}: exponential moving average of a teacher in the forward")
class MovingAverageTeacher(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = nn.Linear(4, 4), nn.Linear(4, 4).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            pairs = zip(self.student.parameters(), self.teacher.parameters(), strict=True)
            for new, old in pairs:
                old.lerp_(new, 0.1)
            wanted = self.teacher(x)
        return F.mse_loss(self.student(x), wanted)


@shelf.model(f"{_HERE}: a buffer replaced by a new tensor, another counted up in place")
class ReplacesBuffers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0).detach()
        self.steps += 1
        return (x - self.mean) / self.steps


@shelf.model(f"{_HERE}: a ring buffer (memory bank) written at a moving place")
class WritesMemoryBank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.register_buffer("bank", F.normalize(torch.randn(8, 4), dim=1))
        self.position = 6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.normalize(self.fc(x), dim=1)
        similarity = h @ self.bank.clone().t()
        places = torch.arange(self.position, self.position + len(x)) % 8
        self.bank[places] = h.detach()
        self.position = (self.position + len(x)) % 8
        return similarity


@shelf.model(f"{_HERE}: the input itself is written to")
class WritesToInput(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.add_(1)
        x[0] = 0
        return x.relu_()


@shelf.builder(f"{_HERE}: two arguments are views of one tensor, one is written to")
def arguments_share_memory() -> Any:
    class Model(nn.Module):
        def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            first.mul_(3)
            return second.sum(0) + first.sum()

    both = torch.randn(4, 4)
    return Model(), (both[:3], both[1:]), {}


@shelf.model(f"{_HERE}: as_strided windows of one row, written through")
class UsesAsStrided(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        row = x.flatten().clone()
        windows = row.as_strided((5, 4), (2, 1))
        row[3] = 7.0
        return windows * 2


@shelf.model(f"{_HERE}: index_put_, scatter_, index_add_, masked_fill_, put_, fill_diagonal_")
class WritesByIndex(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.zeros(3, 4)
        y.index_put_((torch.tensor([0, 2]), torch.tensor([1, 3])), x[0, :2], accumulate=True)
        y.scatter_(1, torch.tensor([[0], [1], [2]]), x[:, :1])
        y.scatter_add_(1, torch.tensor([[0], [1], [2]]), x[:, 1:2])
        y.index_add_(0, torch.tensor([0, 0, 2]), x)
        y.masked_fill_(x < -1, 0.0)
        y.put_(torch.tensor([5]), x[2, 2].reshape(1))
        y.index_copy_(1, torch.tensor([3]), x[:, 3:] * 2)
        return y.fill_diagonal_(0.5)


@shelf.model(f"{_HERE}: boolean masks select and write")
class UsesBooleanMasks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.fc(x)
        mask = h > 0
        y = torch.zeros_like(h)
        y[mask] = h[mask].exp()
        y[~mask] = torch.masked_select(x, ~mask)
        return y.masked_scatter(mask, x)


@shelf.model(f"{_HERE}: resize_ and set_ of a temporary")
class ResizesStorage(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.zeros(2)
        y.resize_(3, 4).copy_(x.detach())
        z = torch.empty(0)
        z.set_(y)
        return z * x


@shelf.model(f"{_HERE}: real and imaginary parts written through views")
class WritesComplexParts(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = torch.zeros(3, 4, dtype=torch.complex64)
        z.real.copy_(x)
        z.imag = x * 2
        torch.view_as_real(z)[..., 0] += 1
        return (z * z.conj()).real + z.mT.abs().sum()


@shelf.model(f"{_HERE}: in-place activations, dropout and normalisation flags")
class InplaceActivations(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(4, 4),
            nn.Dropout(0.3, inplace=True),
            nn.ReLU(inplace=True),
            nn.Linear(4, 4),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Linear(4, 4),
            nn.Hardtanh(inplace=True),
            nn.Linear(4, 4),
            nn.ELU(inplace=True),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.threshold(self.body(x) * 2, 0.1, 0.0, inplace=True)


@shelf.model(f"{_HERE}: one of two pieces written without gradient, all read")
class WritesToPieces(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x * 2
        a, b = h[:, :2], h[:, 2:]
        with torch.no_grad():
            a.zero_()
        return torch.cat([a, b], 1) + h


@shelf.model(f"{_HERE}: grad mode switched inside, requires_grad_ set")
class SwitchesGradMode(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            frozen = self.fc(x)
            with torch.enable_grad():
                alive = self.fc(frozen)
        with torch.set_grad_enabled(False):
            frozen = frozen * 2
        with torch.inference_mode():
            scale = frozen.abs().max().item()
        leaf = frozen.detach().clone().requires_grad_()
        return alive * scale + leaf


@shelf.model(f"{_HERE}: swapped references, a loop that rewrites one buffer")
class PingPongs(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        source, target = x.clone(), torch.empty_like(x)
        with torch.no_grad():
            for _ in range(5):
                torch.mul(source, 0.5, out=target)
                target += 1
                source, target = target, source
        return source * x


@shelf.model(f"{_HERE}: in-place ops on a list of tensors (torch._foreach_)")
class UsesForeach(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pieces = [x[0].clone(), x[1].clone()]
        torch._foreach_mul_(pieces, 2.0)
        torch._foreach_add_(pieces, [x[2], x[0]])
        return torch.stack(torch._foreach_exp(pieces))


@shelf.model(f"{_HERE}: expand and broadcast views read after a write to their base")
class ReadsExpanded(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        row = torch.zeros(1, 4)
        wide = row.expand(3, 4)
        row += x.sum(0, keepdim=True)
        return wide * x
