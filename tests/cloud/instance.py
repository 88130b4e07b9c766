"""moto's instance with what AWS shows and moto does not."""

import time

from moto.ec2.models.instances import Instance


class CloudInstance(Instance):
    __module__ = "moto.ec2.instance"  # moto sorts its models by the second part of this
    cloud = None  # set by ec2.install

    def __init__(self, backend, image_id, *args, **kwargs):
        super().__init__(backend, image_id, *args, **kwargs)
        ami = backend.amis[image_id]
        self.ena_support = ami.ena_support
        self.boot_mode = ami.boot_mode
        self.current_instance_boot_mode = ami.boot_mode
        self.root_device_type = ami.root_device_type
        self.platform_details = "Linux/UNIX"
        self.usage_operation = "RunInstances"
        self.cpu_credits = None
        self.running_since = time.monotonic()

    # A terminated instance has lost its place in the network; moto goes on to show it.

    @property
    def network_interfaces(self):
        return [] if self.state == "terminated" else super().network_interfaces

    @property
    def private_ip_address(self):
        return None if self.state == "terminated" else super().private_ip_address

    @property
    def private_dns_name(self):
        return "" if self.state == "terminated" else super().private_dns_name

    @property
    def public_ip(self):
        return None if self.state == "terminated" else super().public_ip

    @property
    def public_ip_address(self):
        return self.public_ip

    @property
    def subnet_id(self):
        return None if self._state.name == "terminated" else super().subnet_id

    @property
    def vpc_id(self):
        return None if self._state.name == "terminated" else super().vpc_id

    @property
    def public_dns_name(self):
        # A name in AWS's form would resolve nowhere on this machine; the address is a name that always does.
        return self.public_ip or ""

    @property
    def instance_status(self):
        return self._checks()

    @property
    def system_status(self):
        return self._checks()

    def _checks(self) -> dict:
        """Status checks: `initializing` at first (1 to 3 minutes on EC2), `impaired` while the machine is killed."""
        if self.state != "running":
            return {"Status": "not-applicable"}
        life = self.cloud.lives.get(self.id)
        status, detail = "ok", "passed"
        if life and life.killed:
            status, detail = "impaired", "failed"
        elif time.monotonic() - self.running_since < self.cloud.settings.checks:
            status, detail = "initializing", "initializing"
        return {"Details": [{"Name": "reachability", "Status": detail}], "Status": status}
