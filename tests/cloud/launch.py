"""RunInstances: client tokens, and everything that EC2 refuses before it makes an instance."""

import base64
import hashlib

from moto.core.responses import ActionResult
from moto.ec2.exceptions import (
    EC2ClientError,
    InvalidKeyPairNameError,
    InvalidSecurityGroupNotFoundError,
    VPCIdNotSpecifiedError,
)
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS, INSTANCE_TYPES
from moto.ec2.utils import parse_user_data
from moto.iam.models import iam_backends

from cloud import Token
from images import instance_ami

MOST_USER_DATA = 16384


class LaunchCalls:
    def run_instances(self):
        token = self._get_param("ClientToken")
        if token is not None and not (0 < len(token) <= 64 and token.isascii()):
            raise EC2ClientError("InvalidParameterValue", f"clientToken '{token}' is not 1 to 64 ASCII characters")
        digest = request_digest(self.querystring)
        known = self.cloud.tokens.get((self.region, token)) if token else None
        if known and not self._get_param("DryRun", False):
            return self._repeat(known, digest)

        ami = self._check_launch()
        self._add_root_device(ami)
        options = dict(self.params.get("MetadataOptions") or {})
        if "HttpTokens" not in options and getattr(ami, "imds_support", None) == "v2.0":
            options["HttpTokens"] = "required"  # an image registered with ImdsSupport v2.0 asks for it
        self.params["MetadataOptions"] = options
        # moto looks at MinCount only; EC2 launches as many as it can, here always MaxCount.
        self.params["MinCount"] = self._get_param("MaxCount", 1)
        result = super().run_instances()

        reservation = result.result
        for instance in reservation.instances:
            instance.cpu_credits = self._get_param("CreditSpecification.CpuCredits")
            for nic in instance.nics.values():
                nic.delete_on_termination = True
            pair = self.ec2_backend.key_pairs.get(instance.key_name)
            public = pair.material_public if pair else None
            self.cloud.launch(instance, public.decode() if isinstance(public, bytes) else public)
            self.cloud.born(instance.id, "RunInstances")
            if reason := self.cloud.faults.reason():
                self.cloud.lives[instance.id].fail(*reason)
        if token:
            self.cloud.tokens[self.region, token] = Token(digest, reservation, [i.id for i in reservation.instances])
        return ActionResult(reservation)

    def _repeat(self, known: Token, digest: str):
        """A token seen before: the same instances in their present state, even if terminated by now.

        EC2 API developer guide, "Ensuring idempotency in Amazon EC2 API requests".
        """
        if known.digest != digest:
            raise EC2ClientError(
                "IdempotentParameterMismatch",
                "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
            )
        if any(i not in self.cloud.lives for i in known.instance_ids):
            # The terminated instance is no longer listed, but its token is still remembered.
            raise EC2ClientError(
                "IdempotentInstanceTerminated",
                "The request has the client token of a previous one, whose instance has been terminated.",
            )
        return ActionResult(known.reservation)

    def _check_launch(self):
        backend = self.ec2_backend
        if self._get_param("MinCount", 1) > self._get_param("MaxCount", 1):
            raise EC2ClientError("InvalidParameterValue", "The minimum instance count must not exceed the maximum.")
        image_id = self._get_param("ImageId")
        if not image_id:
            raise EC2ClientError("MissingParameter", "The request must contain the parameter ImageId")
        ami = instance_ami(backend, image_id)
        kind = self._get_param("InstanceType") or "m1.small"
        check_type(self.region, kind)
        check_type_and_image(kind, ami)
        key_name = self._get_param("KeyName")
        if key_name and key_name not in backend.key_pairs:
            raise InvalidKeyPairNameError([key_name])
        user_data = parse_user_data(self._get_param("UserData"))
        if user_data and len(base64.b64decode(str(user_data))) > MOST_USER_DATA:
            raise EC2ClientError("InvalidParameterValue", f"User data is limited to {MOST_USER_DATA} bytes")
        interfaces = self._get_param("NetworkInterfaces", [])
        if interfaces and (self._get_param("SecurityGroupIds", []) or self._get_param("SecurityGroups", [])):
            raise EC2ClientError(
                "InvalidParameterCombination",
                "Network interfaces and an instance-level security groups may not be specified on the same request",
            )
        for group in self._get_param("SecurityGroupIds", []) + [g for nic in interfaces for g in nic.get("Groups", [])]:
            if backend.get_security_group_from_id(group) is None or self.cloud.hidden(group):
                raise InvalidSecurityGroupNotFoundError(group)
        subnet = self._subnet(interfaces)
        for group in self._get_param("SecurityGroupIds", []):
            if backend.get_security_group_from_id(group).vpc_id != subnet.vpc_id:
                raise EC2ClientError(
                    "InvalidParameter", f"Security group {group} and subnet {subnet.id} belong to different networks."
                )
        self._check_profile()
        zone = subnet.availability_zone
        if self.cloud.faults.capacity("RunInstances", zone):
            raise no_capacity(kind, zone, self.region)
        return ami

    def _check_profile(self) -> None:
        """moto answers for one that is not there as IAM does."""
        for member, key in (("Name", "name"), ("Arn", "arn")):
            wanted = self._get_param(f"IamInstanceProfile.{member}")
            known = iam_backends[self.current_account][self.partition].get_instance_profiles() if wanted else []
            if wanted and not any(getattr(profile, key) == wanted for profile in known):
                raise EC2ClientError(
                    "InvalidParameterValue",
                    f"Value ({wanted}) for parameter iamInstanceProfile.{key} is invalid. Invalid IAM Instance Profile {key}",
                )

    def _subnet(self, interfaces: list[dict]):
        """The subnet of the request, or the default one of its zone, which moto would leave out."""
        wanted = self._get_param("SubnetId") or next((nic["SubnetId"] for nic in interfaces if nic.get("SubnetId")), None)
        if wanted:
            return self.ec2_backend.get_subnet(wanted)
        vpc = self.ec2_backend.get_default_vpc()
        if vpc is None:
            raise VPCIdNotSpecifiedError()
        zone = self._get_param("Placement.AvailabilityZone") or f"{self.region}a"
        subnet = self.ec2_backend.get_default_subnets().get(zone)
        if subnet is None:
            raise EC2ClientError("InvalidParameterValue", f"Invalid availability zone or no default subnet in it: [{zone}]")
        if not interfaces:
            self.params["SubnetId"] = subnet.id
        return subnet

    def _add_root_device(self, ami) -> None:
        """Lays the mapping of the request over the one of the image."""
        wanted = [dict(mapping) for mapping in self.params.get("BlockDeviceMappings") or []]
        for mapping in ami.block_device_mappings:
            own = next((w for w in wanted if w.get("DeviceName") == mapping["DeviceName"]), None)
            if own is None:
                own = {"DeviceName": mapping["DeviceName"]}
                wanted.insert(0, own)
            ebs = {key: mapping["Ebs"][key] for key in ("SnapshotId", "VolumeSize", "VolumeType", "DeleteOnTermination")}
            own["Ebs"] = ebs | (own.get("Ebs") or {})
            if own["Ebs"]["VolumeSize"] < ebs["VolumeSize"]:
                raise EC2ClientError(
                    "InvalidBlockDeviceMapping",
                    f"Volume of size {own['Ebs']['VolumeSize']}GB is smaller than snapshot '{ebs['SnapshotId']}', "
                    f"expect size >= {ebs['VolumeSize']}GB",
                )
        if wanted:
            self.params["BlockDeviceMappings"] = wanted


def request_digest(querystring: dict) -> str:
    """What has to be equal for a client token to stand for the same request."""
    ignored = ("Action", "Version", "ClientToken", "DryRun")
    pairs = sorted((key, tuple(value)) for key, value in querystring.items() if key not in ignored)
    return hashlib.sha256(repr(pairs).encode()).hexdigest()


def check_type(region: str, kind: str) -> None:
    if kind not in INSTANCE_TYPES:
        raise EC2ClientError("InvalidParameterValue", f"Invalid value '{kind}' for InstanceType.")
    offered = INSTANCE_TYPE_OFFERINGS["region"].get(region)
    if offered is not None and not any(offer["InstanceType"] == kind for offer in offered):
        raise EC2ClientError("Unsupported", f"Your requested instance type ({kind}) is not supported in {region}.")


def check_type_and_image(kind: str, ami) -> None:
    facts = INSTANCE_TYPES[kind]
    architectures = facts["ProcessorInfo"]["SupportedArchitectures"]
    if ami.architecture not in architectures:
        raise EC2ClientError(
            "InvalidParameterValue",
            f"The architecture '{','.join(architectures)}' of the specified instance type does not match the architecture "
            f"'{ami.architecture}' of the specified AMI. Specify an instance type and an AMI that have matching "
            "architectures, and try again. You can use 'describe-instance-types' or 'describe-images' to discover the "
            "architecture of the instance type or AMI.",
        )
    if ami.virtualization_type not in facts["SupportedVirtualizationTypes"]:
        raise EC2ClientError(
            "InvalidParameterCombination",
            f"Non-Windows instances with a virtualization type of '{ami.virtualization_type}' are currently not supported "
            f"for this instance type : {kind}",
        )
    if ami.root_device_type not in facts["SupportedRootDeviceTypes"]:
        raise EC2ClientError(
            "InvalidParameterCombination",
            f"The instance type '{kind}' does not support an AMI with root device type '{ami.root_device_type}'.",
        )
    if ami.boot_mode in ("uefi", "legacy-bios") and ami.boot_mode not in facts.get("SupportedBootModes", [ami.boot_mode]):
        raise EC2ClientError(
            "UnsupportedOperation",
            f"The instance type '{kind}' does not support the boot mode '{ami.boot_mode}' of the AMI '{ami.id}'.",
        )


def no_capacity(kind: str, zone: str, region: str) -> EC2ClientError:
    others = ", ".join(f"{region}{letter}" for letter in "abc" if f"{region}{letter}" != zone)
    return EC2ClientError(
        "InsufficientInstanceCapacity",
        f"We currently do not have sufficient {kind} capacity in the Availability Zone you requested ({zone}). Our system "
        f"will be working on provisioning additional capacity. You can currently get {kind} capacity by not specifying an "
        f"Availability Zone in your request or choosing {others}.",
    )
