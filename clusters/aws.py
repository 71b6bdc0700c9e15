"""What cluster.yaml needs of an AWS account, made, listed and taken away: a security group and two roles.

    python clusters/aws.py prepare --region us-west-2 --bucket my-bucket --ssh-from 203.0.113.7/32
    python clusters/aws.py left    --region us-west-2      # what is there and may be billed; exits 1 where anything is
    python clusters/aws.py remove  --region us-west-2

Needs boto3, as `ray up` does. Keys come from the environment or ~/.aws, as for the `aws` command.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import sys
from collections.abc import Iterator
from typing import Any

NAME = "detector-search"  # of the group, the roles' beginning and the cluster
ROLES = ("head", "worker")
BY_EC2 = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}
STARTS_MACHINES = [
    "ec2:RunInstances", "ec2:TerminateInstances", "ec2:CreateTags", "ec2:Describe*", "ec2:RequestSpotInstances",
    "ec2:CancelSpotInstanceRequests",
]  # fmt: skip


def policy(role: str, bucket: str, account: str) -> dict[str, Any]:
    """What a role may do: use the bucket; the head starts and ends machines too, and gives them the workers' role."""
    own = f"arn:aws:s3:::{bucket}"
    statements: list[dict[str, Any]] = [
        {"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetBucketLocation"], "Resource": own},
        {
            "Effect": "Allow",
            "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
            "Resource": f"{own}/*",
        },
    ]
    if role == "head":
        statements += [
            {"Effect": "Allow", "Action": STARTS_MACHINES, "Resource": "*"},
            {"Effect": "Allow", "Action": "iam:PassRole", "Resource": f"arn:aws:iam::{account}:role/{NAME}-worker"},
            {
                "Effect": "Allow",
                "Action": "iam:GetInstanceProfile",
                "Resource": f"arn:aws:iam::{account}:instance-profile/{NAME}-*",
            },
        ]
    return {"Version": "2012-10-17", "Statement": statements}


def prepare(session: Any, bucket: str, ssh_from: str) -> str:
    """Makes the group and the roles, or brings those that there are up to date; returns the group's id."""
    ec2, iam = session.client("ec2"), session.client("iam")
    account = session.client("sts").get_caller_identity()["Account"]
    group = _group(ec2) or _new_group(ec2)
    rules = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    if rules:
        ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=rules)
    among_themselves = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
    ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": ssh_from, "Description": "SSH"}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[among_themselves, ssh])
    for role in ROLES:
        name = f"{NAME}-{role}"
        with contextlib.suppress(iam.exceptions.EntityAlreadyExistsException):
            iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(BY_EC2))
        iam.put_role_policy(RoleName=name, PolicyName=NAME, PolicyDocument=json.dumps(policy(role, bucket, account)))
        with contextlib.suppress(iam.exceptions.EntityAlreadyExistsException):
            iam.create_instance_profile(InstanceProfileName=name)
        with contextlib.suppress(iam.exceptions.LimitExceededException):  # it has its one role already
            iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    return str(group)


def _group(ec2: Any) -> str | None:
    found = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": [NAME]}])["SecurityGroups"]
    return found[0]["GroupId"] if found else None


def _new_group(ec2: Any) -> str:
    networks = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    if not networks:
        raise SystemExit("error: the region has no default VPC; make one with `aws ec2 create-default-vpc`")
    made = ec2.create_security_group(GroupName=NAME, Description="detector-search clusters", VpcId=networks[0]["VpcId"])
    return str(made["GroupId"])


def left(session: Any) -> Iterator[str]:
    """Whatever carries the cluster's name and is or may be billed, a line each."""
    ec2 = session.client("ec2")
    ours = [{"Name": "tag:ray-cluster-name", "Values": [NAME]}]
    for page in ec2.get_paginator("describe_instances").paginate(Filters=ours):
        for machine in (machine for reservation in page["Reservations"] for machine in reservation["Instances"]):
            if machine["State"]["Name"] != "terminated":
                yield f"machine {machine['InstanceId']}, {machine['InstanceType']}: {machine['State']['Name']}"
    for volume in ec2.describe_volumes(Filters=ours)["Volumes"]:
        yield f"disk {volume['VolumeId']}, {volume['Size']} GiB: {volume['State']}"
    # A request of RunInstances ends with its machine; one that waits all the same is told, whoever made it.
    waiting = [{"Name": "state", "Values": ["open"]}]
    for request in ec2.describe_spot_instance_requests(Filters=waiting)["SpotInstanceRequests"]:
        yield f"spot request {request['SpotInstanceRequestId']}: {request['State']}"


def remove(session: Any) -> None:
    """Takes away what `prepare` made.

    Raises: SystemExit while machines still use it.
    """
    there = list(left(session))
    if there:
        raise SystemExit("error: end these first (ray down cluster.yaml):\n  " + "\n  ".join(there))
    ec2, iam = session.client("ec2"), session.client("iam")
    for name in (f"{NAME}-{role}" for role in ROLES):
        with contextlib.suppress(iam.exceptions.NoSuchEntityException):
            iam.remove_role_from_instance_profile(InstanceProfileName=name, RoleName=name)
        with contextlib.suppress(iam.exceptions.NoSuchEntityException):
            iam.delete_instance_profile(InstanceProfileName=name)
        with contextlib.suppress(iam.exceptions.NoSuchEntityException):
            iam.delete_role_policy(RoleName=name, PolicyName=NAME)
        with contextlib.suppress(iam.exceptions.NoSuchEntityException):
            iam.delete_role(RoleName=name)
    group = _group(ec2)
    if group:
        ec2.delete_security_group(GroupId=group)


def _narrow(text: str) -> str:
    """An address range for SSH; the whole Internet is refused."""
    network = ipaddress.ip_network(text)
    if network.prefixlen == 0:
        raise argparse.ArgumentTypeError(f"must be your own address, e.g. 203.0.113.7/32, not everybody's, got {text}")
    return str(network)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prepare", "left", "remove"))
    parser.add_argument("--region", required=True, help="as in cluster.yaml")
    parser.add_argument("--bucket", help="of prepare: the bucket that studies and data lie in")
    parser.add_argument("--ssh-from", type=_narrow, help="of prepare: your address as AWS sees it, e.g. 203.0.113.7/32")
    options = parser.parse_args(arguments)
    if options.what == "prepare" and not (options.bucket and options.ssh_from):
        parser.error("prepare needs --bucket and --ssh-from")
    import boto3

    session = boto3.Session(region_name=options.region)
    if options.what == "prepare":
        group = prepare(session, options.bucket, options.ssh_from)
        print(f"write into cluster.yaml: region: {options.region} and SecurityGroupIds: [{group}]")
    elif options.what == "remove":
        remove(session)
        print("the group and the roles are gone; the bucket is yours to keep or empty")
    else:
        there = list(left(session))
        print("\n".join(there) if there else f"nothing of {NAME} is left in {options.region}")
        return int(bool(there))
    return 0


if __name__ == "__main__":
    sys.exit(main())
