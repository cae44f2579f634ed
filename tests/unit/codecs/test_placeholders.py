"""What counts as a placeholder in software strings, and what does not."""

import pytest

from jogak.codecs._placeholders import SLOTS, assign, cut


@pytest.mark.parametrize(
    "placeholder",
    [
        *(
            "%(name)s",
            "%(count)d",
            "%(size)05.2f",
            "%s",
            "%d",
            "%1$s",
            "%2$d",
            "%-10s",
            "%5.2f",
            "%lu",
            "%zu",
            "%%",
        ),
        *("%1", "%2", "%L1", "%n", "%Y", "%@", "%PRODUCTNAME", "%PATH%", "%{page}"),
        *("{}", "{0}", "{name}", "{user.name}", "{items[0]}", "{name!r}", "{total:>10}", "{{ name|title }}"),
        *("{% trans %}", "${x}", "$HOME", "$(ARG1)", "$[officename]"),
        *("<b>", "</b>", "<br/>", '<a href="https://a.b/c?d=e">', "</a>", "<span class='x y'>"),
        *("&amp;", "&nbsp;", "&#39;", "&#x27;", "https://example.com/a?b=c#d", "someone@example.com"),
    ],
)
def test_placeholders_are_found_whole_between_korean(placeholder: str) -> None:
    assert cut(f"앞{placeholder}을 뒤") == [("앞", False), (placeholder, True), ("을 뒤", False)]
    assert list(assign(placeholder)) == [placeholder]


@pytest.mark.parametrize(
    "text",
    [
        "100% done",
        "50%d",
        "50 %",
        "x < y and z > w",
        "a<b>c"[:3],
        "A & B",
        "&File",
        "$100",
        "{두 낱말}",
        "{a b}",
        "a @ b",
        "%",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert assign(text) == {}


def test_pieces_join_to_the_text() -> None:
    text = "%s개 중 {0} 100%, <b>{name}</b>&amp;https://a.kr/한글."
    assert "".join(piece for piece, _ in cut(text)) == text


def test_numbering_is_by_kind_and_first_appearance() -> None:
    assert assign("</b>{b}<b>{a}{b}") == {
        "</b>": "⟨close0⟩",
        "{b}": "⟨value0⟩",
        "<b>": "⟨open0⟩",
        "{a}": "⟨value1⟩",
    }


def test_more_placeholders_than_slots_leave_the_rest_spelled() -> None:
    text = "".join(f"{{x{n}}}" for n in range(SLOTS["value"] + 3))
    assert len(assign(text)) == SLOTS["value"]
    assert "{x12}" not in assign(text)


def test_punctuation_at_the_end_of_a_link_is_not_part_of_it() -> None:
    assert list(assign("(https://a.kr/b). http://c.kr, 참고")) == ["https://a.kr/b", "http://c.kr"]
