# Systems that only a reboot brings: another kernel, or another PID 1. Shared by session and jobs.
#
# The new system boots once, by the boot loader's one-time entry; the boot entry stays the old one's
# until a new login has confirmed it. So every other reboot, whatever causes it, is the way back: a
# kernel that panics, a power cut, and the unit below, which is on the disk because /run does not
# outlive the reboot. It runs at every boot as long as the deployment lasts.

# What systemd reads units from that is on the disk and not the configuration's (systemd.unit(5)).
control=/etc/systemd/system.control
# A profile beside the system's, so that the new system gets into the boot menu and stays in the
# store. NixOS lists those in this folder (nixpkgs install-grub.pl, systemd-boot-builder.py).
trial=/nix/var/nix/profiles/system-profiles/nixpipe

# Why system $1 needs a reboot to be the one that runs: a word a line.
reboot_reasons() {
  for part in kernel initrd kernel-modules; do
    [ "$(target "$1/$part")" = "$(target "/run/booted-system/$part")" ] || echo $part
  done
  line_of "$1/init-interface-version"
  version=$line
  line_of /run/current-system/init-interface-version
  [ "$version" = "$line" ] || echo init
  if inhibited "$1"; then echo inhibitors; fi
}

# True if a part that both systems list differs. The lists are flat JSON objects of strings
# (nixpkgs nixos/modules/system/activation/switchable-system.nix).
inhibited() {
  [ -e "$1/switch-inhibitors" ] && [ -e /run/current-system/switch-inhibitors ] || return 1
  [ -n "$(for list in "$1/switch-inhibitors" /run/current-system/switch-inhibitors; do
    tr -d '{} \n' <"$list" | tr ',' '\n' | sort -u
  done | sort -u | sed 's/":.*//' | sort | uniq -d)" ]
}

# Why a reboot into system $1 cannot be undone by the machine itself; nothing if it can.
not_protected() {
  if find_esp; then
    command -v bootctl >/dev/null && [ -d /sys/firmware/efi/efivars ] || { echo 'bootctl cannot reach the firmware'; return; }
  elif [ -f /boot/grub/grub.cfg ]; then
    grep -q next_entry /boot/grub/grub.cfg && command -v grub-editenv >/dev/null || { echo 'its GRUB has no one-time entry'; return; }
    # GRUB itself has to take the entry away again (GRUB manual, "Environment block").
    case $(findmnt -no FSTYPE,SOURCE -T /boot/grub) in
      btrfs* | zfs* | bcachefs* | f2fs* | */dev/mapper/* | */dev/dm-* | */dev/md*)
        echo 'GRUB cannot write where /boot is'
        return ;;
    esac
  else
    echo 'its boot loader is not known'
    return
  fi
  for place in /etc /var/lib; do
    case $(findmnt -no FSTYPE,TARGET -T $place) in
      tmpfs* | ramfs* | *' /etc') echo "$place does not outlive a reboot"; return ;;
    esac
  done
  # An overlay has no place for units of ours (nixpkgs system.etc.overlay).
  if [ -e "$1/etc-metadata-image" ]; then echo 'the new system covers /etc'; return; fi
  while read -r _ place type _; do
    case $place:$type in /etc:* | /:tmpfs | /var:tmpfs | /var/lib:tmpfs) echo "the new system covers $place"; return ;; esac
  done 2>/dev/null <"$1/etc/fstab"
}

# What is to run at the next boots: if the notes cannot be reached, the new system must not stay.
arm_boot() {
  mkdir -p "$control/sysinit.target.wants" || return
  cat >"$control/nixpipe-boot.sh" <<END || return
PATH=$tools
export PATH
[ -e $control/nixpipe-boot.service ] || exit 0
tries=0
until [ -r $lasting/job.sh ] || [ \$tries = 90 ]; do
sleep 1
tries=\$((tries + 1))
done
if [ -r $lasting/job.sh ] && $shell $lasting/job.sh boot $token; then exit 0; fi
[ "\$(readlink -e /run/current-system)" != $system ]
END
  cat >"$control/nixpipe-boot.service" <<END || return
[Unit]
Description=The way back of nixos-switch
DefaultDependencies=no
IgnoreOnIsolate=yes
FailureAction=reboot-force
[Service]
Type=exec
ExecStart=$shell $control/nixpipe-boot.sh
RuntimeMaxSec=$((activation_timeout + confirm_timeout + 240))
TimeoutStopSec=5s
OOMScoreAdjust=-900
END
  ln -sfn ../nixpipe-boot.service "$control/sysinit.target.wants/nixpipe-boot.service"
}
disarm_boot() {
  [ -e "$control/nixpipe-boot.service" ] || return 0
  rm -f "$control/sysinit.target.wants/nixpipe-boot.service" "$control/nixpipe-boot.service" "$control/nixpipe-boot.sh"
  rmdir "$control/sysinit.target.wants" "$control" 2>/dev/null
  # A loss of power would bring them back.
  sync -f /etc
  systemctl daemon-reload 9>&-
  # Last, as it may be what runs this.
  systemctl stop nixpipe-boot.service 2>/dev/null 9>&-
}

# Takes the new system out of the boot menu again.
drop_trial() {
  [ -e "$dir/boot" ] || return 0
  rm -f "$trial" "$trial"-*-link
  if command -v grub-editenv >/dev/null && [ -e /boot/grub/grubenv ]; then
    grub-editenv /boot/grub/grubenv unset next_entry
  fi
}
clear_menu() {
  drop_trial
  write_entry "${1:-$previous}" || echo 'the boot menu still lists the system that was tried'
}

# Has the boot loader start the new system once.
one_shot() {
  if find_esp; then
    # shellcheck disable=SC2086  # patterns
    file=$(grep -lF "init=$system/init" $entries | sed -n '$p')
    file=${file##*/}
    file=${file%.conf}
    # Boot counting adds +N or +N-M to a file, and not to the entry's name.
    [ -n "$file" ] && bootctl set-oneshot "${file%+[0-9]*}.conf"
  else
    path=$(menu_path)
    [ -n "$path" ] && grub-editenv /boot/grub/grubenv set next_entry="$path"
  fi
}
# The place of the new system in GRUB's menu, as "number>number" (GRUB manual, "default").
menu_path() {
  awk -v init="init=$system/init" '
    BEGIN { depth = 0 }
    /^[ \t]*submenu / { at[depth]++; depth++; at[depth] = 0; next }
    /^[ \t]*menuentry / { entry = 1; at[depth]++ }
    /^[ \t]*linux/ && entry { for (i = 1; i <= NF; i++) if ($i == init) {
      for (d = 0; d <= depth; d++) path = path (d ? ">" : "") at[d] - 1
      print path; exit } }
    /^[ \t]*}/ { if (entry) entry = 0; else if (depth > 0) depth-- }' /boot/grub/grub.cfg
}

# The job before the reboot.
boot_once() {
  decided armed || exit 0
  settle_pending
  # On a disk they are there for the boot; after one, /run/keys is empty until the new login.
  if [ -n "$secrets_dir" ]; then place_secrets; own_secrets || :; fi
  drop_trial
  if hold_back && mkdir -p "${trial%/*}" && nix-env -p "$trial" --set "$toplevel" && write_entry "$previous" &&
    [ "$entry" = "$previous" ] && arm_boot && sync -f /etc "$lasting" && one_shot; then
    echo "booting $system once; the boot entry is still $previous"
    restart_machine
  else
    status=$?
    clear_menu
    lock && decide armed refused && let_go && finish "boot-failed $status"
  fi
}

# The job of every boot while the deployment lasts.
booted() {
  mkdir -p "$run" && chmod 700 "$run"
  [ "$(boot_id)" != "$(cat "$dir/boot")" ] || return 0
  if ! runs "$system"; then fell_back; exit 0; fi
  if decided rebooting; then booted_again; return 0; fi
  # On a disk they are there, maybe of a user that only this system has.
  [ -z "$secrets_dir" ] || own_secrets || :
  if decided confirmed; then commit; return 0; fi
  # A login may come, and confirm, before the boot has ended.
  [ -e "$dir/result" ] || put "$dir/result" 'ok 0'
  await_boot "$activation_timeout"
  left=$((confirm_timeout * 2))
  while decided armed && [ $left -gt 0 ]; do
    left=$((left - 1))
    sleep 0.5
  done
  # Whoever has confirmed it starts the commit, unless the connection was lost just then; this unit's time is limited.
  if decided confirmed; then
    sleep 3
    ! decided confirmed || systemctl -q is-active nixpipe-commit.service || job commit
    return 0
  fi
  if decide armed expired; then put "$dir/reason" "nobody confirmed the new system within $confirm_timeout s of its boot"; fi
  if decided expired; then
    echo "rebooting into $previous: $(cat "$dir/reason")"
    decide expired rebooting
    reboot_back
  fi
}

# The boot entry has done its work.
fell_back() {
  [ -z "$secrets_dir" ] || put_secrets_back
  await_boot 120
  lock 30
  settle_pending
  # Somebody may have installed another system since.
  boot_entry
  if runs "$previous"; then clear_menu; else clear_menu "$entry"; fi
  [ -e "$dir/reason" ] || put "$dir/reason" 'the new system did not boot, or the machine rebooted before it was confirmed'
  if runs "$previous"; then finish 'rolled-back 0'; else finish 'superseded 0'; fi
}

# It was to go back, and the loader, or somebody at its menu, has started the new system again: once more, and no further.
booted_again() {
  await_boot 120
  lock 30
  clear_menu
  if [ ! -e "$dir/again" ]; then
    : >"$dir/again"
    echo "the boot loader has started $system again: rebooting into $previous"
    restart_machine
  fi
  put "$dir/reason" "the boot loader starts the new system although the boot entry is $previous"
  finish 'left 0'
}

# Waits for the end of the boot, at most $1 seconds, and no longer than anybody may confirm it.
await_boot() {
  uptime_seconds
  limit=$((up + $1))
  while :; do
    case $(systemctl is-system-running 2>/dev/null) in initializing | starting | '' | offline | unknown) ;; *) return 0 ;; esac
    uptime_seconds
    [ "$up" -lt $limit ] || return 1
    decided armed || return 1
    sleep 0.3
  done
}
