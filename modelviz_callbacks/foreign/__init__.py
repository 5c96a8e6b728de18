"""Graphs that others made, as model graphs: ONNX files, exported programs, fx modules."""
