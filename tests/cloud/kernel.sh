#!/bin/sh
# kernel.sh: brings a real kernel for computer.py, unless it is there.
#
#   /var/lib/nixpipe-cloud/kernel/vmlinuz   Debian's kernel for clouds; NVMe and ext4 are built in, so it needs no initrd
#   /var/lib/nixpipe-cloud/kernel/*.ko      what a network card needs besides
#
# Unpacked, not installed: this computer goes on booting its own.
set -eu
cd "$(dirname "$0")/../.."
cloud=${NIXPIPE_CLOUD:-/var/lib/nixpipe-cloud}

fail() { echo "kernel: cannot get a kernel for computers: $*" >&2; exit 1; }

scripts/install-packages "computers with a kernel of their own" e2fsprogs qemu-system-x86
[ ! -e "$cloud/kernel/vmlinuz" ] || exit 0
package=$(apt-cache depends --important linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | sed 1q)
[ -n "$package" ] || fail "apt knows no linux-image-cloud-amd64: apt-get update"
rm -rf "$cloud/kernel.new"
mkdir -p "$cloud/kernel.new"
(cd "$cloud/kernel.new" && apt-get -qq -o APT::Sandbox::User=root download "$package" && dpkg -x ./*.deb root) >&2 || fail "see above"
cd "$cloud/kernel.new"
cp root/boot/vmlinuz-* vmlinuz
find root/lib/modules -name '*.ko' | grep -E '/(net_)?failover\.ko$|/virtio(_ring|_pci|_pci_legacy_dev|_pci_modern_dev|_net)?\.ko$' | xargs cp -t .
rm -rf root ./*.deb
rm -rf "$cloud/kernel"
mv "$cloud/kernel.new" "$cloud/kernel"
