"""What an evaluation that was killed goes on with."""

from types import SimpleNamespace

from vlfm.evaluation.evaluate import _finished
from vlfm.storage.files import write_json


def test_a_finished_clip_is_kept_unless_its_caption_is_another_or_a_file_is_gone(tmp_path):
    entry = {"caption": "a dog", "sheet": "x.png", "videos": {"24": "x_24fps.mp4", "true": "x_true.mp4"}}
    write_json(tmp_path / "x.json", {"rows": [], "entry": entry})
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("x.png", "x_24fps.mp4", "x_true.mp4"):
        (videos / name).touch()

    def finished(name, caption):
        return _finished(tmp_path / name, SimpleNamespace(clip=SimpleNamespace(caption=caption)), videos)

    assert finished("x.json", "a dog")["entry"] == entry
    assert finished("x.json", "a cat") is None and finished("y.json", "a dog") is None
    (videos / "x_true.mp4").unlink()
    assert finished("x.json", "a dog") is None
