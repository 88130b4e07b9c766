# What the session and the detached jobs share. POSIX sh; sent without these comments.
#
# /run/nixpipe (0700 root, gone after a reboot) holds
#   lock        flock: whoever changes what is below, for a short time
#   deploy/     the deployment in hand; while it exists the machine is taken
#     token-T     T is its token
#     vars        what was asked for, as shell assignments
#     job.sh      the detached jobs
#     log         what they say
#     secrets     what the secrets are called and whose they are
#     restart     the units that new secrets concern
#     reserve     space for what it takes to go back, where all else is full
#     wake        a pipe that says when there is something to see
#     previous, next, shell   links to the systems, and to the shell where neither has it: a garbage
#                 collector's roots as long as the deployment lasts. The programs of these scripts are
#                 those of the system that runs, so of one of the two
#     result      how the activation ended: `VERDICT STATUS`
#     armed-T     the rescuers are ready; by exactly one rename it becomes
#                 confirmed-T (the new system stays) or expired-T (the old one comes back)
#     restored    the old system runs again; by exactly one rename expired-T becomes
#                 returned-T (somebody could log in) or rebooting-T (nobody could)
#   proven      what boots next where a test was booted: it ran and was confirmed before
#   last/       the deployment before, with its `outcome`
# /var/lib/nixpipe holds
#   commit-pending  exists while profile and boot entry may disagree; a loss of power may bring it back when they
#                   agree again, and the next run finds nothing to do for it
#   deploy/         in place of /run/nixpipe/deploy for a deployment that reboots, see reboot.sh

run=/run/nixpipe
lasting=/var/lib/nixpipe/deploy
pending=/var/lib/nixpipe/commit-pending
profile=/nix/var/nix/profiles/system
roots=/nix/var/nix/gcroots/nixpipe
stc_lock=/run/nixos/switch-to-configuration.lock

# Where the deployment in hand is.
find_deployment() { dir=$run/deploy; [ ! -e "$lasting" ] || dir=$lasting; }
find_deployment

# Processes are what a switch takes time for, so most of these leave their answer in a variable.

# Where a link ends, or nothing; for a folder, in `path`.
target() { readlink -e "$1" || :; }
folder() { path='' && cd -P "$1" 2>/dev/null && path=$PWD && cd "$home" || :; }
home=$PWD

# Reads the first line of a file into `line`.
line_of() { line='' && read -r line 2>/dev/null <"$1" || :; }

boot_id() { line_of /proc/sys/kernel/random/boot_id && echo "$line"; }

uptime_seconds() { read -r up _ </proc/uptime && up=${up%.*}; }

# What a loss of power has left and says nothing: a note of a commit that did not get its name, and what a reboot needed. That
# of another deployment, which may be at its own, is let be.
clear_away() {
  [ -e "$pending.new" ] || [ -e "$lasting.old" ] || [ -e "$control/nixpipe-boot.service" ] || return 0
  lock 0 || return 0
  find_deployment
  [ -e "$dir" ] || { rm -rf "$pending.new" "$lasting.old" && disarm_boot; }
  unlock
}

# What outlives a reboot has a folder.
keep_folder() { [ -d "${pending%/*}" ] || mkdir -m 0700 "${pending%/*}"; }

# A file of one line that is whole or absent.
put() {
  { printf '%s\n' "$2" 2>/dev/null >"$1.new.$$" || { make_room && printf '%s\n' "$2" >"$1.new.$$"; }; } &&
    mv -T "$1.new.$$" "$1"
}
# Whoever filled the place up, the log of the activation maybe: what it takes to go back was put aside.
make_room() { [ -e "$dir/reserve" ] && rm -f "$dir/reserve"; }

# Who follows a deployment waits at its pipe. Opened in both directions it blocks nobody.
wake() { [ ! -p "$1/wake" ] || echo 1<>"$1/wake"; }

# The one rename that decides: $1 becomes $2, for exactly one of those who try.
decide() { mv -T "$dir/$1-$token" "$dir/$2-$token" 2>/dev/null; }
decided() { [ -e "$dir/$1-$token" ]; }

# What a deployment needs is kept from a garbage collector by roots of fixed names. They go by way
# of links in $dir, so that none outlives the deployment, whatever ends it. `pushed` is nix-push's.
root() { { [ -d "$roots" ] || mkdir -p "$roots"; } && ln -sf "$dir/previous" "$dir/next" "$dir/shell" "$roots"; }
unroot() { rm -f "$roots/previous" "$roots/next" "$roots/shell"; }

# The machine is changed by one process at a time. Children are started with fd 9 closed: one
# that outlives the job would hold the lock.
lock() { own_folder && exec 9>"$run/lock" && flock -w "${1:-600}" 9; }
# Another may make it just now.
own_folder() { [ -d "$run" ] || mkdir -p -m 0700 "$run"; }
unlock() { exec 9>&-; }

# The system that the boot loader starts by default, in `entry`; nothing if the loader is not known. If that is so whatever
# NixOS writes, it is in `pinned`, too, and why in `pin`.
# NixOS writes GRUB's menu, systemd-boot's entries or extlinux's menu (nixpkgs
# nixos/modules/system/boot/loader); each names the system as init=/nix/store/.../init.
boot_entry() {
  entry='' pinned='' pin='' prefers='' default=''
  if find_esp; then
    while read -r word name _ || [ -n "$word" ]; do
      case $word in preferred) prefers=$name ;; default) default=$name ;; esac
    done <"$esp/loader/loader.conf"
    # What the firmware was told goes before the file, if there is such an entry, and what is preferred before any default
    # (systemd, docs/BOOT_LOADER_INTERFACE.md).
    named=$(told EntryPreferred)
    pin="the firmware was told to boot $named"
    [ -z "$named" ] || loader_entry "$named" +0
    pinned=$entry
    [ -n "$entry" ] || [ -z "$prefers" ] || loader_entry "$prefers" +0
    if [ -z "$entry" ]; then
      named=$(told EntryDefault)
      case $named:$default in
        @saved:* | :@saved) named=$(told EntryLastBooted) pin="systemd-boot starts what was booted last, $named" ;;
        *) pin="the firmware was told to boot $named" ;;
      esac
      [ -z "$named" ] || loader_entry "$named"
      pinned=$entry
    fi
    [ -n "$entry" ] || [ -z "$default" ] || loader_entry "$default"
  elif [ -f /boot/grub/grub.cfg ]; then
    first_init /boot/grub/grub.cfg
  elif [ -f /boot/extlinux/extlinux.conf ]; then
    first_init /boot/extlinux/extlinux.conf
  fi
}
# Where systemd-boot has its file, in `esp`, and its entries, as patterns in `entries`; false if it is not there.
find_esp() {
  for esp in /boot /efi /boot/efi; do
    [ -f $esp/loader/loader.conf ] || continue
    # Beside a menu of GRUB it may be a former loader's, or another system's.
    [ $esp = /boot ] || [ ! -e /boot/grub/grub.cfg ] || case $(told Info) in *systemd-boot*) ;; *) continue ;; esac
    entries="$esp/loader/entries/*.conf"
    # A partition for kernels and entries is at /boot (nixpkgs boot.loader.systemd-boot.xbootldrMountPoint).
    [ $esp = /boot ] || [ ! -d /boot/loader/entries ] || entries="$entries /boot/loader/entries/*.conf"
    return 0
  done
  return 1
}
# A variable of the firmware: four bytes, and then a text in UTF-16 (systemd, "Boot Loader Interface"). There is no
# seeking in such a file.
told() {
  efi=/sys/firmware/efi/efivars/Loader$1-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f
  [ ! -e $efi ] || tr -dc '[:print:]' <$efi
}
# The entry of a name, which may be a pattern: then the first in the order of systemd-boot (systemd src/boot/boot.c), of
# which these are the parts that NixOS uses. Boot counting adds +N to the name of a file; one with +0 has failed too often
# and comes last, or not at all if that is $2.
loader_entry() {
  name=${1%.conf} found='' count=0
  for file in $entries; do
    id=${file##*/}
    id=${id%.conf}
    bad=0
    case $id in *+0 | *+0-*) bad=1 ;; esac
    # shellcheck disable=SC2254  # it is a pattern
    case ${id%+[0-9]*} in $name) [ "$bad$2" != 1+0 ] || continue ;; *) continue ;; esac
    key='' version=''
    while read -r word rest; do
      case $word in sort-key) key=$rest ;; version) version=$rest ;; esac
    done <"$file"
    found="$found$bad	$key	$version	$id	$file
" count=$((count + 1))
  done
  [ $count -lt 2 ] || found=$(printf %s "$found" | LC_ALL=C sort -t'	' -k1,1n -k2,2 -k3,3Vr -k4,4Vr | sed 1q)
  file=${found##*	}
  file=${file%
*}
  [ -z "$file" ] || first_init "$file"
}
# NixOS puts the default system first into GRUB's menu; any other default is the user's own. That of
# the one-time entry does not count.
first_init() {
  while read -r line || [ -n "$line" ]; do
    case $line in
      'set default='*) case ${line#*=} in *next_entry*) ;; *[!0\"]*) return ;; esac ;;
      *init=/nix/store/*/*)
        line=${line##*init=/nix/store/}
        case ${line%%/*} in *' '*) ;; *) entry=/nix/store/${line%%/*} && return ;; esac ;;
    esac
  done <"$1"
}

# The running system and its /etc, which an overlay has no link for (nixpkgs system.etc.overlay).
runs() { [ /run/current-system -ef "$1" ]; }
# True if system $2 is a specialisation of system $1.
is_specialisation() {
  for one in "$1"/specialisation/*; do
    ! [ "$one" -ef "$2" ] || return 0
  done
  return 1
}
is_etc_of() { [ ! -e /etc/static ] || [ /etc/static -ef "$1/etc" ]; }

# What a killed switch-to-configuration leaves behind: units it had yet to start. Where the last of them has come to be
# started instead of reloaded, NixOS's own leaves an empty list.
leftover() { [ -s /run/nixos/start-list ] || [ -s /run/nixos/restart-list ] || [ -s /run/nixos/reload-list ]; }

failed_units() { systemctl list-units --failed --plain --no-legend --no-pager; }
# Those that have failed since `failed-before` was written.
newly_failed() {
  failed_units | awk 'FILENAME == ARGV[1] { before[$1]; next } !($1 in before) { print $1 }' "$dir/failed-before" -
}
# The ends of the logs of the units in `failed`: their own words, or else what systemd says of them.
last_words() {
  while read -r unit; do
    words=$(journalctl -q _SYSTEMD_UNIT="$unit" -n 3 -o cat --no-pager </dev/null)
    [ -n "$words" ] || words=$(journalctl -q -u "$unit" -n 1 -o cat --no-pager </dev/null)
    [ -z "$words" ] || printf '%s\n' "$words" | while read -r line; do printf '%s: %s\n' "$unit" "$line"; done
  done <"$dir/failed" >"$dir/failed-log"
}

# How far the deployment is, in `now`. Asked in the order of the renames, as somebody may decide meanwhile.
stage() {
  if [ ! -e "$dir/token-$token" ]; then
    if [ -e "$run/last/token-$token" ]; then now='done'; else now=gone; fi
  elif decided armed; then
    if [ -e "$dir/result" ]; then now=window; elif [ -e "$dir/boot" ]; then now=booting; else now=activating; fi
  elif decided confirmed; then now=committing
  elif decided expired; then if [ -e "$dir/restored" ]; then now=restored; else now=restoring; fi
  elif decided rebooting; then now=rebooting
  elif decided returned; then now=returned
  else now=setup; fi
}
stage_is() { stage && [ "$now" = "$1" ]; }

# Starts a job now, or in $2 seconds. It survives what a switch does to others: nothing that it
# depends on can stop it, isolating emergency.target leaves it, and its timer counts monotonic
# time. Stopping it ends in SIGKILL after five seconds.
job() {
  what=$1 delay=${2:-}
  set -- --quiet --collect --unit="nixpipe-$what" -p DefaultDependencies=no -p IgnoreOnIsolate=yes \
    -p OOMScoreAdjust=-900 -p TimeoutStopSec=5s -p Type=exec
  if [ -n "$delay" ]; then
    set -- "$@" --on-active="${delay}s" --timer-property=AccuracySec=100ms \
      --timer-property=DefaultDependencies=no --timer-property=IgnoreOnIsolate=yes
  fi
  set -- "$@" "$shell" "$dir/job.sh" "$what" "$token"
  systemd-run "$@" </dev/null 9>&- || { make_room && systemd-run "$@" </dev/null 9>&-; }
}

# Its unit is there as long as its timer is.
rescue_now() { systemctl start --no-block nixpipe-rescue.service 2>/dev/null || job rescue; }

# Ends the deployment: the second rename frees the machine. `last` is the account of it until the
# next reboot, the journal for longer.
finish() {
  if [ -n "$secrets_dir" ]; then
    keys_in "$secrets_dir"
    case $1 in
      switched* | rebooted* | booted-next* | units-failed*) keep_secrets ;;
      # Neither is confirmed: the next run puts those before back.
      left*) ;;
      *) put_secrets_back ;;
    esac
  fi
  put "$dir/outcome" "$1"
  rm -rf "$run/last" "$run/last.new" "$dir/reserve"
  if [ "$dir" = "$lasting" ]; then
    # Without its notes the unit of the boots would reboot for ever: it goes first.
    rm -f "$control/sysinit.target.wants/nixpipe-boot.service"
    sync -f "$control" 2>/dev/null
    # Another file system: a rename is what frees the machine all the same.
    cp -a "$dir" "$run/last.new" && mv -T "$run/last.new" "$run/last"
    [ ! -e "$dir.old" ] || rm -rf "$dir.old"
    mv -T "$dir" "$dir.old"
    rm -rf "$dir.old"
  else
    mv -T "$dir" "$run/last"
  fi
  wake "$run/last"
  # Not before: a commit that is cut short and begun again needs them.
  rm -f "$run/last/secrets" "$run/last/restart" "$run/last/restart-from"
  [ ! -d "${pending%/*}" ] || sync "${pending%/*}"
  timeout 20 systemd-cat -t nixpipe cat <"$run/last/log" 9>&- || :
  unroot
  disarm
}
disarm() {
  disarm_boot
  systemctl stop nixpipe-rescue.timer nixpipe-window.timer nixpipe-return.timer nixpipe-reboot.timer 2>/dev/null 9>&- || :
}
