import pytest

from vlfm.words import plural


@pytest.mark.parametrize(("count", "text"), [(0, "0 clips"), (1, "1 clip"), (2, "2 clips"), (21, "21 clips")])
def test_a_number_with_its_noun(count, text):
    assert plural(count, "clip") == text
