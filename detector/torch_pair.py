"""Whether the installed torch and torchvision work together; a mismatched pair fails far from its cause otherwise."""

from __future__ import annotations

import importlib.metadata
import sys

REMEDY = (
    'install a matching pair, e.g. `pip install --upgrade "torch>=2.14" "torchvision>=0.29"` in a fresh environment'
)


def torch_pair_problem() -> str:
    """ "" where torchvision's compiled operators run; else one line with both versions and the remedy."""
    try:
        import torch
        from torchvision.ops import nms

        nms(torch.zeros(1, 4), torch.ones(1), 0.5)
    except (ImportError, RuntimeError, AttributeError) as error:
        versions = " and ".join(f"{name} {_version(name)}" for name in ("torch", "torchvision"))
        return f"{versions} do not work together ({str(error).splitlines()[0]}); {REMEDY}"
    return ""


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    problem = torch_pair_problem()
    print(problem)
    sys.exit(2 if problem else 0)
