"""What was said, cut into parts that PostgreSQL can index."""

from hypothesis import given
from hypothesis import strategies as st

from greenroom.common.searchable import searchable
from greenroom.common.transcript import one_line
from greenroom.recorder.transcripts import parts

texts = st.text(max_size=80) | st.text(alphabet="ab ü\n\x02", min_size=50, max_size=300)
spoken = st.lists(st.tuples(st.integers(0, 10**9), texts), max_size=30)


@given(spoken, st.integers(40, 400))
def test_no_word_is_lost_and_no_part_is_too_large(lines: list[tuple[int, str]], most: int) -> None:
    """All parts together have every word in its order; each fits, and has one beginning for each of its lines."""
    # Words that alone are longer than a part aren't cut: they are far shorter than parts really are.
    lines = [(start, " ".join(word[:8] for word in text.split())) for start, text in lines]
    made = list(parts(lines, most_bytes=most))
    words = [word for part in made for word in part.text.split()]
    assert words == [word for _, text in lines for word in one_line(searchable(text)).split()]
    assert all(len(part.text.encode()) <= most for part in made)
    assert all(len(part.text.split("\n")) == len(part.starts_ms) for part in made)
    assert all(part.text.strip() for part in made)


@given(spoken)
def test_lines_begin_when_they_were_said(lines: list[tuple[int, str]]) -> None:
    """With room enough there is one part: a line an utterance, without those that have no words."""
    made = list(parts(lines))
    said = [(start, line) for start, text in lines if (line := one_line(searchable(text)))]
    assert [
        (start, line) for part in made for start, line in zip(part.starts_ms, part.text.split("\n"), strict=True)
    ] == said
    assert len(made) == (1 if said else 0)


def test_a_word_without_end_is_cut() -> None:
    """PostgreSQL indexes no longer one, and a part has to end somewhere."""
    made = list(parts([(0, "x" * 200_000)]))
    assert [len(part.text) for part in made] == [2000]


@given(st.text())
def test_searchable_text_keeps_its_places(text: str) -> None:
    """One character for one, letters as they are; done again it changes nothing."""
    made = searchable(text)
    assert len(made) == len(text)
    assert all(new == old for new, old in zip(made, text, strict=True) if old.isalnum())
    assert searchable(made) == made
    assert not set(made) & set("<>\u201c\u201d\u2014")
