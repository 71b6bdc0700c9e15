"""The decoded cache: letterbox geometry, one build for all, and what makes a new one."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detector.data import cache, places
from detector.data.cache import CachedSplit, cached_split
from detector.data.dataset import DataError, NoRoomError
from detector.data.fingerprint import split_fingerprint
from detector.data.letterbox import PADDING_VALUE, letterbox_size
from detector.data.places import cache_home
from tests.detector.data.conftest import HEIGHT, WIDTH, CocoFolder

CANVAS = (64, 128)
REPO = Path(__file__).resolve().parents[3]


def build(folder: CocoFolder, canvas: tuple[int, int] = CANVAS) -> CachedSplit:
    return cached_split(folder.load().train, canvas)


def cache_folder(folder: CocoFolder) -> Path:
    return cache_home() / "decoded" / f"{split_fingerprint(folder.load().train)}-64x128-v{cache.FORMAT}"


@pytest.mark.parametrize(
    ("height", "width", "canvas", "expected"),
    [
        (128, 1024, (128, 512), (64, 512, 0.5)),  # the width decides: 512 / 1024
        (480, 640, (256, 320), (240, 320, 0.5)),  # 320 / 640 < 256 / 480
        (640, 480, (256, 320), (256, 192, 0.4)),  # 256 / 640 < 320 / 480
        (32, 32, (128, 96), (96, 96, 3.0)),  # small images are enlarged
        (1000, 10, (64, 64), (64, 1, 0.064)),  # 10 x 0.064 rounds to 1
        (5, 1000, (64, 64), (1, 64, 0.064)),  # 5 x 0.064 rounds to 0, but a row is left
        (30, 40, (64, 128), (64, 85, 64 / 30)),  # 40 x 64 / 30 = 85.33
    ],
)
def test_letterbox_size_by_hand(
    height: int, width: int, canvas: tuple[int, int], expected: tuple[int, int, float]
) -> None:
    rows, columns, scale = letterbox_size(height, width, canvas)
    assert (rows, columns) == expected[:2]
    assert scale == pytest.approx(expected[2], rel=1e-12)


def test_images_stand_at_the_top_left_and_padding_is_grey(folder: CocoFolder) -> None:
    cached = build(folder)
    assert cached.images.shape == (3, 64, 128, 3)
    assert cached.images.dtype == np.uint8
    assert cached.content_hw.tolist() == [[64, 85]] * 3
    assert np.unique(cached.images[:, :, 85:]).tolist() == [PADDING_VALUE]
    with Image.open(folder.images / "b.png") as image:
        expected = np.asarray(image.resize((85, 64), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(cached.images[1, :, :85], expected)


def test_boxes_scale_with_the_image(folder: CocoFolder) -> None:
    # 40 x 30 onto 60 x 80 (height 60 decides, x 2): [4, 6, 10, 8] is 4 6 14 14 and becomes 8 12 28 28
    folder.train["annotations"][0]["bbox"] = [4, 6, 10, 20]
    folder.train["annotations"].append(folder.box_row(8, 1, [1, 2, 3, 4], 1))
    cached = cached_split(folder.load().train, (60, 90))
    assert cached.scales.tolist() == [2.0, 2.0, 2.0]
    np.testing.assert_array_equal(cached.boxes_xyxy[0], [[8, 12, 28, 52], [2, 4, 8, 12]])
    np.testing.assert_array_equal(cached.boxes_xyxy[1], [[8, 12, 28, 28], [0, 0, 0, 0]])
    assert cached.labels.tolist() == [[1, 0], [0, -1], [1, -1]]
    # back in original pixels they are the annotations again
    np.testing.assert_array_equal(cached.boxes_xyxy[1, 0] / cached.scales[1], [4, 6, 14, 14])


def test_the_pixels_are_a_read_only_memory_map(folder: CocoFolder) -> None:
    cached = build(folder)
    assert isinstance(cached.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        cached.images[0, 0, 0, 0] = 1


def test_the_second_open_does_not_build_again(folder: CocoFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build(folder)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("built twice")

    monkeypatch.setattr(cache, "_decode_all", refuse)
    second = build(folder)
    np.testing.assert_array_equal(first.images, second.images)
    assert first.channel_mean == second.channel_mean
    with pytest.raises(AssertionError, match="built twice"):  # another canvas is another build
        build(folder, (64, 64))


def test_the_cache_lies_under_xdg_cache_home(folder: CocoFolder, tmp_path: Path) -> None:
    build(folder)
    assert (tmp_path / "cache" / "detector-search" / "decoded" / cache_folder(folder).name / "images.npy").is_file()


def test_a_changed_pixel_changes_the_fingerprint_and_the_picture(folder: CocoFolder) -> None:
    before = build(folder)
    with Image.open(folder.images / "c.png") as image:
        pixels = np.array(image)
    pixels[3, 5, 0] ^= 128
    Image.fromarray(pixels).save(folder.images / "c.png")
    after = build(folder)
    assert after.fingerprint != before.fingerprint
    assert (np.asarray(after.images[2]) != np.asarray(before.images[2])).any()
    np.testing.assert_array_equal(after.images[:2], before.images[:2])


def test_a_moved_box_a_class_and_a_class_name_change_the_fingerprint(folder: CocoFolder) -> None:
    seen = {build(folder).fingerprint}
    folder.train["annotations"][0]["bbox"] = [4, 6, 10, 9]
    seen.add(build(folder).fingerprint)
    folder.train["annotations"][0]["category_id"] = 1
    seen.add(build(folder).fingerprint)
    folder.train["annotations"][0]["iscrowd"] = 1
    seen.add(build(folder).fingerprint)
    for content in folder.splits.values():
        content["categories"][1]["name"] = "other"
    seen.add(build(folder).fingerprint)
    assert len(seen) == 5


def test_the_canvas_parts_the_cache_but_not_the_fingerprint(folder: CocoFolder) -> None:
    wide, square = build(folder), build(folder, (64, 64))
    assert wide.fingerprint == square.fingerprint
    assert square.images.shape == (3, 64, 64, 3)
    assert square.content_hw.tolist() == [[48, 64]] * 3
    assert len(list((cache_home() / "decoded").glob("*/meta.json"))) == 2


def test_a_build_that_died_half_way_is_thrown_away(folder: CocoFolder) -> None:
    stale = cache_folder(folder).with_suffix(".unfinished")
    stale.mkdir(parents=True)
    (stale / "images.npy").write_bytes(b"half an array")
    (stale / "left over").write_text("of the dead")
    cached = build(folder)
    assert cached.images.shape == (3, 64, 128, 3)
    assert not stale.exists()
    assert sorted(path.name for path in cache_folder(folder).iterdir()) == ["images.npy", "meta.json"]


def test_after_a_crash_the_next_build_is_whole(folder: CocoFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    real = cache._decode_onto

    def dies_at_c(canvas: np.ndarray, record: cache.ImageRecord) -> dict[str, object]:
        if record.file_name == "c.png":
            raise MemoryError("as if killed")
        return real(canvas, record)

    monkeypatch.setattr(cache, "_decode_onto", dies_at_c)
    with pytest.raises(MemoryError):
        build(folder)
    assert not cache_folder(folder).exists()
    monkeypatch.setattr(cache, "_decode_onto", real)
    assert np.asarray(build(folder).images[2]).any()


BUILDER = """
import sys, time
from detector.data import cache, places
from detector.data.coco import load_dataset
from detector.data.dataset import DataSource
real = cache._decode_all
def slow_build(*given, **named):
    with open(sys.argv[2], "a") as file:
        file.write("built\\n")
    time.sleep(1.0)
    real(*given, **named)
cache._decode_all = slow_build
cached = cache.cached_split(load_dataset(DataSource.from_folder(sys.argv[1])).train, (64, 128))
print(int(cached.images.sum(dtype="int64")))
"""


def test_two_processes_at_once_build_one(folder: CocoFolder, tmp_path: Path) -> None:
    folder.write()
    command = [sys.executable, "-c", BUILDER, str(folder.root), str(tmp_path / "builds")]
    running = [subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    sums = [process.communicate(timeout=120)[0].strip() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert (tmp_path / "builds").read_text().split() == ["built"]
    assert sums == [str(int(build(folder).images.sum(dtype=np.int64)))] * 2


def test_channel_statistics_are_numpys_over_the_content_alone(folder: CocoFolder) -> None:
    # a canvas of the height of the images: scale 1, ten columns of padding that must not count
    cached = cached_split(folder.load().train, (HEIGHT, WIDTH + 10))
    pixels = np.stack([np.asarray(Image.open(folder.images / f"{name}.png")) for name in "abc"]) / 255.0
    np.testing.assert_array_equal(cached.images[:, :, :WIDTH] / 255.0, pixels)
    np.testing.assert_allclose(cached.channel_mean, pixels.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(cached.channel_std, pixels.std(axis=(0, 1, 2)), rtol=1e-9)


def test_images_of_unequal_size_weigh_by_their_pixels(folder: CocoFolder) -> None:
    # black 60 x 30, white 60 x 60 (scale 1 on 60 x 60): two thirds of the pixels are white
    for row, name, height, value in zip(folder.train["images"], "abc", (30, 60, 0), (0, 255, 0), strict=True):
        if height:
            Image.new("RGB", (60, height), (value,) * 3).save(folder.images / f"{name}.png")
            row.update(width=60, height=height)
    folder.train["images"].pop()
    folder.train["annotations"].pop()
    cached = cached_split(folder.load().train, (60, 60))
    np.testing.assert_allclose(cached.channel_mean, [2 / 3] * 3, rtol=1e-12)
    np.testing.assert_allclose(cached.channel_std, [(2 / 9) ** 0.5] * 3, rtol=1e-9)  # sqrt(p (1 - p))
    assert np.unique(cached.images[0, 30:]).tolist() == [PADDING_VALUE]


def test_a_large_jpeg_decoded_at_reduced_size_keeps_its_annotated_geometry(folder: CocoFolder) -> None:
    # JPEG may decode 1024 x 768 at half size for a 256 x 320 canvas; scale and boxes still refer to the stored size
    pixels = np.zeros((768, 1024, 3), dtype=np.uint8)
    pixels[256:512, 512:768] = 255
    Image.fromarray(pixels).save(folder.images / "a.jpg", quality=95)
    folder.train["images"][0].update(file_name="a.jpg", width=1024, height=768)
    folder.train["annotations"][0]["bbox"] = [512, 256, 256, 256]
    cached = cached_split(folder.load().train, (256, 320))
    assert cached.scales[0] == 0.3125  # 320 / 1024
    np.testing.assert_array_equal(cached.boxes_xyxy[0, 0], [160, 80, 240, 160])
    bright = np.asarray(cached.images[0, :240, :, 0]) > 127
    rows, columns = np.nonzero(bright)
    extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(extent, [160, 80, 240, 160], atol=1)


def test_images_that_are_not_decoded_are_the_same_images_with_the_same_statistics(folder: CocoFolder) -> None:
    split = folder.load().train
    decoded = cached_split(split, CANVAS)
    for mode in ("encoded", "off"):
        streamed = cached_split(split, CANVAS, mode=mode)
        assert streamed.kept.mode == mode
        np.testing.assert_array_equal(streamed.images[np.arange(3)], decoded.images)
        for name in ("scales", "content_hw", "boxes_xyxy", "labels", "channel_mean", "channel_std"):
            np.testing.assert_array_equal(getattr(streamed, name), getattr(decoded, name), err_msg=name)


@pytest.mark.parametrize(("mode", "left"), [("decoded", {"decoded"}), ("encoded", {"streamed", "encoded"}), ("off", {"streamed"})])  # fmt: skip
def test_a_mode_leaves_what_it_needs_and_no_pixels_besides(folder: CocoFolder, mode: str, left: set[str]) -> None:
    kept = cached_split(folder.load().train, CANVAS, mode=mode).kept
    there = {path.relative_to(cache_home()).parts[0] for path in cache_home().rglob("*") if path.suffix in (".npy", ".bin", ".json")}  # fmt: skip
    assert there - {"digests"} == left
    files = sum((folder.images / f"{name}.png").stat().st_size for name in "abc")
    pixels = 3 * CANVAS[0] * CANVAS[1] * 3
    least = {"decoded": pixels, "encoded": files, "off": 0}[mode]
    assert least <= kept.disk_bytes <= least + 2000 * (mode != "off")
    assert kept.decode_ms > 0


def test_packed_files_serve_every_canvas(folder: CocoFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    split = folder.load().train
    cached_split(split, CANVAS, mode="encoded")

    def refuse(*_: object) -> None:
        raise AssertionError("packed twice")

    monkeypatch.setattr(cache.PackedFiles, "pack", refuse)
    assert cached_split(split, (64, 64), mode="encoded").images.shape == (3, 64, 64, 3)


def test_a_bad_image_is_found_before_training_in_any_mode(folder: CocoFolder) -> None:
    (folder.images / "b.png").write_bytes(b"no image")
    for mode in ("decoded", "encoded", "off"):
        with pytest.raises(DataError, match="must be readable.*b.png"):
            cached_split(folder.load().train, CANVAS, mode=mode)
        kept = cached_split(folder.load().train, CANVAS, True, mode)
        assert len(kept) == len(kept.images[np.arange(2)]) == 2


def test_a_disk_without_room_is_told_before_anything_is_written(
    folder: CocoFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.os, "posix_fallocate", full)
    with pytest.raises(NoRoomError, match="must hold the kept images .No space left.*--cache encoded or off"):
        build(folder)
    assert not list(cache_home().rglob("*.unfinished")), "what it had taken is free again"
    monkeypatch.undo()
    assert len(build(folder)) == 3


def test_memory_that_a_container_may_still_take_counts_its_page_cache_as_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text("16000000000\n")
    (tmp_path / "memory.current").write_text("15000000000\n")
    (tmp_path / "memory.stat").write_text("anon 9000000000\ninactive_file 4000000000\nactive_file 2000000000\n")
    assert places._free_in_group(tmp_path) == 7_000_000_000
    monkeypatch.setattr(places, "CONTROL_GROUP", tmp_path)
    assert places.free_memory_bytes() <= 7_000_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert places.free_memory_bytes() > 0
