# What is refused before anything is touched.

# Is it the machine that the record means? Nitro shows the instance id as the board's asset tag;
# a Xen instance is asked through IMDSv2 (EC2 User Guide, "Detect whether a host is an EC2
# instance"). Where neither tells, the machine-id of the deployment before must be this one's. The
# pinned host key has been checked before in any case.
guard() {
  here=
  [ -z "$instance" ] || instance_id
  if [ -n "$here" ]; then
    [ "$here" = "$instance" ] ||
      fail wrong-machine "another machine answers: the record means $instance, this is $here" 'run ec2-up again: the address may have changed'
  elif [ -n "$machine_id" ]; then
    line_of /etc/machine-id
    [ "$line" = "$machine_id" ] ||
      fail wrong-machine "another machine answers: the record means the machine-id $machine_id, this is $line" \
        'is the address right? If the machine was made anew, remove activation.machineId from the record'
  elif [ -n "$instance" ]; then
    fact warning 'the machine does not tell its instance id'
  fi
}
# In `here`, or nothing.
instance_id() {
  tag=
  read -r tag 2>/dev/null </sys/class/dmi/id/board_asset_tag
  case $tag in
    i-*) here=$tag ;;
    *)
      imds=http://169.254.169.254/latest
      key=$(curl -sf -m 2 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$imds/api/token" 2>/dev/null) &&
        here=$(curl -sf -m 2 -H "X-aws-ec2-metadata-token: $key" "$imds/meta-data/instance-id" 2>/dev/null) || here= ;;
  esac
}

check() {
  if [ -n "$expect" ] && [ "$running" != "$expect" ] && [ "$running" != "$system" ]; then
    fail conflict "another system runs than expected: $running, not $expect" \
      "look at what was deployed there; to replace it all the same: --expect-current $running"
  fi
  # Beside what else is looked at.
  nix-store --check-validity "$toplevel" >/dev/null 2>&1 9>&- &
  valid=$!
  if [ -z "$system" ]; then
    has=$(ls "$toplevel/specialisation" 2>/dev/null | tr '\n' ' ')
    fail not-found "$toplevel has no specialisation $specialisation" "it has: ${has:-none}"
  fi
  for need in "$system" "$running"; do
    [ -x "$need/bin/switch-to-configuration" ] ||
      fail input "$need cannot be switched to: it has no bin/switch-to-configuration" 'is it a NixOS system with system.switch.enable?'
  done
  line_of "$system/system"
  for_system=$line
  line_of "$running/system"
  [ "$for_system" = "$line" ] ||
    fail input "$toplevel is for $for_system, the machine is $line" 'build it for the system of the machine'
  [ "$action" = test ] || check_boot
  check_space
  wait "$valid" || fail
  valid=''
}

# Would it boot here? What the running system does the same way is not asked.
check_boot() {
  [ -z "$pinned" ] || [ "$pinned" = "$toplevel" ] ||
    fail conflict "$pin, which is $pinned, whatever is switched to" \
      "bootctl set-default '' on the machine takes that back, or another default in $esp/loader/loader.conf; --action test leaves the boot entry alone"
  [ "$system" != "$running" ] || return 0
  loaders
  if [ "$loader" != "$was" ] && mode=$(boot_mode "$loader") && [ "$mode" != "$(boot_mode "$was")" ]; then
    if [ -d /sys/firmware/efi ]; then firmware=UEFI; else firmware=BIOS; fi
    case $mode:$firmware in
      UEFI:BIOS | BIOS:UEFI)
        fail input "$toplevel boots by $mode only, the machine by $firmware" 'see boot.loader in its configuration' ;;
    esac
  fi
  while read -r device place _; do
    case $place in / | /boot | /boot/* | /efi) ;; *) continue ;; esac
    case $device in
      UUID=*) device=/dev/disk/by-uuid/${device#*=} ;;
      LABEL=*) device=/dev/disk/by-label/${device#*=} ;;
    esac
    case $device in /dev/*) ;; *) continue ;; esac
    [ -e "$device" ] || grep -q "^[^#]*${device##*/}[ 	]*$place[ 	]" "$running/etc/fstab" 2>/dev/null ||
      fail input "the machine has no $device, which $toplevel mounts at $place" 'see fileSystems in its configuration'
  done 2>/dev/null <"$system/etc/fstab"
}
# The installers of the boot loaders of the new system and the running one, which their
# switch-to-configuration names: `loader` and `was`.
in_store='/nix/store/[0-9a-z]\{32\}-[A-Za-z0-9+._?=-]*'
loaders() {
  loader='' was=''
  for found in $(grep -aom 1 "$in_store\(install-grub\|systemd-boot\)[A-Za-z0-9+._?=/-]*" \
    "$system/bin/switch-to-configuration" "$running/bin/switch-to-configuration"); do
    case $found in
      "$system"/*) loader=${loader:-${found#*:}} ;;
      "$running"/*) was=${was:-${found#*:}} ;;
    esac
  done
}
# How installer $1 boots: UEFI, BIOS, both, or nothing if it is not known. GRUB's names its
# settings, an expression in XML (nixpkgs nixos/modules/system/boot/loader/grub/grub.nix).
boot_mode() {
  case $1 in
    *systemd-boot*) echo UEFI ;;
    *install-grub*)
      settings=$(grep -o "${in_store}grub-config.xml" "$1" 2>/dev/null | sed 1q)
      [ -n "$settings" ] || return 0
      if [ -z "$(setting grubTargetEfi)" ]; then echo BIOS
      elif grep -q '"nodev"' "$settings"; then echo UEFI
      else echo both; fi ;;
  esac
}
setting() { sed -n "/name=\"$1\"/{n;s/.*value=\"\([^\"]*\)\".*/\1/p;}" "$settings"; }

# The log, the commit's note and a generation's link need little, but they need it; a /boot of its
# own takes a copy of a new kernel and initrd, and the old menu beside the new one.
check_space() {
  boot=
  if find_esp; then boot=${entries##* } && boot=${boot%/loader/*}; elif [ -d /boot ]; then boot=/boot; fi
  # shellcheck disable=SC2086  # the first word is df's title
  set -- $(df -k --output=avail /run /var/lib /nix/var/nix $boot)
  for place in /run /var/lib /nix/var/nix $boot; do
    shift
    need=256
    case $place in /run | /var/lib) need=1024 ;; esac
    [ "$place" != "$boot" ] || [ "$action" = test ] || { new_in_boot && need=$((need + bytes / 1024)); }
    # What df cannot tell is seen where it is written.
    [ "$1" -lt $need ] 2>/dev/null || continue
    case $place:$entries in
      # Its installer first removes what its configurationLimit is exceeded by (nixpkgs systemd-boot-builder.py), and what
      # does not fit then is undone.
      "$boot":?*)
        [ "$action" = test ] || fact warning "less than $need KiB are free in $place: there may be no room for the new kernel"
        continue ;;
    esac
    fail limit "less than $need KiB are free in $place" 'free some space there, for instance with nix-collect-garbage'
  done
}
# Bytes of kernel and initrd that a `boot` of its own does not have yet, in `bytes`.
new_in_boot() {
  bytes=0
  # shellcheck disable=SC2046
  set -- $(stat -c %d "$boot" /nix/store)
  [ "$1" != "$2" ] || return 0
  # shellcheck disable=SC2046
  set -- $(readlink -e "$system/kernel" "$system/initrd")
  for file; do
    copy=${file#/nix/store/}
    copy=${copy%%/*}-${copy#*/}
    [ -e "$boot/kernels/$copy" ] || [ -e "$boot/EFI/nixos/$copy.efi" ] || bytes=$((bytes + $(stat -c %s "$file")))
  done
}
