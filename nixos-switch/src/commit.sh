# The commit: profile and boot entry become the confirmed system's, or stay the old one's.

# Writes the boot entry of system $1, and looks: an installer may say nothing of a full /boot.
write_entry() {
  boot_entry
  known=$entry
  # What a loss of power must not take from under the new entry.
  sync -f /nix/store
  # One that has run here is not to be held up by its own checks before a switch.
  ([ "$1" = "$toplevel" ] || export NIXOS_NO_CHECK=1; stc "$1" boot 100) || return
  boot_entry
  [ -z "$known" ] || [ "$entry" = "$1" ] || { echo "the boot entry is not that of $1"; return 1; }
}

# Makes the confirmed system the one that boots.
commit() {
  lock
  decided confirmed || return
  line_of "$dir/result"
  case $line in
    # `--action boot` has none.
    ok* | '') outcome=switched ;;
    units-failed*) outcome=units-failed ;;
    *) finish 'left 0'; return ;;
  esac
  if [ "$outcome" = switched ] && [ -e "$dir/boot" ]; then outcome=rebooted; fi
  case $action in
    boot) [ -e "$dir/boot" ] || outcome=booted-next ;;
    test)
      # What boots next neither runs nor was booted, and is proven all the same.
      [ ! -e "$dir/boot" ] || { clear_menu && put "$run/proven" "$previous"; }
      let_go
      finish "$outcome 0"
      return ;;
  esac
  if [ "$outcome" != booted-next ] && ! runs "$system"; then
    finish 'superseded 0'
    return
  fi
  link=$(readlink "$profile" || :)
  boot_entry
  folder "$profile"
  old=${entry:-$path}
  # Begun before, and cut short: what was there was noted then.
  line_of "$pending"
  [ "$line" != "$toplevel" ] || { read -r _ && read -r link && read -r old && read -r was && generation=${generation:-$was}; } <"$pending"
  if [ -n "$secrets_dir" ]; then
    # Without an activation they have not come into place before.
    if [ "$action" = boot ]; then place_secrets; own_secrets || :; fi
    [ ! -L "$ours/before" ] || mv -T "$ours/before" "$ours/committing"
  fi
  # What nix-env would take again must not count as made by this commit, which deletes that if it fails.
  if [ -z "$generation" ] && ! [ "$profile" -ef "$toplevel" ]; then
    newest
    ! [ "$profile-$newest-link" -ef "$toplevel" ] || generation=$newest
  fi
  drop_trial
  # All is written to the disk at the end.
  NIXOS_NO_SYNC=1
  export NIXOS_NO_SYNC
  { [ "$action" != boot ] || [ -z "$secrets_dir" ] || are_placed || { echo 'the secrets could not be put in place' && false; }; } &&
    keep_folder && note_pending && set_profile && write_entry "$toplevel"
  status=$?
  if [ $status = 0 ]; then
    settled
    if [ "$roots/pushed" -ef "$toplevel" ]; then rm -f "$roots/pushed"; fi
    if [ "$outcome:$unprotected" = booted-next:1 ]; then decide confirmed rebooting && restart_machine; return; fi
    finish "$outcome 0"
    return
  fi
  undo_commit
  put "$dir/reason" "the boot entry could not be written (status $status)"
  if [ "$outcome" = booted-next ]; then finish "boot-failed $status"; return; fi
  decide confirmed expired
  if [ -e "$dir/boot" ]; then decide expired rebooting && reboot_back; return; fi
  systemctl -q is-active nixpipe-return.timer || job return "$return_timeout"
  restore
}

# On disk before anything is changed: what is committed, and what was there.
note_pending() {
  printf '%s\n' "$toplevel" "$link" "$old" "$generation" >"$pending.new" && sync "$pending.new" &&
    mv -T "$pending.new" "$pending" && sync "${pending%/*}"
}
settled() {
  sync
  rm -f "$pending"
}

# A generation that was asked for is chosen, not made a second time.
set_profile() {
  if [ -n "$generation" ]; then choose_generation "$generation"
  elif ! [ "$profile" -ef "$toplevel" ]; then nix-env -p "$profile" --set "$toplevel" 9>&-; fi
}

# The number of the newest generation.
newest() {
  newest=0
  for one in "$profile"-*-link; do
    number=${one#"$profile"-}
    number=${number%-link}
    [ "$number" -le $newest ] || newest=$number
  done
}

# By its number, or by its link.
choose_generation() {
  number=${1##*system-}
  nix-env -p "$profile" --switch-generation "${number%-link}" 9>&-
}

# Profile and boot entry as they were: `link` and `old`.
undo_commit() {
  new=$(readlink "$profile" || :)
  if [ -n "$link" ] && [ "$new" != "$link" ]; then
    choose_generation "$link"
    # Only a generation that this commit made is deleted.
    number=${new#system-}
    [ -n "$generation" ] || nix-env -p "$profile" --delete-generations "${number%-link}" 9>&-
  fi
  boot_entry
  if [ -z "$old" ] || [ "$entry" = "$old" ] || write_entry "$old"; then
    settled
  else
    echo "cannot write the boot entry of $old again; the next run tries it"
  fi
}

# A commit that a crash cut short: finished if its system runs, else undone.
settle_pending() {
  [ -e "$pending" ] || return
  (
    { read -r toplevel; read -r link; read -r old; read -r generation; } <"$pending"
    echo "the commit of $toplevel was cut short"
    if runs "$toplevel"; then
      set_profile && write_entry "$toplevel" && settled
    elif [ "$profile" -ef "$toplevel" ]; then
      undo_commit
    elif [ "$(readlink "$profile")" = "$link" ]; then
      link='' && undo_commit
    else
      # Somebody has switched the machine since.
      settled
    fi
  )
}
