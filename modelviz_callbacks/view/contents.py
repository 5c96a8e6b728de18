"""What a closed module is made of, in a few words: ``4 × Bottleneck``."""

from __future__ import annotations

from collections import Counter

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.graph.model import ModuleCall


def contents_text(analysis: Analysis, call: ModuleCall) -> str:
    """The modules with an inside of their own that a module calls most often.

    A module that calls only one of them is seen through.

    Args:
        analysis: The analysis of the graph.
        call: A module call of it that ran.

    Returns:
        ``4 × Bottleneck``; ``""`` where there are no two of a class.
    """
    while not analysis.is_leaf(call):
        called = [
            item for item in analysis.outline.items[call.name] if isinstance(item, ModuleCall)
        ]
        inside = [one for one in called if not one.is_function and not analysis.is_leaf(one)]
        if len(inside) == 1:
            call = inside[0]
            continue
        counts = Counter(one.class_name for one in inside).most_common(1)
        if not counts or counts[0][1] < 2:
            break
        name = next(one.type_name for one in inside if one.class_name == counts[0][0])
        return f"{counts[0][1]} × {name}"
    return ""
