"""What models take and return is walked, whatever class it is of and however that behaves."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections import UserDict, deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, MultivariateNormal, Normal
from torch.utils import _pytree
from torch_geometric.data import Batch, Data, HeteroData

from modelviz_callbacks import trace
from modelviz_callbacks.tracing.capture.pytree import leaves, rebuild, walk

ONE, TWO = torch.ones(2), torch.zeros(3)


class WithoutKeys:
    """Registered without key paths."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts


@dataclasses.dataclass
class DataWithoutKeys:
    """Likewise, as the outputs of diffusers are."""

    sample: Any
    extra: Any = None


class BrokenNode:
    """Registered with a flatten function that raises."""

    def __init__(self) -> None:
        self.image = ONE


def _breaks(*_: Any) -> Any:
    raise RuntimeError("not today")


_pytree.register_pytree_node(
    WithoutKeys, lambda box: (list(box.parts), None), lambda parts, _: WithoutKeys(*parts)
)
_pytree.register_pytree_node(
    DataWithoutKeys,
    lambda data: ([data.sample, data.extra], None),
    lambda parts, _: DataWithoutKeys(*parts),
)
_pytree.register_pytree_node(BrokenNode, _breaks, _breaks)


class Hostile:
    """Raises whatever it is asked."""

    def __init__(self) -> None:
        self.image = ONE

    __eq__ = __len__ = __bool__ = __iter__ = __str__ = __repr__ = _breaks  # type: ignore[assignment]
    __hash__ = _breaks  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


class Unspeakable:
    """A key without a text."""

    __str__ = __repr__ = _breaks


class Sample:
    """Properties over private attributes."""

    def __init__(self) -> None:
        self._img, self._target = ONE, TWO

    @property
    def image(self) -> torch.Tensor:
        return self._img

    @property
    def target(self) -> torch.Tensor:
        return self._target


class TwoPrivates:
    def __init__(self) -> None:
        self._a, self._b = ONE, TWO


class Slotted:
    __slots__ = ("boxes", "unset")

    def __init__(self) -> None:
        self.boxes = ONE


class MyList(list[Any]):
    """A list of somebody's own."""


class MyTuple(tuple[Any, ...]):
    __slots__ = ()


def paths(value: Any) -> list[str]:
    return [path for path, _ in leaves(walk(value, lambda tensor: tensor), "x")]


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda: WithoutKeys(ONE, {"a": TWO}), ["x[0]", "x[1]['a']"]),
        (lambda: DataWithoutKeys(ONE, TWO), ["x.sample", "x.extra"]),
        (BrokenNode, ["x.image"]),
        (Hostile, ["x.image"]),
        (lambda: {(1, 2): ONE, 3.5: TWO}, ["x[(1, 2)]", "x[3.5]"]),
        (lambda: {Unspeakable(): ONE, Unspeakable(): TWO}, ["x[key 0]", "x[key 1]"]),
        (lambda: UserDict({"a": ONE, None: TWO}), ["x['a']", "x[None]"]),
        (Sample, ["x.image", "x.target"]),
        (TwoPrivates, ["x._a", "x._b"]),
        (Slotted, ["x.boxes"]),
        (lambda: MyList([ONE, MyTuple([TWO])]), ["x[0]", "x[1][0]"]),
        (lambda: Normal(torch.zeros(2), torch.ones(2)), ["x.loc", "x.scale"]),
        (lambda: Categorical(logits=torch.zeros(3)), ["x.logits"]),
    ],
)
def test_every_tensor_is_found_once_by_its_public_path(
    make: Callable[[], Any], wanted: list[str]
) -> None:
    assert paths(make()) == wanted


@pytest.mark.parametrize(
    "make",
    [
        lambda: WithoutKeys(ONE, TWO),
        lambda: DataWithoutKeys(ONE),
        Sample,
        Slotted,
        lambda: MyList([ONE, TWO]),
        lambda: Categorical(logits=torch.zeros(3)),
    ],
)
def test_a_walked_object_is_put_together_again(make: Callable[[], Any]) -> None:
    made = make()
    again = rebuild(walk(made, lambda tensor: tensor), lambda tensor: tensor)
    assert type(again) is type(made)
    assert paths(again) == paths(made)


class Returns(nn.Module):
    """A layer whose result is put into an object."""

    def __init__(self, make: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.make = nn.Linear(2, 2), make

    def forward(self, x: torch.Tensor) -> Any:
        return self.make(self.layer(x))


def _hostile(x: torch.Tensor) -> Hostile:
    made = Hostile()
    made.image = x
    return made


@pytest.mark.parametrize("make", [WithoutKeys, DataWithoutKeys, _hostile])
def test_a_model_that_returns_such_an_object_has_its_whole_graph(
    make: Callable[[torch.Tensor], Any],
) -> None:
    graph = trace(nn.Sequential(Returns(make)), torch.ones(3, 2)).graph
    assert not graph.partial
    assert [op.name for op in graph.ops] == ["0_Returns/layer/linear"]
    assert len(graph.of_kind("output")) == 1


class ImageList(list[Any]):
    """A list with more than its items."""

    def __init__(self, images: list[torch.Tensor], sizes: torch.Tensor) -> None:
        super().__init__(images)
        self.sizes, self._mask = sizes, sizes + 1

    @property
    def mask(self) -> torch.Tensor:
        return self._mask


class Fields(dict[str, Any]):
    """A dictionary that some write attributes to; one of them shows an item."""

    def __init__(self, x: torch.Tensor, weight: torch.Tensor) -> None:
        super().__init__(x=x)
        self.x, self.weight = x, weight


class Pair(tuple[Any, ...]):
    """A tuple that may have attributes."""


def _pair(x: torch.Tensor, aux: torch.Tensor) -> Pair:
    made = Pair((x,))
    made.aux = aux
    return made


def _queue(x: torch.Tensor, y: torch.Tensor) -> Any:
    return types.SimpleNamespace(queue=deque([x, y]))


BESIDE: dict[str, tuple[Callable[[torch.Tensor, torch.Tensor], Any], list[str]]] = {
    "a list": (lambda x, y: ImageList([x], y), ["x[0]", "x.sizes", "x.mask"]),
    "a dictionary": (Fields, ["x['x']", "x.weight"]),
    "a tuple": (_pair, ["x[0]", "x.aux"]),
    "a queue in an object": (_queue, ["x.queue[0]", "x.queue[1]"]),
    "a partial": (
        lambda x, y: functools.partial(torch.add, x, other=y),
        ["x.args[0]", "x.keywords['other']"],
    ),
    "a view of a dictionary in an object": (
        lambda x, y: types.SimpleNamespace(part=types.MappingProxyType({"x": x, "y": y})),
        ["x.part['x']", "x.part['y']"],
    ),
    "an iterator over a list": (lambda x, y: iter([x, y]), ["x[0]", "x[1]"]),
}


@pytest.mark.parametrize("kind", BESIDE)
def test_what_a_container_has_beside_its_items_is_found_and_put_back(kind: str) -> None:
    make, wanted = BESIDE[kind]
    given = make(ONE, TWO)
    assert paths(given) == wanted
    built = rebuild(walk(given, lambda tensor: tensor), lambda tensor: tensor + 1)
    assert type(built) is type(given)
    found = [leaf for _, leaf in leaves(walk(built, lambda tensor: tensor), "x")]
    assert [one.tolist() for one in found[:2]] == [[2.0, 2.0], [1.0, 1.0, 1.0]]
    assert paths(given) == wanted


@pytest.mark.parametrize("kind", BESIDE)
def test_what_is_found_there_is_an_input_and_not_a_constant(kind: str) -> None:
    make, _ = BESIDE[kind]

    class Takes(nn.Module):
        def forward(self, given: Any) -> Any:
            return sum(read(given))

    def read(given: Any) -> list[torch.Tensor]:
        if kind == "an iterator over a list":
            return [part.sum() for part in given]
        return [leaf.sum() for _, leaf in leaves(walk(given, lambda tensor: tensor), "x")]

    recorded = trace(Takes(), make(ONE, TWO))
    assert len(recorded.graph.of_kind("input")) == len(BESIDE[kind][1])
    assert not recorded.graph.of_kind("constant")
    assert recorded.replay(make(ONE * 3, TWO + 1)) == sum(read(make(ONE * 3, TWO + 1)))


def _nothing() -> Iterator[torch.Tensor]:
    yield ONE


def test_a_generator_is_not_used_up() -> None:
    generator = _nothing()
    walk(generator, lambda tensor: tensor)
    assert list(generator) == [ONE]


class ReadOnly(Mapping[str, torch.Tensor]):
    """A mapping that is no dictionary and keeps its items in a private one."""

    def __init__(self, parts: dict[str, torch.Tensor]) -> None:
        self._parts = parts

    def __getitem__(self, key: str) -> torch.Tensor:
        return self._parts[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


class Writable(ReadOnly, MutableMapping[str, torch.Tensor]):
    """The same with items that can be set."""

    def __setitem__(self, key: str, part: torch.Tensor) -> None:
        self._parts[key] = part

    def __delitem__(self, key: str) -> None:
        del self._parts[key]


@pytest.mark.parametrize("kind", [ReadOnly, Writable])
def test_a_mapping_of_somebodys_own_is_built_anew_and_left_as_it_is(kind: type[ReadOnly]) -> None:
    given = kind({"image": ONE})
    built = rebuild(walk(given, lambda tensor: tensor), lambda tensor: TWO)
    assert type(built) is kind
    assert built["image"] is TWO
    assert given["image"] is ONE


def test_what_an_object_shows_as_attributes_is_named_by_them() -> None:
    class Instances:
        def __init__(self, **fields: Any) -> None:
            self._size, self._fields = (1, 2), fields

        def __getattr__(self, name: str) -> Any:
            if name == "_fields" or name not in self._fields:
                raise AttributeError(name)
            return self._fields[name]

    walked = walk([{"instances": Instances(boxes=ONE, labels=[ONE])}], lambda tensor: tensor)
    paths = [path for path, _ in leaves(walked, "x")]
    assert paths == ["x[0]['instances'].boxes", "x[0]['instances'].labels[0]"]
    made = rebuild(walked, lambda tensor: tensor + 1)[0]["instances"]
    assert torch.equal(made.boxes, ONE + 1)
    assert type(made._fields) is dict


def test_what_a_graph_of_torch_geometric_holds_is_named_as_people_write_it() -> None:
    edges = torch.tensor([[0, 1], [1, 0]])
    data = Batch.from_data_list([Data(x=torch.ones(2, 4), edge_index=edges)] * 2)
    assert paths(data) == ["x.x", "x.edge_index", "x.batch", "x.ptr"]
    made = rebuild(walk(data, lambda tensor: tensor), lambda tensor: tensor + 1)
    assert type(made) is type(data)
    assert made.x.tolist() == [[2.0] * 4] * 4
    assert data.x.tolist() == [[1.0] * 4] * 4

    kinds = HeteroData()
    kinds["user"].x, kinds["user", "buys", "item"].edge_index = ONE, edges
    assert paths(kinds) == ["x['user']['x']", "x[('user', 'buys', 'item')]['edge_index']"]


def test_a_private_tensor_among_others_has_a_name_of_its_own() -> None:
    normal = MultivariateNormal(torch.zeros(2), torch.eye(2))
    assert paths(normal) == ["x.covariance_matrix", "x.loc", "x._unbroadcasted_scale_tril"]
