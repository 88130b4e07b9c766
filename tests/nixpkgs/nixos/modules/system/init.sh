#! @bash@/bin/bash
# Stage 2 of the boot: what is between the kernel and systemd (nixpkgs:
# nixos/modules/system/boot/stage-2-init.sh).
systemConfig=@out@
export HOME=/root PATH=@path@

echo
echo "<<< NixOS Stage 2 >>>"
echo
echo "booting system configuration $systemConfig"

mkdir -m 0755 -p /var/log/journal /var/lib /var/db /var/empty /nix/var/nix/gcroots /home /etc/nixos /bin /usr/bin
mkdir -m 01777 -p /tmp /var/tmp
mkdir -m 0700 -p /root

# The store is read-only for all but Nix, which mounts it anew for itself.
chown 0:30000 /nix/store
chmod 1775 /nix/store
if ! mountpoint -q /nix/store; then
    mount --bind /nix/store /nix/store
    mount -o remount,ro,nosuid,nodev,bind /nix/store
fi

# Programs with the setuid bit, and secrets that no disk may see.
mkdir -m 0755 -p /run/wrappers /run/lock
mount -t tmpfs -o mode=755,nodev,size=50M tmpfs /run/wrappers
mkdir -m 0750 -p /run/keys
mount -t ramfs -o nosuid,nodev,mode=750 ramfs /run/keys
chown 0:96 /run/keys

rm -rf /nix/var/nix/gcroots/tmp /nix/var/nix/temproots
rm -f /etc/{group,passwd,shadow}.lock /etc/nologin

echo "running activation script..."
"$systemConfig/activate"

# The booted system stays, whatever is switched to and collected as garbage.
ln -sfn "$systemConfig" /run/booted-system
ln -sfn /run/booted-system /nix/var/nix/gcroots/booted-system

echo "starting systemd..."
unset HOME PATH
exec @systemd@/lib/systemd/systemd "$@"
