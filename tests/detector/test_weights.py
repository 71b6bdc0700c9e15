"""Where weights come from: told before anything is fetched, and what is said where nothing can be fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch

from detector import weights
from detector.config import ConfigError, DetectorConfig

RESNET = DetectorConfig(trunk_width=1.0, pretrained="imagenet")
LITE = DetectorConfig(trunk="tf_efficientnet_lite0", pretrained="imagenet")
COCO = DetectorConfig(
    trunk="resnet50",
    trunk_width=1.0,
    neck_levels=(3, 4, 5),
    neck_channels=256,
    extra_levels=2,
    head_depth=4,
    head_channels=256,
    pretrained="coco",
)


def test_what_a_config_starts_from_has_name_source_size_hash_and_licence(tmp_path: Path) -> None:
    (tmp_path / "own.pt").write_bytes(b"weights")
    assert weights.weights_of(DetectorConfig()) is None
    for config in (RESNET, LITE, COCO, DetectorConfig(pretrained=str(tmp_path / "own.pt"))):
        found = weights.weights_of(config)
        assert found is not None
        assert all(found.to_dict().values()), found
        assert weights.Weights(**found.to_dict()) == found
        assert found.source in found.describe()


def test_heads_with_group_norms_start_from_torchvisions_second_version() -> None:
    assert weights.coco_version(COCO) == "v1"
    assert weights.coco_version(COCO.with_values({"head_norm": "group"})) == "v2"


@pytest.mark.parametrize("trunk", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_the_links_are_torchvisions_own(trunk: str) -> None:
    from torchvision.models import get_model_weights

    name, link, size = weights.TORCHVISION_IMAGENET[trunk]
    theirs = get_model_weights(trunk)[name.partition(".")[2]]
    assert (theirs.url, round(theirs.meta["_file_size"], 1)) == (link, round(size / 2**20, 1))


def test_the_coco_links_are_torchvisions_own() -> None:
    from torchvision.models.detection import RetinaNet_ResNet50_FPN_V2_Weights, RetinaNet_ResNet50_FPN_Weights

    for version, theirs in (
        ("v1", RetinaNet_ResNet50_FPN_Weights.COCO_V1),
        ("v2", RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1),
    ):
        _, link, size = weights.TORCHVISION_COCO[version]
        assert (theirs.url, round(theirs.meta["_file_size"], 1)) == (link, round(size / 2**20, 1))
    assert weights.COCO_V1_DIGITS in weights.TORCHVISION_COCO["v1"][1]


@pytest.mark.parametrize(
    "error", [URLError("no route to host"), OSError("disk full"), RuntimeError("invalid hash value")]
)
def test_without_a_network_it_is_said_what_to_fetch_where_to_put_it_and_what_would_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def refuse(*given: Any, **options: Any) -> None:
        raise error

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    told: list[str] = []
    with pytest.raises(ConfigError) as caught:
        weights.imagenet_state("resnet18", told.append)
    message = str(caught.value)
    link = weights.TORCHVISION_IMAGENET["resnet18"][1]
    assert link in message
    assert str(error).splitlines()[0] in message
    assert str(tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth") in message
    assert "--pretrained none" in message
    assert told == [f"fetching {link} (47 MB) into {tmp_path / 'hub' / 'checkpoints'}"]


def test_a_wrong_file_in_the_cache_is_refused_with_its_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = weights._torch_cache(weights.TORCHVISION_IMAGENET["resnet18"][1])
    file.parent.mkdir(parents=True)
    file.write_bytes(b"half a download")
    with pytest.raises(ConfigError, match=rf"{file}: must have a SHA-256 that begins with f37072fd"):
        weights.imagenet_state("resnet18")


def test_where_torch_keeps_what_it_fetches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The place that the message names is the one where torch looks."""
    for name, value in (("TORCH_HOME", str(tmp_path / "torch")), ("XDG_CACHE_HOME", str(tmp_path / "cache"))):
        monkeypatch.delenv("TORCH_HOME", raising=False)
        monkeypatch.setenv(name, value)
        assert weights._torch_cache("https://x/y-1.pth") == Path(torch.hub.get_dir()) / "checkpoints" / "y-1.pth"


def test_a_timm_model_that_cannot_be_fetched_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ConfigError, match=r"weights are not on this machine and https://huggingface.co/timm/.*--pretrained none"
    ):
        weights.imagenet_state("regnety_002", lambda line: None)


def test_a_model_that_nobody_has_trained_is_refused() -> None:
    with pytest.raises(ConfigError, match="timm has no weights for"):
        weights.weights_of(DetectorConfig(trunk="resnetv2_50d", pretrained="imagenet"))


def test_what_is_at_hand_needs_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert weights.at_hand("tf_efficientnet_lite0")
    assert not weights.at_hand("resnet18")
    file = weights._torch_cache(weights.TORCHVISION_IMAGENET["resnet18"][1])
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    assert weights.at_hand("resnet18")
    assert not weights.at_hand("regnety_002")
