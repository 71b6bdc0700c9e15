"""What a space derives from annotations: canvases and anchors, worked by hand."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spaces.fitting import (
    CANVAS_STEP,
    SMALLEST_ANCHOR_STRIDES,
    SMALLEST_SIDE,
    DatasetFacts,
    corner_iou,
    fit_anchor_ratios,
    fit_anchor_size,
    fit_anchors,
    fit_canvas,
)


def images(*sizes: tuple[int, int]) -> DatasetFacts:
    return DatasetFacts(sizes, ((20.0, 20.0),), (0,))


def boxes(*sizes: tuple[float, float], image: tuple[int, int] = (256, 256)) -> DatasetFacts:
    return DatasetFacts((image,), sizes, (0,) * len(sizes))


class TestCanvas:
    def test_half_a_sweep_of_the_street_fits_whole(self) -> None:
        assert fit_canvas(images((128, 512)), 82_000) == (128, 512)

    def test_photographs_of_4_to_3_on_a_laptop(self) -> None:
        # 256 x 320 keeps half of 480 x 640; 224 x 352 would keep 224 / 480 = 0.467.
        assert fit_canvas(images((480, 640)), 82_000) == (256, 320)

    def test_a_whole_sweep_on_a_laptop(self) -> None:
        # 96 x 768 keeps three quarters; 64 rows keep a half, 128 rows leave room for 640 of 1024 columns.
        assert fit_canvas(images((128, 1024)), 82_000) == (96, 768)

    def test_images_are_never_enlarged(self) -> None:
        assert fit_canvas(images((100, 130)), 1_000_000) == (128, 160)

    def test_height_and_width_are_not_swapped(self) -> None:
        height, width = fit_canvas(images((640, 480)), 82_000)
        assert (height, width) == (320, 256)

    def test_a_typical_image_counts_not_an_outlier(self) -> None:
        assert fit_canvas(images((128, 512), (128, 512), (4000, 6000)), 82_000) == (128, 512)

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(st.integers(32, 3000), st.integers(32, 3000), st.sampled_from([34_000, 82_000, 1_100_000]))
    def test_any_canvas_is_multiples_of_32_within_the_limit(self, height: int, width: int, max_pixels: int) -> None:
        canvas = fit_canvas(images((height, width)), max_pixels)
        assert all(side % CANVAS_STEP == 0 and side >= SMALLEST_SIDE for side in canvas)
        assert canvas[0] * canvas[1] <= max_pixels


class TestAnchorSize:
    def test_the_middle_of_the_ladder_is_the_middle_of_the_boxes(self) -> None:
        # Three levels: s, 2s, 4s around 2s. Boxes of 32 pixels: s = 16.
        assert fit_anchor_size(boxes((32.0, 32.0)), (256, 256), 8, 3, (1.0,)) == pytest.approx(16.0)
        # Scales up to 2 push the ladder's middle to 2s * sqrt(2).
        assert fit_anchor_size(boxes((48.0, 48.0)), (256, 256), 8, 3, (1.0, 2.0)) == pytest.approx(
            48 / (2 * 2**0.5), abs=0.01
        )

    def test_the_root_of_the_area_counts(self) -> None:
        assert fit_anchor_size(boxes((16.0, 64.0)), (256, 256), 8, 3, (1.0,)) == pytest.approx(16.0)

    def test_boxes_are_measured_on_the_canvas(self) -> None:
        facts = boxes((128.0, 128.0), image=(512, 1024))
        assert fit_anchor_size(facts, (256, 512), 8, 3, (1.0,)) == pytest.approx(128 / 2 / 2)
        assert fit_anchor_size(facts, (256, 256), 8, 3, (1.0,)) == pytest.approx(128 / 4 / 2)

    def test_each_box_is_scaled_with_its_own_image(self) -> None:
        facts = DatasetFacts(((128, 128), (256, 256)), ((32.0, 32.0), (64.0, 64.0)), (0, 1))
        assert fit_anchor_size(facts, (128, 128), 8, 3, (1.0,)) == pytest.approx(16.0)

    def test_anchors_do_not_fall_between_cells(self) -> None:
        tiny = boxes((4.0, 4.0))
        assert fit_anchor_size(tiny, (256, 256), 8, 3, (1.0,)) == pytest.approx(8 * SMALLEST_ANCHOR_STRIDES)
        assert fit_anchor_size(tiny, (256, 256), 4, 3, (1.0,)) == pytest.approx(4 * SMALLEST_ANCHOR_STRIDES)


class TestAnchorRatios:
    def test_one_shape_for_each_third(self) -> None:
        thirds = [(10.0, 20.0)] * 3 + [(10.0, 10.0)] * 3 + [(20.0, 10.0)] * 3
        assert fit_anchor_ratios(boxes(*thirds)) == (0.5, 1.0, 2.0)

    def test_a_ratio_is_height_over_width(self) -> None:
        assert fit_anchor_ratios(boxes(*[(30.0, 10.0)] * 4)) == (3.0,)

    def test_near_shapes_are_merged(self) -> None:
        sizes = [(10.0, 10.0)] * 3 + [(12.0, 10.0)] * 3 + [(25.0, 10.0)] * 3
        assert fit_anchor_ratios(boxes(*sizes)) == (1.0, 2.5)

    def test_slivers_are_clipped(self) -> None:
        assert fit_anchor_ratios(boxes(*[(1.0, 90.0)] * 3, *[(90.0, 1.0)] * 6)) == (0.2, 5.0)

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(st.lists(st.tuples(st.floats(1, 500), st.floats(1, 500)), min_size=1, max_size=30))
    def test_any_boxes_give_one_to_three_rising_shapes(self, sizes: list[tuple[float, float]]) -> None:
        ratios = fit_anchor_ratios(boxes(*sizes))
        assert 1 <= len(ratios) <= 3
        assert list(ratios) == sorted(set(ratios))
        assert all(0.2 <= ratio <= 5.0 and math.isfinite(ratio) for ratio in ratios)


def boxes_of(shapes: list[tuple[float, float]], spread: float, each: int = 200) -> DatasetFacts:
    """Boxes (height, width) around these shapes on images of 128 x 512, within a factor of `spread`."""
    rng = random.Random(7)
    made = [
        (h * spread ** rng.uniform(-1, 1), w * spread ** rng.uniform(-1, 1)) for h, w in shapes for _ in range(each)
    ]
    return DatasetFacts(((128, 512),), tuple(made), (0,) * len(made))


def test_kmeans_finds_the_sizes_and_shapes_that_boxes_were_made_of() -> None:
    facts = boxes_of([(16, 16), (40, 20), (40, 80), (120, 60)], spread=1.05)
    sizes, ratios = fit_anchors(facts, (128, 512), (8, 16, 32, 64))
    assert [side for (side,) in sizes] == pytest.approx(
        [16, 28.3, 56.6, 96], rel=0.35
    )  # the middle two share a centre or part it
    assert ratios == pytest.approx((0.5, 1.0, 2.0), rel=0.1)
    assert fit_anchors(facts, (128, 512), (8, 16, 32, 64)) == (sizes, ratios), "seeded"


def test_kmeans_scales_boxes_onto_the_canvas_and_keeps_to_what_a_stride_can_find() -> None:
    facts = boxes_of([(10, 10), (64, 64)], spread=1.01)

    def sides(canvas: tuple[int, int], strides: tuple[int, ...], each: int = 1) -> list[float]:
        return [side for row in fit_anchors(facts, canvas, strides, 1, each)[0] for side in row]

    assert sides((128, 512), (4, 8)) == pytest.approx([10, 64], rel=0.02)
    assert sides((64, 256), (2, 4)) == pytest.approx([5, 32], rel=0.02)
    assert sides((128, 512), (16, 32)) == pytest.approx([24, 64], rel=0.02)  # 1.5 strides of 16
    assert sides((128, 512), (16,), each=2) == pytest.approx([24, 64], rel=0.02)
    assert sides((128, 512), (64,), each=2) == pytest.approx([96, 96 * 2**0.25], rel=1e-3), "never two of one size"


def test_more_centres_than_boxes_is_no_error() -> None:
    facts = DatasetFacts(((128, 512),), ((20.0, 10.0),), (0,))
    sizes, ratios = fit_anchors(facts, (128, 512), (8, 16, 32))
    assert len(sizes) == 3
    assert ratios == (2.0,)


def test_iou_of_boxes_that_share_a_corner() -> None:
    assert corner_iou((2.0, 3.0), (4.0, 3.0)) == pytest.approx(6 / 12)
    assert corner_iou((2.0, 6.0), (4.0, 3.0)) == pytest.approx(6 / 18)
