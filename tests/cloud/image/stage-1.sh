#!/usr/lib/local-cloud/sh
# What kernel and initrd are to a real machine: shows the kernel command line
# and the DMI data that the instance would have, then becomes the init ($1).
PATH=/usr/lib/local-cloud
hardware=/run/local-cloud
mkdir -p "$hardware/class/dmi/id"

echo "$KERNEL_COMMAND_LINE" > "$hardware/cmdline"
mount --bind "$hardware/cmdline" /proc/cmdline

# Nitro instances name themselves in the board asset tag (EC2 user guide,
# "Identify EC2 instances"). /sys/class cannot be written to, so it is
# covered by a union of itself and these files.
echo "$BOARD_ASSET_TAG" > "$hardware/class/dmi/id/board_asset_tag"
echo "Amazon EC2" > "$hardware/class/dmi/id/sys_vendor"
echo "Amazon EC2" > "$hardware/class/dmi/id/board_vendor"
mount -t overlay -o "ro,lowerdir=$hardware/class:/sys/class" overlay /sys/class

unset KERNEL_COMMAND_LINE BOARD_ASSET_TAG PATH
exec "$1"
