"""Images that are decoded as they are needed: the bytes of the memory map, in time, from whatever process."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detector.data.dataset import DataError, ImageRecord
from detector.data.images import PackedFiles, StreamedImages, stream
from detector.data.letterbox import letterbox, open_rgb

CANVAS = (48, 64)


@pytest.fixture
def records(tmp_path: Path) -> list[ImageRecord]:
    """PNG, a JPEG three times the canvas, grey, one smaller than the canvas, 16 bits."""
    drawn = np.random.default_rng(0)
    found = []
    for n, (suffix, size, mode) in enumerate(
        [("png", (64, 48), "RGB"), ("jpg", (192, 120), "RGB"), ("png", (50, 48), "L"), ("png", (20, 30), "RGB"), ("png", (64, 40), "I;16")]
    ):  # fmt: skip
        width, height = size
        depth = {"RGB": (height, width, 3), "L": (height, width), "I;16": (height, width)}[mode]
        pixels = drawn.integers(0, 60000 if mode == "I;16" else 256, depth).astype(np.uint16 if mode == "I;16" else np.uint8)  # fmt: skip
        path = tmp_path / f"{n}.{suffix}"
        Image.fromarray(pixels).save(path)
        found.append(ImageRecord(n, path.name, path, width, height))
    return found


@pytest.fixture
def expected(records: list[ImageRecord]) -> np.ndarray:
    pixels = np.empty((len(records), *CANVAS, 3), dtype=np.uint8)
    for row, record in zip(pixels, records, strict=True):
        letterbox(open_rgb(record.path, CANVAS)[0], (record.width, record.height), row)
    return pixels


def packed(records: list[ImageRecord], tmp_path: Path) -> PackedFiles:
    folder = tmp_path / "packed"
    folder.mkdir()
    PackedFiles.pack([record.path for record in records], folder)
    return PackedFiles(folder)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("kept", ["encoded", "off"])
def test_a_stream_brings_the_images_in_order(
    records: list[ImageRecord], expected: np.ndarray, tmp_path: Path, workers: int, kept: str
) -> None:
    images = StreamedImages(records, CANVAS, packed(records, tmp_path) if kept == "encoded" else None)
    assert images.shape == expected.shape
    indices = [np.array([4, 1]), np.array([0]), np.array([2, 2, 3]), np.array([1, 0, 4, 3])]
    found = list(stream(images, indices, workers))
    assert len(found) == len(indices)
    for index, pixels in zip(indices, found, strict=True):
        np.testing.assert_array_equal(pixels, expected[index])
        assert pixels.flags.writeable


def test_a_memory_map_streams_copies(expected: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", expected)
    images = np.load(tmp_path / "images.npy", mmap_mode="r")
    [pixels] = stream(images, [np.array([3, 0])], 2)
    np.testing.assert_array_equal(pixels, expected[[3, 0]])
    pixels[:] = 0
    np.testing.assert_array_equal(images, expected)


def test_a_part_of_the_images_is_still_of_its_files(
    records: list[ImageRecord], expected: np.ndarray, tmp_path: Path
) -> None:
    part = StreamedImages(records, CANVAS, packed(records, tmp_path))[1:4]
    assert len(part) == 3
    np.testing.assert_array_equal(part[np.array([0, 2])], expected[[1, 3]])
    np.testing.assert_array_equal(part[1:][np.array([0])], expected[[2]])


def test_packed_files_are_mapped_anew_by_a_process_that_they_are_sent_to(
    records: list[ImageRecord], expected: np.ndarray, tmp_path: Path
) -> None:
    images = StreamedImages(records, CANVAS, packed(records, tmp_path))
    np.testing.assert_array_equal(images[np.array([2])], expected[[2]])
    sent = pickle.dumps(images)
    assert len(sent) < 2000, "the bytes of the files stay where they are"
    np.testing.assert_array_equal(pickle.loads(sent)[np.array([2])], expected[[2]])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_gone_is_named(records: list[ImageRecord], workers: int) -> None:
    images = StreamedImages(records, CANVAS, None)
    records[3].path.unlink()
    with pytest.raises(DataError, match=r"3\.png: was readable when the data was checked, and is not now") as told:
        list(stream(images, [np.array([0]), np.array([3])], workers))
    assert len(str(told.value).splitlines()) == 1, "no traceback of another process"


def test_a_stream_leaves_torchs_global_random_state_alone(records: list[ImageRecord]) -> None:
    before = torch.get_rng_state()
    list(stream(StreamedImages(records, CANVAS, None), [np.array([0])], 1))
    assert torch.equal(torch.get_rng_state(), before)
