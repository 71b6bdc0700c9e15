"""Anchors against literal numbers, with the arithmetic beside them, and against torchvision's generator."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from detector.config import DetectorConfig
from detector.model.anchors import make_anchors_xyxy
from detector.model.cells import level_shapes, level_strides, num_anchors_per_cell, num_anchors_per_level


def config(**values: object) -> DetectorConfig:
    defaults = {"image_size_px": (64, 96), "neck_levels": (3,), "extra_levels": 0, "anchor_scales": (1.0,)}
    return DetectorConfig(**{**defaults, **values})


def test_a_tall_anchor_stands_around_the_middle_of_its_cell() -> None:
    # Side 16, ratio height / width = 4: height 16 * 2 = 32, width 16 / 2 = 8. Stride 8: first centre (4, 4).
    anchors = make_anchors_xyxy(config(anchor_sizes=16.0, anchor_ratios=(4.0,)))
    assert anchors.shape == (8 * 12, 4)  # 64 / 8 rows of 96 / 8 cells
    assert anchors[0].tolist() == [0.0, -12.0, 8.0, 20.0]  # 4 -+ 4, 4 -+ 16
    assert anchors[1].tolist() == [8.0, -12.0, 16.0, 20.0]  # the next column: x + 8
    assert anchors[12].tolist() == [0.0, -4.0, 8.0, 28.0]  # the next row: y + 8
    assert anchors[-1].tolist() == [88.0, 44.0, 96.0, 76.0]  # last centre (92, 60)


def test_the_offset_moves_the_centre_in_strides() -> None:
    first = make_anchors_xyxy(config(anchor_sizes=16.0, anchor_ratios=(1.0,), anchor_offset=0.0))[0]
    assert first.tolist() == [-8.0, -8.0, 8.0, 8.0]
    first = make_anchors_xyxy(config(anchor_sizes=16.0, anchor_ratios=(1.0,), anchor_offset=0.25))[0]
    assert first.tolist() == [-6.0, -6.0, 10.0, 10.0]  # centre 0.25 * 8 = 2


def test_levels_lie_one_behind_the_other_finest_first() -> None:
    made = config(neck_levels=(3, 4), extra_levels=1, anchor_sizes=(8.0, 20.0, 50.0), anchor_ratios=(1.0,))
    assert level_strides(made) == [8, 16, 32]
    assert level_shapes(made) == [(8, 12), (4, 6), (2, 3)]
    anchors = make_anchors_xyxy(made)
    assert len(anchors) == 96 + 24 + 6
    assert anchors[0].tolist() == [0.0, 0.0, 8.0, 8.0]
    assert anchors[96].tolist() == [-2.0, -2.0, 18.0, 18.0]  # centre 8, half side 10
    assert anchors[120].tolist() == [-9.0, -9.0, 41.0, 41.0]  # centre 16, half side 25


def test_num_anchors_per_cell_counts_sizes_scales_and_ratios() -> None:
    made = config(anchor_sizes=((8.0, 9.0),), anchor_scales=(1.0, 1.5, 2.0), anchor_ratios=(0.5, 1.0, 2.0, 3.0))
    assert set(num_anchors_per_cell(made)) == {2 * 3 * 4}
    assert len(make_anchors_xyxy(made)) == 24 * 8 * 12


@pytest.mark.parametrize("canvas", [(128, 512), (64, 96)])
def test_equal_to_torchvisions_generator(canvas: tuple[int, int]) -> None:
    sizes = tuple((float(x), float(int(x * 2 ** (1 / 3))), float(int(x * 2 ** (2 / 3)))) for x in (32, 64))
    ratios = (0.5, 1.0, 2.0)
    ours = make_anchors_xyxy(
        config(
            image_size_px=canvas,
            neck_levels=(3, 4),
            anchor_sizes=sizes,
            anchor_ratios=ratios,
            anchor_offset=0.0,
            anchor_rounding=True,
        )
    )
    maps = [torch.zeros(1, 1, canvas[0] // stride, canvas[1] // stride) for stride in (8, 16)]
    theirs = AnchorGenerator(sizes, (ratios,) * 2)(ImageList(torch.zeros(1, 3, *canvas), [canvas]), maps)[0]
    assert torch.equal(ours, theirs)


def test_priors_differ_in_number_by_level() -> None:
    made = config(
        neck_levels=(3, 4), anchor_kind="ssd", prior_sizes=(8, 16, 32), prior_ratios=((2, 3), (2,)), head_shared=False
    )
    assert num_anchors_per_cell(made) == [6, 4]
    assert num_anchors_per_level(made) == [8 * 12 * 6, 4 * 6 * 4]
    anchors = make_anchors_xyxy(made)
    assert len(anchors) == sum(num_anchors_per_level(made))
    assert anchors[0].tolist() == [0.0, 0.0, 8.0, 8.0]  # side 8 around (4, 4)
