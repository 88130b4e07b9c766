"""The machine images of the local cloud's regions, and DescribeImages as EC2 answers it."""

import datetime
import functools
import hashlib
import json
import pathlib

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError, InvalidAMIIdError
from moto.ec2.models.amis import Ami
from moto.ec2.utils import generic_filter


REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
TABLE = REPOSITORY / "nixos-ami/data/nixos-amis.json"
CATALOGUE = REPOSITORY / "tests/images.json"
# The account that published NixOS images until 23.05 (NixOS/nixpkgs issue 285881).
LEGACY_OWNER = "080433136561"
STRANGER = "999988887777"
ARCHITECTURES = {"x86_64-linux": "x86_64", "aarch64-linux": "arm64"}


class CloudAmi(Ami):
    """An image made from a row in the shape of DescribeImages; moto's own class invents size and owner alias."""

    __module__ = "moto.ec2.images"  # moto sorts its models by the second part of this

    def __init__(self, backend, row: dict):
        root = (row.get("BlockDeviceMappings") or [None])[0]
        super().__init__(
            backend,
            row["ImageId"],
            name=row["Name"],
            description=row.get("Description"),
            owner_id=row["OwnerId"],
            public=row["Public"],
            virtualization_type=row["VirtualizationType"],
            architecture=row["Architecture"],
            creation_date=parse_time(row["CreationDate"]),
            image_location=row["ImageLocation"],
            hypervisor=row["Hypervisor"],
            root_device_type=row["RootDeviceType"],
            root_device_name=row.get("RootDeviceName"),
            boot_mode=row.get("BootMode"),
        )
        self.deprecation_time = row.get("DeprecationTime")
        self.ena_support = row.get("EnaSupport", False)
        self.imds_support = row.get("ImdsSupport")
        self.platform_details = "Linux/UNIX"
        self.usage_operation = "RunInstances"
        self.root_ebs = root and root["Ebs"]
        if root:
            self.ebs_snapshot.volume.size = root["Ebs"]["VolumeSize"]

    @property
    def block_device_mappings(self) -> list[dict]:
        if not self.root_ebs:
            return []
        return [{"DeviceName": self.root_device_name, "Ebs": self.root_ebs | {"SnapshotId": self.ebs_snapshot.id}}]

    @property
    def deprecated(self) -> bool:
        now = datetime.datetime.now(datetime.timezone.utc)
        return self.deprecation_time is not None and parse_time(self.deprecation_time) <= now

    def get_filter_value(self, filter_name, method_name=None):
        if filter_name in ("boot-mode", "creation-date", "description", "ena-support", "hypervisor", "image-type",
                           "imds-support", "root-device-name", "root-device-type"):
            value = getattr(self, filter_name.replace("-", "_"))
            return value.strftime("%Y-%m-%dT%H:%M:%S.000Z") if isinstance(value, datetime.datetime) else value
        return super().get_filter_value(filter_name, method_name)


def parse_time(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


def load(backend) -> None:
    """Puts the images of the backend's region into it."""
    if getattr(backend, "has_nixos_images", False):
        return
    rows = table_rows(backend.region_name) + catalogue_rows(backend.region_name)
    # EC2 promises no order. One that is neither by name nor by date shows a client that counts on it.
    for row in sorted(rows, key=lambda row: hashlib.sha256(row["ImageId"].encode()).digest()):
        backend.amis[row["ImageId"]] = CloudAmi(backend, row)
    backend.has_nixos_images = True


@functools.cache
def table() -> list[dict]:
    return json.loads(TABLE.read_text())


@functools.cache
def catalogue() -> dict:
    return json.loads(CATALOGUE.read_text())


def table_rows(region: str) -> list[dict]:
    """The images of old releases. The table holds ids only: dates and sizes are filled in, ordered as the releases."""
    rows = []
    for entry in table():
        if entry["region"] != region:
            continue
        virtualization, root = entry["type"].split("-")
        year, month = entry["release"].split(".")
        day = 1 if entry.get("superseded") else 15
        row = {
            "ImageId": entry["ami"],
            "Name": f"NixOS-{entry['release']}-{entry['ami'][4:12]}-{entry['system']}",
            "Description": f"NixOS {entry['release']} {entry['system']}",
            "OwnerId": LEGACY_OWNER,
            "Public": True,
            "Architecture": ARCHITECTURES[entry["system"]],
            "VirtualizationType": {"hvm": "hvm", "pv": "paravirtual"}[virtualization],
            "Hypervisor": "xen",
            "ImageLocation": f"{LEGACY_OWNER}/NixOS-{entry['release']}",
            "CreationDate": f"20{year}-{month}-{day:02}T00:00:00.000Z",
            "EnaSupport": virtualization == "hvm",
            "RootDeviceType": "ebs" if root == "ebs" else "instance-store",
        }
        if root == "ebs":
            row["RootDeviceName"] = "/dev/xvda" if virtualization == "hvm" else "/dev/sda1"
            ebs = {"DeleteOnTermination": True, "Encrypted": False, "VolumeSize": 3, "VolumeType": "gp2"}
            row["BlockDeviceMappings"] = [{"DeviceName": row["RootDeviceName"], "Ebs": ebs}]
        rows.append(row)
    return rows


def catalogue_rows(region: str) -> list[dict]:
    """The images of current releases and, beside them, a newer look-alike that a stranger published."""
    rows = catalogue().get(region, {"Images": []})["Images"]
    strangers = []
    for row in rows:
        if row["Name"].startswith("nixos/25.11.1240."):
            name = row["Name"].replace("25.11.1240.", "25.11.9999.")
            number = int(row["ImageId"][4:], 16) ^ 0x5
            strangers.append(row | {
                "ImageId": f"ami-{number:017x}",
                "Name": name,
                "OwnerId": STRANGER,
                "ImageLocation": f"{STRANGER}/{name}",
                "CreationDate": "2026-11-23T00:00:00.000Z",
            })
    return rows + strangers


def instance_ami(backend, image_id: str) -> Ami:
    """The image for RunInstances, or EC2's error."""
    ami = backend.amis.get(image_id)
    if ami is None:
        raise InvalidAMIIdError([image_id])
    if ami.state != "available":
        raise EC2ClientError("InvalidAMIID.Unavailable", f"The image ID '{image_id}' is not available")
    return ami


class ImageCalls:
    """DescribeImages: by ids and filters together, deprecated images hidden, in pages."""

    def describe_images(self):
        self.error_on_dryrun()
        backend = self.ec2_backend
        ids = self._get_param("ImageIds", [])
        owners = ["self" if o == backend.account_id else o for o in self._get_param("Owners", [])]
        images = list(backend.amis.values())
        if ids:
            missing = [i for i in ids if i not in backend.amis]
            if missing:
                raise InvalidAMIIdError(missing)
            images = [backend.amis[i] for i in dict.fromkeys(ids)]
        elif not self._get_param("IncludeDeprecated", False):
            # Deprecated images of others show only when named (EC2 User Guide, "Deprecate an AMI").
            images = [a for a in images if not getattr(a, "deprecated", False) or a.owner_id == backend.account_id]
        if owners:
            images = [
                a for a in images
                if a.owner_id in owners or a.owner_alias in owners or ("self" in owners and a.owner_id == backend.account_id)
            ]
        if self._get_param("ExecutableUsers", []):
            images = [a for a in images if a.is_public]
        images = generic_filter(self._filters_from_querystring(), images)
        images, token = self._page(images, least=1)
        return ActionResult({"Images": images, "NextToken": token})
