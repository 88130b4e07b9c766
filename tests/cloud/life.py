"""One instance from RunInstances to its end: its EC2 state, which takes time to change, and its machine."""

import logging
import queue
import threading
import time

import imds

log = logging.getLogger("life")

CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}


class Life:
    def __init__(self, cloud, instance, public_key: str | None):
        self.cloud = cloud
        self.instance = instance
        self.public_key = public_key  # as it was at launch; replacing the key pair later changes nothing
        disk = int(cloud.disks.get(self.name, cloud.settings.disk)) or None
        self.machine = cloud.make_machine(instance.id, disk) if cloud.make_machine else None
        self.up = False  # the machine has power and a place in the network
        self.killed = False
        self.console_text: bytes | None = None  # a text put in place of the machine's, by a test
        self._goal: str | None = None
        self._reason: tuple[str, str] | None = None  # of a launch that fails
        self._due = 0.0
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()
        self._busy = 0
        self._thread: threading.Thread | None = None
        self._imds = None
        self._posted = b""
        self._posted_at = 0.0
        self._changed_at = time.monotonic()

    @property
    def id(self) -> str:
        return self.instance.id

    @property
    def name(self) -> str:
        return self.instance.ec2_backend.tags.get(self.id, {}).get("Name", "")

    # What EC2's calls ask for. Each sets the state that EC2 shows at once and the one that it leads to.

    def launch(self) -> None:
        self._move("pending", "running", self.cloud.settings.pending, self._create)

    def terminate(self) -> None:
        self.up = False
        self._move("shutting-down", "terminated", self.cloud.settings.shutting_down, self._destroy)

    def stop(self) -> None:
        self.up = False
        self._move("stopping", "stopped", self.cloud.settings.stopping, self._stop)

    def start(self) -> None:
        for nic in self.instance.nics.values():
            nic.start()  # takes a new public address
        self._keep_elastic_ip()
        self._move("pending", "running", self.cloud.settings.pending, self._power_on)

    def reboot(self) -> None:
        self._changed_at = time.monotonic()
        self._do(self._power_on if self.killed else self._reboot)

    # What `local-cloud kill` and `heal` ask for.

    def fail(self, code: str, message: str) -> None:
        """Lets the launch end in `terminated`, as EC2 does when a quota of volumes is used up or a host fails."""
        with self.cloud.lock:
            if self._goal == "running":
                self._reason = (code, message)
                self._goal = "terminated"
                self._do(self._destroy)

    def kill(self) -> None:
        self.killed, self.up = True, False
        self._do(self._kill)

    def revive(self) -> None:
        # One that is terminated has nothing left to be turned on.
        if self.killed and self.instance.state not in ("shutting-down", "terminated"):
            self._do(self._power_on)

    def discard(self) -> None:
        """Ends the machine whatever state it is in, without EC2's ceremony."""
        self.up = False
        self._do(self._destroy)

    def join(self) -> None:
        if self._thread:
            self._thread.join(timeout=60)

    def wait(self, seconds: float = 60) -> bool:
        """Waits until everything asked for so far is done."""
        if self.machine is None:
            return True
        done = threading.Event()
        self._do(done.set)
        return done.wait(seconds)

    def settle(self, now: float) -> bool:
        """Makes a state change that is due; true when nothing is left to come."""
        if self._goal is None:
            return True
        if now < self._due or self._busy:
            return False
        goal, self._goal = self._goal, None
        if goal == "terminated":
            for address in self.instance.ec2_backend.addresses:
                if address.eni in self.instance.nics.values():
                    address.eni = address.instance = address.association_id = None
            self.instance.terminate()  # frees the network interface and the volumes
            if self._reason:
                self.instance.state_reason.code, self.instance.state_reason.message = self._reason
        elif goal == "stopped":
            self.instance.stop()
            self._keep_elastic_ip()
        elif goal == "running":
            self.instance.running_since = now
        self._show(goal)
        return True

    def notice_poweroff(self) -> None:
        """A machine that shut itself down is stopped or terminated, as its attribute says (EC2 User Guide,
        "instance initiated shutdown behavior")."""
        if self.up and not self._busy and self._goal is None and not self.machine.running():
            if self.instance.instance_initiated_shutdown_behavior == "terminate":
                self.terminate()
            else:
                self.stop()

    def console(self, latest: bool) -> bytes:
        if self.console_text is not None:
            return self.console_text
        if self.machine is None:
            return b""
        now = time.monotonic()
        lag = self.cloud.settings.console
        if latest:
            return self.machine.console()
        # EC2 posts the console some time after a state change, then seldom.
        if now - self._changed_at >= lag and now - self._posted_at >= lag:
            self._posted, self._posted_at = self.machine.console(), now
        return self._posted

    def _keep_elastic_ip(self) -> None:
        """moto lets a stop and a start take the Elastic IP from an interface."""
        for address in self.instance.ec2_backend.addresses:
            if address.eni in self.instance.nics.values():
                address.eni.public_ip = address.public_ip

    def _move(self, state: str, goal: str, seconds: float, job) -> None:
        self._show(state)
        self._goal = goal
        self._due = time.monotonic() + seconds
        self._changed_at = time.monotonic()
        self._do(job)
        self.cloud.moving(self)

    def _show(self, state: str) -> None:
        self.instance._state.name = state
        self.instance._state.code = CODES[state]

    # Work on the machine takes time, so it is done in a thread of its own, in order.

    def _do(self, job) -> None:
        if self.machine is None:
            return
        with self.cloud.lock:
            self._busy += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=f"life {self.id}", daemon=True)
                self._thread.start()
            self._jobs.put(job)

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                job()
            except Exception as error:  # whatever a machine throws must not end the thread that has to destroy it
                log.exception("%s: %s failed", self.id, getattr(job, "__name__", job))
                self._failed(job, error)
            with self.cloud.lock:
                self._busy -= 1
                self.cloud.route()
                if job == self._destroy and self._jobs.empty():
                    self._thread = None
                    return

    def _failed(self, job, error: Exception) -> None:
        if job == self._create:
            self.fail("Server.InternalError", f"Server.InternalError: Internal error on launch: {error}")

    def _create(self) -> None:
        self.machine.create()
        self._imds = imds.serve(self.machine.listen("169.254.169.254", 80), self)
        self._power_on()

    def _power_on(self) -> None:
        self.machine.start()
        self.killed, self.up = False, True

    def _reboot(self) -> None:
        self.machine.reboot()
        self.up = True

    def _stop(self) -> None:
        self.machine.stop()
        self.killed = False

    def _kill(self) -> None:
        self.machine.lose_power()

    def _destroy(self) -> None:
        self.up = False
        if self._imds:
            self._imds.close()
            self._imds = None
        self.machine.destroy()
