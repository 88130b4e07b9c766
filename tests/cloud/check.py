#!/usr/bin/env python3
"""An independent check of the local cloud: boto3, which knows nothing of it, drives an instance through its whole life.

Run by `scripts/local-cloud check` against the running cloud; it works on names of its own and cleans up. With machines
it also logs in with plain ssh, the host key pinned from the console. Exits 1 at the first mismatch.
"""

import base64
import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

import boto3
import botocore.config
import botocore.exceptions

ENDPOINT = os.environ.get("AWS_ENDPOINT_URL", "http://127.0.0.1:5566")
REGION = "eu-central-1"
TABLE_2009 = "ami-0eed77c38432886d2"
NIXOS = "427812963091"
NAME = f"nixpipe-check-{os.getpid()}"  # what a failed check left behind is not in the way of the next
CONFIG = botocore.config.Config(retries={"total_max_attempts": 1}, read_timeout=20)


def client(service: str = "ec2", region: str = REGION, **keys):
    keys = keys or {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    return boto3.client(service, region_name=region, endpoint_url=ENDPOINT, config=CONFIG, **keys)


ec2 = client()


class Mismatch(Exception):
    """The local cloud does not do what EC2 does. Its traceback shows which step."""


def control(verb: str, post: bool = True, body: bytes = b"", **arguments):
    url = f"{ENDPOINT}/local-cloud/{verb}?{urllib.parse.urlencode(arguments)}"
    with urllib.request.urlopen(urllib.request.Request(url, data=body if post else None)) as answer:
        data = answer.read()
    return json.loads(data) if answer.headers["Content-Type"] == "application/json" else data


def check(truth, what: str) -> None:
    if not truth:
        raise Mismatch(what)


@contextlib.contextmanager
def refused(code: str):
    """What is done inside has to fail with this error code."""
    try:
        yield
    except botocore.exceptions.ClientError as error:
        found = error.response["Error"]["Code"]
        check(found == code, f"expected {code}, got {found}: {error}")
    else:
        raise Mismatch(f"expected {code}, the call succeeded")


@contextlib.contextmanager
def broken():
    """What is done inside has to lose its connection."""
    try:
        yield
    except (botocore.exceptions.ConnectionError, botocore.exceptions.HTTPClientError):
        pass
    else:
        raise Mismatch("the connection should have been cut")


def until(what: str, test, seconds: float = 30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = test()
        if value:
            return value
        time.sleep(0.1)
    raise Mismatch(f"{what} did not come within {seconds} s")


def describe(identifier: str) -> dict:
    return ec2.describe_instances(InstanceIds=[identifier])["Reservations"][0]["Instances"][0]


def state(identifier: str) -> str:
    return describe(identifier)["State"]["Name"]


def images() -> None:
    found = ec2.describe_images(ImageIds=[TABLE_2009])["Images"][0]
    check(found["RootDeviceName"] == "/dev/xvda" and found["Architecture"] == "x86_64", "the 20.09 image of the table")
    by_name = {"Filters": [{"Name": "name", "Values": ["nixos/25.11.*"]}, {"Name": "architecture", "Values": ["x86_64"]}]}
    everyone = ec2.describe_images(**by_name)["Images"]
    ours = ec2.describe_images(Owners=[NIXOS], **by_name)["Images"]
    check(len(ours) == 2 and len(everyone) == 3, "the look-alike of a stranger shows without an owner only")
    names = [{"Name": "name", "Values": ["nixos/26.05.*"]}]
    check(len(ec2.describe_images(Owners=[NIXOS], Filters=names)["Images"]) == 2, "deprecated images are hidden")
    hidden = ec2.describe_images(Owners=[NIXOS], Filters=names, IncludeDeprecated=True)["Images"]
    check(len(hidden) == 4, "IncludeDeprecated shows them")
    old = min(hidden, key=lambda image: image["DeprecationTime"])
    check(ec2.describe_images(ImageIds=[old["ImageId"]])["Images"], "an id shows a deprecated image")
    pages = ec2.get_paginator("describe_images").paginate(Owners=[NIXOS], PaginationConfig={"PageSize": 3})
    ids = [image["ImageId"] for part in pages for image in part["Images"]]
    check(len(ids) == len(set(ids)) == 10, f"pages of images hold each once: {len(ids)}")
    with refused("InvalidParameterValue"):
        ec2.describe_images(Filters=[{"Name": "nonsense", "Values": ["x"]}])
    with refused("FilterLimitExceeded"):
        states = {"Name": "instance-state-name", "Values": ["running"]}
        ec2.describe_instances(Filters=[states, {"Name": "instance-id", "Values": [f"i-{number:017x}" for number in range(200)]}])
    with refused("InvalidAMIID.NotFound"):
        ec2.describe_images(ImageIds=["ami-00000000000000000"])
    with refused("InvalidAMIID.Malformed"):
        ec2.describe_images(ImageIds=["ami-xyz"])


def key_pair(folder: pathlib.Path) -> str:
    key = folder / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "someone", "-f", key], check=True)
    public = key.with_suffix(".pub").read_bytes()
    made = ec2.import_key_pair(KeyName=NAME, PublicKeyMaterial=public)
    with refused("InvalidKeyPair.Duplicate"):
        ec2.import_key_pair(KeyName=NAME, PublicKeyMaterial=public)
    found = ec2.describe_key_pairs(KeyNames=[NAME], IncludePublicKey=True)["KeyPairs"][0]
    check(found["PublicKey"].split()[:2] == public.decode().split()[:2], "the public key comes back")
    shown = subprocess.run(["ssh-keygen", "-l", "-f", f"{key}.pub"], check=True, capture_output=True, text=True).stdout
    check(shown.split()[1] == f"SHA256:{found['KeyFingerprint'].rstrip('=')}", "the fingerprint is that of ssh-keygen")
    return made["KeyPairId"]


def security_group() -> str:
    tags = [{"ResourceType": "security-group", "Tags": [{"Key": "Name", "Value": NAME}]}]
    made = ec2.create_security_group(GroupName=NAME, Description="ssh in", TagSpecifications=tags)
    group = made["GroupId"]
    check(made["Tags"] == tags[0]["Tags"], "CreateSecurityGroup names the tags")
    with refused("InvalidGroup.Duplicate"):
        ec2.create_security_group(GroupName=NAME, Description="again")
    rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "10.1.2.3/8"}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
    found = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]
    check(found["IpPermissions"][0]["IpRanges"] == [{"CidrIp": "10.0.0.0/8"}], "host bits of a CIDR are cleared")
    check(found["IpPermissionsEgress"][0]["IpProtocol"] == "-1", "everything out is allowed at first")
    other = rule | {"FromPort": 80, "ToPort": 80}
    with refused("InvalidPermission.Duplicate"):
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[other, rule])
    found = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]
    check(len(found["IpPermissions"]) == 1, "a request of which one rule exists adds none")
    with refused("InvalidParameterValue"):
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule | {"IpRanges": [{"CidrIp": "10.0.0/8"}]}])
    default = ec2.describe_security_groups(GroupNames=["default"])["SecurityGroups"][0]["GroupId"]
    with refused("CannotDelete"):
        ec2.delete_security_group(GroupId=default)
    with refused("InvalidGroup.NotFound"):
        ec2.describe_security_groups(GroupIds=["sg-00000000000000000"])
    return group


def launch(group: str, **more) -> dict:
    tags = [{"Key": "Name", "Value": NAME}]
    wish = {
        "ImageId": TABLE_2009, "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1, "KeyName": NAME,
        "SecurityGroupIds": [group],
        "BlockDeviceMappings": [
            {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 50, "VolumeType": "gp3", "Encrypted": True}}
        ],
        "TagSpecifications": [{"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume")],
    } | more
    return ec2.run_instances(**wish)["Instances"][0]


def refusals(group: str) -> None:
    arm = next(i for i in ec2.describe_images(Owners=[NIXOS])["Images"] if i["Architecture"] == "arm64")["ImageId"]
    small = [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 1}}]
    for code, wish in (
        ("InvalidAMIID.NotFound", {"ImageId": "ami-00000000000000000"}),
        ("InvalidParameterValue", {"InstanceType": "t3.gigantic"}),
        ("InvalidParameterValue", {"ImageId": arm}),
        ("InvalidParameterValue", {"InstanceType": "t4g.nano"}),
        ("InvalidKeyPair.NotFound", {"KeyName": "nobody"}),
        ("InvalidGroup.NotFound", {"SecurityGroupIds": ["sg-00000000000000000"]}),
        ("InvalidBlockDeviceMapping", {"BlockDeviceMappings": small}),
        ("InvalidParameterValue", {"UserData": "x" * 16385}),
        ("InvalidParameterValue", {"ClientToken": "x" * 65}),
        ("InvalidParameterValue", {"MinCount": 2}),
        ("DryRunOperation", {"DryRun": True}),
    ):
        with refused(code):
            launch(group, **wish)
    with refused("InvalidInstanceID.Malformed"):
        describe("i-nonsense")
    with refused("InvalidInstanceID.NotFound"):
        describe("i-00000000000000000")
    for look in (ec2.describe_instances, ec2.describe_instance_status):
        with refused("InvalidParameterValue"):
            look(Filters=[{"Name": "nonsense", "Values": ["x"]}])


def instance(group: str) -> str:
    first = launch(group, ClientToken=f"{NAME}-1")
    identifier = first["InstanceId"]
    check(first["State"]["Name"] == "pending", "a new instance is pending")
    check(launch(group, ClientToken=f"{NAME}-1")["InstanceId"] == identifier, "the same client token, the same instance")
    with refused("IdempotentParameterMismatch"):
        launch(group, ClientToken=f"{NAME}-1", InstanceType="t3.small")
    until("running", lambda: state(identifier) == "running")
    found = describe(identifier)
    check(found["PublicIpAddress"].startswith("127.0."), "a public address")
    check(found["PublicDnsName"], "a public name")
    check(found["RootDeviceName"] == "/dev/xvda", "the root device of the image")
    volume_id = found["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    volume = ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"][0]
    check((volume["Size"], volume["VolumeType"], volume["Encrypted"]) == (50, "gp3", True), "the volume that was asked for")
    check(volume["Tags"] == [{"Key": "Name", "Value": NAME}], "the volume has its tag")
    by_token = ec2.describe_instances(Filters=[{"Name": "client-token", "Values": [f"{NAME}-1"]}])["Reservations"]
    check(len(by_token) == 1, "found by its client token")
    until("status checks", lambda: [
        s for s in ec2.describe_instance_status(InstanceIds=[identifier])["InstanceStatuses"]
        if s["InstanceStatus"]["Status"] == "ok"
    ])
    for name, same, other in (
        ("availability-zone", found["Placement"]["AvailabilityZone"], "eu-central-1z"),
        ("instance-state-code", "16", "80"),
        ("instance-state-name", "running", "stopped"),
        ("instance-status.reachability", "passed", "failed"),
        ("instance-status.status", "ok", "impaired"),
        ("system-status.reachability", "passed", "failed"),
        ("system-status.status", "ok", "impaired"),
    ):
        for value, count in ((same, 1), (other, 0)):
            filters = [{"Name": name, "Values": [value]}]
            seen = ec2.describe_instance_status(InstanceIds=[identifier], Filters=filters)["InstanceStatuses"]
            check(len(seen) == count, f"a status by {name} {value}: {len(seen)}, expected {count}")
    with refused("DependencyViolation"):
        ec2.delete_security_group(GroupId=group)
    return identifier


def stop_and_start(identifier: str) -> None:
    before = describe(identifier)["PublicIpAddress"]
    ec2.stop_instances(InstanceIds=[identifier])
    with refused("IncorrectInstanceState"):
        ec2.start_instances(InstanceIds=[identifier])
    until("stopped", lambda: state(identifier) == "stopped")
    check("PublicIpAddress" not in describe(identifier), "a stopped instance has no public address")
    ec2.start_instances(InstanceIds=[identifier])
    until("running", lambda: state(identifier) == "running")
    check(describe(identifier)["PublicIpAddress"] not in (None, before), "a new public address after a start")


def faults(group: str) -> None:
    for kind, code in (("throttle", "RequestLimitExceeded"), ("capacity", "InsufficientInstanceCapacity")):
        control("fault", kind=kind, value=1, action="RunInstances")
        with refused(code):
            launch(group, ClientToken=f"{NAME}-{kind}")
    control("fault", kind="deny", value="RunInstances")
    with refused("UnauthorizedOperation"):
        launch(group)
    control("fault", kind="clear")
    for kind, made in (("cut-before", 0), ("cut-after", 1)):
        control("fault", kind=kind, value=1, action="RunInstances")
        with broken():
            launch(group, ClientToken=f"{NAME}-{kind}")
        by_token = [{"Name": "client-token", "Values": [f"{NAME}-{kind}"]}]
        found = ec2.describe_instances(Filters=by_token)["Reservations"]
        check(len(found) == made, f"{kind} made {len(found)} instances, expected {made}")
        if made:
            identifier = found[0]["Instances"][0]["InstanceId"]
            check(launch(group, ClientToken=f"{NAME}-{kind}")["InstanceId"] == identifier, "a lost reply is asked for again")
            ec2.terminate_instances(InstanceIds=[identifier])
    control("fault", kind="hang", value=1, action="DescribeVpcs")
    slow = boto3.client(
        "ec2", region_name=REGION, endpoint_url=ENDPOINT, aws_access_key_id="test", aws_secret_access_key="test",
        config=botocore.config.Config(retries={"total_max_attempts": 1}, read_timeout=1),
    )
    with broken():
        slow.describe_vpcs()
    control("fault", kind="late", value=5)
    made = ec2.create_security_group(GroupName=f"{NAME}-late", Description="late")["GroupId"]
    late = launch(group, ClientToken=f"{NAME}-late")["InstanceId"]
    control("fault", kind="clear")
    with refused("InvalidGroup.NotFound"):
        ec2.describe_security_groups(GroupIds=[made])
    with refused("InvalidInstanceID.NotFound"):
        describe(late)
    listed = [r["Instances"][0]["InstanceId"] for r in ec2.describe_instances()["Reservations"]]
    check(late not in listed, "a late instance is not listed")
    check(launch(group, ClientToken=f"{NAME}-late")["InstanceId"] == late, "its client token is known at once")
    until("the late instance", lambda: late in [
        r["Instances"][0]["InstanceId"] for r in ec2.describe_instances()["Reservations"]
    ])
    ec2.terminate_instances(InstanceIds=[late])
    until("the late group", lambda: any(
        g["GroupId"] == made for g in ec2.describe_security_groups()["SecurityGroups"]
    ))
    ec2.delete_security_group(GroupId=made)


def end(identifier: str, group: str, booted: bool) -> None:
    ec2.modify_instance_attribute(InstanceId=identifier, DisableApiTermination={"Value": True})
    with refused("OperationNotPermitted"):
        ec2.terminate_instances(InstanceIds=[identifier])
    ec2.modify_instance_attribute(InstanceId=identifier, DisableApiTermination={"Value": False})
    volume = describe(identifier)["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    if booted:
        control("kill", machine=identifier)
    change = ec2.terminate_instances(InstanceIds=[identifier])["TerminatingInstances"][0]
    check(change["CurrentState"]["Name"] == "shutting-down", "terminating takes time")
    with refused("DependencyViolation"):
        ec2.delete_security_group(GroupId=group)
    if booted:
        control("heal", machine=identifier)
    until("terminated", lambda: state(identifier) == "terminated")
    check("PublicIpAddress" not in describe(identifier), "a terminated instance has no address")
    check(state(identifier) == "terminated", "and stays so, whoever heals it")
    again = ec2.terminate_instances(InstanceIds=[identifier])["TerminatingInstances"][0]
    check(again["CurrentState"]["Name"] == "terminated", "terminating twice is fine")
    same = launch(group, ClientToken=f"{NAME}-1")
    check((same["InstanceId"], same["State"]["Name"]) == (identifier, "terminated"), "a token outlives its instance")
    with refused("InvalidVolume.NotFound"):
        ec2.describe_volumes(VolumeIds=[volume])
    until("the group's deletion", lambda: delete_group(group))
    with refused("InvalidGroup.NotFound"):
        ec2.delete_security_group(GroupId=group)
    ec2.delete_key_pair(KeyName=NAME)
    ec2.delete_key_pair(KeyName=NAME)


def delete_group(group: str) -> bool:
    try:
        ec2.delete_security_group(GroupId=group)
    except botocore.exceptions.ClientError as error:
        check(error.response["Error"]["Code"] == "DependencyViolation", str(error))
        return False
    return True


BLOCK = re.compile(r"-----BEGIN SSH HOST KEY FINGERPRINTS-----\r?\n(.+?)-----END SSH HOST KEY FINGERPRINTS-----", re.S)


def console(identifier: str) -> str:
    output = ec2.get_console_output(InstanceId=identifier, Latest=True).get("Output", "")
    # boto3 decodes the reply of this call by itself.
    return output if "\n" in output or not output else base64.b64decode(output).decode("utf-8", "replace")


def console_faults(identifier: str) -> None:
    control("console", body=b"hello from a test\n", machine=identifier)
    check(console(identifier) == "hello from a test\n", "a test's own console text")
    control("fault", kind="no-console")
    check(console(identifier) == "", "no-console")
    control("fault", kind="clear")


def log_in(identifier: str, folder: pathlib.Path, command: str) -> str:
    """Runs a command through plain ssh, after the host key was matched with the fingerprints on the console."""
    address = describe(identifier)["PublicIpAddress"]
    block = until("host key fingerprints on the console", lambda: BLOCK.findall(console(identifier)), 60)[-1]
    prints = set(re.findall(r"SHA256:\S+", block))
    scan = until("a host key", lambda: subprocess.run(
        ["ssh-keyscan", "-T", "5", "-t", "ed25519", address], capture_output=True, text=True
    ).stdout)
    (folder / "known_hosts").write_text(scan)
    shown = subprocess.run(["ssh-keygen", "-l", "-f", folder / "known_hosts"], check=True, capture_output=True, text=True)
    check(shown.stdout.split()[1] in prints, f"the host key {shown.stdout.split()[1]} is on the console: {prints}")
    done = subprocess.run(
        ["ssh", "-F", "none", "-i", folder / "id_ed25519", "-o", f"UserKnownHostsFile={folder}/known_hosts",
         "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", f"root@{address}", command],
        capture_output=True, text=True, timeout=60,
    )
    check(done.returncode == 0, f"ssh {command}: exit {done.returncode}: {done.stderr}")
    return done.stdout


# Asks the metadata service with nothing but bash, since a machine has no curl of its own.
ASK = r"""
ask() {
    exec 3<>/dev/tcp/169.254.169.254/80
    printf '%s %s HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n%s\r\n\r\n' "$1" "$2" "$3" >&3
    cat <&3
}
answer=$(ask PUT /latest/api/token 'X-aws-ec2-metadata-token-ttl-seconds: 60')
token=${answer##*$'\n'}
ask GET /latest/meta-data/instance-id "X-aws-ec2-metadata-token: $token"
"""


def machine(identifier: str, folder: pathlib.Path) -> None:
    reply = log_in(identifier, folder, ASK)
    check(reply.splitlines()[-1] == identifier, f"the metadata service names the instance: {reply}")
    log_in(identifier, folder, "echo kept > /root/kept && sync")
    control("kill", machine=identifier)
    address = describe(identifier)["PublicIpAddress"]
    dead = subprocess.run(["ssh-keyscan", "-T", "2", address], capture_output=True, text=True).stdout
    check(not dead, "a killed machine does not answer")
    control("heal", machine=identifier)
    check(log_in(identifier, folder, "cat /root/kept").strip() == "kept", "the disk outlives a power loss")
    ec2.reboot_instances(InstanceIds=[identifier])
    time.sleep(1)
    check(log_in(identifier, folder, "cat /root/kept").strip() == "kept", "and a reboot")


def main() -> None:
    began = time.monotonic()
    api_only = control("status", post=False)["apiOnly"]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        images()
        key_pair(folder)
        group = security_group()
        refusals(group)
        identifier = instance(group)
        if not api_only:
            machine(identifier, folder)
        stop_and_start(identifier)
        if not api_only:
            log_in(identifier, folder, "true")
        faults(group)
        console_faults(identifier)
        end(identifier, group, not api_only)
    kind = "API only" if api_only else "with a machine"
    print(f"check: the local cloud behaves ({kind}, {time.monotonic() - began:.1f} s)")


if __name__ == "__main__":
    sys.exit(main())
