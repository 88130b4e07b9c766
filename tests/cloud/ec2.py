"""EC2 as moto answers it, made to behave like AWS where the tools depend on it.

moto's response class is subclassed, so whatever is not named here is moto's own answer.
"""

import base64
import functools
import re

from moto import backends
from moto.core import responses
from moto.core.responses import ActionResult
from moto.ec2 import exceptions, urls
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import core as tagged, elastic_ip_addresses, elastic_network_interfaces, instances as moto_instances, subnets
from moto.ec2.responses import EC2Response
from moto.ec2.utils import filter_dict_attribute_mapping
from moto.utilities.utils import get_partition

import images
from groups import GroupCalls
from images import ImageCalls
from instance import CloudInstance
from launch import LaunchCalls
from paging import PagedCalls
from states import StateCalls

ACCOUNT = "123456789012"
# Parameters that hold ids, and what a malformed one is called.
IDS = {
    "InstanceId": "i", "InstanceIds": "i", "ImageId": "ami", "ImageIds": "ami", "GroupId": "sg", "GroupIds": "sg",
    "SecurityGroupIds": "sg", "Groups": "sg", "VolumeId": "vol", "VolumeIds": "vol",
}
MALFORMED = {
    "i": "InvalidInstanceID.Malformed", "ami": "InvalidAMIID.Malformed", "sg": "InvalidGroupId.Malformed",
    "vol": "InvalidParameterValue",
}
# Old ids have 8 digits, those since 2016 have 17 (EC2 User Guide, "Resource IDs").
FORM = re.compile(r"(i|ami|sg|vol)-([0-9a-f]{8}|[0-9a-f]{17})")


class CloudEC2(GroupCalls, ImageCalls, LaunchCalls, PagedCalls, StateCalls, EC2Response):
    cloud = None  # set by `install`

    # moto lets every RunInstances say `pending`; a repeated one has to show the state of now.
    RESPONSE_KEY_PATH_TO_TRANSFORMER = {
        key: value for key, value in EC2Response.RESPONSE_KEY_PATH_TO_TRANSFORMER.items()
        if not key.startswith("RunInstances.")
    }

    @property
    def ec2_backend(self):
        backend = super().ec2_backend
        images.load(backend)
        return backend

    def describe_regions(self):
        """Those of the partition: moto names China's and the government's, too, which are worlds of their own."""
        regions = super().describe_regions().result["Regions"]
        here = get_partition(self.region)
        return ActionResult({"Regions": [region for region in regions if get_partition(region.name) == here]})

    def call_action(self):
        try:
            self._check()
        except EC2ClientError as error:
            status, headers, body = self.serialized(ActionResult(error))
            headers["status"] = str(status)
            return status, headers, body
        return super().call_action()

    def _check(self) -> None:
        """What EC2 checks for every action alike: permission, the form of ids, tags, and that ids are known yet."""
        for action in self._needed_actions():
            if self.cloud.faults.denied(action, self.region):
                raise EC2ClientError("UnauthorizedOperation", denied(action, self.region))
        if error := self.cloud.faults.error(self._get_action()):
            raise EC2ClientError(*error)
        for name, prefix in IDS.items():
            values = self.params.get(name)
            for value in values if isinstance(values, list) else [values]:
                if not isinstance(value, str):
                    continue
                form = FORM.fullmatch(value)
                if not form or form[1] != prefix:
                    raise EC2ClientError(MALFORMED[prefix], f'Invalid id: "{value}" (expecting "{prefix}-...")')
                self._check_known(value)
        for value in self.params.get("Resources", []):
            self._check_known(value)
            self._check_exists(value)
        for spec in self.params.get("TagSpecifications", []):
            check_tags(spec.get("Tags", []))
        check_tags(self.params.get("Tags", []))

    def _needed_actions(self) -> list[str]:
        """Tags in a call that makes something need the permission to make tags as well (EC2 User Guide, "Grant
        permission to tag Amazon EC2 resources during creation")."""
        tags = self.params.get("TagSpecifications") or self.params.get("TagSpecification")
        return [self._get_action(), *(["CreateTags"] if tags else [])]

    def _authenticate_and_authorize_normal_action(self, resource="*") -> None:
        wanted = self._get_action
        try:
            for action in self._needed_actions():
                self._get_action = lambda action=action: action  # moto asks IAM about what this returns
                super()._authenticate_and_authorize_normal_action(resource)
        finally:
            self._get_action = wanted

    def _check_known(self, identifier: str) -> None:
        if self.cloud.hidden(identifier):
            if identifier.startswith("i-"):
                raise exceptions.InvalidInstanceIdError(identifier)
            raise exceptions.InvalidSecurityGroupNotFoundError(identifier)

    def _check_exists(self, identifier: str) -> None:
        """moto tags instances that do not exist."""
        if identifier.startswith("i-") and self.ec2_backend.get_instance_by_id(identifier) is None:
            raise exceptions.InvalidInstanceIdError(identifier)


def denied(action: str, region: str, user: str = "test") -> str:
    """What EC2 says with UnauthorizedOperation. The encoded part is long there, and opaque."""
    return (
        f"You are not authorized to perform this operation. User: arn:aws:iam::{ACCOUNT}:user/{user} is not authorized to "
        f"perform: ec2:{action} on resource: arn:aws:ec2:{region}:{ACCOUNT}:* because no identity-based policy allows the "
        f"ec2:{action} action. Encoded authorization failure message: "
        + base64.b64encode(f'{{"allowed":false,"action":"ec2:{action}"}}'.encode()).decode().rstrip("=")
    )


def check_tags(tags: list[dict]) -> None:
    """EC2 User Guide, "Tag restrictions"."""
    for tag in tags:
        key, value = tag.get("Key") or "", tag.get("Value") or ""
        if not key or len(key) > 128:
            raise EC2ClientError("InvalidParameterValue", "Tag key is empty or exceeds the maximum length of 128 characters")
        if len(value) > 256:
            raise EC2ClientError("InvalidParameterValue", "Tag value exceeds the maximum length of 256 characters")
        if key.lower().startswith("aws:"):
            raise EC2ClientError("InvalidParameterValue", f"Tag keys starting with 'aws:' are reserved: {key}")


def tags_of(resource) -> list[dict]:
    """The tags of one resource. moto searches all tags of the account, which is slow with 500 machines."""
    if not resource.id:
        return []
    found = resource.ec2_backend.tags.get(resource.id) or {}
    return [{"resource_id": resource.id, "key": key, "value": value, "resource_type": ""} for key, value in found.items()]


def ipv6_blocks(subnet) -> list[dict]:
    """The IPv6 blocks of a subnet. moto writes the state as a text with braces."""
    associations = subnet.ipv6_cidr_block_associations.values()
    return [
        {"associationId": a["associationId"], "ipv6CidrBlock": a["ipv6CidrBlock"], "ipv6CidrBlockState": a["ipv6CidrBlockState"]}
        for a in associations if a["ipv6CidrBlockState"]["State"] == "associated"
    ]


def install(cloud) -> None:
    """Puts this module in the place of moto's EC2. To be called before the first request."""
    CloudEC2.cloud = cloud
    CloudInstance.cloud = cloud
    # moto finds both out anew for each request, which is a third of what a request takes.
    responses.method_names_from_class = functools.cache(responses.method_names_from_class)
    modules = tuple(backends.list_of_moto_modules())
    backends.list_of_moto_modules = lambda: modules
    urls.url_paths = {"{0}/": CloudEC2.dispatch}
    moto_instances.Instance = CloudInstance
    tagged.TaggedEC2Resource.get_tags = tags_of
    subnets.Subnet.ipv6_cidr_block_association_set = property(ipv6_blocks)
    elastic_network_interfaces.random_public_ip = cloud.free_address
    elastic_ip_addresses.random_ip = cloud.free_address
    filter_dict_attribute_mapping.update({
        "client-token": "client_token",
        "instance-lifecycle": "lifecycle",
        "root-device-name": "root_device_name",
        "root-device-type": "root_device_type",
        "metadata-options.http-tokens": "metadata_options.http_tokens",
    })
