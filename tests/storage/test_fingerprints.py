"""Fingerprints."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlfm.errors import FingerprintMismatch
from vlfm.storage.fingerprints import check_fingerprint, fingerprint


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans(), min_size=2))
def test_fingerprint_ignores_order_and_sees_values(settings):
    backwards = dict(reversed(settings.items()))
    assert fingerprint(settings) == fingerprint(backwards)
    key = next(iter(settings))
    assert fingerprint(settings) != fingerprint({**settings, key: [settings[key]]})


def test_a_fingerprint_that_does_not_fit_is_refused(tmp_path):
    check_fingerprint("a", "a", tmp_path, "")
    with pytest.raises(FingerprintMismatch, match=r"other settings.*Remove it"):
        check_fingerprint("a", "b", tmp_path, "Remove it.")
