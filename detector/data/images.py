"""Images (N, H, W, 3) uint8 by batches of positions: a memory map of pixels, or files that worker processes decode in time.

Both give the same bytes: the files are decoded onto the canvas by the code that builds the memory map.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detector.data.dataset import DataError, ImageRecord
from detector.data.letterbox import letterbox, open_rgb

PACKED_BYTES, PACKED_OFFSETS = "images.bin", "offsets.npy"
AHEAD = 6  # batches in flight of all worker processes together, at least one each


class PackedFiles:
    """The bytes of many files in one, memory-mapped: one open file and no directory to look through."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: tuple[np.ndarray, np.ndarray] | None = None

    @classmethod
    def pack(cls, paths: Iterable[Path], folder: Path) -> None:
        """Writes the bytes of `paths` one after another, and where each begins."""
        offsets = [0]
        with (folder / PACKED_BYTES).open("wb") as file:
            for path in paths:
                offsets.append(offsets[-1] + file.write(path.read_bytes()))
        np.save(folder / PACKED_OFFSETS, np.array(offsets, dtype=np.int64))

    def __getitem__(self, position: int) -> io.BytesIO:
        if self._open is None:
            self._open = np.memmap(self.folder / PACKED_BYTES, mode="r"), np.load(self.folder / PACKED_OFFSETS)
        content, offsets = self._open
        return io.BytesIO(content[offsets[position] : offsets[position + 1]].tobytes())

    def __getstate__(self) -> dict[str, Any]:
        """A process that it is sent to maps the file itself."""
        return {"folder": self.folder, "_open": None}


class StreamedImages:
    """Reads like the array (N, H, W, 3) uint8 that its files would be once decoded."""

    def __init__(
        self, records: Sequence[ImageRecord], canvas: tuple[int, int], packed: PackedFiles | None, first: int = 0
    ) -> None:
        """`packed` holds the files of records `first`, `first` + 1, ..; None: they are read where they lie."""
        self.records, self.canvas, self.packed, self.first = records, canvas, packed, first

    def __len__(self) -> int:
        return len(self.records)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.records), *self.canvas, 3

    def __getitem__(self, index: Any) -> Any:
        """The images at positions (n,) as an array; of a slice, these images undecoded still."""
        if isinstance(index, slice):
            start, _, step = index.indices(len(self.records))
            assert step == 1, index
            return StreamedImages(self.records[index], self.canvas, self.packed, self.first + start)
        pixels = np.empty((len(index), *self.canvas, 3), dtype=np.uint8)
        for row, position in zip(pixels, np.asarray(index).tolist(), strict=True):
            self._decode(position, row)
        return pixels

    def _decode(self, position: int, canvas: np.ndarray) -> None:
        record = self.records[position]
        try:
            image, _ = open_rgb(self.packed[self.first + position] if self.packed else record.path, self.canvas)
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(
                f"{record.path}: was readable when the data was checked, and is not now ({error})"
            ) from None
        letterbox(image, (record.width, record.height), canvas)

    def stream(self, indices: Sequence[np.ndarray], workers: int) -> Iterator[np.ndarray]:
        """The images at each of `indices`, decoded ahead by `workers` processes that end with the iteration."""
        import torch
        from torch.utils.data import DataLoader

        # An own generator: the loader would draw its workers' seeds from torch's global one. Arrays, not tensors, come
        # back: a container's /dev/shm is often too small for tensors.
        batches: Any = _Batches(self, indices)  # what a loader calls a map-style dataset, without torch's base class
        loader: DataLoader[Any] = DataLoader(
            batches, batch_size=None, num_workers=workers, prefetch_factor=-(-AHEAD // workers) if workers else None,
            collate_fn=_as_it_is, generator=torch.Generator(),
        )  # fmt: skip
        for pixels in loader:
            if isinstance(pixels, DataError):  # the loader itself would raise it with the traceback of its process
                raise pixels
            yield pixels


class _Batches:
    """A map-style dataset of whole batches."""

    def __init__(self, images: StreamedImages, indices: Sequence[np.ndarray]) -> None:
        self.images, self.indices = images, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> np.ndarray | DataError:
        try:
            pixels: np.ndarray = self.images[self.indices[number]]
        except DataError as error:
            return error
        return pixels


def _as_it_is(batch: Any) -> Any:
    return batch


def stream(images: np.ndarray | StreamedImages, indices: Sequence[np.ndarray], workers: int) -> Iterator[np.ndarray]:
    """The images at each of `indices`: arrays (n, H, W, 3) uint8 of their own, that may be written to."""
    if isinstance(images, StreamedImages):
        return images.stream(indices, workers)
    return (images[index] for index in indices)
