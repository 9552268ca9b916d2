import pytest

from vlfm.words import bytes_in_words, plural, seconds_in_words, table_in_words


@pytest.mark.parametrize(("count", "text"), [(0, "0 clips"), (1, "1 clip"), (2, "2 clips"), (21, "21 clips")])
def test_a_number_with_its_noun(count, text):
    assert plural(count, "clip") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(7.46, "7.5 s"), (720, "12 min"), (18_480, "5 h 08 min"), (172_800, "2 d 0 h"), (273_600, "3 d 4 h")],
)
def test_seconds(seconds, text):
    assert seconds_in_words(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(517, "517 B"), (999_600, "1 MB"), (1.012e9, "1.01 GB"), (2.5e15, "2,500 TB")]
)
def test_bytes(size, text):
    assert bytes_in_words(size) == text


def test_columns_stand_below_each_other():
    assert table_in_words([("a", "bb", "c"), ("aaa", "b", "")]) == ["a    bb  c", "aaa   b"]
    assert table_in_words([("1", "b"), ("10", "bb")], left=(1,)) == [" 1  b", "10  bb"]
