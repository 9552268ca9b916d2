import email.utils
import time

import pytest

from vlfm.clips.download.retries import LONGEST, asked_wait, back_off


def test_each_wait_is_longer_up_to_a_minute_and_the_same_every_time():
    for address in ("http://a/1", "http://a/2"):
        waits = [back_off(address, tries) for tries in range(1, 20)]
        assert waits == [back_off(address, tries) for tries in range(1, 20)]
        assert waits[:6] == sorted(waits[:6])
        assert all(min(LONGEST, 2**n) / 2 < wait <= min(LONGEST, 2**n) for n, wait in enumerate(waits))


def test_jobs_that_failed_together_do_not_come_back_together():
    waits = sorted(back_off(f"http://a/{n}", 4) for n in range(200))
    assert waits[0] < 4.2 and waits[-1] > 7.8
    assert all(20 < sum(low < wait <= low + 1 for wait in waits) < 90 for low in (4, 5, 6, 7)), "spread out evenly"


@pytest.mark.parametrize(
    ("header", "seconds"), [(None, 0), ("", 0), ("12", 12), (" 3 ", 3), ("-3", 0), ("soon", 0), ("1.5", 0), ("²", 0)]
)
def test_what_a_server_asks_for(header, seconds):
    assert asked_wait(header) == seconds


def test_a_server_may_give_a_date():
    for zone in (True, False):
        late = email.utils.formatdate(time.time() + 100, usegmt=zone)
        assert 98 < asked_wait(late) <= 100
    assert asked_wait("Wed, 21 Oct 2015 07:28:00 GMT") == 0
