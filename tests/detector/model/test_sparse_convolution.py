"""Convolutions at some cells against those of the whole map."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from detector.model.sparse_convolution import Grid, as_rows, convolve_rows, neighbours_of, pays_on

IMAGES, CHANNELS, OUTPUTS = 2, 5, 7
SHAPES = [(4, 6), (2, 3), (1, 2)]
EACH = 24 + 6 + 2


def maps() -> list[Tensor]:
    drawn = torch.Generator().manual_seed(1)
    return [torch.randn(IMAGES, CHANNELS, *shape, generator=drawn, dtype=torch.float64) for shape in SHAPES]


def convolution(inputs: int = CHANNELS) -> nn.Conv2d:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return nn.Conv2d(inputs, OUTPUTS, kernel_size=3, padding=1).double()


def test_it_pays_on_a_cpu_alone() -> None:
    assert pays_on(torch.device("cpu"))
    assert not pays_on(torch.device("cuda"))


def test_neighbours_by_hand() -> None:
    # 0 1 2      6 7
    # 3 4 5
    found = neighbours_of(((2, 3), (1, 2)))
    assert found.shape == (8, 9)
    assert found[0].tolist() == [-1, -1, -1, -1, 0, 1, -1, 3, 4]
    assert found[4].tolist() == [0, 1, 2, 3, 4, 5, -1, -1, -1]
    assert found[5].tolist() == [1, 2, -1, 4, 5, -1, -1, -1, -1]
    assert found[7].tolist() == [-1, -1, -1, 6, 7, -1, -1, -1, -1]  # the level before does not touch


def test_images_do_not_touch() -> None:
    grid = Grid(maps())
    assert grid.num_cells == IMAGES * EACH
    own, second = grid.under_kernel(torch.arange(grid.num_cells)).view(IMAGES, EACH, 9)
    assert ((own < EACH) | (own == grid.num_cells)).all()
    assert torch.equal(torch.where(own == grid.num_cells, own, own + EACH), second)


def test_around_is_what_a_kernel_reads() -> None:
    grid = Grid(maps())
    # row 1, column 4 of the first level; the only row of the last, in the second image
    expected = [3, 4, 5, 9, 10, 11, 15, 16, 17, EACH + 30, EACH + 31]
    none = grid.num_cells  # rounded up to an even number: a 32nd of 64 cells
    assert grid.around(torch.tensor([10, EACH + 31, none])).tolist() == [*expected, none]
    assert grid.around(torch.tensor([], dtype=torch.int64)).tolist() == []
    assert grid.around(torch.arange(grid.num_cells)).tolist() == list(range(grid.num_cells))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_at_some_cells_it_is_the_whole_maps_convolution(layout: torch.memory_format) -> None:
    conv, plain = convolution().to(memory_format=layout), convolution()
    inputs, reference = maps(), maps()
    for x in (*inputs, *reference):
        x.requires_grad_()
    cells = torch.tensor([0, 5, 9, 23, 24, 31, 32, 40, 62, 63])  # corners, borders and all levels among them
    grid = Grid(inputs)
    found = convolve_rows(conv, as_rows([x.to(memory_format=layout) for x in inputs]), grid.under_kernel(cells))
    expected = as_rows([plain(x) for x in reference])[cells]
    torch.testing.assert_close(found, expected)

    slope = torch.randn(found.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    (found * slope).sum().backward()
    (expected * slope).sum().backward()
    for mine, theirs in zip((*inputs, *conv.parameters()), (*reference, *plain.parameters()), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_rows_of_some_cells_serve_the_next_convolution() -> None:
    first, second = convolution(), convolution(inputs=OUTPUTS)
    inputs = maps()
    grid = Grid(inputs)
    cells = torch.tensor([7, 31, 50])
    read = grid.around(cells)
    rows = convolve_rows(first, as_rows(inputs), grid.under_kernel(read))
    found = convolve_rows(second, rows, grid.rows_of(read)[grid.under_kernel(cells)])
    torch.testing.assert_close(found, as_rows([second(first(x)) for x in inputs])[cells])


def test_sizes_come_again() -> None:
    grid = Grid([torch.zeros(2, 1, 20, 30)])
    sizes = {len(grid.rounded_up(torch.arange(count))) for count in range(grid.num_cells + 1)}
    assert sizes == {38 * n for n in range(33)}  # 1200 / 32 = 37.5
    assert grid.under_kernel(grid.rounded_up(torch.arange(3)))[3:].unique().tolist() == [grid.num_cells]


def test_rows_that_nobody_worked_out_are_refused() -> None:
    grid = Grid(maps())
    row = grid.rows_of(torch.tensor([3, 8]))
    assert [row[3], row[8], row[grid.num_cells]] == [0, 1, 2]
    with pytest.raises(IndexError):
        convolve_rows(convolution(), torch.zeros(2, CHANNELS).double(), row[grid.under_kernel(torch.tensor([8]))])


@pytest.mark.parametrize("settings", [{"dilation": 2, "padding": 2}, {"stride": 2}, {"groups": 5}, {"kernel_size": 1}])
def test_other_convolutions_are_refused(settings: dict[str, int]) -> None:
    conv = nn.Conv2d(CHANNELS, CHANNELS, **{"kernel_size": 3, "padding": 1, **settings})
    with pytest.raises(AssertionError):
        convolve_rows(conv, torch.zeros(2, CHANNELS), torch.zeros(1, 9, dtype=torch.int64))
