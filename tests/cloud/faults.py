"""Faults on demand: what goes wrong, for which calls, how often.

Counted faults are used up by the calls they hit; `late`, `deny` and `no-console` last until `clear`.
"""

import dataclasses
import threading

# Decided before or after a call is made; the connection or the answer suffers, whatever the call does.
WIRE = ("throttle", "cut-before", "cut-after", "hang")
COUNTED = WIRE + ("capacity",)
LASTING = ("late", "deny", "no-console", "error")
# What EC2 says with the codes that a test asks for (EC2 API reference, "Error codes").
WORDS = {
    "VcpuLimitExceeded": "You have requested more vCPU capacity than your current vCPU limit of 5 allows for the instance "
    "bucket that the specified instance type belongs to. Please visit http://aws.amazon.com/contact-us/ec2-request to "
    "request an adjustment to this limit.",
    "MaxSpotInstanceCountExceeded": "Max spot instance count exceeded",
    "SecurityGroupLimitExceeded": "The maximum number of security groups has been reached.",
    "RulesPerSecurityGroupLimitExceeded": "The maximum number of rules per security group has been reached.",
    "SecurityGroupsPerInterfaceLimitExceeded": "The maximum number of security groups per interface has been reached.",
    "KeyPairLimitExceeded": "The maximum number of key pairs has been reached.",
    "AddressLimitExceeded": "The maximum number of addresses has been reached.",
    "VolumeLimitExceeded": "You have exceeded your maximum gp3 storage limit of 50 TiB in this region.",
    "InsufficientFreeAddressesInSubnet": "There are not enough free addresses in the subnet to satisfy the requested number "
    "of instances.",
    "InvalidParameterValue": "Value (web) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name",
}
# Codes of a launch that EC2 takes and that ends in `terminated` all the same: its state reason.
REASON = ("Client.", "Server.")


@dataclasses.dataclass
class Fault:
    kind: str
    action: str | None = None  # None: every EC2 call
    left: int | None = None  # None: until cleared
    seconds: float = 0.0
    zone: str | None = None  # `capacity` only: the availability zone that is full
    region: str | None = None  # `deny` and `no-console` only: None is every region
    code: str | None = None  # `error` only: EC2's word


class Faults:
    def __init__(self):
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def add(self, kind: str, value: str | None, action: str | None, zone: str | None, region: str | None = None) -> None:
        """Adds a fault as a person names it: `throttle 3`, `late 2.5`, `deny RunInstances`."""
        if kind == "clear":
            self.clear(region)
            return
        if kind in COUNTED:
            fault = Fault(kind, action, left=int(value or 1), zone=zone)
            if fault.left < 1:
                raise ValueError(f"{kind} takes a count of 1 or more, not {value}")
        elif kind == "late":
            fault = Fault(kind, action, seconds=float(value or ""))
        elif kind == "deny":
            if not (value or action):
                raise ValueError("deny takes the name of an action, such as RunInstances")
            fault = Fault(kind, value or action, region=region)
        elif kind == "error":
            if not value:
                raise ValueError("error takes a code of EC2, such as VcpuLimitExceeded")
            fault = Fault(kind, action, code=value)
        elif kind == "no-console":
            fault = Fault(kind, region=region)
        else:
            raise ValueError(f"no fault is called {kind}: there are {' '.join(COUNTED + LASTING)} clear")
        with self._lock:
            self._faults.append(fault)

    def clear(self, region: str | None = None) -> None:
        """Forgets all faults, or those of one region alone."""
        with self._lock:
            self._faults = [fault for fault in self._faults if region and fault.region != region]

    def wire(self, action: str) -> str | None:
        """Uses up and names the oldest fault of the connection that concerns this call."""
        with self._lock:
            for fault in self._faults:
                if fault.kind in WIRE and fault.action in (None, action):
                    self._use(fault)
                    return fault.kind
        return None

    def capacity(self, action: str, zone: str) -> bool:
        with self._lock:
            for fault in self._faults:
                if fault.kind == "capacity" and fault.action in (None, action) and fault.zone in (None, zone):
                    self._use(fault)
                    return True
        return False

    def denied(self, action: str, region: str) -> bool:
        with self._lock:
            return any(f.kind == "deny" and f.action == action and f.region in (None, region) for f in self._faults)

    def error(self, action: str) -> tuple[str, str] | None:
        """The code that `action` is refused with, and EC2's words for it."""
        code = self._code(action, False)
        return code and (code, WORDS.get(code, "The local cloud was told to say so."))

    def reason(self) -> tuple[str, str] | None:
        """Why what is launched now does not come up: code and message of the state reason."""
        code = self._code("RunInstances", True)
        return code and (code, f"{code}: {WORDS.get(code.split('.')[1], 'The local cloud was told to say so.')}")

    def _code(self, action: str, reason: bool) -> str | None:
        with self._lock:
            fits = (f for f in self._faults if f.kind == "error" and f.action in (None, action))
            return next((f.code for f in fits if f.code.startswith(REASON) == reason), None)

    def late(self, action: str) -> float:
        """How many seconds that which `action` makes stays unseen."""
        with self._lock:
            return max((f.seconds for f in self._faults if f.kind == "late" and f.action in (None, action)), default=0.0)

    def no_console(self, region: str) -> bool:
        with self._lock:
            return any(f.kind == "no-console" and f.region in (None, region) for f in self._faults)

    def listed(self) -> list[dict]:
        with self._lock:
            return [dataclasses.asdict(fault) for fault in self._faults]

    def _use(self, fault: Fault) -> None:
        fault.left -= 1
        if fault.left == 0:
            self._faults.remove(fault)
