#!/bin/busybox sh
# The initrd: does what NixOS's does for a machine whose disks are NVMe, and becomes the init of the command line. The
# addresses are those of qemu's user network. Nobody tells metadata here, so no boot is to wait for it.
/bin/busybox --install -s /bin
PATH=/bin
mkdir -p /dev /proc /sys /run /root
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs /run
ln -s /proc/self/fd /dev/fd
for module in $(cat /modules/order); do insmod "/modules/$module.ko"; done
ip link set lo up
ip link set eth0 up
ip address add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
mkdir -p /run/systemd/system.control
ln -s /dev/null /run/systemd/system.control/fetch-ec2-metadata.service
# A kernel writes what it keeps every five seconds; here it is not to do that by chance.
mount -t ext4 -o commit=300 /dev/nvme0n1 /root && mount -t vfat /dev/nvme1n1 /root/boot || echo "initrd: no disks"
for folder in dev proc sys run; do mount --move /$folder /root/$folder; done
for word in $(cat /root/proc/cmdline); do
    case $word in init=*) init=${word#init=} ;; esac
done
exec switch_root /root "$init"
