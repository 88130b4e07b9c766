#!/bin/sh
# kernel.sh: brings what computer.py makes computers of, unless it is there. In /var/lib/nixpipe-cloud/kernel:
#
#   vmlinuz              Debian's kernel for clouds; NVMe and ext4 are built in, so it needs no initrd
#   *.ko                 what a network card needs besides, and what UEFI needs
#   initrd               what a computer with UEFI begins with: uefi/init.sh
#   systemd-bootx64.efi  its boot loader
#   OVMF_CODE.fd         its firmware, and
#   OVMF_VARS.fd         what that keeps in its memory, when it is new
#   bootctl              what tells its boot loader
#
# Unpacked, not installed: this computer goes on booting its own.
set -eu
cd "$(dirname "$0")/../.."
here=$PWD/tests/cloud
cloud=${NIXPIPE_CLOUD:-/var/lib/nixpipe-cloud}

fail() { echo "kernel: cannot get a kernel for computers: $*" >&2; exit 1; }

scripts/install-packages "computers with a kernel of their own" e2fsprogs mtools qemu-system-x86
stamp=$(cat "$here/kernel.sh" "$here/uefi/init.sh" | sha256sum)
[ "$(cat "$cloud/kernel/stamp" 2>/dev/null)" != "$stamp" ] || exit 0
package=$(apt-cache depends --important linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | sed 1q)
[ -n "$package" ] || fail "apt knows no linux-image-cloud-amd64: apt-get update"
rm -rf "$cloud/kernel.new"
mkdir -p "$cloud/kernel.new"
cd "$cloud/kernel.new"
apt-get -qq -o APT::Sandbox::User=root download "$package" busybox-static ovmf systemd-boot systemd-boot-efi >&2 || fail "see above"
for package in *.deb; do dpkg -x "$package" root >&2 || fail "see above"; done
cp root/boot/vmlinuz-* vmlinuz
cp root/usr/lib/systemd/boot/efi/systemd-bootx64.efi root/usr/bin/bootctl .
for part in CODE VARS; do cp "root/usr/share/OVMF/OVMF_${part}_4M.fd" "OVMF_$part.fd"; done
# In the order in which they need each other.
network="failover net_failover virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_net"
uefi="fat vfat nls_cp437 nls_ascii efivarfs"
for module in $network $uefi; do
    find root/lib/modules -name "$module.ko" -exec cp -t . {} +
    [ -e "$module.ko" ] || fail "it has no module $module"
done
mkdir -p initrd.root/bin initrd.root/modules
cp root/bin/busybox initrd.root/bin
install -m 755 "$here/uefi/init.sh" initrd.root/init
cp ./*.ko initrd.root/modules
echo "$network $uefi" >initrd.root/modules/order
(cd initrd.root && find . | ./bin/busybox cpio -o -H newc 2>/dev/null) | gzip -9 >initrd
rm -rf root initrd.root ./*.deb
echo "$stamp" >stamp
rm -rf "$cloud/kernel"
mv "$cloud/kernel.new" "$cloud/kernel"
