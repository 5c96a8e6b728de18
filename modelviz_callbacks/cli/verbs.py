"""The commands there are. Nothing is imported here: help and errors name them at once."""

from __future__ import annotations

# Name -> what it does, in one line. Each is a module of this package with a function `add_to`.
ABOUT = {
    "trace": "record one forward of a model, without training",
    "show": "open a graph in a viewer",
    "export": "write a graph in other formats",
    "diff": "say in what two graphs differ",
    "check": "check that a model has the architecture and the size it is meant to have",
    "join": "make one graph of the stages of a pipeline",
    "upload": "put a folder's files into an MLflow run",
    "doctor": "say what is installed and try every part once",
}
