"""Memory of large tensors taken again once nobody holds them: a fresh block has each of its pages cleared by the kernel.

glibc gives a block back to the kernel as soon as it is freed where it is larger than its mmap threshold: 32 MiB at most, 64 in a
process that keeps what it frees (detector/memory.py).
"""

from __future__ import annotations

import math
import weakref

import numpy as np
import torch
from torch import Tensor


class RecycledMemory:
    """Gives float tensors on the CPU, in blocks that it gave before where all tensors of those are gone."""

    def __init__(self) -> None:
        self._blocks: list[tuple[np.ndarray, weakref.ref[np.ndarray]]] = []  # each with its last user

    def take(self, *shape: int) -> Tensor:
        """An uninitialised float32 tensor, nobody else's while it, a view of it or a graph that needs it is there.

        What is free and of another size is given back.
        """
        count = math.prod(shape)
        blocks = [(block, user) for block, user in self._blocks if block.size == count or user() is not None]
        free = next((n for n, (_, user) in enumerate(blocks) if user() is None), None)
        block = torch.empty(count).numpy() if free is None else blocks.pop(free)[0]
        view = block.view()  # torch holds it until the last tensor of this memory is gone
        self._blocks = [*blocks, (block, weakref.ref(view))]
        return torch.from_numpy(view).view(shape)
