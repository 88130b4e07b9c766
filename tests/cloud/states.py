"""What happens to instances after their launch, and how they are looked at."""

import base64
import copy
import hashlib
import time

from moto.core.responses import ActionResult, EmptyResult
from moto.core.utils import utcnow
from moto.ec2.exceptions import EC2ClientError, InvalidInstanceIdError, OperationNotPermitted4
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.ec2.utils import filter_dict_attribute_mapping, filter_reservations, is_tag_filter

from launch import check_type, check_type_and_image, no_capacity

MOST_CONSOLE = 64 << 10  # EC2 API reference, GetConsoleOutput


class StateCalls:
    def describe_instances(self):
        self.error_on_dryrun()
        ids = self._get_param("InstanceIds", [])
        size = self._get_param("MaxResults")
        if ids and size is not None:
            raise EC2ClientError(
                "InvalidParameterCombination",
                "The parameter instancesSet cannot be used with the parameter maxResults",
            )
        if ids:
            self._lives(ids)
        reservations = []
        for reservation in self.ec2_backend.reservations.values():
            seen = copy.copy(reservation)
            seen.instances = [
                i for i in reservation.instances if (i.id in ids if ids else not self.cloud.hidden(i.id))
            ]
            if seen.instances:
                reservations.append(seen)
        filters = self._filters_from_querystring()
        for name in filters:
            if name not in filter_dict_attribute_mapping and not is_tag_filter(name):
                raise EC2ClientError("InvalidParameterValue", f"The filter '{name}' is invalid")
        reservations = filter_reservations(reservations, filters)
        reservations, token = self._page(reservations)
        return ActionResult({"Reservations": reservations, "NextToken": token})

    def describe_instance_status(self):
        self.error_on_dryrun()
        ids = self._get_param("InstanceIds", [])
        lives = self._lives(ids) if ids else [
            life for life in self.cloud.lives.values()
            if life.instance.ec2_backend is self.ec2_backend and not self.cloud.hidden(life.id)
        ]
        instances = [life.instance for life in lives]
        if not self._get_param("IncludeAllInstances", False):
            instances = [i for i in instances if i.state == "running"]
        for name, values in self._filters_from_querystring().items():
            if name not in STATUS_FILTERS:
                raise EC2ClientError("InvalidParameterValue", f"The filter '{name}' is invalid")
            instances = [i for i in instances if STATUS_FILTERS[name](i) in values]
        instances, token = self._page(instances)
        return ActionResult({"InstanceStatuses": instances, "NextToken": token})

    def terminate_instances(self):
        lives = self._lives(self._get_param("InstanceIds", []))
        for life in lives:
            if life.instance.disable_api_termination:
                raise OperationNotPermitted4(life.id)
        self.error_on_dryrun()
        return self._change("TerminatingInstances", lives, "terminate", ("shutting-down", "terminated"))

    def stop_instances(self):
        lives = self._lives(self._get_param("InstanceIds", []))
        for life in lives:
            if life.instance.state in ("shutting-down", "terminated"):
                raise wrong_state(life, "stopped")
            if life.instance.lifecycle == "spot":
                raise EC2ClientError(
                    "UnsupportedOperation",
                    f"You can't stop the Spot Instance '{life.id}' because it is associated with a one-time Spot Instance "
                    "request. You can only stop Spot Instances associated with persistent Spot Instance requests.",
                )
        self.error_on_dryrun()
        return self._change("StoppingInstances", lives, "stop", ("stopping", "stopped"))

    def start_instances(self):
        lives = self._lives(self._get_param("InstanceIds", []))
        for life in lives:
            if life.instance.state in ("stopping", "shutting-down", "terminated"):
                raise wrong_state(life, "started")
            zone = life.instance.placement.zone
            if life.instance.state == "stopped" and self.cloud.faults.capacity("StartInstances", zone):
                raise no_capacity(life.instance.instance_type, zone, self.region)
        self.error_on_dryrun()
        return self._change("StartingInstances", lives, "start", ("pending", "running"))

    def reboot_instances(self):
        lives = self._lives(self._get_param("InstanceIds", []))
        for life in lives:
            if life.instance.state not in ("pending", "running"):
                raise wrong_state(life, "rebooted")
        self.error_on_dryrun()
        for life in lives:
            life.reboot()
        return EmptyResult()

    def _change(self, name: str, lives: list, step: str, there: tuple[str, str]):
        """Takes the step with every instance that is not `there` already, and says what that changed."""
        changes = []
        for life in lives:
            before = {"Code": life.instance.state_code, "Name": life.instance.state}
            if before["Name"] not in there:
                getattr(life, step)()
            now = {"Code": life.instance.state_code, "Name": life.instance.state}
            changes.append({"InstanceId": life.id, "PreviousState": before, "CurrentState": now})
        return ActionResult({name: changes})

    def get_console_output(self):
        [life] = self._lives([self._get_param("InstanceId")])
        latest = self._get_param("Latest", False)
        self.error_on_dryrun()
        if latest and INSTANCE_TYPES[life.instance.instance_type].get("Hypervisor") != "nitro":
            raise EC2ClientError(
                "UnsupportedOperation", "This instance type does not support retrieving the latest console logs."
            )
        output = b"" if self.cloud.faults.no_console(self.region) else life.console(latest)[-MOST_CONSOLE:]
        answer = {"InstanceId": life.id, "Timestamp": utcnow()}
        if output:
            answer["Output"] = base64.b64encode(output).decode()
        return ActionResult(answer)

    def modify_instance_attribute(self):
        [life] = self._lives([self._get_param("InstanceId")])
        kind = self._get_param("InstanceType.Value")
        if kind is not None:
            check_type(self.region, kind)
            check_type_and_image(kind, self.ec2_backend.amis[life.instance.image_id])
        if (kind is not None or self._get_param("UserData") is not None) and life.instance.state != "stopped":
            raise EC2ClientError("IncorrectInstanceState", f"The instance '{life.id}' is not in the 'stopped' state.")
        groups = self._get_param("Groups", [])
        for group in groups:
            if self.ec2_backend.get_security_group_from_id(group) is None:
                raise EC2ClientError("InvalidGroup.NotFound", f"The security group '{group}' does not exist")
        result = super().modify_instance_attribute()
        if groups and 0 in life.instance.nics:
            # moto leaves the interface in its old groups, so that they could never be deleted.
            life.instance.nics[0]._group_set = list(life.instance.security_groups)
        return result

    def modify_instance_metadata_options(self):
        [life] = self._lives([self._get_param("InstanceId")])
        # moto sets what the request leaves out back to its default; EC2 leaves it as it is.
        options = life.instance.metadata_options
        for name in ("HttpTokens", "HttpPutResponseHopLimit", "HttpEndpoint", "HttpProtocolIpv6", "InstanceMetadataTags"):
            if self._get_param(name) is None:
                attribute = {"HttpProtocolIpv6": "http_protocol_ipv6"}.get(name) or "".join(
                    "_" + c.lower() if c.isupper() else c for c in name
                ).lstrip("_")
                self.params[name] = getattr(options, attribute)
        self.error_on_dryrun()
        return super().modify_instance_metadata_options()

    def describe_instance_credit_specifications(self):
        lives = self._lives(self._get_param("InstanceIds", []))
        for life in lives:
            if not INSTANCE_TYPES[life.instance.instance_type].get("BurstablePerformanceSupported"):
                # EC2 API reference, DescribeInstanceCreditSpecifications: an error for all that are asked for.
                raise EC2ClientError("InvalidParameterValue", f"{life.id} is not a burstable performance instance")
        return ActionResult({
            "InstanceCreditSpecifications": [
                {"InstanceId": life.id, "CpuCredits": credits_of(life.instance)} for life in lives
            ]
        })

    def modify_instance_credit_specification(self):
        wanted = self._get_param("InstanceCreditSpecifications", [])
        self.error_on_dryrun()
        for life, spec in zip(self._lives([w["InstanceId"] for w in wanted]), wanted):
            life.instance.cpu_credits = spec["CpuCredits"]
        return ActionResult({
            "SuccessfulInstanceCreditSpecifications": [{"InstanceId": w["InstanceId"]} for w in wanted],
            "UnsuccessfulInstanceCreditSpecifications": [],
        })

    def modify_volume(self):
        volume = self.ec2_backend.get_volume(self._get_param("VolumeId"))
        size = self._get_param("Size")
        if size is not None and size < volume.size:
            raise EC2ClientError(
                "InvalidParameterValue", f"New size cannot be smaller than existing size: {size} GiB, {volume.size} GiB"
            )
        self.error_on_dryrun()
        # One change at a time (EBS User Guide, "Request modifications to your EBS volumes").
        now = time.monotonic()
        if now - self.cloud.modified.get(volume.id, float("-inf")) < self.cloud.settings.modifying:
            raise EC2ClientError(
                "IncorrectModificationState", f"Cannot modify volume {volume.id}, currently in modification state 'modifying'."
            )
        result = super().modify_volume()
        self.cloud.modified[volume.id] = now
        return result

    def release_address(self):
        wanted = self._get_param("AllocationId")
        if any(address.allocation_id == wanted and address.association_id for address in self.ec2_backend.addresses):
            raise EC2ClientError("InvalidIPAddress.InUse", f"Address with allocation id [{wanted}] is in use")
        return super().release_address()

    def import_key_pair(self):
        result = super().import_key_pair()
        pair = result.result
        # EC2 keeps type and key, and puts the name of the pair in the place of the comment.
        kind, blob = pair.material_public.split()[:2]
        pair.material_public = kind + b" " + blob + b" " + pair.key_name.encode()
        if kind == b"ssh-ed25519":
            pair.key_fingerprint = base64.b64encode(hashlib.sha256(base64.b64decode(blob)).digest()).decode()
        return result

    def _lives(self, ids: list[str]) -> list:
        """The instances with these ids, all of them or none."""
        if not ids or None in ids:
            raise EC2ClientError("MissingParameter", "The request must contain the parameter InstanceId")
        ids = list(dict.fromkeys(ids))
        missing = [
            i for i in ids
            if self.cloud.hidden(i) or i not in self.cloud.lives
            or self.cloud.lives[i].instance.ec2_backend is not self.ec2_backend
        ]
        if missing:
            raise InvalidInstanceIdError(missing if len(missing) > 1 else missing[0])
        return [self.cloud.lives[i] for i in ids]


def reachability(status: dict) -> str | None:
    return next((check["Status"] for check in status.get("Details", []) if check["Name"] == "reachability"), None)


# EC2 API reference, DescribeInstanceStatus; those of scheduled events are left out, as there are none here.
STATUS_FILTERS = {
    "availability-zone": lambda instance: instance.placement.zone,
    "instance-state-code": lambda instance: str(instance.state_code),
    "instance-state-name": lambda instance: instance.state,
    "instance-status.reachability": lambda instance: reachability(instance.instance_status),
    "instance-status.status": lambda instance: instance.instance_status["Status"],
    "system-status.reachability": lambda instance: reachability(instance.system_status),
    "system-status.status": lambda instance: instance.system_status["Status"],
}


def wrong_state(life, wish: str) -> EC2ClientError:
    return EC2ClientError(
        "IncorrectInstanceState", f"The instance '{life.id}' is not in a state from which it can be {wish}."
    )


def credits_of(instance) -> str:
    # EC2 User Guide, "Unlimited mode": the default of T3 and later; T2 is standard.
    return instance.cpu_credits or ("standard" if instance.instance_type.startswith("t2.") else "unlimited")
