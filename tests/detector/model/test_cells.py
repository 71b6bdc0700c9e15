"""Cells of levels: SSD priors and RetinaNet anchors by hand; which boxes anchors reach, against the whole grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from detector.config import ConfigError, DetectorConfig
from detector.model.anchors import make_anchors_xyxy
from detector.model.cells import (
    best_overlaps,
    cell_anchors_xyxy,
    cell_priors_xyxy,
    check_anchors,
    level_shapes,
    level_sizes,
)


def config(**values: object) -> DetectorConfig:
    defaults = {"image_size_px": (64, 96), "neck_levels": (3,), "extra_levels": 0, "anchor_scales": (1.0,)}
    return DetectorConfig(**{**defaults, **values})


def test_order_within_a_cell_is_ratio_then_size_then_scale() -> None:
    made = cell_anchors_xyxy((8.0, 32.0), config(anchor_scales=(1.0, 2.0), anchor_ratios=(0.25, 4.0)))
    sides = (made[:, 2:] - made[:, :2]).tolist()
    # ratio 0.25: width s * 2, height s / 2; ratio 4: the other way round; s = 8, 16, 32, 64
    assert sides == [[16, 4], [32, 8], [64, 16], [128, 32], [4, 16], [8, 32], [16, 64], [32, 128]]


def test_a_ratio_keeps_the_area() -> None:
    made = cell_anchors_xyxy((20.0,), config(anchor_ratios=(0.3, 1.0, 3.7)))
    areas = (made[:, 2] - made[:, 0]) * (made[:, 3] - made[:, 1])
    assert areas.tolist() == pytest.approx([400.0, 400.0, 400.0])


def test_rounding_gives_whole_corners() -> None:
    # Side 9: corners -+4.5, which round to even: -+4.
    rounded = cell_anchors_xyxy((9.0,), config(anchor_ratios=(1.0,), anchor_rounding=True))
    plain = cell_anchors_xyxy((9.0,), config(anchor_ratios=(1.0,)))
    assert rounded.tolist() == [[-4.0, -4.0, 4.0, 4.0]]
    assert plain.tolist() == [[-4.5, -4.5, 4.5, 4.5]]


def test_one_size_doubles_from_level_to_level() -> None:
    assert level_sizes(10.0, 3) == [(10.0,), (20.0,), (40.0,)]
    assert level_sizes((5.0, 7.0), 2) == [(5.0,), (7.0,)]
    assert level_sizes(((5.0, 6.0), (7.0, 8.0)), 2) == [(5.0, 6.0), (7.0, 8.0)]


def test_a_level_that_does_not_divide_the_canvas_rounds_up() -> None:
    made = config(neck_levels=(5,), extra_levels=2)  # 64 x 96 at strides 32, 64, 128
    assert level_shapes(made) == [(2, 3), (1, 2), (1, 1)]


def test_ssd_priors_of_a_cell_by_hand() -> None:
    # Square 16, next 32: second square sqrt(512) = 22.627; ratio 4: 16 / 2 high and 16 * 2 wide, and the other way.
    made = cell_priors_xyxy((16.0, 16.0), (32.0, 32.0), (4.0,))
    sides = (made[:, 2:] - made[:, :2]).tolist()  # width, height
    assert sides == [pytest.approx(row) for row in ([16, 16], [22.627417, 22.627417], [32, 8], [8, 32])]
    assert np.abs(made[:, :2] + made[:, 2:]).max() == 0, "around the origin"


def test_ssd_priors_may_have_a_height_and_a_width() -> None:
    made = cell_priors_xyxy((128.0, 128.0), (128.0, 400.0), ())
    # the report's last square: sqrt(128 * 128) high, sqrt(128 * 400) wide
    assert (made[1, 2] - made[1, 0]).item() == pytest.approx(226.2742, rel=1e-6)
    assert (made[1, 3] - made[1, 1]).item() == pytest.approx(128.0)


PRIORS = {"anchor_kind": "ssd", "prior_sizes": (8, 16, 32), "prior_ratios": ((2, 3), (2,)), "head_shared": False}


@pytest.mark.parametrize(
    "values", [{"anchor_sizes": 12.0, "neck_levels": (3, 4)}, {**PRIORS, "neck_levels": (3, 4)}, {"anchor_offset": 0.0}]
)
def test_the_best_overlap_is_that_of_all_anchors_of_the_canvas(values: dict) -> None:
    made = config(**values)
    rng = np.random.default_rng(3)
    centres = rng.uniform(0, [96, 64], (200, 2))
    sides = rng.uniform(3, 60, (200, 2))
    boxes = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
    every = box_iou(torch.from_numpy(boxes), make_anchors_xyxy(made).double()).max(dim=1).values.numpy()
    assert best_overlaps(made, boxes) == pytest.approx(every, abs=1e-6)  # anchors are fp32


def test_anchors_that_reach_no_box_are_refused_with_the_share_and_the_remedy() -> None:
    boxes = np.array([[10.0, 10.0, 14.0, 14.0], [40.0, 20.0, 44.0, 25.0]])
    with pytest.raises(ConfigError, match=r"0\.0% of the training boxes .* at least 5% must\. .*--fit-anchors"):
        check_anchors(config(anchor_sizes=60.0), boxes)
    check_anchors(config(anchor_sizes=5.0), boxes)
