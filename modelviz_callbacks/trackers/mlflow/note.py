"""A section of our own in a description that belongs to the user."""

from __future__ import annotations

__all__ = ["LONGEST_TAG", "NOTE_TAG", "merged_note"]

NOTE_TAG = "mlflow.note.content"
# Characters in a tag's value, https://mlflow.org/docs/latest/rest-api.html#set-tag
LONGEST_TAG = 8000


def merged_note(note: str, section: str, key: str = "model_graph") -> str | None:
    """Put a section into a description without touching the rest of it.

    The section stands between two comments that markdown does not show. A description that has
    them already gets the new section in place of the old one; any other gets it at its end.

    Args:
        note: The description as it is.
        section: Markdown.
        key: Name of the section, part of its markers.

    Returns:
        The new description, or None where the section cannot be put: one of its markers is
        missing, or the description would be longer than MLflow keeps (8000 characters).
    """
    begin, end = f"<!-- modelviz:{key} -->", f"<!-- /modelviz:{key} -->"
    # A comment inside the section could look like a marker.
    block = f"{begin}\n{section.strip().replace('<!--', '&lt;!--')}\n{end}"
    before, found_begin, rest = note.partition(begin)
    _, found_end, after = rest.partition(end)
    if found_begin and found_end:
        merged = f"{before}{block}{after}"
    elif found_begin or end in note:
        return None
    elif note.strip():
        merged = f"{note}\n\n{block}"
    else:
        merged = block
    return merged if len(merged) <= LONGEST_TAG else None
