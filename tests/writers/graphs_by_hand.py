"""Model graphs built by hand, the way a recording would name them."""

from __future__ import annotations

from collections.abc import Sequence

from modelviz_callbacks.graph import (
    Argument,
    ModelGraph,
    ModuleCall,
    NameAllocator,
    Node,
    ParameterInfo,
    Port,
    Ref,
    Source,
    TensorSpec,
    check,
)
from modelviz_callbacks.graph.model import NodeKind
from modelviz_callbacks.graph.values import (
    Value,
)


class GraphByHand:
    """Collects nodes and module calls; `graph` checks them."""

    def __init__(self, name: str = "Model") -> None:
        self._name = name
        self._allocator = NameAllocator()
        self._nodes: list[Node] = []
        self._modules: list[ModuleCall] = []
        self._parameters: list[ParameterInfo] = []

    def module(self, parent: str, label: str, path: str, kind: str, **fields: object) -> str:
        name = self._allocator.allocate(parent, label)
        class_name = f"torch.nn.modules.{kind}"
        self._modules.append(ModuleCall(name, path, class_name, parent, **fields))  # type: ignore[arg-type]
        return name

    def returns(self, module: str, ref: Ref) -> None:
        """Says what a module call gave back."""
        for index, call in enumerate(self._modules):
            if call.name == module:
                fields = {
                    field: getattr(call, field)
                    for field in call.__slots__
                    if field not in ("inputs", "outputs")
                }
                self._modules[index] = ModuleCall(**fields, outputs=(Port("output", ref),))

    def leaf(self, kind: NodeKind, name: str, scope: str = "", **fields: object) -> Ref:
        shape = fields.pop("shape", (4, 4))
        dtype = fields.pop("dtype", "float32")
        device = fields.pop("device", "cpu")
        spec = TensorSpec(shape, dtype, device, bool(fields.pop("trainable", False)))  # type: ignore[arg-type]
        node_name = self._allocator.allocate(scope, name)
        fields.setdefault("path", node_name.replace("/", "."))
        self._add(Node(node_name, kind, kind, scope, (spec,), **fields))  # type: ignore[arg-type]
        return Ref(node_name)

    def parameter(self, scope: str, name: str, trainable: bool = True, **fields: object) -> Ref:
        ref = self.leaf("parameter", name, scope, trainable=trainable, **fields)
        node = self._nodes[-1]
        owner = node.path.rpartition(".")[0]
        self._parameters.append(ParameterInfo(node.path, node.outputs[0], trainable, owner))
        return ref

    def op(self, scope: str, op: str, *inputs: Value, **fields: object) -> Ref:
        """An op; arguments by name in ``arguments``, one output of ``shape`` unless ``outputs``."""
        shape, device = fields.pop("shape", (4, 4)), fields.pop("device", "cpu")
        outputs = fields.pop("outputs", (TensorSpec(shape, "float32", device),))  # type: ignore[arg-type]
        names = ["input", "weight", "bias", "other"]
        named: dict[str, Value] = dict(zip(names, inputs, strict=False))
        named.update(fields.pop("arguments", {}))  # type: ignore[call-overload]
        arguments = tuple(Argument(key, value) for key, value in named.items())
        name = self._allocator.allocate(scope, str(fields.pop("label", op)))
        kind = fields.pop("kind", "op")
        fields.setdefault("target", f"torch.{op}")
        fields.setdefault("source", Source("model.py", 12, "forward"))
        self._add(Node(name, kind, op, scope, outputs, arguments, **fields))  # type: ignore[arg-type]
        return Ref(name)

    def output(self, ref: Ref, name: str = "output") -> None:
        node_name = self._allocator.allocate("", name)
        self._add(
            Node(node_name, "output", "output", arguments=(Argument("value", ref),), path=name)
        )

    def graph(self) -> ModelGraph:
        found = ModelGraph(
            self._name,
            f"models.{self._name}",
            tuple(self._nodes),
            tuple(self._modules),
            tuple(self._parameters),
        )
        check(found)
        return found

    def _add(self, node: Node) -> None:
        self._nodes.append(node)


def two_branches() -> ModelGraph:
    """An article's CNN: two conv blocks, two branches side by side, joined, a classifier."""
    build = GraphByHand("CNN")
    x = build.leaf("input", "x", shape=(8, 1, 28, 28))
    cnn = build.module("", "cnn", "cnn", "container.Sequential")
    x = _conv(build, cnn, "0", x, (8, 16, 28, 28), 3_612_672)
    x = build.op(
        build.module(cnn, "1_ReLU", "cnn.1", "activation.ReLU"), "relu", x, shape=(8, 16, 28, 28)
    )
    x = _conv(build, cnn, "2", x, (8, 32, 14, 14), 14_450_688)
    x = build.op("", "flatten", x, shape=(8, 6272), arguments={"start_dim": 1, "end_dim": -1})
    left = _linear(build, "mlp1", x, 64, trainable=False)
    right = _linear(build, "mlp2", x, 64)
    joined = build.op("", "cat", (left, right), shape=(8, 128), arguments={"dim": 1})
    build.output(_linear(build, "fc", joined, 10))
    return build.graph()


def _conv(
    build: GraphByHand, scope: str, number: str, x: Ref, shape: Sequence[int], flops: int
) -> Ref:
    module = build.module(scope, f"{number}_Conv2d", f"cnn.{number}", "conv.Conv2d")
    weight = build.parameter(
        module, "weight", path=f"cnn.{number}.weight", shape=(shape[1], 1, 3, 3)
    )
    bias = build.parameter(module, "bias", path=f"cnn.{number}.bias", shape=(shape[1],))
    arguments: dict[str, Value] = {"stride": (1, 1), "padding": (1, 1), "groups": 1}
    return build.op(
        module, "conv2d", x, weight, bias, shape=tuple(shape), flops=flops, arguments=arguments
    )


def _linear(build: GraphByHand, name: str, x: Ref, width: int, trainable: bool = True) -> Ref:
    module = build.module("", name, name, "linear.Linear")
    weight = build.parameter(
        module, "weight", trainable, path=f"{name}.weight", shape=(width, 6272)
    )
    ref = build.op(module, "linear", x, weight, shape=(8, width), flops=2 * 8 * width * 6272)
    build.returns(module, ref)
    return ref


def chain(length: int, ops: Sequence[str] = ("relu", "sin", "conv2d")) -> ModelGraph:
    """Ops in a row at the top level, no module in sight."""
    build = GraphByHand("Chain")
    x = build.leaf("input", "x")
    for index in range(length):
        x = build.op("", ops[index % len(ops)], x, flops=100)
    build.output(x)
    return build.graph()


def layers(count: int) -> ModelGraph:
    """Numbered blocks in a list, each with an op and a residual add."""
    build = GraphByHand("Layers")
    x = build.leaf("input", "x")
    parent = build.module("", "layers", "layers", "container.ModuleList", called=False)
    for index in range(count):
        block = build.module(parent, f"{index}_Block", f"layers.{index}", "model.Block")
        fc = build.module(block, "fc", f"layers.{index}.fc", "linear.Linear")
        weight = build.parameter(fc, "weight", path=f"layers.{index}.fc.weight")
        x = build.op(block, "add", x, build.op(fc, "linear", x, weight, flops=128))
    build.output(x)
    return build.graph()


GRAPHS = {
    "two branches": two_branches(),
    "a chain of 7": chain(7),
    "a chain of 60": chain(60),
    "a chain of 3000": chain(3000),
    "12 layers": layers(12),
    "130 layers": layers(130),
}
