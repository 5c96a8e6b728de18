"""ONNX files: ``graph.onnx`` for looking at in Netron, ``model.onnx`` for running.

Both are made from a recorded program in inference form, through torch.export and torch.onnx.
"""

from modelviz_callbacks.writers.onnx.convert import Names, Source
from modelviz_callbacks.writers.onnx.eval_model import Call
from modelviz_callbacks.writers.onnx.trained import Again, Subject, Trained, write_trained
from modelviz_callbacks.writers.onnx.view import View, graph_view, view_model

__all__ = [
    "Again",
    "Call",
    "Names",
    "Source",
    "Subject",
    "Trained",
    "View",
    "graph_view",
    "view_model",
    "write_trained",
]
