#!/usr/bin/python3
"""Checks the machines of the local cloud, without its EC2 API: boots them, deploys to them, breaks them.

Must run as root, after image.sh. Prints a line for each check and exits non-zero when one fails.
    machine_check.py [--many N]    N: how many machines to boot at once (20)
"""

import argparse
import contextlib
import http.server
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

import machine

# A cloud of its own beside the one that may be running, with the same image.
IMAGE = pathlib.Path(os.environ.get("NIXPIPE_CLOUD", "/var/lib/nixpipe-cloud")) / "image"
CLOUD = IMAGE.parent / "check"
HERE = pathlib.Path(__file__).resolve().parent
STC = "/bin/switch-to-configuration"
NIX = {
    **os.environ,
    "NIX_PATH": os.environ.get("NIX_PATH", f"nixpkgs={HERE.parent / 'nixpkgs'}"),
    "NIX_CONFIG": "sandbox = false\nsubstituters =\nbuild-users-group =",
}
failures = 0


def check(what, ok, shown=""):
    """Prints one result; `shown` is what to see when it is bad."""
    global failures
    print(f"{'ok' if ok else 'FAILED'}: {what}", flush=True)
    if not ok:
        failures += 1
        print(f"    {str(shown).strip()[-3000:]}".replace("\n", "\n    "), flush=True)


def until(condition, seconds=30):
    """Waits for a condition; says whether it came true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


class Metadata(http.server.BaseHTTPRequestHandler):
    """As little of the instance metadata service as a boot asks for."""

    paths = {}

    def do_PUT(self):
        self.answer(b"token")

    def do_GET(self):
        path = self.path.partition("/meta-data/")[2]
        self.answer(self.paths.get(path))

    def answer(self, body):
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_):
        pass


class Lab:
    """A machine with metadata and a way in by ssh."""

    names = []

    def __init__(self, number, key, folder, **options):
        self.machine = machine.Machine(CLOUD, f"i-{number:017x}", **options)
        self.names.append(self.machine.id)
        self.key, self.folder = key, folder
        self.machine.create()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata, bind_and_activate=False)
        self.server.socket.close()
        self.server.socket = self.machine.listen("169.254.169.254", 80)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.door = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._forward, daemon=True).start()

    def _forward(self):
        """Joins connections to the door with the machine's port 22."""
        while True:
            try:
                outside, _ = self.door.accept()
            except OSError:
                return
            try:
                inside = self.machine.connect(22)
            except OSError:
                outside.close()
                continue
            for source, sink in ((outside, inside), (inside, outside)):
                sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pump(source, sink):
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            # Wakes the other direction, too, which a close would not.
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def ssh(self, command, stdin=None, timeout=120):
        """Runs a command; returns exit code and all output."""
        port = self.door.getsockname()[1]
        done = subprocess.run(
            ["ssh", "-F", "none", "-i", self.key, "-p", str(port), "-o", "BatchMode=yes", "-o", "ConnectTimeout=10",
             "-o", f"UserKnownHostsFile={self.folder}/known-{self.machine.id}", "-o", "StrictHostKeyChecking=accept-new",
             "-o", "LogLevel=ERROR", "root@127.0.0.1", command],
            stdin=stdin or subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout,
        )  # fmt: skip
        return done.returncode, done.stdout.decode(errors="replace")

    def out(self, command):
        return self.ssh(command)[1].strip()

    def answers(self):
        """Says whether sshd answers."""
        try:
            with self.machine.connect(22) as connection:
                connection.settimeout(5)
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def up(self):
        """Waits for a boot to end."""
        return until(self.answers) and self.out("systemctl is-system-running --wait") in ("running", "degraded")

    def boots_again(self, before):
        """Waits for a boot other than the one with the boot id `before`."""
        return until(lambda: self.ssh("cat /proc/sys/kernel/random/boot_id", timeout=20)[1].strip() not in ("", before) and self.answers()) and self.up()

    def boot_id(self):
        return self.out("cat /proc/sys/kernel/random/boot_id")

    def copy(self, toplevel):
        """Sends what the machine lacks of a closure."""
        paths = subprocess.check_output(["nix-store", "-qR", toplevel], env=NIX, text=True).split()
        missing = self.out("nix-store --check-validity --print-invalid " + " ".join(paths)).split()
        if missing:
            ordered = [path for path in paths if path in set(missing)]
            with subprocess.Popen(["nix-store", "--export", *ordered], env=NIX, stdout=subprocess.PIPE) as export:
                code, output = self.ssh("nix-store --import", stdin=export.stdout)
            if code:
                raise SystemExit(f"machine_check: cannot copy {toplevel}: {output}")

    def end(self):
        self.door.close()
        self.server.shutdown()
        self.server.server_close()
        self.machine.destroy()


def build(attribute):
    command = ["nix-build", "--quiet", "--no-out-link", str(HERE / "machine_check.nix"), "-A", attribute]
    done = subprocess.run(command, env=NIX, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(f"machine_check: cannot build {attribute}: {done.stderr}")
    return done.stdout.strip()


def check_boot(lab):
    begin = time.monotonic()
    lab.machine.start()
    check("sshd answers soon after a first boot", until(lab.answers, 30), lab.machine.console().decode())
    print(f"    after {time.monotonic() - begin:.2f} s")
    check("the boot ends with every unit in order", lab.up() and lab.out("systemctl is-system-running") == "running",
          lab.out("systemctl --failed; journalctl -p warning --no-pager"))
    console = lab.machine.console().decode()
    begin, end = (console.find(f"-----{word} SSH HOST KEY FINGERPRINTS-----") for word in ("BEGIN", "END"))
    check("the console shows the host keys", 0 <= begin < end and "SHA256:" in console[begin:end], console)
    check("the console's fingerprint is that of the key", lab.out("ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub").split()[1] in console)
    check("/bin holds sh alone, /usr/bin env alone", lab.out("ls /bin /usr/bin") == "/bin:\nsh\n\n/usr/bin:\nenv", lab.out("ls /bin /usr/bin"))
    check("the store is read-only", lab.ssh("touch /nix/store/x")[0] == 1 and "Read-only" in lab.out("touch /nix/store/x"))
    check("nix writes to it all the same", "/nix/store/" in lab.out("cd /tmp; echo x > file; nix-store --add file"))
    check("the board asset tag is the instance id", lab.out("cat /sys/class/dmi/id/board_asset_tag") == lab.machine.id)
    output = lab.out("systemd-run --quiet --pipe /bin/sh -c 'echo $PATH; ls' 2>&1")
    check("a transient unit finds systemd's programs alone", output.startswith("/nix/store/") and "not found" in output, output)
    check("running, booted and profile are one system",
          len(set(lab.out("readlink -f /run/current-system /run/booted-system /nix/var/nix/profiles/system").split())) == 1)
    check("a non-root user builds through the daemon",
          "/nix/store/" in lab.out("setpriv --reuid 65534 --regid 65534 --clear-groups env HOME=/tmp NIX_REMOTE=daemon nix-store --add /etc/passwd 2>&1"),
          lab.out("setpriv --reuid 65534 --regid 65534 --clear-groups env HOME=/tmp NIX_REMOTE=daemon nix-store --add /etc/passwd 2>&1"))
    check("timers of transient units run", until(lambda: lab.ssh("test -e /run/timer-ran")[0] == 0) if lab.ssh(
        "systemd-run --quiet --on-active=0.2 --timer-property=AccuracySec=50ms /bin/sh -c ': > /run/timer-ran'")[0] == 0 else False)


def check_switch(lab, systems):
    first = lab.out("readlink -f /run/current-system")
    for name in systems:
        lab.copy(systems[name])
    one, two = systems["one"], systems["two"]

    code, output = lab.ssh(f"{one}{STC} dry-activate")
    check("dry-activate says what would start and changes nothing",
          code == 0 and "would activate the configuration..." in output and lab.ssh("test -e /etc/greeting")[0] == 1, output)
    code, output = lab.ssh(f"{one}{STC} test")
    check("test starts a new service", code == 0 and "the following new units were started: greeter.service" in output
          and lab.out("systemctl is-active greeter; cat /etc/greeting") == "active\none", output)
    check("no list is left over", lab.out("ls /run/nixos") == "switch-to-configuration.lock", lab.out("ls /run/nixos"))
    boot_id = lab.boot_id()
    lab.machine.reboot()
    check("a reboot after test boots the old system", lab.boots_again(boot_id) and lab.out("readlink -f /run/current-system") == first,
          lab.machine.console().decode())

    code, output = lab.ssh(f"nix-env -p /nix/var/nix/profiles/system --set {one} && {one}{STC} switch")
    check("switch exits 0", code == 0, output)
    code, output = lab.ssh(f"nix-env -p /nix/var/nix/profiles/system --set {two} && {two}{STC} switch")
    check("a changed service is stopped and started", code == 0 and "stopping the following units: greeter.service" in output
          and "starting the following units: greeter.service" in output and "Says two" in lab.out("systemctl status greeter"), output)
    boot_id = lab.boot_id()
    lab.ssh("systemctl reboot")
    check("a reboot from inside boots the new system", lab.boots_again(boot_id) and lab.out("readlink -f /run/current-system") == two)
    lab.machine.kill()
    check("after a power loss nothing answers", not lab.machine.running() and not lab.answers())
    lab.machine.start()
    check("with power it boots the new system", lab.up() and lab.out("readlink -f /run/current-system /run/booted-system") == f"{two}\n{two}")
    code, output = lab.ssh(f"{systems['reloaded']}{STC} test")
    check("X-ReloadIfChanged reloads", code == 0 and "reloading the following units: greeter.service" in output, output)
    lab.ssh(f"{two}{STC} test")

    code, output = lab.ssh(f"{systems['failing']}{STC} test")
    check("a failed unit is exit 4 and is named", code == 4 and "warning: the following units failed: failing.service" in output, output)
    check("a removed service is stopped, its files are gone", lab.out("systemctl is-active greeter; ls /etc/greeting").startswith("inactive")
          and lab.ssh("test -e /etc/greeting")[0] == 1)
    code, output = lab.ssh(f"{systems['activation']}{STC} test")
    check("a failed activation script is exit 2", code == 2 and "Activation script snippet 'broken' failed (1)" in output, output)
    code, output = lab.ssh(f"{systems['interface']}{STC} switch")
    check("another init interface is exit 100", code == 100, output)
    code, output = lab.ssh(f"{systems['inhibited']}{STC} test")
    check("a changed inhibitor is refused with exit 1", code == 1 and "Pre-switch checks failed" in output, output)
    code, output = lab.ssh(f"flock /run/nixos/switch-to-configuration.lock {two}{STC} test")
    check("a held lock is exit 11", code == 11 and "Could not acquire lock" in output, output)
    code, output = lab.ssh(f"{two}{STC} switch")
    check("and then it switches", code == 0, output)

    lab.ssh("dd if=/dev/zero of=/boot/filler bs=4k 2>/dev/null")
    before = lab.out("cksum /boot/grub/grub.cfg")
    code, output = lab.ssh(f"{one}{STC} boot")
    check("a full /boot is exit 1 and leaves the menu alone", code == 1 and lab.out("cksum /boot/grub/grub.cfg") == before, output)
    lab.ssh("rm /boot/filler")

    code, output = lab.ssh(f"{systems['special']}/specialisation/child{STC} test")
    check("a specialisation switches", code == 0 and lab.out("cat /etc/child /etc/greeting") == "hereparent", output)
    code, output = lab.ssh(f"{systems['fish']}{STC} test")
    check("root's shell is fish", code == 0 and lab.ssh("status fish-path")[1].strip().endswith("/fish"), output)
    code, output = lab.ssh(f"{systems['people']}{STC} test")
    output = lab.out("cd / && setpriv --reuid alice --regid users --init-groups env HOME=/home/alice sh -c 'cd; pwd; sudo -n id -u; doas -n id -u'")
    check("users have homes and may become root", output == "/home/alice\n0\n0", output)
    code, output = lab.ssh(f"{two}{STC} switch")
    check("what a system had is gone with it", lab.ssh("id alice")[0] == 1 and lab.ssh("test -e /etc/doas.conf")[0] == 1)


def check_store(lab):
    derivation = subprocess.check_output(["nix-instantiate", str(HERE / "machine_check.nix"), "-A", "package"], env=NIX, text=True, stderr=subprocess.DEVNULL).strip()
    lab.copy(derivation)
    output = lab.out(f"cat $(nix-store --realise {derivation} 2>/dev/null)")
    check("a derivation is built on the machine", output.endswith("built"), output)
    output = lab.out("nix-collect-garbage && nix-store --verify --check-contents && systemctl is-system-running")
    check("collecting garbage leaves a whole system", output.endswith("running"), output)


def check_lost(lab, systems):
    """Systems that lock everybody out: the old boot entry brings the machine back."""
    for name, what in (("locked", "without sshd nobody logs in"), ("emergency", "in emergency mode nobody logs in")):
        lab.copy(systems[name])
        lab.ssh(f"systemd-run --quiet --unit=lost {systems[name]}{STC} test")
        check(what, until(lambda: not lab.answers()), lab.machine.console().decode())
        lab.machine.kill()
        lab.machine.start()
        check("and after a power loss everybody does", lab.up() and lab.out("readlink -f /run/current-system") == systems["two"])


def check_loader(lab, systems):
    two = systems["two"]
    boot_id = lab.boot_id()
    lab.ssh("grub-reboot 'NixOS - All configurations>2'; systemctl reboot")
    check("grub-reboot boots another generation", lab.boots_again(boot_id) and lab.out("readlink -f /run/booted-system") != two,
          lab.out("readlink -f /run/booted-system; cat /boot/grub/grub.cfg"))
    boot_id = lab.boot_id()
    lab.machine.reboot()
    check("but only once", lab.boots_again(boot_id) and lab.out("readlink -f /run/booted-system") == two)
    lab.ssh("mv /boot/grub/grub.cfg /boot/grub/away; sync; systemctl reboot -ff")
    check("without a boot menu it does not come up",
          until(lambda: b"grub rescue>" in lab.machine.console()) and not lab.answers() and lab.machine.running())
    menu = lab.machine.path("boot") / "grub"
    os.rename(menu / "away", menu / "grub.cfg")
    lab.machine.reboot()
    check("with its menu again it does", lab.up())
    lab.ssh("systemctl poweroff")
    check("a power-off from inside is one", until(lambda: not lab.machine.running()))
    lab.machine.start()
    check("and it starts again", lab.up())
    lab.machine.stop()
    check("stop shuts down cleanly", not lab.machine.running() and b"Reached target poweroff.target" in lab.machine.console()[-3000:],
          lab.machine.console()[-3000:].decode())


def check_full_store(key, folder):
    lab = Lab(0xF, key, folder, disk_megabytes=48)
    try:
        lab.machine.start()
        lab.up()
        output = lab.out("dd if=/dev/zero of=/var/filler bs=1M 2>&1; nix-store --add /etc/hosts 2>&1; df -m / | tail -n 1")
        check("a small disk gets full", "No space left" in output or "full" in output, output)
    finally:
        lab.end()


def check_many(key, folder, count):
    before = available()
    begin = time.monotonic()
    labs = [Lab(0x1000 + number, key, folder) for number in range(count)]
    try:
        for lab in labs:
            lab.machine.start()
        check(f"{count} machines boot at once", all(until(lab.answers, 120) for lab in labs))
        print(f"    after {time.monotonic() - begin:.1f} s")
        states = {lab.machine.id: lab.out("systemctl is-system-running --wait; systemctl --failed --no-legend; systemctl list-jobs --no-legend") for lab in labs}
        check("each of them runs in order", set(states.values()) == {"running"}, states)
        print(f"    {(before - available()) / count:.0f} MiB each")
    finally:
        threads = [threading.Thread(target=lab.end) for lab in labs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def available():
    """Returns the memory that is free, in MiB."""
    for line in open("/proc/meminfo"):
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) / 1024


def left_behind():
    """Returns what a machine leaves when it should leave nothing."""
    left = [path for path in (CLOUD / "run" / "machines").iterdir()]
    left += [path for name in Lab.names for path in machine.groups(name) if path.exists()]
    left += [line for line in open("/proc/mounts") if str(CLOUD) in line]
    for process in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(CLOUD).encode() in process.read_bytes():
                left.append(process)
        except OSError:
            pass
    return left


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--many", type=int, default=20)
    many = arguments.parse_args().many
    if os.geteuid() != 0:
        sys.exit("machine_check: must run as root")
    machine.cleanup(CLOUD)
    CLOUD.mkdir(exist_ok=True)
    if not (CLOUD / "image").is_symlink():
        (CLOUD / "image").symlink_to(IMAGE)
    folder = tempfile.mkdtemp(prefix="machine-check-")
    key = f"{folder}/key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    Metadata.paths = {
        "instance-id": b"i-0",
        "ami-manifest-path": b"(unknown)",
        "hostname": b"ip-10-0-0-1.local",
        "public-keys/": b"0=key",
        "public-keys/0/openssh-key": pathlib.Path(f"{key}.pub").read_bytes(),
    }
    lab = Lab(1, key, folder)
    try:
        systems = {name: build(name) for name in
                   ("one", "two", "special", "failing", "activation", "interface", "inhibited", "reloaded", "fish", "people", "locked", "emergency")}  # fmt: skip
        check_boot(lab)
        check_switch(lab, systems)
        check_store(lab)
        check_lost(lab, systems)
        check_loader(lab, systems)
    finally:
        lab.end()
        lab.machine.destroy()
    check_full_store(key, folder)
    check_many(key, folder, many)
    check("nothing is left", not left_behind(), left_behind())
    shutil.rmtree(folder)
    shutil.rmtree(CLOUD)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
