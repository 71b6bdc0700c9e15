"""Weights of a timm classifier by the names that its trunk has with us: timm itself converts them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from detector.config import ConfigError, DetectorConfig, first_line


def by_timm_names(
    state: Mapping[str, Tensor], config: DetectorConfig, trunk: nn.Module, source: str
) -> dict[str, Tensor]:
    """The weights that a timm trunk's `net` needs out of a classifier's state_dict, in timm's own or an older format.

    Raises: ConfigError where timm cannot read them as this model's.
    """
    import timm

    net: Any = trunk.net
    try:
        with _quietly():
            donor: Any = timm.create_model(
                config.trunk, pretrained=True, features_only=True, out_indices=net.feature_info.out_indices,
                pretrained_cfg_overlay={"state_dict": dict(state), "custom_load": False},
            )  # fmt: skip
    except Exception as error:  # timm raises what the failing step raised
        raise ConfigError(
            f"pretrained={source!r} must hold the weights of {config.trunk}; timm says: {first_line(error)}"
        ) from None
    loaded: dict[str, Tensor] = donor.state_dict()
    given = {_print_of(tensor) for tensor in state.values()}
    filters = [name for name, tensor in loaded.items() if tensor.ndim > 1]
    lacking = [name for name in filters if _print_of(loaded[name]) not in given]
    if len(lacking) > len(filters) / 2:  # timm leaves out what does not fit; a few it may have reshaped
        raise ConfigError(
            f"pretrained={source!r} must hold the weights of {config.trunk}; {len(lacking)} of its {len(filters)} filters are "
            f"not there, first {lacking[:3]}"
        )
    return loaded


def _print_of(tensor: Tensor) -> tuple[int, float]:
    """What tells a tensor from others: its size and its sum."""
    return tensor.numel(), float(tensor.double().sum())


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without timm's list of the classifier's weights, which nobody misses."""
    logger = logging.getLogger("timm.models._builder")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
