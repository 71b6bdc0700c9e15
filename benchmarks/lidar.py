"""How long the simulated street takes: 400 train, 100 val and 100 test images of 128 x 1024 on all cores.

`python -m benchmarks.lidar`
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from detector.data.lidar import make_dataset


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        make_dataset(Path(folder) / "street", {"train": 400, "val": 100, "test": 100}, seed=0)
        seconds = time.perf_counter() - start
    print(f"600 images in {seconds:.1f} s on {os.cpu_count()} cores ({600 / seconds:.1f} images/s)")


if __name__ == "__main__":
    main()
