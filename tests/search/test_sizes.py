"""What a study's largest configuration takes: found, measured, and turned into a GPU's share."""

from __future__ import annotations

from pathlib import Path

import pytest

from detector.config import ConfigError, DetectorConfig
from detector.model.detector import Detector
from detector.model.pretrained import Start
from search.sizes import Sizer, checkpoint_bytes, gpu_fraction, largest, load_starts
from spaces.distributions import Choice, Float, Integer, When
from spaces.space import Budget, ResolvedSpace

CLASSES = [f"class {n}" for n in range(8)]
BASE = DetectorConfig(trunk_width=0.25, neck_levels=(3, 4), neck_channels=16, head_channels=16, head_depth=0)
FIELDS = {
    "head_depth": Integer(0, 2), "head_channels": Choice(32, 16), "lr": Float(1e-4, 1e-2), "box_loss": Choice("giou", "smooth_l1"),
    "sgd_momentum": When("optimizer", {"sgd": Float(0.8, 0.99)}),
}  # fmt: skip
SPACE = ResolvedSpace("s", "cpu", BASE, dict(FIELDS), Budget(4, 4, 1))


def weights(config: DetectorConfig) -> int:
    return sum(p.numel() for p in Detector(config, 8).parameters())


def test_the_largest_config_has_of_every_field_the_option_that_adds_most() -> None:
    found = largest(SPACE, weights)
    assert (found.head_depth, found.head_channels) == (2, 32)
    assert found.box_loss == "smooth_l1", "what adds nothing stays the base's"


def test_an_option_that_cannot_be_is_passed_over() -> None:
    space = ResolvedSpace("s", "cpu", BASE, {"image_size_px": Choice((100, 100), (256, 256))}, Budget(4, 4, 1))
    assert largest(space, lambda config: config.image_size_px[0]).image_size_px == (256, 256)


def test_a_checkpoint_holds_weights_averages_and_the_optimizers_state() -> None:
    plain = checkpoint_bytes(BASE.with_values({"optimizer": "sgd", "ema_decay": 0.0}), 8)
    assert plain == 2 * sum(t.numel() * t.element_size() for t in Detector(BASE, 8).state_dict().values())
    assert checkpoint_bytes(BASE.with_values({"optimizer": "adamw", "ema_decay": 0.9}), 8) == 2 * plain


@pytest.mark.parametrize(
    ("peak", "device", "share"), [(1e9, 80e9, 1 / 64), (30e9, 80e9, 1 / 2), (70e9, 80e9, 1.0), (100e9, 80e9, 1.0)]
)
def test_a_gpu_is_shared_by_as_many_as_fit_with_a_margin(peak: float, device: float, share: float) -> None:
    assert gpu_fraction(int(peak), int(device)) == share


def test_the_process_measures_what_the_driver_asks_for_and_imports_torch_for_it() -> None:
    sizer = Sizer()
    try:
        assert sizer.problem() == ""
        assert sizer.measure(SPACE, CLASSES, with_memory=False) == {
            "checkpoint_bytes": checkpoint_bytes(largest(SPACE, weights), 8),
            "start": Start().describe(),
            "weights": [],
        }
    finally:
        sizer.close()


def test_what_the_base_and_searched_trunks_start_from_is_told(tmp_path: Path) -> None:
    lite = BASE.with_values({"trunk": "tf_efficientnet_lite0", "pretrained": "imagenet"})
    told = load_starts(ResolvedSpace("s", "cpu", lite, {}, Budget(4, 4, 1)), CLASSES)
    assert [weights["name"] for weights in told["weights"]] == ["tf_efficientnet_lite0"]
    assert "tensors loaded" in told["start"]
    searched = ResolvedSpace("s", "cpu", BASE, {"pretrained": Choice("none", str(tmp_path / "no.pt"))}, Budget(4, 4, 1))
    with pytest.raises(ConfigError, match=r"no\.pt' must be none, imagenet, coco or a readable file"):
        load_starts(searched, CLASSES)


def test_weights_that_do_not_fit_end_the_plan_with_their_reason(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"no weights")
    space = ResolvedSpace("s", "cpu", BASE.with_values({"pretrained": str(tmp_path / "w.pt")}), {}, Budget(4, 4, 1))
    sizer = Sizer()
    try:
        assert sizer.problem() == ""
        with pytest.raises(ConfigError, match=r"w\.pt' must be a file of tensors"):
            sizer.measure(space, CLASSES, with_memory=False)
    finally:
        sizer.close()
