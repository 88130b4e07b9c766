#!/bin/sh
# Boots ENTRY once, at the next boot: GRUB's `grub-reboot`, which writes
# next_entry into the environment block (GRUB manual, "Invoking grub-reboot").
set -eu
here=$(readlink -f "$0")
here=${here%/*}
boot=/boot
entry=
for argument; do
    case $argument in
    --boot-directory=*) boot=${argument#*=} ;;
    -*) echo "grub-reboot: unknown option $argument" >&2; exit 1 ;;
    *) entry=$argument ;;
    esac
done
if [ -z "$entry" ]; then
    echo "usage: grub-reboot [--boot-directory=DIR] ENTRY" >&2
    exit 1
fi
exec "$here/grub-editenv" "$boot/grub/grubenv" set next_entry="$entry"
