#!/usr/bin/python3 -B
"""A machine with a kernel, a clock and a disk of its own: the local cloud's image under qemu, whose processor is software.

    computer.py make FOLDER KEY.pub [uefi]   makes the disk, where KEY logs in as root; prints the machine's host key
    computer.py run FOLDER PORT              turns the power on; its sshd is at 127.0.0.1 port PORT

Killing `run` cuts the power: what the kernel had not written is lost, what it had written is there. The disk is as
durable as EBS is: what it has taken, it keeps. Without `run` it is off; a reboot reads the boot menu again.

What GRUB does is done here, but with `uefi` all of the boot is real: firmware, systemd-boot, kernel and initrd.

FOLDER has disk.img, console.log, and what was last read of /boot or what UEFI needs.
"""

import ctypes
import fcntl
import glob
import os
import pathlib
import shlex
import signal
import subprocess
import sys

import bootloader
import firmware

CLOUD = pathlib.Path(os.environ.get("NIXPIPE_CLOUD", "/var/lib/nixpipe-cloud"))
MEBIBYTES = 1000
TOOLS = "usr/lib/local-cloud"

# In the order in which they need each other.
MODULES = "failover net_failover virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_net"

# What an initrd would do, on the disk itself: shows what the kernel has, makes a network, becomes $1. The addresses are
# those of qemu's user network. Nobody tells metadata here, so no boot is to wait for it.
POWER_ON = f"""#!/{TOOLS}/sh
PATH=/{TOOLS}
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs /run
ln -s /proc/self/fd /dev/fd
mkdir -p /run/systemd/system.control
ln -s /dev/null /run/systemd/system.control/fetch-ec2-metadata.service
for module in {MODULES}; do insmod /{TOOLS}/$module.ko; done
ip link set lo up
ip link set eth0 up
ip address add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
exec "$1"
"""

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main() -> None:
    command, folder, argument, *more = sys.argv[1:]
    folder = pathlib.Path(folder)
    if command == "make":
        make(folder, pathlib.Path(argument))
        if more == ["uefi"]:
            firmware.make(folder, CLOUD / "kernel", menu_entry(folder).command_line)
    elif command == "run":
        run(folder, int(argument))
    else:
        sys.exit(__doc__)


def make(folder: pathlib.Path, public_key: pathlib.Path) -> None:
    image = CLOUD / "image"
    if not (CLOUD / "kernel").is_dir():
        sys.exit("computer: there is no kernel: tests/cloud/kernel.sh brings one")
    files = {
        "root/.ssh/authorized_keys": (public_key.read_bytes(), 0o600),
        f"{TOOLS}/power-on": (POWER_ON.encode(), 0o755),
    }
    # Making keys would be most of the first boot.
    for kind in ("ed25519", "rsa"):
        key = folder / f"host-{kind}"
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "", "-f", key], check=True)
        files[f"etc/ssh/ssh_host_{kind}_key"] = (key.read_bytes(), 0o600)
        files[f"etc/ssh/ssh_host_{kind}_key.pub"] = (key.with_suffix(".pub").read_bytes(), 0o644)
    for module in MODULES.split():
        files[f"{TOOLS}/{module}.ko"] = ((CLOUD / "kernel" / f"{module}.ko").read_bytes(), 0o644)
    steps = ["mkdir /root/.ssh", "mkdir /etc/ssh", f"symlink /{TOOLS}/insmod modprobe"]
    for package, program in (("iproute2", "ip"), ("coreutils", "ln")):
        (path,) = glob.glob(f"nix/store/*-{package}-*/bin/{program}", root_dir=image)
        steps.append(f"symlink /{TOOLS}/{program} /{path}")
    for number, (name, (content, mode)) in enumerate(files.items()):
        source = folder / f"file-{number}"
        source.write_bytes(content)
        source.chmod(mode)
        steps.append(f"write {source} /{name}")
    disk = folder / "disk.img"
    disk.unlink(missing_ok=True)
    tool("mke2fs", "-q", "-t", "ext4", "-m", "0", "-d", image, disk, f"{MEBIBYTES}M")
    tool("debugfs", "-w", "-f", "-", disk, input="\n".join(steps).encode())
    for number in range(len(files)):
        (folder / f"file-{number}").unlink()
    print(files["etc/ssh/ssh_host_ed25519_key.pub"][0].decode().strip())


def run(folder: pathlib.Path, port: int) -> None:
    die_with_parent()
    # A computer whose power was cut may take a moment to be gone.
    lock = open(folder / "lock", "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    while True:
        boots = firmware.arguments(folder, CLOUD / "kernel") if (folder / "esp.img").exists() else menu(folder)
        subprocess.run(
            [
                "qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-cpu", "max,la57=off", "-m", "768",
                "-nodefaults", "-display", "none", "-no-reboot",
                "-chardev", f"file,id=console,path={folder}/console.log,append=on", "-serial", "chardev:console",
                "-drive", f"file={folder}/disk.img,format=raw,if=none,id=disk,cache=writeback",
                "-device", "nvme,drive=disk,serial=disk",
                "-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-10.0.2.15:22",
                "-device", "virtio-net-pci,netdev=net,romfile=",
                *boots,
            ],
            check=True, pass_fds=[lock.fileno()], preexec_fn=die_with_parent,
        )  # fmt: skip


def menu(folder: pathlib.Path) -> list:
    """Returns what qemu is to be told of the entry that GRUB's menu has for the next boot."""
    words = shlex.split(menu_entry(folder).command_line)
    init = next(word.removeprefix("init=") for word in words if word.startswith("init="))
    rest = [word for word in words if not word.startswith("init=")]
    # A kernel writes what it keeps every five seconds; here it is not to do that by chance.
    line = ["root=/dev/nvme0n1", "rw", "rootflags=commit=300", "quiet", *rest, f"init=/{TOOLS}/power-on", "--", init]
    return ["-kernel", CLOUD / "kernel" / "vmlinuz", "-append", " ".join(line)]


def menu_entry(folder: pathlib.Path) -> bootloader.Entry:
    """Reads the menu as GRUB does: from the disk as it is, whatever its journal still holds, and whatever its checksums say."""
    (folder / "boot" / "grub").mkdir(parents=True, exist_ok=True)
    menu = folder / "boot/grub/grub.cfg"
    tool("debugfs", "-c", "-n", "-R", f"dump /boot/grub/grub.cfg {menu}", folder / "disk.img")
    # A one-time entry would have to be taken from the disk, so there are none: nobody's environment block is read.
    return bootloader.next_entry(folder / "boot")


def tool(name: str, *args, **more) -> None:
    """Runs a program of e2fsprogs, which not every PATH has."""
    found = subprocess.run([f"/usr/sbin/{name}", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
    # debugfs goes on after what fails, and says so; its first line is its version.
    words = found.stderr.decode().splitlines()[1:] if name == "debugfs" else []
    if found.returncode or words:
        sys.exit(f"computer: {name} failed: {found.stderr.decode()}")


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


main()
