# The session: what the client asks for over one connection, its answers as `name=value` lines on
# stdout. The client puts what it wants in front, as shell assignments. Where the connection is
# lost the session dies at its next line; what it has armed goes on without it.

fact() { printf '%s=%s\n' "$1" "$2"; }
# Ends with an error: its kind, what failed, what to do.
fail() {
  fact error "$1 $2"
  [ -z "${3:-}" ] || fact hint "$3"
  exit 0
}

main() {
  umask 022
  # Only secrets are still to come, and nobody else is to read them.
  exec 7<&0 </dev/null
  # Store paths, so that what is armed does not depend on what the switch does to links.
  tools=$(cd -P /run/current-system/sw/bin 2>/dev/null && pwd -P) ||
    fail input 'cannot switch this machine: it has no /run/current-system/sw/bin' 'only a machine that runs NixOS can be switched'
  PATH=$tools
  export PATH
  shell=$(readlink -e /bin/sh)
  [ "$(id -u)" = 0 ] || fail denied "cannot switch as $(id -un)" 'log in as root, or use --elevate sudo'
  guard
  case $mode in
    start) start ;;
    attach) follow ;;
    confirm) confirm ;;
    give-back) give_back ;;
    dry) dry ;;
    status) status ;;
    generations) generations ;;
  esac
}

# Is it the machine that the record means? Nitro shows the instance id as the board's asset tag;
# a Xen instance is asked through IMDSv2 (EC2 User Guide, "Detect whether a host is an EC2
# instance"). The pinned host key has been checked before in any case.
guard() {
  [ -n "$instance" ] || return
  here=
  read -r here 2>/dev/null </sys/class/dmi/id/board_asset_tag
  case $here in
    i-*) ;;
    *)
      imds=http://169.254.169.254/latest
      key=$(curl -sf -m 2 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$imds/api/token" 2>/dev/null) &&
        here=$(curl -sf -m 2 -H "X-aws-ec2-metadata-token: $key" "$imds/meta-data/instance-id" 2>/dev/null) || here= ;;
  esac
  [ -n "$here" ] || { fact warning 'the machine does not tell its instance id'; return; }
  [ "$here" = "$instance" ] ||
    fail wrong-machine "another machine answers: the record means $instance, this is $here" 'run ec2-up again: the address may have changed'
}

# What is on the machine now.
look() {
  running=$(target /run/current-system)
  in_profile=$(target "$profile")
  entry=$(boot_entry)
  number=$(readlink "$profile")
  number=${number#system-}
}
tell() {
  look
  fact running "$running"
  fact profile "$in_profile"
  fact entry "$entry"
  fact generation "${number%-link}"
  read -r boot_id </proc/sys/kernel/random/boot_id
  fact boot-id "$boot_id"
  [ ! -e "$pending" ] || fact pending "$(sed -n 1p "$pending")"
}

# The system to start: the toplevel, or one of its specialisations.
wished() {
  if [ -n "$back_to" ]; then past; fi
  system=$toplevel
  [ -z "$specialisation" ] || system=$(target "$toplevel/specialisation/$specialisation")
}

# Finds the toplevel of `--rollback`: a generation's number, a store path, or `previous`.
past() {
  case $back_to in
    /*) toplevel=$back_to; return ;;
    previous)
      generation=
      for link in "$profile"-*-link; do
        n=${link#"$profile"-}
        n=${n%-link}
        if [ "$n" -lt "${number%-link}" ] && [ "$n" -gt "${generation:-0}" ]; then generation=$n; fi
      done ;;
    *) generation=$back_to ;;
  esac
  toplevel=$(target "$profile-$generation-link")
  [ -n "$toplevel" ] || fail not-found "cannot roll back: there is no generation ${generation:-before this one}" \
    "the machine has: $(cd "${profile%/*}" && echo system-*-link)"
  fact toplevel "$toplevel"
}

# True if the machine runs and boots what is wished, with nothing pending.
is_done() {
  [ ! -e "$pending" ] || return 1
  if unsettled_keys; then return 1; fi
  if [ "$action" != boot ]; then
    case $running in
      "$system") ;;
      # A specialisation of the wished system is that system, unless another was asked for.
      *) [ -z "$specialisation" ] && is_specialisation || return 1 ;;
    esac
    if leftover; then return 1; fi
    [ ! -e /etc/static ] || [ "$(target /etc/static)" = "$(target "$running/etc")" ] || return 1
    [ "$action" = switch ] || return 0
  fi
  # A loader that is not known is taken to boot the profile's system, as NixOS sees to.
  [ "$in_profile" = "$toplevel" ] && { [ -z "$entry" ] || [ "$entry" = "$toplevel" ]; }
}
is_specialisation() {
  for one in "$toplevel"/specialisation/*; do
    [ "$(target "$one")" != "$running" ] || return 0
  done
  return 1
}

start() {
  tell
  wished
  if [ ! -e "$dir" ] && is_done && same_secrets; then fact stage unchanged; tidy; return; fi
  take
  settle_keys
  tell
  wished
  if is_done; then
    if same_secrets; then fact stage unchanged; unlock; tidy; return; fi
    # Only the secrets are new; a specialisation that runs stays.
    [ "$action" = boot ] || system=$running
  else
    same_secrets || :
  fi
  check
  [ -z "$differs" ] || receive_secrets
  set_up
  unlock
  follow
}

same_secrets() { compare_secrets; [ -z "$differs" ]; }

# Every folder that secrets were ever kept in is looked at, whatever is wished today.
settle_keys() {
  for folder in /run/keys /var/keys $secrets_dir; do keys_in "$folder"; settle_secrets; done
}
unsettled_keys() {
  for folder in /run/keys /var/keys $secrets_dir; do
    keys_in "$folder"
    if unsettled_secrets; then return 0; fi
  done
  return 1
}

# Takes the machine: returns with the lock held and nobody at work, else joins in or waits.
take() {
  [ -d "$run" ] || mkdir -m 0700 "$run" || fail internal "cannot make $run"
  mine=$token
  left=$((lock_timeout * 2))
  while :; do
    lock "$((lock_timeout + 1))" || fail locked 'another deployment is being set up on the machine'
    token=$mine
    [ -e "$dir" ] || return 0
    theirs=$(. "$dir/vars" && echo "$token $action $system $toplevel $secrets_id")
    token=${theirs%% *}
    case $(stage) in
      setup | gone)
        # Who set it up died before anything was started, or after everything had ended.
        rm -rf "$dir"
        disarm
        continue ;;
      activating | window | committing)
        if [ "${theirs#* }" = "$action $system $toplevel $secrets_id" ]; then
          fact joined "$(cat "$dir/owner")"
          fact token "$token"
          fact previous "$(. "$dir/vars" && echo "$previous")"
          unlock
          follow
          exit 0
        fi ;;
      # It went back, and this login is the proof that the machine can be reached.
      restored | returned) returned; continue ;;
    esac
    [ $left -gt 0 ] || fail locked "another deployment holds the machine: $(cat "$dir/owner")" \
      'wait for it (--lock-timeout), or see --status'
    unlock
    left=$((left - 1))
    sleep 0.5
  done
}

# What must be so before anything is touched.
check() {
  if [ -n "$expect" ] && [ "$running" != "$expect" ]; then
    fail conflict "another system runs than expected: $running, not $expect" \
      "look at what was deployed there; to replace it all the same: --expect-current $running"
  fi
  nix-store --check-validity "$toplevel" 2>/dev/null || fail not-found "the machine does not have $toplevel" 'run nix-push first'
  [ -n "$system" ] || fail not-found "$toplevel has no specialisation $specialisation" \
    "it has: $(ls "$toplevel/specialisation" 2>/dev/null | tr '\n' ' ')"
  for need in "$system" "$running"; do
    [ -x "$need/bin/switch-to-configuration" ] ||
      fail input "$need cannot be switched to: it has no bin/switch-to-configuration" 'is it a NixOS system with system.switch.enable?'
  done
  [ "$(cat "$system/system")" = "$(cat "$running/system")" ] ||
    fail input "$toplevel is for $(cat "$system/system"), the machine is $(cat "$running/system")" 'build it for the system of the machine'
  # The log, the commit's note and a generation's link need little, but they need it.
  for place in /run /var/lib /nix/var/nix /boot; do
    [ -d $place ] || continue
    # shellcheck disable=SC2046
    set -- $(df -Pk $place | sed -n '$p')
    [ "$4" -ge 256 ] || fail limit "less than 256 KiB are free in $place" 'free some space there, for instance with nix-collect-garbage'
  done
}

# Arms the rescuers, then starts the activation. Until `armed` exists nothing has changed, and
# whoever comes next may clear what a death in here left.
set_up() {
  rm -rf "$dir.new"
  disarm
  mkdir "$dir.new"
  for name in token toplevel system action generation tools shell lock_timeout activation_timeout confirm_timeout \
    return_timeout allow_failed_units keep_failed secrets_dir secrets_id; do
    eval "printf '%s=%s\n' $name \"'\$$name'\""
  done >"$dir.new/vars"
  printf "previous='%s'\nstatic='%s'\n" "$running" "$(target /etc/static)" >>"$dir.new/vars"
  printf '%s\n%s\nmain "$@"\n' "$common_text" "$job_text" >"$dir.new/job.sh"
  if [ -n "$secrets_dir" ]; then
    printf '%s\n' "$secrets" >"$dir.new/secrets"
    # shellcheck disable=SC2086
    printf '%s\n' $restart | sort -u | sed '/^$/d' >"$dir.new/restart"
  fi
  printf '%s since %s\n' "$who" "$(date -u +%FT%TZ)" >"$dir.new/owner"
  fact previous "$running"
  : >"$dir.new/log"
  : >"$dir.new/token-$token"
  # A garbage collection may come at any moment. The rescuers' tools are the previous system's.
  ln -s "$running" "$dir.new/previous"
  ln -s "$toplevel" "$dir.new/next"
  ln -s "${tools%/bin}" "$dir.new/tools"
  ln -s "${shell%/bin/*}" "$dir.new/shell"
  root previous "$dir/previous" && root next "$dir/next" && root tools "$dir/tools" && root shell "$dir/shell" &&
    mv -T "$dir.new" "$dir" || give_up 'cannot prepare the switch'
  if [ "$action" = boot ]; then
    : >"$dir/confirmed-$token" && job commit || give_up 'cannot start the job'
  else
    job rescue "$activation_timeout" && job reboot "$((activation_timeout + confirm_timeout + return_timeout + 120))" &&
      : >"$dir/armed-$token" && job activate || give_up 'cannot arm the rescuers'
  fi
}
give_up() {
  rm -rf "$dir" "$dir.new"
  unroot
  [ -z "$secrets_dir" ] || clear_sets
  disarm
  fail internal "$1: see the messages above"
}

# Shows the log and waits until the client is needed: to confirm, or to hear the end.
follow() {
  if [ -e "$dir/token-$token" ]; then exec 8<"$dir/log"; elif [ -e "$run/last/token-$token" ]; then exec 8<"$run/last/log"; fi
  turn=0
  while :; do
    now=$(stage)
    show
    case $now in
      window | restored | 'done' | gone) break ;;
      rebooting | returned) [ $turn -lt 200 ] || break ;;
      setup) [ $turn -lt 200 ] || break ;;
    esac
    turn=$((turn + 1))
    [ $((turn % 20)) != 0 ] || revive
    # Quick at first: most switches take a second or two.
    if [ $turn -lt 100 ]; then sleep 0.05; else sleep 0.25; fi
  done
  fact stage "$now"
  fact token "$token"
  tell
  place=$dir
  [ "$now" != 'done' ] || place=$run/last
  for name in result reason outcome restored; do
    [ ! -e "$place/$name" ] || fact $name "$(cat "$place/$name")"
  done
  [ ! -e "$place/failed" ] || while read -r unit; do fact failed "$unit"; done <"$place/failed"
  if [ "$now" = 'done' ]; then
    case $(cat "$place/outcome") in switched* | booted-next* | units-failed*) tidy ;; esac
  fi
}

# What is new in the log, as its length and then the bytes: lines may come in pieces.
show() {
  [ -e /proc/$$/fd/8 ] || return
  size=$(stat -L -c %s /proc/$$/fd/8)
  [ "$size" -gt "$offset" ] || return
  if [ "$seen" -lt "$offset" ]; then head -c $((offset - seen)) <&8 >/dev/null; fi
  fact log $((size - offset))
  head -c $((size - offset)) <&8
  offset=$size
  seen=$size
}

# A job that was killed is started again, or given up for the rescuers.
revive() {
  case $now in
    activating)
      systemctl -q is-active nixpipe-activate.service || [ -e "$dir/result" ] || [ "$(stage)" != activating ] ||
        rescue_now ;;
    committing) systemctl -q is-active nixpipe-commit.service nixpipe-rescue.service nixpipe-window.service || job commit ;;
    restoring)
      systemctl -q is-active nixpipe-commit.service nixpipe-rescue.service nixpipe-window.service || rescue_now ;;
  esac
}

# Over a new connection: the health checks, then the rename that decides.
confirm() {
  if [ "$(stage)" = window ]; then
    check_health && decide armed confirmed && job commit
  fi
  follow
}

# Each check is tried until it passes; the window ends the attempts. Should the switch have
# stopped the window's timer, this is the next to see it, and the reboot's timer the last.
check_health() {
  read -r now _ </proc/uptime
  end=$((${now%.*} + confirm_timeout + 2))
  eval "set -- $health"
  for command; do
    told=
    while ! words=$(PATH=/run/wrappers/bin:/run/current-system/sw/bin timeout "$health_timeout" "$shell" -c "$command" 2>&1 </dev/null); do
      words=$(printf %s "$words" | tail -n 1)
      [ "$told" = "$command: $words" ] || fact unhealthy "$command: $words"
      told="$command: $words"
      [ "$(stage)" = window ] || return 1
      read -r now _ </proc/uptime
      [ "${now%.*}" -lt $end ] || { rescue_now; return 1; }
      sleep 0.5
    done
    fact healthy "$command"
  done
}

# Over a new connection: the restored system can be reached, so no reboot is needed.
give_back() {
  lock "$return_timeout"
  returned
  unlock
  follow
}
returned() {
  [ "$(stage)" != restored ] || decide expired returned
  [ "$(stage)" != returned ] || finish "rolled-back $(cat "$dir/restored")"
}
