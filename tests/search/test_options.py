"""Options: --set as people write it."""

from __future__ import annotations

import pytest

from detector.config import ConfigError
from search.options import parse_set_fields


def test_values_are_yaml_of_the_fields_own_type() -> None:
    pairs = [
        "lr=0.01",
        "head_shared=false",
        "batch_size=4",
        "anchor_ratios=[0.5, 1]",
        "optimizer=sgd",
        "pretrained=none",
    ]
    assert parse_set_fields(pairs) == {
        "lr": 0.01, "head_shared": False, "batch_size": 4, "anchor_ratios": (0.5, 1.0), "optimizer": "sgd", "pretrained": "none",
    }  # fmt: skip


def test_the_last_of_two_counts() -> None:
    assert parse_set_fields(["lr=0.01", "lr=0.02"]) == {"lr": 0.02}


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "5e-4", "1.0e-3"])
def test_numbers_in_scientific_notation_are_numbers(text: str) -> None:
    """YAML 1.1 reads 1e-3, without a point, as a word; people write learning rates so."""
    assert parse_set_fields([f"lr={text}"]) == {"lr": float(text)}


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("focal_gama=2", 'Did you mean "focal_gamma"'),
        ("lr", "field=value"),
        ("lr=fast", "lr must be float, got 'fast'"),
        ("batch_size=2.5", "batch_size must be int"),
        ("head_shared=1", "head_shared must be bool"),
        ("lr=", "lr must be float"),
        ("lr=[1,", "lr"),
        ("lr={", "lr"),
    ],
)
def test_mistakes_are_config_errors(pair: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_set_fields([pair])
