"""Slots, threads and GPUs of a machine, from what the user asked and what there is."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from search.resources import Hardware, Node, Resources, count_gpus, plan_resources


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets how many cores and GPUs there are."""

    def has(cores: int, gpus: int = 0) -> None:
        monkeypatch.setattr("search.resources.os.sched_getaffinity", lambda pid: set(range(cores)))
        monkeypatch.setattr("search.resources.count_gpus", lambda: (gpus, "NVIDIA H100" if gpus else ""))

    return has


class TestOnCpu:
    def test_a_trial_gets_one_core_and_one_thread(self, machine: Any) -> None:
        machine(4)
        assert plan_resources(None, None, None, 12, False) == Resources(4, 1.0, 0.0, 1, 4, "CPU")

    def test_two_cores_a_trial_halve_the_slots(self, machine: Any) -> None:
        machine(5)
        found = plan_resources(2.0, None, None, 12, False)
        assert (found.slots, found.threads, found.lone_threads) == (2, 2, 4)

    def test_no_more_slots_than_trials(self, machine: Any) -> None:
        machine(8)
        assert plan_resources(None, None, None, 3, False).slots == 3

    def test_concurrent_is_a_limit(self, machine: Any) -> None:
        machine(8)
        assert plan_resources(None, None, 2, 12, False).slots == 2

    def test_half_a_core_is_still_one_thread(self, machine: Any) -> None:
        machine(2)
        found = plan_resources(0.5, None, None, 12, False)
        assert (found.slots, found.threads) == (4, 1)

    @pytest.mark.parametrize(("cpus", "fit"), [(0.1, 20), (1 / 3, 6), (0.3334, 5), (0.6666667, 2), (0.142857, 13)])
    def test_as_many_fit_as_ray_lets_run_which_counts_in_ten_thousandths(
        self, machine: Any, cpus: float, fit: int
    ) -> None:
        machine(2)
        found = plan_resources(cpus, None, None, 99, False)
        assert (found.slots, found.cores) == (fit, 2)

    def test_three_trials_of_more_than_a_third_need_two_cores(self) -> None:
        assert Resources(3, 0.3334, 0.0, 1, 1, "CPU").cores == 2

    @pytest.mark.parametrize("cpus", [0.0, 1e-5, -1.0, 3.0])
    def test_more_cores_than_there_are_or_none_are_refused(self, machine: Any, cpus: float) -> None:
        machine(2)
        with pytest.raises(ValueError, match=rf"--cpus-per-trial must lie in \[0\.0001, 2\].*got {cpus:g}"):
            plan_resources(cpus, None, None, 12, False)

    def test_more_at_a_time_than_fit_is_refused(self, machine: Any) -> None:
        machine(2)
        with pytest.raises(ValueError, match="--concurrent 3 does not fit: 2 cores and 0 GPUs hold 2"):
            plan_resources(None, None, 3, 12, False)

    def test_a_gpu_that_is_not_there_is_refused(self, machine: Any) -> None:
        machine(2)
        with pytest.raises(ValueError, match=r"--gpus-per-trial 0\.5"):
            plan_resources(None, 0.5, None, 12, True)

    def test_less_of_a_gpu_than_ray_counts_is_refused(self, machine: Any) -> None:
        machine(2, gpus=1)
        with pytest.raises(ValueError, match=r"--gpus-per-trial must be 0 or at least 0\.0001, got 1e-05"):
            plan_resources(None, 1e-5, None, 12, True)

    def test_gpus_are_left_alone_by_a_cpu_study(self, machine: Any) -> None:
        machine(4, gpus=2)
        assert plan_resources(None, None, None, 12, False).gpus_per_trial == 0.0


class TestOnGpus:
    def test_one_gpu_each_and_the_cores_shared(self, machine: Any) -> None:
        machine(16, gpus=4)
        found = plan_resources(None, None, None, 12, True)
        assert (found.slots, found.gpus_per_trial, found.cpus_per_trial, found.device) == (4, 1.0, 4.0, "NVIDIA H100")

    def test_fractions_pack_whole_trials_onto_each_gpu(self, machine: Any) -> None:
        machine(16, gpus=2)
        # 0.4 twice a GPU: four trials, not the five that 2 / 0.4 would promise.
        assert plan_resources(1.0, 0.4, None, 12, True).slots == 4

    def test_two_gpus_a_trial(self, machine: Any) -> None:
        machine(16, gpus=5)
        assert plan_resources(None, 2.0, None, 12, True).slots == 2

    def test_cores_may_be_what_limits(self, machine: Any) -> None:
        machine(3, gpus=4)
        assert plan_resources(1.0, None, None, 12, True).slots == 3


class TestOnACluster:
    @pytest.fixture
    def cluster(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        def has(*nodes: tuple[int, int]) -> None:
            found = Hardware(tuple(Node(cores, gpus) for cores, gpus in nodes), "H100", is_cluster=True)
            monkeypatch.setattr("search.resources.hardware", lambda: found)

        return has

    def test_trials_fit_into_nodes_and_not_into_their_sum(self, cluster: Any) -> None:
        cluster((3, 0), (3, 0))
        assert plan_resources(2.0, None, None, 12, False).slots == 2, "six cores hold three, each node one"

    def test_nodes_without_a_gpu_get_no_trial_that_wants_one(self, cluster: Any) -> None:
        cluster((4, 0), (16, 2), (8, 1))
        found = plan_resources(None, None, None, 12, True)
        assert (found.slots, found.gpus_per_trial, found.cpus_per_trial, found.device) == (3, 1.0, 8.0, "H100")

    def test_it_may_be_asked_for_what_is_yet_to_come(self, cluster: Any) -> None:
        cluster((2, 0))
        found = plan_resources(4.0, 1.0, 6, 12, True)
        assert (found.slots, found.gpus_per_trial, found.cpus_per_trial) == (6, 1.0, 4.0)

    def test_a_lone_leg_has_its_node_and_not_the_cluster(self, cluster: Any) -> None:
        cluster((2, 0), (2, 0), (2, 0))
        found = plan_resources(None, None, None, 12, False)
        assert (found.slots, found.threads, found.lone_threads) == (6, 1, 2)


class TestKindsOfGpus:
    @pytest.fixture
    def mixed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        nodes = (Node(8, 0), Node(4, 1, "L4"), Node(4, 1, "L4"), Node(16, 2, "H100"))
        monkeypatch.setattr("search.resources.hardware", lambda: Hardware(nodes, "H100 or L4", is_cluster=True))

    @pytest.mark.usefixtures("mixed")
    def test_one_kind_alone(self) -> None:
        found = plan_resources(None, None, None, 12, True, "L4")
        assert (found.slots, found.device) == (2, "L4")
        assert found.per_trial == {"CPU": 4.0, "GPU": 1.0, "accelerator_type:L4": 0.001}
        assert plan_resources(None, None, None, 12, True, "H100").slots == 2

    @pytest.mark.usefixtures("mixed")
    def test_any_kind(self) -> None:
        found = plan_resources(None, None, None, 12, True)
        assert (found.slots, found.device) == (4, "H100 or L4")
        assert set(found.per_trial) == {"CPU", "GPU"}

    @pytest.mark.usefixtures("mixed")
    def test_a_kind_that_is_not_there_is_named_with_those_that_are(self) -> None:
        with pytest.raises(
            ValueError, match="--accelerator-type A100: no node of the cluster has it; its GPUs are: H100, L4"
        ):
            plan_resources(None, None, None, 12, True, "A100")

    def test_one_machine_has_no_choice(self, machine: Any) -> None:
        machine(4, gpus=1)
        with pytest.raises(ValueError, match="leave it out on one machine"):
            plan_resources(None, None, None, 12, True, "L4")


class TestCountGpus:
    def test_none_where_the_driver_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(*args: Any, **kwargs: Any) -> Any:
            raise FileNotFoundError("nvidia-smi")

        monkeypatch.setattr("search.resources.subprocess.run", missing)
        assert count_gpus() == (0, "")

    def test_none_where_the_driver_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def failing(*args: Any, **kwargs: Any) -> Any:
            raise subprocess.CalledProcessError(9, "nvidia-smi")

        monkeypatch.setattr("search.resources.subprocess.run", failing)
        assert count_gpus() == (0, "")

    def test_counts_and_names(self, monkeypatch: pytest.MonkeyPatch) -> None:
        listed = "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)\nGPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-2)\n"
        monkeypatch.setattr(
            "search.resources.subprocess.run", lambda *a, **k: subprocess.CompletedProcess(a, 0, listed, "")
        )
        assert count_gpus() == (2, "NVIDIA H100 80GB HBM3")


def test_describe_says_slots_threads_and_device() -> None:
    assert Resources(2, 1.0, 0.0, 1, 2, "CPU").describe() == "2 trials at a time, 1 thread each, on CPU"
    assert (
        Resources(4, 8.0, 0.5, 8, 32, "NVIDIA H100").describe()
        == "4 trials at a time, 8 threads and 0.5 GPU each, on NVIDIA H100"
    )
