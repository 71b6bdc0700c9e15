"""Memory that is taken again: only when nobody holds it, by whatever way, and never two blocks where one would do."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from detector.data.recycled import RecycledMemory

SHAPE = (4, 8, 16)


def test_memory_is_taken_again_once_its_tensor_is_gone() -> None:
    memory = RecycledMemory()
    first = memory.take(*SHAPE)
    assert (first.shape, first.dtype, first.is_contiguous()) == (SHAPE, torch.float32, True)
    assert first.data_ptr() % 64 == 0, "as torch's own, for vector units"
    place = first.data_ptr()
    del first
    assert memory.take(8, 64).data_ptr() == place, "another shape of that size will do"


def weights_of(tensor: Tensor) -> Tensor:
    """A graph that needs the tensor for its backward pass."""
    return nn.functional.linear(tensor, torch.ones(2, SHAPE[-1], requires_grad=True))


@pytest.mark.parametrize(
    "hold",
    [
        lambda tensor: tensor,
        lambda tensor: tensor[1:2],
        lambda tensor: tensor.permute(2, 0, 1),
        lambda tensor: tensor.detach(),
        lambda tensor: tensor.numpy(),
        weights_of,
        lambda tensor: {"batches": [tensor]},
    ],
)
def test_memory_that_somebody_holds_is_left_alone(hold: Callable[[Tensor], object]) -> None:
    memory = RecycledMemory()
    tensor = memory.take(*SHAPE).fill_(1.0)
    place, held = tensor.data_ptr(), hold(tensor)
    del tensor
    gc.collect()
    second = memory.take(*SHAPE).fill_(2.0)
    assert second.data_ptr() != place
    del held
    gc.collect()
    assert memory.take(*SHAPE).data_ptr() == place, "free at last"


def test_what_is_free_and_does_not_fit_is_given_back() -> None:
    memory = RecycledMemory()
    held = memory.take(*SHAPE)
    memory.take(*SHAPE)
    assert len(memory._blocks) == 2
    memory.take(3)
    assert sorted(block.size for block, _ in memory._blocks) == [3, 512]
    del held
    memory.take(3)
    assert [block.size for block, _ in memory._blocks] == [3]
