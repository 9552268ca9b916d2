import threading

import pytest

from vlfm.errors import VLFMError
from vlfm.storage.background import BackgroundWork


def fail():
    raise VLFMError("the disk is full")


def test_it_goes_on_beside_and_one_piece_at_a_time():
    beside, going_on, done = BackgroundWork(), threading.Event(), []

    def first():
        assert going_on.wait(30)
        done.append("first")

    beside.start(first)
    beside.check()
    assert not done
    threading.Timer(0.2, going_on.set).start()
    beside.start(lambda: done.append("second"))
    assert done[0] == "first"
    beside.wait()
    assert done == ["first", "second"]
    beside.close()


@pytest.mark.parametrize("ask", ["start", "check", "wait"])
def test_an_error_is_raised_to_who_asks_next_and_once(ask):
    beside = BackgroundWork()
    beside.start(fail)
    while not beside._work.done():
        pass
    with pytest.raises(VLFMError, match="the disk is full"):
        getattr(beside, ask)(*([lambda: None] if ask == "start" else []))
    beside.check()
    beside.wait()
    beside.close()


def test_an_error_nobody_asked_for_is_told_at_the_end(capsys):
    beside = BackgroundWork()
    beside.start(fail)
    beside.close()
    assert capsys.readouterr().out == "warning: the disk is full\n"
