"""What a request brings along is refused early when it is of no use, and copied when it is."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.clips import a_clip
from tuner.errors import BadInput, TunerError
from tuner.request import Request
from tuner.runs.given import check_given, clip_seconds, keep_given
from tuner.runs.recorder import Recorder
from tuner.runs.store import Store
from tuner.settings import Settings


def wants(clip: object, **more: object) -> Request:
    return Request(**{"source_video": clip, "strength": 0.5, "frames": 9, "fps": 8, **more})


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm", "clip.mov", "clip.mkv"])
def test_a_clip_lasts_until_its_last_frame(tmp_path: Path, name: str) -> None:
    assert clip_seconds(a_clip(tmp_path / name, frames=9, fps=8)) == pytest.approx(1.0, abs=2e-3)


def test_a_clip_must_reach_to_the_last_frame_that_is_wanted(tmp_path: Path) -> None:
    clip = a_clip(tmp_path / "clip.mp4", frames=9, fps=8)
    check_given(wants(clip))
    check_given(wants(clip, frames=5, fps=4))
    with pytest.raises(BadInput, match="'9 frames' is not allowed; allowed: a clip of at least 13 frames at 8"):
        check_given(wants(clip, frames=13))
    with pytest.raises(BadInput, match="5 frames"):
        check_given(wants(clip, fps=4))


def test_what_is_no_clip_is_refused_in_one_line(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    (tmp_path / "junk.mp4").write_bytes(b"junk" * 100)
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name in ("picture.png", "junk.mp4", "empty.mp4", "missing.mp4", "."):
        with pytest.raises(BadInput, match="source_video") as refusal:
            clip_seconds(tmp_path / name)
        assert "\n" not in str(refusal.value)


def test_a_playlist_cannot_bring_another_file_in(tmp_path: Path) -> None:
    a_clip(tmp_path / "private.mp4")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile private.mp4\n")
    with pytest.raises(BadInput, match=r"list\.mp4"):
        clip_seconds(tmp_path / "list.mp4")


def test_an_address_is_not_fetched() -> None:
    with pytest.raises(BadInput, match="existing"):
        clip_seconds("http://127.0.0.1:9/clip.mp4")


def test_a_clip_in_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="the path of a video file"):
        check_given(wants(np.zeros((9, 8, 8, 3), np.uint8)))


def test_clip_and_mask_are_copied_so_that_history_survives_them(tmp_path: Path) -> None:
    clip = Path(a_clip(tmp_path / "Mine.MP4"))
    Image.new("L", (20, 10), 255).save(tmp_path / "mask.jpg")
    before = clip.read_bytes()
    store = Store(tmp_path / "data")
    request = wants(str(clip), mask=tmp_path / "mask.jpg", num_clips=2)
    run_id = Recorder(store, "demo", request, Settings()).record.id
    clip.unlink()
    (tmp_path / "mask.jpg").unlink()
    store.close()
    (tmp_path / "data").rename(tmp_path / "moved")
    store = Store(tmp_path / "moved")
    record = store.get(run_id)
    assert record is not None
    assert Path(record.request["source_video"]) == store.folder(run_id) / "source_video.mp4"
    assert Path(record.request["source_video"]).read_bytes() == before
    assert Image.open(record.request["mask"]).size == (20, 10)
    check_given(Request(**record.request))
    store.close()


def test_a_bad_clip_leaves_no_run_behind(tmp_path: Path) -> None:
    (tmp_path / "junk.mp4").write_bytes(b"junk")
    store = Store(tmp_path)
    with pytest.raises(BadInput, match=r"junk\.mp4"):
        Recorder(store, "demo", wants(str(tmp_path / "junk.mp4")), Settings())
    assert store.history() == []
    assert list((tmp_path / "runs").iterdir()) == []
    store.close()


def test_a_disk_without_room_for_the_copy_is_one_line(
    tmp_path: Path, full_disk: Callable[[], AbstractContextManager[None]]
) -> None:
    request = wants(a_clip(tmp_path / "clip.mp4"))
    with full_disk(), pytest.raises(TunerError, match=r"cannot write .*source_video\.mp4"):
        keep_given(request, tmp_path)
