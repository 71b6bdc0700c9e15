"""A dataset made ready for training: settled once for all its splits and canvases, and what is there is found again."""

from __future__ import annotations

import errno
import fcntl
import threading
from typing import Any

import pytest

from detector.data import keeping
from detector.data.cache import cached_split
from detector.data.cache_rule import CacheRule
from detector.data.dataset import NoRoomError
from detector.data.keeping import decoded_bytes, keep_dataset, settle_cache
from detector.data.places import SETTLING, cache_home, exclusive_lock
from tests.detector.data.conftest import CocoFolder

CANVAS = (48, 64)


def test_what_is_decoded_already_is_not_asked_of_the_disk_again(
    folder: CocoFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = folder.load()
    monkeypatch.setattr(keeping, "free_disk_bytes", lambda _: 0)
    assert settle_cache(CacheRule(), dataset.splits, [CANVAS])[0] == "off"
    for split in dataset.splits:
        cached_split(split, CANVAS)
    assert settle_cache(CacheRule(), dataset.splits, [CANVAS])[0] == "decoded"
    one_more = 4 * 64 * 64 * 3  # of another canvas
    monkeypatch.setattr(keeping, "free_disk_bytes", lambda _: 2 * one_more)
    assert settle_cache(CacheRule(), dataset.splits, [CANVAS, (64, 64)])[0] == "decoded"
    monkeypatch.setattr(keeping, "free_disk_bytes", lambda _: 2 * one_more - 2)
    assert settle_cache(CacheRule(), dataset.splits, [CANVAS, (64, 64)])[0] != "decoded"


def test_what_skip_bad_leaves_out_is_not_kept_twice(folder: CocoFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.images / "b.png").write_bytes(b"no image")
    split = folder.load().train
    cached_split(split, CANVAS, skip_bad=True)
    assert len(list((cache_home() / "decoded").glob("*/images.npy"))) == 1
    monkeypatch.setattr(keeping, "free_disk_bytes", lambda _: 0)
    assert settle_cache(CacheRule(), [folder.load().train], [CANVAS])[0] == "decoded"


def test_every_split_is_kept_on_every_canvas_and_the_first_ones_come_back(folder: CocoFolder) -> None:
    dataset = folder.load()
    kept = keep_dataset(dataset, [CANVAS, (64, 64)], CacheRule("decoded"))
    assert set(kept.caches) == {"train", "val"}
    assert (kept.mode, kept.why) == ("decoded", "as asked")
    for role, split in (("train", dataset.train), ("val", dataset.val)):
        assert kept.caches[role].images.shape == (len(split.images), *CANVAS, 3)
    pixels = sum(decoded_bytes(split, canvas) for split in dataset.splits for canvas in (CANVAS, (64, 64)))
    assert pixels <= kept.disk_bytes < pixels + 4 * 2000
    assert len(list((cache_home() / "decoded").glob("*/images.npy"))) == 4


def test_packed_files_count_once_for_all_canvases(folder: CocoFolder) -> None:
    dataset = folder.load()
    one = keep_dataset(dataset, [CANVAS], CacheRule("encoded")).disk_bytes
    assert keep_dataset(dataset, [CANVAS, (64, 64)], CacheRule("encoded")).disk_bytes == one > 0


def test_an_extended_split_is_kept_beside_on_the_first_canvas_alone(folder: CocoFolder) -> None:
    dataset = folder.load()
    folder.paint("e.png", seed=9)
    folder.train["images"].append(folder.image_row(9, "e.png"))
    kept = keep_dataset(dataset, [CANVAS, (64, 64)], CacheRule("decoded"), extended=folder.load().train)
    assert set(kept.caches) == {"train", "val", "extended"}
    assert kept.caches["extended"].images.shape == (4, *CANVAS, 3)
    assert len(list((cache_home() / "decoded").glob("*/images.npy"))) == 5


def test_bad_images_leave_the_dataset_where_they_may_be_skipped(folder: CocoFolder) -> None:
    (folder.images / "b.png").write_bytes(b"no image")
    dataset = folder.load()
    assert len(dataset.train.images) == 3
    kept = keep_dataset(dataset, [CANVAS], CacheRule(), skip_bad=True)
    assert [record.path.name for record in dataset.train.images] == ["a.png", "c.png"]
    assert kept.caches["train"].images.shape == (2, *CANVAS, 3)


def test_who_waits_hears_how_far_it_is(folder: CocoFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.data.progress_lines.EVERY_S", 0.0)
    heard: list[str] = []
    keep_dataset(folder.load(), [CANVAS], CacheRule("encoded"), tell=heard.append)
    for what in ("reading", "decoding", "packing"):
        assert [line for line in heard if line.startswith(what) and "train.json" in line] == [
            f"{what} the images of train.json: {n} of 3" for n in (1, 2)
        ]
    heard.clear()
    keep_dataset(folder.load(), [CANVAS], CacheRule("encoded"), tell=heard.append)
    assert not [line for line in heard if not line.startswith("reading")], "what is there is not made again"


def test_one_process_at_a_time_reads_what_identifies_the_images(
    folder: CocoFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many start at once on a fresh node: the first one's digests serve all."""
    real, held = keeping.split_fingerprint, []

    def noted(*given: Any) -> str:
        with (cache_home() / SETTLING).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(True)
        return real(*given)

    monkeypatch.setattr(keeping, "split_fingerprint", noted)
    keep_dataset(folder.load(), [CANVAS], CacheRule("off"))
    assert len(held) >= 2, "of train and val"
    with (cache_home() / SETTLING).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # free again


def test_who_waits_for_another_process_is_told(folder: CocoFolder) -> None:
    heard: list[str] = []
    inside, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with exclusive_lock(cache_home() / SETTLING):
            inside.set()
            may_end.wait(60)

    def tell(line: str) -> None:
        heard.append(line)
        may_end.set()

    other = threading.Thread(target=hold)
    other.start()
    assert inside.wait(60)
    keep_dataset(folder.load(), [CANVAS], CacheRule("off"), tell=tell)
    other.join()
    assert heard == [f"waiting for another process that keeps images in {cache_home()}"]


def test_a_disk_too_full_for_a_lock_is_one_without_room_for_images(
    folder: CocoFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(keeping, "exclusive_lock", full)
    with pytest.raises(NoRoomError, match="No space left.*--cache encoded or off"):
        keep_dataset(folder.load(), [CANVAS], CacheRule())
