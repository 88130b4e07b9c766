# The detached half: what happens on the machine whether or not anybody is connected. Each job is
# a transient systemd unit: sh /run/nixpipe/deploy/job.sh JOB TOKEN. Any of them may die anywhere.

main() {
  held=''
  . "$dir/vars" || exit 0
  # A job of an earlier deployment has nothing to say here.
  [ "$token" = "$2" ] || exit 0
  PATH=$tools
  export PATH
  [ -z "$secrets_dir" ] || keys_in "$secrets_dir"
  exec >>"$dir/log" 2>&1 </dev/null
  case $1 in
    activate) activate ;;
    commit) commit ;;
    rescue | window) rescue ;;
    reboot | return) reboot ;;
    once) boot_once ;;
    boot) booted ;;
  esac
}

# Runs switch-to-configuration of system $1 with action $2; while somebody else's holds NixOS's
# lock (it then ends with EAGAIN) tries again for $3 seconds.
stc() {
  uptime_seconds
  end=$((up + $3))
  while :; do
    "$1/bin/switch-to-configuration" "$2" 9>&-
    ended=$?
    uptime_seconds
    if [ $ended != 11 ] || [ "$up" -ge $end ]; then return $ended; fi
    flock -w $((end - up)) "$stc_lock" true 9>&-
    sleep 0.2
  done
}

# Runs the new system as `test`: profile and boot entry stay the old one's.
activate() {
  decided armed || exit 0
  # The new system may hang the machine: it is on the disk before, and on its way there meanwhile.
  sync -f /nix/store &
  written=$!
  settle_pending
  hold_back
  status=$?
  if [ $status != 0 ]; then
    lock && decide armed refused && let_go && finish "boot-failed $status"
    exit 0
  fi
  if [ -z "$secrets_dir" ] || begin_secrets; then
    wait $written
    NIXOS_NO_SYNC=1
    export NIXOS_NO_SYNC
    stc "$system" test "$lock_timeout"
    status=$?
    if [ -n "$secrets_dir" ]; then end_secrets; fi
    judge $status
  else
    status=2 verdict=failed
    put "$dir/reason" "the secrets could not be put in place: is $secrets_dir full?"
  fi
  [ "$verdict" = ok ] || echo "switch-to-configuration ended with status $status: $verdict"
  keep=$keep_failed
  case $verdict in
    ok) keep=1 ;;
    units-failed)
      name_units
      [ "$allow_failed_units" = 0 ] || keep=1 ;;
    locked | refused | reboot-needed)
      # Nothing but secrets has changed, so there is nothing else to go back from.
      lock && decide armed refused && let_go && finish "$verdict $status"
      exit 0 ;;
  esac
  if [ "$keep" = 1 ]; then
    # The window's timer is armed before the activation's is stopped: there is always one.
    job window "$confirm_timeout"
    window=$?
    # What the client need not wait for before it logs in; nothing is committed before it is done.
    lock
    put "$dir/result" "$verdict $status"
    wake "$dir"
    job return "$((confirm_timeout + return_timeout))"
    [ $window != 0 ] || systemctl stop nixpipe-rescue.timer 9>&-
  else
    # Decided before it can be seen: nobody confirms a failure. Should the start of the rescue
    # fail, its timer does it.
    decide armed expired
    put "$dir/result" "$verdict $status"
    rescue_now
  fi
}

# What boots now is what the last rescuer and a loss of power bring. Where that neither runs nor was booted, `--action boot`
# chose it and nobody has confirmed it: until somebody does, the one that runs boots, or the one that was booted.
hold_back() {
  boot_entry
  # A loader that is not known boots the profile's system, as NixOS sees to.
  folder "$profile"
  boots=${entry:-$path}
  [ -n "$boots" ] && [ -z "$pinned" ] || return 0
  # Before a reboot, what is to run again after it.
  booted=
  [ -e "$dir/boot" ] || booted=$(target /run/booted-system)
  line_of "$run/proven"
  for proven in "$previous" $booted $line; do
    if [ "$proven" = "$boots" ] || is_specialisation "$boots" "$proven"; then return 0; fi
  done
  held=$(readlink "$profile")
  chosen=
  for proven in "$previous" $booted; do
    [ -z "$chosen" ] || break
    # The newest of its generations.
    for link in $(ls -dv "$profile"-*-link); do
      ! [ "$link" -ef "$proven" ] || { chosen=$link && back=$proven; }
    done
  done
  [ -n "$chosen" ] || { back=$previous && nix-env -p "$profile" --set "$back" 9>&- && chosen=$(readlink "$profile"); } || return
  echo "$boots boots already, and was not confirmed: until it is, $back boots"
  printf "held='%s'\nheld_entry='%s'\n" "$held" "$boots" >>"$dir/vars"
  # The commit chooses the same generation again, and makes no other.
  ! [ "$path" = "$toplevel" ] || echo "generation='$held'" >>"$dir/vars"
  write_entry "$back" && choose_generation "$chosen"
}
# It boots again, where nothing was to change that or the system was not even tried.
let_go() {
  . "$dir/vars"
  [ -z "$held" ] || { choose_generation "$held" && write_entry "$held_entry"; } || echo "the boot entry is not that of $held_entry again"
}

# What a status of switch-to-configuration means, in `verdict`, by looking at the machine as well (statuses:
# nixpkgs pkgs/by-name/sw/switch-to-configuration-ng).
judge() {
  unchanged=0
  folder /etc/static
  runs "$previous" && [ "$path" = "$static" ] && unchanged=1
  case $1:$unchanged in
    0:? | 4:?)
      verdict=ok
      [ "$1" = 0 ] || verdict=units-failed
      # The link to the running system is set before units start, so it proves little; and units that fail hide that the
      # activation script has.
      if grep -q -e '^Failed to run activate script$' -e '^Activation script snippet .* failed (' "$dir/log"; then verdict=failed
      elif leftover || ! runs "$system" || ! is_etc_of "$system"; then verdict=incomplete; fi ;;
    100:1) verdict=reboot-needed ;;
    # switch-inhibitors lists what only a reboot may change; then the pre-switch check says no.
    1:1) if inhibited "$system"; then verdict=reboot-needed; else verdict=refused; fi ;;
    # It did not begin, and whatever has changed is another's; or a call of its own has failed so, half-way.
    11:?) if grep -q '^activating the configuration' "$dir/log"; then verdict=failed; else verdict=locked; fi ;;
    *) verdict=failed ;;
  esac
}

# The units that failed; switch-to-configuration names them and shows the end of their logs.
name_units() {
  sed -n 's/^warning: the following units failed: //p' "$dir/log" | tr -d ' ' | tr ',' '\n' | sort -u >"$dir/failed.new"
  [ -s "$dir/failed.new" ] || newly_failed >"$dir/failed.new"
  # What could not even be tried has not failed, to systemd.
  [ -s "$dir/failed.new" ] ||
    sed -n -e 's/^Failed to [a-z]* \([^ ]*\.[a-z]*\)\(: .*\)\{0,1\}$/\1/p' -e 's/^A dependency job for \([^ ]*\) failed.*/\1/p' "$dir/log" |
    sort -u >"$dir/failed.new"
  mv -T "$dir/failed.new" "$dir/failed"
  last_words
}

# New secrets are there before the new system starts. What belongs to a user that only it has
# is handed over as soon as that user is there, and at the latest before the end.
begin_secrets() {
  handing=
  while read -r unit; do echo "$unit $(invocation "$unit")"; done <"$dir/restart" >"$dir/restart-from"
  place_secrets
  are_placed || return
  own_secrets || { (while sleep 0.05 && ! own_secrets; do :; done) & handing=$!; }
}
end_secrets() {
  # By its verdict the set that counts may be the one before, whose owners are others.
  [ -z "$handing" ] || { kill "$handing" && wait "$handing"; } 2>/dev/null
  if ! own_secrets; then
    put "$dir/reason" "a secret belongs to a user or group that the machine does not have: $late"
    [ $status != 0 ] || status=2
  fi
  case $status in 0 | 4) restart_units || status=4 ;; esac
}
# True if every secret can be read under its name: a full disk takes no new links.
are_placed() {
  secret() { [ "$keys/$2" -ef "$ours/$token/$2" ] || missing=1; }
  missing=''
  [ ! -d "$ours/$token" ] || . "$dir/secrets"
  [ -z "$missing" ]
}
own_secrets() {
  late=
  [ -e "$dir/secrets" ] || return 0
  secret() { own "$ours/set/$2" "$3" "$4" "$5" || late="${late:+$late, }$4:$5"; }
  . "$dir/secrets"
  [ -z "$late" ]
}

# Which start of a unit this is: those that the switch has started anew are not restarted again.
invocation() { systemctl show --value -p InvocationID "$1"; }

# Restarts the units whose secrets have changed, and says which of them failed, in
# switch-to-configuration's words. On the way back those that only the new system has are none.
restart_units() {
  restarted='' failed=''
  while read -r unit id; do
    [ "$(invocation "$unit")" = "$id" ] || continue
    [ "${1:-}" != back ] || [ "$(systemctl show --value -p LoadState "$unit")" != not-found ] || continue
    echo "restarting $unit: its secrets have changed"
    if systemctl restart "$unit"; then restarted="$restarted $unit"; else failed="${failed:+$failed, }$unit"; fi
  done <"$dir/restart-from"
  # What fails a moment after its start is seen, too.
  [ -z "$restarted" ] || sleep 0.3
  for unit in $restarted; do
    case $(systemctl show --value -p SubState "$unit") in
      failed | auto-restart) failed="${failed:+$failed, }$unit" ;;
    esac
  done
  [ -z "$failed" ] || { echo "warning: the following units failed: $failed"; return 1; }
}

# Goes back, unless the new system was confirmed: then that is finished.
rescue() {
  decide armed expired
  if decided confirmed; then commit; return; fi
  decided expired || return
  if [ -e "$dir/boot" ]; then decide expired rebooting && reboot_back; return; fi
  [ -e "$dir/reason" ] || put "$dir/reason" "$(reason)"
  systemctl -q is-active nixpipe-return.timer || job return "$return_timeout"
  systemctl stop nixpipe-activate.service 2>/dev/null
  lock && decided expired && [ ! -e "$dir/restored" ] || return
  # Somebody who knew nothing of this may have switched the machine in the window: that stays.
  if [ -e "$dir/result" ] && ! runs "$system" && ! runs "$previous"; then finish 'superseded 0'; else restore; fi
}

reason() {
  result=$(cat "$dir/result" 2>/dev/null)
  case $result in
    '')
      uptime_seconds
      line_of "$dir/begun"
      if [ $((up - ${line:-$up} + 2)) -ge "$activation_timeout" ]; then
        echo "the activation did not end within $activation_timeout s"
      else
        echo 'the activation was cut short'
      fi ;;
    ok*) echo "nobody confirmed the new system within $confirm_timeout s" ;;
    units-failed*)
      units=$(paste -sd' ' "$dir/failed")
      echo "units failed${units:+: $units}" ;;
    incomplete*) echo "the activation ended half-way" ;;
    failed*) echo "the activation failed with status ${result#* }" ;;
  esac
}

# Makes the previous system run again. Should that fail, the reboot is near.
restore() {
  echo "going back to $previous: $(cat "$dir/reason")"
  # Units that a killed switch had stopped and not yet started stand in these lists. Those that
  # only the new system has must not be asked for.
  for list in start restart reload; do
    list=/run/nixos/$list-list
    [ -e "$list" ] || continue
    while read -r unit; do
      template=$(printf %s "$unit" | sed 's/@.*\./@./')
      if [ -e "$previous/etc/systemd/system/$unit" ] || [ -e "$previous/etc/systemd/system/$template" ]; then
        printf '%s\n' "$unit"
      fi
    done <"$list" >"$list.new"
    mv -T "$list.new" "$list"
  done
  if [ -n "$secrets_dir" ]; then
    while read -r unit; do echo "$unit $(invocation "$unit")"; done <"$dir/restart" >"$dir/restart-from"
    put_secrets_back
  fi
  # It has run here: its own checks before a switch have no say.
  NIXOS_NO_CHECK=1
  export NIXOS_NO_CHECK
  stc "$previous" test 100
  status=$?
  [ -z "$secrets_dir" ] || restart_units back || status=4
  # What the new system had removed, and what emergency.target had stopped.
  timeout 60 systemctl start default.target 9>&- || echo 'default.target does not start again'
  if runs "$previous"; then
    echo "$previous runs again (status $status); without a login the machine reboots soon"
    put "$dir/restored" "$status"
    wake "$dir"
    # From now on a login is waited for.
    systemctl stop nixpipe-return.timer 9>&-
    job return "$return_timeout"
  else
    echo "$previous does not run again (status $status)"
  fi
}

# The last resort: the boot entry is still the old system's.
reboot() {
  decide armed expired
  # A job that was to reboot the machine may have been killed.
  decided rebooting || decide expired rebooting || return
  echo 'nobody could log in to the restored system: rebooting'
  timeout 20 systemd-cat -t nixpipe cat <"$dir/log"
  # That of a confirmed system has no way back.
  if [ "$unprotected" = 1 ]; then restart_machine; else reboot_back; fi
}
# The services of the old system start with their own secrets.
reboot_back() {
  # A disk that hangs must not stand before the reboot.
  [ -z "$secrets_dir" ] || { put_secrets_back & sleep 1; }
  restart_machine
}
restart_machine() {
  timeout 20 sync
  systemctl reboot
  sleep 40
  systemctl reboot -f
  sleep 20
  systemctl reboot -ff
  echo b >/proc/sysrq-trigger
}
