# Following a deployment to its end, whoever began it; and what a new login is for: to confirm it, or
# to prove that the system that came back can be reached.

# Shows the log and waits until the client is needed: to confirm, or to hear the end.
follow() {
  if [ -e "$dir/token-$token" ]; then exec 8<"$dir/log"; elif [ -e "$run/last/token-$token" ]; then exec 8<"$run/last/log"; fi
  # In both directions: opening waits for nobody, and what is said between two looks stays in it.
  [ ! -p "$dir/wake" ] || exec 6<>"$dir/wake"
  # The connection before may have been lost before it could say so.
  for place in "$run/last" "$dir"; do
    [ "$mode" != attach ] || [ ! -e "$place/token-$token" ] || fact previous "$(. "$place/vars" && echo "$previous")"
  done
  turn=0
  while :; do
    stage
    show
    # There is more to show; and meanwhile more may have happened.
    [ $seen -lt 100 ] || [ "$now" = window ] || continue
    case $now in
      window | restored | 'done' | gone) break ;;
      booting | rebooting | returned | setup | committing) [ $turn -lt 60 ] || break ;;
    esac
    turn=$((turn + 1))
    [ $((turn % 10)) != 0 ] || revive
    # The log goes on without waking anybody, and a job that was killed says nothing.
    if ! [ -e /proc/$$/fd/6 ]; then sleep 0.5
    elif [ -n "${BASH_VERSION-}" ]; then read -r -t 0.5 line <&6
    else timeout 0.5 head -c 1 <&6 >/dev/null; fi
  done
  fact stage "$now"
  fact token "$token"
  # The next login is to come at once, and hears the rest.
  if [ "$now" = window ]; then folder /run/current-system && fact running "$path"; return; fi
  tell
  place=$dir
  [ "$now" != 'done' ] || place=$run/last
  for name in result reason outcome restored; do
    [ ! -e "$place/$name" ] || { line_of "$place/$name" && fact "$name" "$line"; }
  done
  for name in failed failed-log; do
    [ ! -e "$place/$name" ] || while read -r line; do fact $name "$line"; done <"$place/$name"
  done
  if [ "$now" = 'done' ]; then
    line_of "$place/outcome"
    case $line in switched* | rebooted* | booted-next* | units-failed*) tidy ;; esac
  fi
}

# What is new in the log, piece by piece: its length, where it ends in the log, and then the bytes. The two differ
# where there were bytes of zero, which no shell can hold. The last line may still grow.
show() {
  seen=0
  [ -e /proc/$$/fd/8 ] || return
  # A length is one in bytes.
  LC_ALL=C
  # What an earlier connection has shown.
  [ "$offset" = 0 ] || head -c "$offset" <&8 >/dev/null
  offset=0
  while [ $seen -lt 100 ] && end='
' && IFS= read -r line <&8 || { end='' && [ $seen -lt 100 ] && [ -n "$line" ]; }; do
    seen=$((seen + 1))
    line=$line$end
    here
    printf 'log=%s %s\n%s' ${#line} "$at" "$line"
  done
  # Much of it takes the shell too long. In the window it is for the next login, which is to come at once.
  [ $seen = 100 ] && [ "$now" != window ] || return 0
  here
  count=$(($(stat -Lc %s /proc/$$/fd/8) - at))
  [ $count -le 1000000 ] || count=1000000
  printf 'log=%s %s\n' $count $((at + count))
  head -c $count <&8
}
here() { read -r _ at 2>/dev/null </proc/$$/fdinfo/8 || at=; }

# A job that was killed is started again, or given up for the rescuers.
revive() {
  case $now in
    setup)
      # Who sets it up holds the lock for as long as it lives.
      if lock 0; then ! stage_is setup || clear_setup; unlock; fi ;;
    booting)
      if [ "$(boot_id)" = "$(cat "$dir/boot")" ]; then systemctl -q is-active nixpipe-once.service || job once
      else revive_boot; fi ;;
    rebooting)
      if systemctl -q is-active nixpipe-boot.service nixpipe-once.service nixpipe-commit.service nixpipe-rescue.service \
        nixpipe-window.service nixpipe-return.service nixpipe-reboot.service; then :
      elif [ -e "$dir/boot" ] && [ "$(boot_id)" != "$(cat "$dir/boot")" ]; then revive_boot
      else systemctl start --no-block nixpipe-reboot.service 2>/dev/null || job reboot; fi ;;
    activating)
      systemctl -q is-active nixpipe-activate.service || [ -e "$dir/result" ] || ! stage_is activating || rescue_now ;;
    committing) systemctl -q is-active nixpipe-commit.service nixpipe-rescue.service nixpipe-window.service || job commit ;;
    restoring)
      systemctl -q is-active nixpipe-commit.service nixpipe-rescue.service nixpipe-window.service || rescue_now ;;
  esac
}

# A crash before the reboot was prepared, or in the last step, has left no unit for it.
revive_boot() {
  ! systemctl -q is-active nixpipe-boot.service || return 0
  if [ -e "$control/nixpipe-boot.service" ]; then systemctl start --no-block nixpipe-boot.service; else job boot; fi
}

# Over a new connection: the health checks, then the rename that decides.
confirm() {
  if stage_is window; then
    after_boot && check_health && decide armed confirmed && job commit
  fi
  follow
}

# After a reboot: what is only in /run has to be put back here, before anybody judges; then the
# units have had their chance to fail.
after_boot() {
  [ -e "$dir/boot" ] || return 0
  # shellcheck source=common.sh
  . "$dir/vars"
  # The one before has booted already, and is about to say so.
  runs "$system" || { revive_boot; sleep 1; return 1; }
  refill_secrets
  await_boot "$((activation_timeout + confirm_timeout))" || return 1
  # Somebody who has joined may be at the same.
  [ ! -e "$dir/refilled" ] || { line_of "$dir/refilled" && start_refilled "$line" && rm -f "$dir/refilled"; }
  newly_failed >"$dir/failed.$$" && mv -T "$dir/failed.$$" "$dir/failed"
  [ -s "$dir/failed" ] || return 0
  last_words
  # shellcheck disable=SC2046  # names of units
  systemctl status --no-pager --full --lines=10 -- $(cat "$dir/failed") >>"$dir/log"
  if [ "$allow_failed_units$keep_failed" = 00 ]; then
    put "$dir/reason" "units failed: $(paste -sd' ' "$dir/failed")"
    decide armed expired
    return 1
  fi
  put "$dir/result" 'units-failed 4'
}

# The wished system runs after a reboot that nothing of the deployment has outlived, and stays.
rebooted() {
  tell
  # The set that is there may bear the token.
  mode=health toplevel=$running refilled='' token=$token-$$
  if lock "$lock_timeout" && find_deployment && [ ! -e "$dir" ]; then
    settle_keys
    same_secrets || { receive_secrets && place_secrets && keep_secrets && refilled=1; }
  fi
  unlock
  timeout "$activation_timeout" systemctl is-system-running --wait >/dev/null 2>&1
  [ -z "$refilled" ] || start_refilled "$restart"
  if check_health; then fact stage healthy && tidy; else fact stage unhealthy; fi
}

# Each check is tried until it passes; the window ends the attempts. Should the switch have
# stopped the window's timer, this is the next to see it, and the reboot's timer the last.
check_health() {
  uptime_seconds
  end=$((up + confirm_timeout + 2))
  eval "set -- $health"
  for command; do
    told='' shown=$command
    # An answer is one line.
    case $shown in *'
'*) shown=$(printf %s "$command" | tr '\n' ' ') ;; esac
    until run_check "$command"; do
      [ "$told" = "$words" ] || fact unhealthy "$shown: $words"
      told=$words
      [ $mode = health ] || stage_is window || return 1
      uptime_seconds
      [ $mode != health ] || [ "$up" -lt $end ] || return 1
      [ "$up" -lt $end ] || [ -e "$dir/boot" ] || { rescue_now; return 1; }
      sleep 0.5
    done
    fact healthy "$shown"
  done
}

# Runs a health command; what it said last, or how it ended, is in `words`. It has no longer than the window,
# whatever it thinks of SIGTERM; what it leaves in the background is not waited for; and what it prints is not kept.
run_check() {
  uptime_seconds
  began=$up limit=$health_timeout
  [ $((end - up)) -ge "$limit" ] || limit=$((end - up))
  [ "$limit" -gt 0 ] || limit=1
  words=$({
    PATH=/run/wrappers/bin:/run/current-system/sw/bin timeout -k 1 "$limit" "$shell" -c "$1" 2>&1 </dev/null
    printf '\n%s %s\n' "$token" $?
  } | LC_ALL=C prlimit --as=200000000 sed -n "/^$token /{s///p;x;p;q;};/^\$/!h" | head -c 500)
  result=${words%%"
"*}
  words=${words#"$result"}
  words=${words#"
"}
  uptime_seconds
  case $result in
    0) return 0 ;;
    '') words='it prints too much in one line' ;;
    124 | 137) [ $((up - began)) -lt "$limit" ] || words="it did not end within $limit s${words:+: $words}" ;;
  esac
  words=${words:-status $result}
  return 1
}

# Over a new connection: the restored system can be reached, so no reboot is needed.
give_back() {
  lock "$return_timeout"
  returned
  unlock
  follow
}
returned() {
  ! stage_is restored || decide expired returned
  ! stage_is returned || finish "rolled-back $(cat "$dir/restored")"
}
