"""A Ray cluster of several raylets on this machine's loopback interface, as a process that is told what to do.

`python -m benchmarks.fake_nodes` starts a head without cores and prints its address; then each line of its input is done and
answered by a line: `add CORES` prints the number of nodes.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Reads commands until the input ends."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # every listener on 127.0.0.1
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    common = {"include_dashboard": False, "object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, connect=False, head_node_args={"num_cpus": 0, **common})
    nodes = []
    print(cluster.address, flush=True)
    for line in sys.stdin:
        _, cores = line.split()
        nodes.append(cluster.add_node(num_cpus=int(cores), object_store_memory=common["object_store_memory"]))
        print(len(nodes), flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
