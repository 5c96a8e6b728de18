from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modelviz_callbacks.trackers.mlflow.note import merged_note

plain = st.text(max_size=200).filter(lambda text: "modelviz" not in text)


def test_an_empty_description_becomes_the_section_alone() -> None:
    merged = merged_note(" \n", "A model.")

    assert merged is not None
    assert [line for line in merged.splitlines() if not line.startswith("<!--")] == ["A model."]


@given(note=plain, first=plain, second=plain)
def test_the_user_s_text_stays_and_the_section_is_never_doubled(
    note: str, first: str, second: str
) -> None:
    once = merged_note(note, first)
    assert once is not None
    again = merged_note(once, second)

    assert again == merged_note(note, second)
    assert again is not None
    assert again.startswith(note if note.strip() else "<!--")
    assert again.count("<!-- modelviz:model_graph -->") == 1


def test_what_the_user_wrote_behind_the_section_stays_behind_it() -> None:
    first = merged_note("before", "one")
    assert first is not None
    second = merged_note(f"{first}\n\nbehind", "two")

    assert second is not None
    assert second.startswith("before")
    assert second.endswith("behind")
    assert "two" in second
    assert "one" not in second


def test_sections_of_two_graphs_stand_beside_each_other() -> None:
    first = merged_note("", "one", "generator")
    assert first is not None
    both = merged_note(first, "two", "discriminator")
    assert both is not None
    again = merged_note(both, "three", "generator")

    assert again is not None
    assert "three" in again
    assert "two" in again
    assert "one" not in again


def test_a_description_with_one_of_the_markers_is_left_alone() -> None:
    whole = merged_note("text", "section")
    assert whole is not None
    begin, end = "<!-- modelviz:model_graph -->", "<!-- /modelviz:model_graph -->"

    assert merged_note(whole.replace(end, ""), "new") is None
    assert merged_note(whole.replace(begin, ""), "new") is None
    assert merged_note(f"{end} between {begin}", "new") is None


def test_a_section_that_does_not_fit_is_left_out() -> None:
    empty = merged_note("", "")
    assert empty is not None
    room = 8000 - len(empty)

    assert merged_note("", "x" * room) is not None
    assert merged_note("", "x" * (room + 1)) is None
    assert merged_note("y" * 8000, "x") is None


def test_a_comment_inside_the_section_cannot_end_it() -> None:
    first = merged_note("", "a <!-- /modelviz:model_graph --> b")
    assert first is not None
    second = merged_note(first, "new")

    assert second is not None
    assert " b" not in second
