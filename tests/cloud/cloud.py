"""The state of the local cloud that moto does not have: instances' lives, client tokens, late visibility, addresses."""

import dataclasses
import itertools
import logging
import threading
import time

from faults import Faults
from life import Life

log = logging.getLogger("cloud")

SSH = 22
MOST_PORTS = 16


@dataclasses.dataclass
class Settings:
    """Times in seconds, short by default so that tests are quick; `local-cloud set NAME VALUE` changes one."""

    # MiB of the disk of machines that are made from now on; 0: a folder, from which a loss of power takes nothing.
    disk: float = 0

    pending: float = 0.3
    stopping: float = 0.3
    shutting_down: float = 0.3
    # A terminated instance is listed for about an hour (EC2 User Guide, "Terminate your instance").
    terminated: float = 3600.0
    # Status checks say `initializing` this long after an instance runs; 1 to 3 minutes on EC2.
    checks: float = 1.0
    # Without Latest, GetConsoleOutput is this much behind; minutes on EC2.
    console: float = 5.0
    # A volume that was changed cannot be changed again for this long; hours on EC2.
    modifying: float = 2.0
    # The most that one answer of a call with pages holds, the first being empty; 0: as EC2 does.
    page: float = 0


@dataclasses.dataclass
class Token:
    """What a client token stands for: the request it came with and the reservation it made."""

    digest: str
    reservation: object
    instance_ids: list[str]


class Addresses:
    """Public addresses: 127.0.0.2 to 127.0.0.250, then 127.0.1.1 and so on.

    One is used again only after all others, since clients remember host keys by address.
    """

    def __init__(self):
        self._all = itertools.cycle(
            [f"127.0.{third}.{fourth}" for third in range(0, 255) for fourth in range(2 if third == 0 else 1, 251)]
        )

    def next(self) -> str:
        return next(self._all)


class Cloud:
    """One lock guards it and moto's backends, which are not made for several threads."""

    def __init__(self, make_machine=None, proxy=None):
        self.make_machine = make_machine  # None: API only, no machine is booted
        self.proxy = proxy
        self.lock = threading.RLock()
        self.settings = Settings()
        self.disks: dict[str, float] = {}  # `settings.disk` of machines of these names
        self.faults = Faults()
        self.addresses = Addresses()
        self.lives: dict[str, Life] = {}
        self.tokens: dict[tuple[str, str], Token] = {}
        self._moving: dict[str, Life] = {}
        self._gone: list[tuple[float, Life]] = []
        self._hidden: dict[str, float] = {}
        self.modified: dict[str, float] = {}  # volumes, and when they were changed

    # Late visibility: an id that was just made may be unknown for a while.

    def born(self, identifier: str, action: str) -> None:
        late = self.faults.late(action)
        if late:
            self._hidden[identifier] = time.monotonic() + late

    def hidden(self, identifier: str) -> bool:
        until = self._hidden.get(identifier)
        if until is None:
            return False
        if time.monotonic() >= until:
            del self._hidden[identifier]
            return False
        return True

    # Instances.

    def launch(self, instance, public_key: str | None) -> Life:
        life = Life(self, instance, public_key)
        self.lives[instance.id] = life
        life.launch()
        return life

    def moving(self, life: Life) -> None:
        """Remembers a life that `settle` has to look after."""
        self._moving[life.id] = life

    def settle(self) -> None:
        """Lets every state change whose time has come happen. Called before each request and each look at the state."""
        now = time.monotonic()
        for life in self.lives.values():
            life.notice_poweroff()
        for life in list(self._moving.values()):
            if life.settle(now):
                del self._moving[life.id]
                if life.instance.state == "terminated":
                    self._gone.append((now, life))
        while self._gone and now - self._gone[0][0] > self.settings.terminated:
            self._forget(self._gone.pop(0)[1])
        self.route()

    def route(self) -> None:
        """Tells the proxy which machine answers at which address."""
        if self.proxy is None:
            return
        routes = {}
        for life in self.lives.values():
            address = life.instance.public_ip
            if life.up and address:
                for port in open_ports(life.instance):
                    routes[address, port] = (life.id, life.machine.connect)
        self.proxy.route(routes)

    def find(self, name: str) -> Life:
        """The machine with this instance id or Name tag; one that lives is preferred to a terminated one."""
        with self.lock:
            self.settle()
            found = [life for life in self.lives.values() if name in (life.id, life.name)]
            living = [life for life in found if life.instance.state != "terminated"] or found[-1:]
            if not living:
                raise LookupError(f"no machine has the name or instance id {name}")
            if len(living) > 1:
                raise LookupError(f"several machines are called {name}: {' '.join(life.id for life in living)}")
            return living[0]

    def free_address(self) -> str:
        """An address that no instance and no Elastic IP has."""
        from moto.ec2.models import ec2_backends

        used = {life.instance.public_ip for life in self.lives.values() if life.instance.state != "terminated"}
        for account in ec2_backends.values():
            for backend in account.values():
                used.update(address.public_ip for address in backend.addresses)
        return next(address for address in iter(self.addresses.next, None) if address not in used)

    def reset(self) -> None:
        """Empties the account and ends every machine; the server stays."""
        from moto import settings
        from moto.moto_api._internal.models import moto_api_backend

        with self.lock:
            lives = list(self.lives.values())
            self.lives.clear()
            self._moving.clear()
            self._gone.clear()
            self._hidden.clear()
            self.modified.clear()
            self.tokens.clear()
            self.faults.clear()
            self.settings = Settings()
            self.disks.clear()
            settings.INITIAL_NO_AUTH_ACTION_COUNT = float("inf")
            if self.proxy:
                self.proxy.route({})
                self.proxy.clear()
            moto_api_backend.reset()
        end_all(lives)

    def close(self) -> None:
        with self.lock:
            lives = list(self.lives.values())
            if self.proxy:
                self.proxy.route({})
        end_all(lives)

    def _forget(self, life: Life) -> None:
        self.lives.pop(life.id, None)
        backend = life.instance.ec2_backend
        backend.tags.pop(life.id, None)
        for key, reservation in list(backend.reservations.items()):
            reservation.instances = [i for i in reservation.instances if i.id != life.id]
            if not reservation.instances:
                del backend.reservations[key]


def open_ports(instance) -> set[int]:
    """Port 22, and the TCP ports that a rule of a security group opens by name or in a short range.

    Where from is not looked at: every client is at 127.0.0.1.
    """
    ports = {SSH}
    for group in instance.security_groups:
        for rule in group.ingress_rules:
            if rule.ip_protocol in ("tcp", "6") and rule.from_port and rule.to_port - rule.from_port < MOST_PORTS:
                ports.update(range(rule.from_port, rule.to_port + 1))
    return ports


def end_all(lives: list[Life]) -> None:
    for life in lives:
        life.discard()
    for life in lives:
        life.join()
