"""The cluster files, by Ray's own schema and its own preparation for AWS (against a server that plays AWS); no machine is started."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

from clusters import aws, onprem_down
from search.resources import nodes_to_come
from tests.running import ROOT
from tests.s3_server import S3Server, s3_server

FILES = {"cluster.yaml": ROOT / "cluster.yaml", "onprem.yaml": ROOT / "clusters" / "onprem.yaml"}


@pytest.fixture(params=FILES, ids=str)
def file(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load(FILES[request.param])


def load(path: Path) -> dict[str, Any]:
    loaded = yaml.safe_load(path.read_text())
    assert isinstance(loaded, dict)
    return loaded


def test_ray_takes_it(file: dict[str, Any]) -> None:
    validate_config(prepare_config(copy.deepcopy(file)))


def test_ray_would_not_take_a_typo(file: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minuts"):
        validate_config({**prepare_config(copy.deepcopy(file)), "idle_timeout_minuts": 5})


def test_every_process_knows_the_token_and_no_dashboard_listens(file: dict[str, Any]) -> None:
    assert file["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("RAY_AUTH_MODE=token" in line and "~/.bashrc" in line for line in file["setup_commands"])
    head = file["head_start_ray_commands"][-1]
    assert "--include-dashboard=false" in head
    assert "dashboard-host" not in head
    assert "disabled" not in yaml.safe_dump(file)


def test_what_is_installed_is_what_was_tested(file: dict[str, Any]) -> None:
    assert any(
        "pip install -q -c ~/detector-search/constraints.txt -e ~/detector-search" in line
        for line in file["setup_commands"]
    )


class TestAws:
    file = load(FILES["cluster.yaml"])

    def test_images_are_of_the_ray_that_is_pinned(self) -> None:
        ray = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
        assert ray is not None
        docker = self.file["docker"]
        assert docker["head_image"] == f"rayproject/ray:{ray[1]}-py311"
        assert docker["worker_image"] == f"rayproject/ray:{ray[1]}-py311-gpu"

    def test_three_lines_are_the_users(self) -> None:
        marked = [
            line.split(":")[0].strip() for line in FILES["cluster.yaml"].read_text().splitlines() if "# <-" in line
        ]
        assert marked == ["max_workers", "region", "SecurityGroupIds"]

    def test_workers_scale_from_zero_and_are_ended_when_idle(self) -> None:
        kinds = {name: kind for name, kind in self.file["available_node_types"].items() if name != "head"}
        assert all(kind["min_workers"] == 0 and kind["resources"]["GPU"] == 1 for kind in kinds.values())
        assert self.file["available_node_types"]["head"]["resources"] == {"CPU": 0}
        assert 0 < self.file["idle_timeout_minutes"] <= 10
        assert self.file["provider"]["cache_stopped_nodes"] is False

    @pytest.mark.parametrize(
        ("lately", "chosen"), [({}, "spot"), ({"spot": 0.0}, "on_demand"), ({"spot": 1.0, "on_demand": 0.0}, "spot")]
    )
    def test_spot_first_and_on_demand_where_there_was_none_lately(self, lately: dict[str, float], chosen: str) -> None:
        """By the scheduler of Ray's own autoscaler, asked for what a trial asks for."""
        kinds = {
            name: NodeTypeConfig(
                name, 0, kind.get("max_workers", 0), priority=kind.get("priority", 0), resources=kind["resources"]
            )
            for name, kind in self.file["available_node_types"].items()
        }
        asked = [ResourceRequestUtil.make({"CPU": 4, "GPU": 1, "accelerator_type:L4": 0.001})] * 3
        answer = ResourceDemandScheduler().schedule(
            SchedulingRequest(
                disable_launch_config_check=True, node_type_configs=kinds, max_num_nodes=self.file["max_workers"],
                resource_requests=ResourceRequestUtil.group_by_count(asked), recoverable_resource_availabilities=lately,
            )
        )  # fmt: skip
        assert [(launch.instance_type, launch.count) for launch in answer.to_launch] == [(chosen, 3)]

    def test_every_machine_is_in_the_group_of_its_own(self) -> None:
        groups = [kind["node_config"]["SecurityGroupIds"] for kind in self.file["available_node_types"].values()]
        assert groups == [groups[0]] * 3
        assert "security_group" not in self.file["provider"], "one that Ray makes is open to SSH from everywhere"

    def test_a_driver_counts_on_the_workers_to_come(self, tmp_path: Path) -> None:
        bootstrap = tmp_path / "ray_bootstrap_config.yaml"
        bootstrap.write_text(yaml.safe_dump(self.file))
        nodes = nodes_to_come(bootstrap, 0)
        assert [(node.cores, node.gpus, node.accelerator) for node in nodes] == [(4, 1, "L4")] * 8
        assert len(nodes_to_come(bootstrap, 3)) == 5
        assert nodes_to_come(tmp_path / "none", 0) == []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """AWS, as far as moto plays it."""
    with s3_server(tmp_path_factory.mktemp("aws") / "log.txt") as server:
        yield server


class TestAccount:
    """clusters/aws.py, and what `ray up` makes of the account before it starts a machine."""

    @pytest.fixture
    def session(self, server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HOME", str(tmp_path))
        return boto3.Session(region_name="us-west-2")

    def rules(self, session: Any, group: str) -> list[dict[str, Any]]:
        found = session.client("ec2").describe_security_groups(GroupIds=[group])["SecurityGroups"]
        return list(found[0]["IpPermissions"])

    def test_prepared_used_listed_and_taken_away(self, session: Any, capsys: pytest.CaptureFixture[str]) -> None:
        words = ["prepare", "--region", "us-west-2", "--bucket", "my-bucket", "--ssh-from", "203.0.113.7/32"]
        assert aws.main(words) == 0
        told = capsys.readouterr().out
        group = told.rpartition("[")[2].rstrip("]\n")
        assert aws.main(words) == 0, "a second time changes nothing"
        assert capsys.readouterr().out == told
        rules = self.rules(session, group)
        outside = [(r["FromPort"], r["IpRanges"][0]["CidrIp"]) for r in rules if r.get("IpRanges")]
        assert outside == [(22, "203.0.113.7/32")]
        among = [r["UserIdGroupPairs"][0]["GroupId"] for r in rules if r.get("UserIdGroupPairs")]
        assert among == [group]

        config = self.bootstrapped(group)
        for kind in config["available_node_types"].values():
            assert kind["node_config"]["SecurityGroupIds"] == [group]
            assert kind["node_config"]["ImageId"].startswith("ami-")
            assert kind["node_config"]["SubnetIds"]
        ec2 = session.client("ec2")
        everywhere = [g["GroupName"] for g in ec2.describe_security_groups()["SecurityGroups"]
                      for r in g["IpPermissions"] for ip in r.get("IpRanges", []) if ip["CidrIp"] == "0.0.0.0/0"]  # fmt: skip
        assert everywhere == [], "nothing that ray up makes is open to everybody"

        assert aws.main(["left", "--region", "us-west-2"]) == 0
        tags = [{"ResourceType": "instance", "Tags": [{"Key": "ray-cluster-name", "Value": aws.NAME}]}]
        image = config["available_node_types"]["head"]["node_config"]["ImageId"]
        machine = ec2.run_instances(
            ImageId=image, MinCount=1, MaxCount=1, InstanceType="g6.xlarge", TagSpecifications=tags
        )
        number = machine["Instances"][0]["InstanceId"]
        capsys.readouterr()
        assert aws.main(["left", "--region", "us-west-2"]) == 1
        assert f"machine {number}, g6.xlarge: running" in capsys.readouterr().out
        with pytest.raises(SystemExit, match=f"(?s)end these first.*{number}"):
            aws.main(["remove", "--region", "us-west-2"])
        ec2.terminate_instances(InstanceIds=[number])
        assert aws.main(["remove", "--region", "us-west-2"]) == 0
        assert not ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": [aws.NAME]}])[
            "SecurityGroups"
        ]
        assert session.client("iam").list_roles()["Roles"] == []
        assert aws.main(["remove", "--region", "us-west-2"]) == 0, "twice is once"

    def bootstrapped(self, group: str) -> dict[str, Any]:
        """cluster.yaml as `ray up` completes it by the account, before it starts a machine."""
        from ray.autoscaler._private.aws.config import bootstrap_aws

        file = prepare_config(copy.deepcopy(load(FILES["cluster.yaml"])))
        for kind in file["available_node_types"].values():
            kind["node_config"]["SecurityGroupIds"] = [group]
        (Path.home() / ".ssh").mkdir(exist_ok=True)
        completed = bootstrap_aws(file)
        assert isinstance(completed, dict)
        return completed

    def test_ssh_from_everywhere_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            aws.main(["prepare", "--region", "us-west-2", "--bucket", "b", "--ssh-from", "0.0.0.0/0"])
        assert ended.value.code == 2
        assert "must be your own address, e.g. 203.0.113.7/32, not everybody's" in capsys.readouterr().err

    def test_the_head_hands_out_the_workers_role_alone(self) -> None:
        def allowed(role: str) -> set[str]:
            words = [s["Action"] for s in aws.policy(role, "b", "1")["Statement"]]
            return {action for action in words for action in ([action] if isinstance(action, str) else action)}

        assert {action.split(":")[0] for action in allowed("worker")} == {"s3"}
        passes = [s["Resource"] for s in aws.policy("head", "b", "1")["Statement"] if s["Action"] == "iam:PassRole"]
        assert passes == ["arn:aws:iam::1:role/detector-search-worker"]


def test_a_host_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    file = load(FILES["onprem.yaml"])
    file["provider"] = {"head_ip": "127.0.0.1", "worker_ips": []}
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    (line,) = onprem_down.left(file)
    assert line.startswith("127.0.0.1: does not answer: ")
