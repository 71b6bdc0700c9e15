"""The step's CUDA path without a GPU: fake tensors on a `cuda` device show misplaced ones and maps that leave bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from detector.config import DetectorConfig
from detector.ema import AveragedWeights
from detector.model.detector import Detector, Targets
from detector.model.norms import FrozenNorm
from tests.detector.conftest import TINY

LITE = {"trunk": "tf_efficientnet_lite0", "pretrained": "imagenet", "neck_levels": (3, 4, 5)}
VARIANTS: dict[str, dict[str, Any]] = {
    "timm trunk": LITE,
    "timm trunk, frozen norms": {**LITE, "norm": "frozen"},
    "timm trunk, frozen stages": {**LITE, "frozen_stages": 3},
    "resnet, frozen norms": {"norm": "frozen", "pretrained": "w.pt"},
    "resnet, frozen stages": {"frozen_stages": 2, "pretrained": "w.pt"},
    "report_ssd, frozen stages": {"trunk": "report_ssd", "frozen_stages": 2, "pretrained": "w.pt"},
    "giou": {**LITE, "box_loss": "giou"},
}


@pytest.fixture
def mode(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    """Inside, tensors have no content and may lie on a `cuda` that is not there; autocast believes in it."""
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *given, **more: True)
    with FakeTensorMode(allow_non_fake_inputs=True) as made:
        yield made


def on_cuda(model: Detector) -> Detector:
    """The model with every parameter and buffer as a fake tensor on cuda."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            fake = torch.empty(parameter.shape, dtype=parameter.dtype, device="cuda")
            setattr(module, name, nn.Parameter(fake, requires_grad=parameter.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")
    return model


def built(values: dict[str, Any]) -> Detector:
    return Detector(DetectorConfig(**{**TINY, **values}), 3)


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> Detector:
    """A detector, built before tensors become fake."""
    return built(VARIANTS[request.param]).train()


def batch() -> tuple[Tensor, Targets]:
    images = torch.empty(2, 3, 64, 256, device="cuda")
    return images, Targets(torch.empty(2, 5, 4, device="cuda"), torch.empty(2, 5, dtype=torch.int64, device="cuda"))


def test_every_tensor_of_the_step_lies_on_the_device(variant: Detector, mode: FakeTensorMode) -> None:
    model = on_cuda(variant)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        classification, box = model.losses(*batch())
    for loss in (classification, box):
        assert isinstance(loss, FakeTensor)
        assert (loss.device.type, loss.dtype) == ("cuda", torch.float32)


def test_maps_stay_in_bfloat16_through_frozen_norms(variant: Detector, mode: FakeTensorMode) -> None:
    model = on_cuda(variant)
    seen: list[tuple[torch.dtype, torch.dtype]] = []
    for module in model.modules():
        if isinstance(module, FrozenNorm):
            module.register_forward_hook(lambda norm, given, out: seen.append((given[0].dtype, out.dtype)))
    with torch.autocast("cuda", dtype=torch.bfloat16):
        model(batch()[0])
    assert set(seen) <= {(torch.bfloat16, torch.bfloat16)}
    assert bool(seen) is any(isinstance(module, FrozenNorm) for module in model.modules())


@pytest.fixture
def averaged() -> tuple[Detector, AveragedWeights]:
    """A detector and its average, built before tensors become fake."""
    model = built(LITE)
    return model, AveragedWeights(model, decay=0.9, warmup_steps=100)


def test_the_average_follows_on_the_device_without_waiting_for_it(
    averaged: tuple[Detector, AveragedWeights], mode: FakeTensorMode
) -> None:
    """A read of a value on the host would raise here: a fake tensor has none."""
    model, average = averaged
    on_cuda(model)
    on_cuda(cast(Detector, average.module))
    average.update(model, step=3)
    assert {p.device.type for p in average.module.parameters()} == {"cuda"}
