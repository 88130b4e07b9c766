#!/bin/sh
# root.sh DEBIAN SYSTEM TOOLS IMAGE: makes the machines' root file system.
#
# DEBIAN is the Debian root, SYSTEM the toplevel of the first configuration,
# TOOLS a store path that refers to all tools of our <nixpkgs> (so that machines
# can build, too). The result is as bare as NixOS: programs are in the store
# alone. Libraries, PID 1's helpers and what stands in for kernel and initrd
# stay in /usr/lib, where no PATH leads.
set -eu
debian=$1 system=$2 tools=$3 image=$4
here=$(cd "$(dirname "$0")" && pwd)

mkdir -p "$image"
cd "$image"
mkdir -p bin boot dev etc home nix/store nix/var/nix proc root run sys tmp usr/bin usr/lib usr/libexec usr/share var/lib var/log
chmod 1777 tmp
chmod 700 root
ln -s usr/lib lib
ln -s usr/lib64 lib64
ln -s /run var/run
touch etc/NIXOS
# Empty, not missing: systemd makes one up at the first boot, but sets up no units by presets.
: > etc/machine-id
: > etc/resolv.conf

# Hard links: the image is only ever the lower part of an overlay.
link() {
    for path; do
        if [ -e "$debian/$path" ]; then
            mkdir -p "$(dirname "$path")"
            cp -al "$debian/$path" "$path"
        fi
    done
}
link usr/lib64 usr/lib/x86_64-linux-gnu usr/lib/nix usr/lib/python3 usr/lib/python3.11 usr/lib/terminfo usr/lib/locale \
    usr/lib/dbus-1.0 usr/lib/openssh usr/lib/systemd usr/libexec/coreutils usr/libexec/sudo \
    usr/share/dbus-1 usr/share/fish usr/share/terminfo
rm -rf usr/lib/x86_64-linux-gnu/perl* usr/lib/x86_64-linux-gnu/gconv usr/lib/systemd/system-preset

# systemd's units and the programs that they start.
rm -rf usr/lib/systemd/system usr/lib/systemd/system-generators usr/lib/systemd/system-environment-generators \
    usr/lib/systemd/user-environment-generators
mkdir -p usr/lib/systemd/system usr/lib/systemd/system-generators usr/lib/local-cloud usr/lib/tmpfiles.d
link usr/lib/systemd/system-generators/systemd-fstab-generator
for name in systemd tmp var; do
    link "usr/lib/tmpfiles.d/$name.conf"
done
units=$debian/usr/lib/systemd/system
for unit in $(grep -v '^#' "$here/units.txt"); do
    cp -a "$units/$unit" usr/lib/systemd/system/
done
for unit in "$units"/*.target "$units"/*.slice; do
    case ${unit##*/} in
    getty* | initrd* | cryptsetup* | integritysetup* | veritysetup* | remote-crypt* | remote-verity* | runlevel* | rpcbind* | default.target) ;;
    *) cp -a "$unit" usr/lib/systemd/system/ ;;
    esac
done
ln -s multi-user.target usr/lib/systemd/system/default.target
for wants in "$units"/*.wants; do
    for unit in "$wants"/*; do
        if [ -e "usr/lib/systemd/system/${unit##*/}" ]; then
            mkdir -p "usr/lib/systemd/system/${wants##*/}"
            ln -s "../${unit##*/}" "usr/lib/systemd/system/${wants##*/}/${unit##*/}"
        fi
    done
done

# Programs that units name without a directory, or that stand in for the kernel.
for program in dash=sh mkdir mount sleep dbus-daemon journalctl kmod=modprobe systemctl systemd-machine-id-setup \
    systemd-tmpfiles; do
    from=$debian/usr/bin/${program%%=*}
    cp "$from" "usr/lib/local-cloud/${program#*=}"
done
install -m 755 "$here/stage-1.sh" usr/lib/local-cloud/stage-1
find usr/lib/systemd/system -type f -name '*.service' -exec sed -i -E \
    -e 's,^(Exec[A-Za-z]*=[-!+@:]*)(/usr/bin/|/sbin/|/bin/)?(dbus-daemon|dbus-send|journalctl|modprobe|systemctl|systemd-machine-id-setup|systemd-tmpfiles)\b,\1/usr/lib/local-cloud/\3,' \
    {} +
# Root has no password, so the console of a machine in trouble lets nobody in: it waits.
for unit in emergency rescue; do
    sed -i -e '/^ExecStartPre=/d' -e 's,^ExecStart=.*,ExecStart=/usr/lib/local-cloud/sleep infinity,' "usr/lib/systemd/system/$unit.service"
done

# Some paths are compiled in: systemd's of mount (to a place that is as long and
# in no PATH), and Nix's of its build hook.
cp "$debian/usr/bin/mount" "$debian/usr/bin/umount" usr/lib/
grep -rlaE '/bin/u?mount' usr/lib/systemd usr/lib/x86_64-linux-gnu/systemd | LC_ALL=C xargs sed -i -E 's,/bin/(u?mount),/lib/\1,g'
mkdir -p usr/libexec/nix
cp "$debian/usr/bin/nix" usr/libexec/nix/build-remote

# The store, its database, the system profile, the boot menu.
closure=$(nix-store --query --requisites "$system" "$tools")
cp -a $closure nix/store/
chmod 1775 nix/store
chgrp 30000 nix/store
# The paths are valid in the host's store too, so its Nix can register them in the image's database.
nix-store --dump-db $closure | NIX_STATE_DIR=$image/nix/var/nix nix-store --load-db
mkdir -p nix/var/nix/profiles/per-user nix/var/nix/gcroots nix/var/log/nix/drvs
ln -s "$system" nix/var/nix/profiles/system-1-link
ln -s system-1-link nix/var/nix/profiles/system
ln -sfn /nix/var/nix/profiles nix/var/nix/gcroots/profiles
ln -s "$tools" nix/var/nix/gcroots/tools
# As nixos-install does: the system writes its own boot menu.
chroot . "$system/bin/switch-to-configuration" boot
