"""A Ray cluster of several raylets on this machine's loopback interface, as a process that is told what to do.

`python -m tests.cluster.nodes` starts a head without cores and prints its address; then each line of its input is done and
answered by a line: `add CORES` prints the node's number, `kill N` ends a node as a power cut would.
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
        what, number = line.split()
        if what == "add":
            nodes.append(cluster.add_node(num_cpus=int(number), object_store_memory=common["object_store_memory"]))
            print(len(nodes) - 1, flush=True)
        else:
            cluster.remove_node(nodes[int(number)], allow_graceful=False)
            print("killed", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
