"""One booted machine of the local cloud.

A machine is a systemd-nspawn container with a real systemd, over an overlay of
the image, in a network namespace of its own. This file is its power switch,
its firmware and its boot loader: every boot reads /boot/grub/grub.cfg on the
machine's disk and starts the `init` of the entry that GRUB would start, so a
wrong or missing entry is a machine that does not come up.

Everything lives in CLOUD/run/machines/ID:
    upper, work   what the machine wrote (its disk is the image below them)
    root          where the disk is mounted
    boot          /boot, a file system of its own (BOOT_MEGABYTES)
    console.log   the console, over all boots
    pids          processes to end when a server died: "PID START-TIME" lines

A holder process keeps the machine's mount and network namespace. All mounts
are in that namespace alone, so they go with it.

A test that needs a full /boot fills that file system from inside (`fallocate`
or `dd` to /boot/filler); it keeps its content over reboots and power losses.
A full store needs a small disk: Machine(..., disk_megabytes=N). Such a machine's
disk and /boot are file systems (ext4) in files of their own, and `lose_power`
takes from it what it had not written to them yet.
"""

import ctypes
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time
import uuid

import bootloader

BOOT_MEGABYTES = 64

# How long a clean shutdown may take before the power goes off, in seconds.
# EC2 allows "a few minutes" (RebootInstances, API reference).
GRACE = 60

# systemd's exit code convention for "boot again" under --keep-unit, systemd-nspawn(1).
REBOOT = 133

# Signals by which PID 1 is asked to reboot and to power off, systemd(1).
SIGNAL_POWEROFF = signal.SIGRTMIN + 4
SIGNAL_REBOOT = signal.SIGRTMIN + 5

CLONE_NEWNET = 0x40000000

# Runs in the new namespaces. /run and /tmp are hidden, as systemd-nspawn leaves
# locks and directories there. $disk is empty, or the size of a disk in MiB.
HOLD = """
set -eu
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
ip link set lo up
ip address add 169.254.169.254/32 dev lo
mount_disk() {
    # A kernel writes what it keeps every five seconds; here it is not to do that by chance.
    mount -o loop,commit=300 disk.img disk
    mount -o loop,commit=300 boot.img boot
    mount -t overlay -o "lowerdir=$image,upperdir=disk/upper,workdir=disk/work" overlay root
}
if [ -n "$disk" ]; then
    mkdir -p disk
    truncate -s "${disk}M" disk.img
    truncate -s "${boot}M" boot.img
    for file in disk.img boot.img; do mke2fs -q -t ext4 -m 0 $file; done
    mount -o loop disk.img disk
    mkdir disk/upper disk/work
    mount -o loop boot.img boot
    cp -a "$image/boot/." boot
    umount disk boot
    mount_disk
else
    mount -t overlay -o "lowerdir=$image,upperdir=upper,workdir=work" overlay root
    mount -t tmpfs -o "size=${boot}M,mode=755" tmpfs boot
    cp -a "$image/boot/." boot
fi
echo ready
# Each line asks for a loss of power: what the files hold by now is all that stays.
while read -r _; do
    for file in disk.img boot.img; do cp --sparse=always $file $file.left; done
    umount root disk boot
    for file in disk.img boot.img; do mv $file.left $file; done
    mount_disk
    echo ready
done
exec sleep infinity
"""

# Puts the shell into a cgroup of its own and becomes its last arguments. A real machine's network
# forgets at every boot what was done to it; the namespace would not.
ENTER = """
nsenter --net="$network" sh -c '
    ip link set lo up
    ip address replace 169.254.169.254/32 dev lo
    chroot "$debian" nft flush ruleset' || :
for group in $groups; do
    mkdir -p "$group"
    echo $$ > "$group/cgroup.procs"
done
exec "$@"
"""


class MachineError(Exception):
    """What failed: cause."""


class Machine:
    """One booted instance: overlay of the image, its own network namespace, a systemd-nspawn with real systemd."""

    def __init__(self, cloud, instance_id, disk_megabytes=None):
        self.cloud = pathlib.Path(cloud)
        self.id = instance_id
        self.disk_megabytes = disk_megabytes
        self.folder = self.cloud / "run" / "machines" / instance_id
        self.root = self.folder / "root"
        self._log = self.folder / "console.log"
        self._holder = None
        self._net = None  # file descriptor of the network namespace
        self._lock = threading.Condition()
        self._container = None  # the systemd-nspawn that runs
        self._supervisor = None  # the thread that boots and boots again
        self._off = True  # the power is (to be) off
        self._reset = False  # boot again, whatever way the container ended

    def create(self):
        """Makes namespace and disk, so that IMDS can listen before the first boot."""
        if not (self.cloud / "image").is_dir():
            raise MachineError(f"cannot make machine {self.id}: there is no image in {self.cloud} (tests/cloud/image.sh makes it)")
        for name in ("upper", "work", "root", "boot"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._log.touch()
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "image": str(self.cloud / "image"),
            "boot": str(BOOT_MEGABYTES),
            "disk": str(self.disk_megabytes or ""),
        }
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--net", "--propagation", "private", "sh", "-c", HOLD],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._note(self._holder.pid)
        if self._holder.stdout.readline() != b"ready\n":
            cause = self._holder.stderr.read().decode(errors="replace").strip()
            self.destroy()
            raise MachineError(f"cannot make machine {self.id}: {cause or 'its namespace holder ended'}")
        self._net = os.open(f"/proc/{self._holder.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def start(self):
        """Turns the power on and returns at once; nothing happens when it is on."""
        with self._lock:
            if self._supervisor and self._supervisor.is_alive():
                return
            self._off = self._reset = False
            self._supervisor = threading.Thread(target=self._supervise, name=f"machine-{self.id}", daemon=True)
            self._supervisor.start()

    def reboot(self):
        """Asks for a clean reboot and returns at once; after GRACE seconds the machine is reset."""
        threading.Thread(target=self._reboot, name=f"reboot-{self.id}", daemon=True).start()

    def stop(self):
        """Shuts down cleanly and waits for it; after GRACE seconds the power goes off."""
        with self._lock:
            self._off = True
            self._lock.notify_all()
            supervisor = self._supervisor
        if supervisor:
            self._signal(SIGNAL_POWEROFF)
            supervisor.join(GRACE)
        self.kill()

    def kill(self):
        """Power loss: everything in the machine dies at once."""
        with self._lock:
            self._off = True
            self._lock.notify_all()
            supervisor = self._supervisor
        self._kill_container()
        if supervisor:
            supervisor.join()

    def lose_power(self):
        """Power loss, of the page cache, too: a machine with a disk of its own keeps what it has written to it."""
        self.kill()
        if self.disk_megabytes:
            self._holder.stdin.write(b"\n")
            self._holder.stdin.flush()
            if self._holder.stdout.readline() != b"ready\n":
                cause = self._holder.stderr.read().decode(errors="replace").strip()
                raise MachineError(f"cannot cut the power of machine {self.id}: {cause or 'its namespace holder ended'}")

    def destroy(self):
        """Ends the machine and deletes all that is left of it; may be called twice."""
        self.kill()
        if self._net is not None:
            os.close(self._net)
            self._net = None
        if self._holder:
            self._holder.kill()
            self._holder.communicate()
        _remove(self.folder)

    def running(self):
        """Says whether the power is on: also while it boots, and when it could not boot."""
        with self._lock:
            return bool(self._supervisor and self._supervisor.is_alive())

    def console(self):
        """Returns all console output so far, over reboots."""
        try:
            return self._log.read_bytes()
        except FileNotFoundError:
            return b""

    def connect(self, port=22):
        """Opens a TCP connection to 127.0.0.1:port inside the machine."""
        return self._in_namespace(lambda: socket.create_connection(("127.0.0.1", port), timeout=10))

    def listen(self, address, port):
        """Opens a listening TCP socket inside the machine's network."""
        return self._in_namespace(lambda: socket.create_server((address, port), backlog=64))

    # The power supply.

    def _supervise(self):
        while True:
            self._reset = False
            code = self._boot()
            with self._lock:
                if code not in (0, REBOOT, None) and not (self._off or self._reset):
                    self._say("Kernel panic - not syncing: Attempted to kill init!")
                # A machine that cannot boot, or whose init died, stays on and does nothing.
                while code not in (0, REBOOT) and not (self._off or self._reset):
                    self._lock.wait()
                if self._off or (code == 0 and not self._reset):
                    return

    def _boot(self):
        """Runs one boot to its end; returns systemd-nspawn's exit code, or None when nothing could be booted."""
        try:
            entry = bootloader.next_entry(self.path("boot"))
            init = entry.init(self.path("root"))
        except bootloader.BootError as error:
            self._say(f"error: {error}.\r\nEntering rescue mode...\r\ngrub rescue>")
            return None
        self._say(f"Booting `{entry.title}'")
        with self._lock:
            if self._off:
                return None
            with self._log.open("ab") as console:
                self._container = subprocess.Popen(
                    self._command(entry, init),
                    env={
                        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                        "groups": " ".join(map(str, groups(self.id))),
                        "network": f"/proc/{self._holder.pid}/ns/net",
                        "debian": str((self.cloud / "image").resolve().parent / "debian"),
                        "SYSTEMD_NSPAWN_TMPFS_TMP": "0",  # /tmp is on the disk, as on NixOS
                    },
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=console,
                    start_new_session=True,
                )
            self._note(self._container.pid)
        code = self._container.wait()
        self._kill_container()
        return code

    def _command(self, entry, init):
        """Returns the command that boots `init`: enter the cgroup, then the namespaces, then the container."""
        holder = f"/proc/{self._holder.pid}/ns"
        return [
            "sh", "-euc", ENTER, "sh",
            "nsenter", f"--mount={holder}/mnt", "--",
            "systemd-nspawn", "--quiet", f"--directory={self.root}",
            f"--network-namespace-path={holder}/net",
            f"--machine={self.id}", f"--uuid={uuid.uuid5(uuid.NAMESPACE_DNS, self.id)}", "--hostname=localhost",
            "--register=no", "--keep-unit", "--console=read-only", f"--kill-signal={SIGNAL_POWEROFF}",
            "--link-journal=no", "--resolv-conf=off", "--timezone=off", "--capability=CAP_NET_ADMIN",
            f"--bind={self.folder}/boot:/boot",
            f"--setenv=BOARD_ASSET_TAG={self.id}", f"--setenv=KERNEL_COMMAND_LINE={entry.command_line}",
            "--", bootloader.STAGE_1, init,
        ]  # fmt: skip

    def _reboot(self):
        with self._lock:
            self._reset = True
            self._lock.notify_all()
            container = self._container
        self._signal(SIGNAL_REBOOT)
        try:
            if container:
                container.wait(GRACE)
        except subprocess.TimeoutExpired:
            if container is self._container:
                self._kill_container()

    def _signal(self, number):
        """Sends a signal to the machine's PID 1, if there is one."""
        container = self._container
        if container is None or container.poll() is not None:
            return
        try:
            pid = container.pid
            for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                os.kill(int(child), number)
        except (FileNotFoundError, ProcessLookupError):
            pass

    def _kill_container(self):
        if self._container:
            # It may be on its way into the cgroup; once there, the group's end is its own.
            self._container.kill()
        _kill_groups(self.id)
        if self._container:
            self._container.wait()

    # Helpers.

    def path(self, name):
        """Returns `root` or `boot` as this process can open it: through the holder's mounts."""
        return pathlib.Path(f"/proc/{self._holder.pid}/root{self.folder}/{name}")

    def _say(self, line):
        with self._log.open("ab") as console:
            console.write(line.encode() + b"\r\n")

    def _note(self, pid):
        with (self.folder / "pids").open("a") as pids:
            pids.write(f"{pid} {_start_time(pid)}\n")

    def _in_namespace(self, function):
        """Runs `function` in a thread that has joined the machine's network namespace."""
        result = []

        def run():
            try:
                if ctypes.CDLL(None, use_errno=True).setns(self._net, CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "cannot enter the network namespace")
                result.append(function())
            except Exception as error:  # handed to the caller
                result.append(error)

        if self._net is None:
            raise ConnectionRefusedError(f"machine {self.id} does not exist")
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if isinstance(result[0], Exception):
            raise result[0]
        result[0].settimeout(None)
        return result[0]


def cleanup(cloud):
    """Ends and deletes every machine that a server left behind."""
    machines = pathlib.Path(cloud) / "run" / "machines"
    if not machines.is_dir():
        return
    for folder in machines.iterdir():
        _kill_groups(folder.name)
        for pid, start in _noted(folder / "pids"):
            # The start time tells a process of ours from a later one with its number.
            if _start_time(pid) == start:
                os.kill(pid, signal.SIGKILL)
        _remove(folder)


def _noted(path):
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return []
    return [(int(pid), start) for pid, _, start in (line.partition(" ") for line in lines)]


def _start_time(pid):
    """Returns the start time of a process (field 22 of /proc/PID/stat, proc(5)), or None when it is gone."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return stat.rpartition(")")[2].split()[19]


def groups(name):
    """Returns a machine's cgroups: one in the unified hierarchy, one in systemd's own where there is one."""
    top = pathlib.Path("/sys/fs/cgroup")
    hierarchies = [top] if (top / "cgroup.procs").exists() else [top / "unified", top / "systemd"]
    return [hierarchy / f"nixpipe-{name}" for hierarchy in hierarchies if hierarchy.is_dir()]


def _kill_groups(name):
    """Kills every process of a machine at once and deletes its cgroups."""
    for group in groups(name):
        for _ in range(500):
            if not group.exists():
                break
            try:
                (group / "cgroup.kill").write_text("1")
            except OSError:
                pass  # systemd's own hierarchy has none, or another thread was faster
            for folder, _, _ in os.walk(group, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:
                    time.sleep(0.01)  # processes take a moment to go


def _remove(folder):
    """Deletes a machine's folder, once its mounts are gone with the holder."""
    for _ in range(500):
        # Not by shutil: tens of thousands of files would hold up the proxy's thread.
        subprocess.run(["rm", "-rf", "--one-file-system", folder], stderr=subprocess.DEVNULL, check=False)
        if not folder.exists():
            return
        time.sleep(0.01)
