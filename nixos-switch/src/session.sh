# The session: what the client asks for over one connection, its answers as `name=value` lines on
# stdout. The client puts what it wants in front, as shell assignments; what comes after a deployment
# was begun is in follow.sh. Where the connection is
# lost the session dies at its next line; what it has armed goes on without it.

fact() { printf '%s=%s\n' "$1" "$2"; }
# Ends with an error: its kind, what failed, what to do.
valid=''
fail() {
  # Of a system that is not whole this says most.
  [ -z "$valid" ] || wait "$valid" || set -- not-found "the machine does not have $toplevel" 'run nix-push first'
  fact error "$1 $2"
  [ -z "${3:-}" ] || fact hint "$3"
  exit 0
}

main() {
  umask 022
  # Only secrets are still to come, and nobody else is to read them.
  exec 7<&0 </dev/null
  # A login shell may have said something before, with or without an end of line.
  printf '\nnixpipe\n'
  find_tools
  [ -O /proc/1 ] || fail denied "cannot switch as $(id -un)" 'log in as root, or use --elevate sudo'
  # A deployment's token is known to its own machine alone.
  [ -e "$dir/token-$token" ] || [ -e "$run/last/token-$token" ] || guard
  case $mode in
    start) start ;;
    attach) follow ;;
    confirm) confirm ;;
    give-back) give_back ;;
    rebooted) rebooted ;;
    dry) dry ;;
    status) status ;;
    generations) generations ;;
  esac
}

# Those of the system that runs, as store paths: what is armed does not depend on what the switch does to links.
find_tools() {
  folder /run/current-system/sw/bin
  tools=$path
  [ -n "$tools" ] ||
    fail input 'cannot switch this machine: it has no /run/current-system/sw/bin' 'only a machine that runs NixOS can be switched'
  PATH=$tools
  export PATH
  shell=$tools/sh
  [ -x "$shell" ] || shell=$(readlink -e /bin/sh)
}

# What is on the machine now.
look() {
  folder /run/current-system
  running=$path
  folder "$profile"
  in_profile=$path
  boot_entry
  number=$(readlink "$profile")
  number=${number#system-}
}
tell() {
  look
  fact running "$running"
  fact profile "$in_profile"
  fact entry "$entry"
  fact generation "${number%-link}"
  line_of /proc/sys/kernel/random/boot_id
  fact boot-id "$line"
  line_of /etc/machine-id
  fact machine-id "$line"
  line_of "$pending"
  fact pending "$line"
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
    /*) toplevel=$back_to && fact toplevel "$toplevel" && return ;;
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
      *) [ -z "$specialisation" ] && is_specialisation "$toplevel" "$running" || return 1 ;;
    esac
    if leftover; then return 1; fi
    is_etc_of "$running" || return 1
    [ "$action" = switch ] || return 0
  fi
  # A loader that is not known is taken to boot the profile's system, as NixOS sees to.
  [ "$in_profile" = "$toplevel" ] && { [ -z "$entry" ] || [ "$entry" = "$toplevel" ]; }
}

# True if the system runs and a reboot is asked for all the same.
still_to_boot() {
  case $reboot in
    always) [ "$(target /run/booted-system)" != "$running" ] || { [ "$action" = boot ] && [ "$running" != "$system" ]; } ;;
    if-needed) [ -n "$(reboot_reasons "$system")" ] ;;
    *) return 1 ;;
  esac
}

start() {
  tell
  wished
  if [ ! -e "$dir" ] && is_done && ! still_to_boot && same_secrets; then unchanged; return; fi
  take
  # Whoever was waited for may have switched, and only what runs now is kept.
  find_tools
  settle_keys
  tell
  wished
  way=$action unprotected=0
  if is_done && ! still_to_boot; then
    if same_secrets; then unlock; unchanged; return; fi
    # Only the secrets are new; a specialisation that runs stays.
    [ "$action" = boot ] || system=$running
    check
  else
    same_secrets || :
    check
    choose_way
  fi
  [ -z "$differs" ] || receive_secrets
  set_up
  unlock
  follow
}

# Nothing to do; what --health asks for is to hold all the same.
unchanged() {
  clear_away
  mode=health
  if [ -z "$health" ] || [ "$action" = boot ] || check_health; then
    fact stage unchanged
    tidy
  else
    fact stage unhealthy
  fi
}

same_secrets() { compare_secrets; [ -z "$differs" ]; }

# Whatever is wished today.
settle_keys() {
  for folder in $(keys_folders); do keys_in "$folder"; settle_secrets; done
}
unsettled_keys() {
  for folder in $(keys_folders); do
    keys_in "$folder"
    if unsettled_secrets; then return 0; fi
  done
  return 1
}

# Takes the machine: returns with the lock held and nobody at work, else joins in or waits.
take() {
  own_folder || fail internal "cannot make $run" 'is /run full there, or read-only?'
  mine=$token
  left=$((lock_timeout * 2)) awaited=
  while :; do
    lock "$((lock_timeout + 1))" || fail locked 'another deployment is being set up on the machine' \
      'wait for it (--lock-timeout)'
    token=$mine
    find_deployment
    [ -e "$dir" ] || return 0
    theirs=$(. "$dir/vars" && echo "$token $action $system $toplevel $asked $secrets_id")
    token=${theirs%% *}
    stage
    case $now in
      setup | gone)
        # Who set it up died before anything was started, or after everything had ended.
        clear_setup
        continue ;;
      activating | booting | window | committing)
        if [ "${theirs#* }" = "$action $system $toplevel $asked $secrets_id" ]; then
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
    line_of "$dir/owner"
    [ $left -gt 0 ] || fail locked "another deployment holds the machine: $line" \
      'wait for it (--lock-timeout), or see --status'
    unlock
    [ "$awaited" = "$line" ] || fact waiting "$line"
    awaited=$line
    left=$((left - 1))
    [ $((left % 20)) != 0 ] || { stage && revive; }
    sleep 0.5
  done
}

# Whether it takes a reboot, and what that needs.
choose_way() {
  [ "$reboot" != never ] || return 0
  reasons=$(reboot_reasons "$system" | paste -sd' ')
  case $reboot:$reasons in
    always:* | if-needed:?*) ;;
    *) return ;;
  esac
  why=$(not_protected "$system")
  if [ -z "$why" ]; then
    way=reboot
    # It runs already and was not booted, or what runs is but a test: the way back is what was.
    booted=$(target /run/booted-system)
    if [ "$running" = "$system" ] || [ "$entry" = "$booted" ]; then running=$booted; fi
    # Of a specialisation, its parent is what boots.
    ! is_specialisation "$entry" "$running" || running=$entry
    # What it takes to go back is kept with it.
    folder "$running/sw/bin"
    if [ -x "$path/sh" ]; then tools=$path shell=$path/sh; fi
    fact rebooting "${reasons:-it was asked for}"
    return
  fi
  # Only the machine's own script can have it boot what is not what boots by default.
  [ "$reboot_unprotected" = 1 ] && [ "$action" != test ] && [ -z "$specialisation" ] ||
    fail activation "the machine could not undo a reboot by itself: $why" \
      'if you can reach its console: --reboot-unprotected, but for tests and specialisations; or --reboot never'
  fact warning "this reboot is unprotected: $why"
  unprotected=1 action=boot way=boot
}

# Arms the rescuers, then starts the activation. Until `armed` exists nothing has changed, and
# whoever comes next may clear what a death in here left.
set_up() {
  if [ "$way" = reboot ]; then mkdir -p "${lasting%/*}" && chmod 700 "${lasting%/*}" && dir=$lasting; fi
  for old in "$dir.new" "$lasting.old"; do [ ! -e "$old" ] || rm -rf "$old"; done
  disarm_boot
  mkdir "$dir.new"
  [ "$way" != reboot ] || boot_id >"$dir.new/boot"
  for name in token toplevel system action generation tools shell lock_timeout activation_timeout confirm_timeout \
    return_timeout allow_failed_units keep_failed unprotected secrets_dir secrets_id asked; do
    eval "printf '%s=%s\n' $name \"'\$$name'\""
  done >"$dir.new/vars"
  folder /etc/static
  # The last to be written, so that they are whole if these are.
  printf "previous='%s'\nstatic='%s'\n" "$running" "$path" >>"$dir.new/vars" &&
    printf '%s\n%s\nmain "$@"\n' "$common_text" "$job_text" >"$dir.new/job.sh" &&
    printf '%524288s' '' >"$dir.new/reserve" || give_up 'cannot prepare the switch'
  if [ -n "$secrets_dir" ]; then
    printf '%s\n' "$secrets" >"$dir.new/secrets"
    # shellcheck disable=SC2086
    printf '%s\n' $restart | sort -u | sed '/^$/d' >"$dir.new/restart"
  fi
  printf '%s since %s\n' "$who" "$(date -u +%FT%TZ)" >"$dir.new/owner"
  fact previous "$running"
  mkfifo "$dir.new/wake"
  : >"$dir.new/log"
  : >"$dir.new/token-$token"
  # A garbage collection may come at any moment. The rescuers' tools are the running system's.
  ln -s "$running" "$dir.new/previous"
  ln -s "$toplevel" "$dir.new/next"
  case $shell in "$tools"/*) ;; *) ln -s "${shell%/bin/*}" "$dir.new/shell" ;; esac
  root && mv -T "$dir.new" "$dir" || give_up 'cannot prepare the switch'
  if [ "$way" = reboot ]; then
    failed_units >"$dir/failed-before" && : >"$dir/armed-$token" && job once || give_up 'cannot start the job'
  elif [ "$way" = boot ]; then
    : >"$dir/confirmed-$token" && job commit || give_up 'cannot start the job'
  else
    # Timers of a deployment that died before it had disarmed them are in the way.
    arm || { disarm && arm; } && : >"$dir/armed-$token" && job activate || give_up 'cannot arm the rescuers'
  fi
}
# Side by side, as each waits for systemd.
arm() {
  failed_units >"$dir/failed-before" 9>&- &
  failed=$!
  job reboot "$((activation_timeout + confirm_timeout + return_timeout + 120))" 9>&- &
  last=$!
  uptime_seconds
  echo "$up" >"$dir/begun"
  job rescue "$activation_timeout"
  set -- $?
  wait $failed
  wait $last && [ "$1" = 0 ]
}
clear_setup() {
  rm -rf "$dir"
  unroot
  disarm
}
give_up() {
  # Whoever was to start it may have died after it had.
  systemctl stop nixpipe-activate.service nixpipe-once.service nixpipe-commit.service 2>/dev/null
  rm -rf "$dir" "$dir.new"
  unroot
  [ -z "$secrets_dir" ] || clear_sets
  disarm
  # Nothing was begun.
  fact previous ''
  fail internal "$1: see the messages above" 'run it again; is there space left on the machine?'
}
