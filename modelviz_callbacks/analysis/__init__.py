"""What is computed about a model graph, once, and handed to every writer. Standard library only."""

from modelviz_callbacks.analysis.analysis import Analysis

__all__ = ["Analysis"]
