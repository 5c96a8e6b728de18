"""``graph.onnx``: the model as its author built it, for looking at, kilobytes whatever its size."""

from __future__ import annotations

import onnx_ir as ir

from modelviz_callbacks.writers.onnx.convert import Names, Source, convert


def view_model(source: Source, names: Names, weights: bool = False) -> bytes:
    """The content of ``graph.onnx``.

    Without weights the initializers keep name, shape and dtype and have no data: Netron shows
    the same picture, and any tool can load the file (running it needs the weights).

    Args:
        source: The program, in inference form.
        names: For its inputs and outputs.
        weights: Whether to put the values of parameters and buffers into the file.

    Returns:
        A serialised ``onnx.ModelProto``; every value has a shape.

    Raises:
        WriterError: The program has no ONNX form.
        OptionError: The names do not fit.
    """
    model = convert(source, names, optimize=False)
    state = set(source.state.values())
    if not weights:
        _leave_out(model, state)
    proto = ir.to_proto(model)
    for tensor in proto.graph.initializer:
        if not weights and tensor.name in state:
            for part in ("external_data", "data_location"):
                tensor.ClearField(part)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def _leave_out(model: ir.Model, state: set[str]) -> None:
    """Replaces the weights by references to nothing, so that no value is serialised."""
    for name, value in model.graph.initializers.items():
        weights = value.const_value
        if name in state and weights is not None:
            shape = ir.Shape([int(size) for size in weights.shape.numpy()])
            value.const_value = ir.ExternalTensor(
                "weights-not-included", 0, 0, weights.dtype, shape=shape, name=name
            )
