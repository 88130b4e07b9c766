# Looking: what a switch would do, what is on the machine. Nothing is written.

# What switch-to-configuration would do, and what the systems differ in.
dry() {
  look
  wished
  tell
  compare_secrets
  if is_done; then
    if [ -z "$differs" ] && ! still_to_boot; then fact stage unchanged; return; fi
    system=$running
    fact matches yes
  fi
  tell_secrets
  if ! nix-store --check-validity "$toplevel" 2>/dev/null; then fact stage absent; return; fi
  check
  tell_reasons "$system"
  difference "$running" "$system"
  if [ "$action" != boot ]; then
    says=$("$system/bin/switch-to-configuration" dry-activate 2>&1 </dev/null)
    ended=$?
    [ -z "$says" ] || printf '%s\n' "$says" | sed 's/^/says=/'
    case $ended:$(reboot_reasons "$system" | paste -sd' ') in
      # What only a reboot may change is told of already.
      0:* | 100:* | 1:*inhibitors*) ;;
      *) fact vetoed "$ended $system $(printf '%s\n' "$says" | tail -n 3 | paste -sd' ')" ;;
    esac
    new_units "$running" "$system"
  fi
  fact stage dry
}

# Units that start with a target that is active: switch-to-configuration starts the target again,
# and does not name them.
new_units() {
  for link in "$2"/etc/systemd/system/*.target.wants/* "$2"/etc/systemd/system/*.target.requires/*; do
    [ -L "$link" ] && [ ! -L "$1/${link#"$2"/}" ] || continue
    folder=${link%/*}
    folder=${folder##*/}
    if systemctl -q is-active "${folder%.*}" && ! systemctl -q is-active "${link##*/}"; then fact starts "${link##*/}"; fi
  done
}

tell_reasons() { for part in $(reboot_reasons "$1"); do fact reboot-for "$part"; done; }

# Store paths that one of two systems needs and the other does not: `path=- PATH`, `path=+ PATH`,
# and then a line of `size` for each, in bytes of NAR.
difference() {
  [ "$1" != "$2" ] || return 0
  lines=$({ nix-store -qR "$1" | sed 's/^/- /'; nix-store -qR "$2" | sed 's/^/+ /'; } | sort -k 2 | uniq -u -f 1)
  printf '%s\n' "$lines" | sed 's/^/path=/'
  printf '%s\n' "$lines" | cut -d' ' -f2 | xargs nix-store -q --size | sed 's/^/size=/'
}

# Numbers of the wished secrets that are missing or differ, and names of those that would go.
tell_secrets() {
  [ -n "$secrets_dir" ] || return 0
  keys_in "$secrets_dir"
  for n in $missing; do fact secret-create "$n"; done
  for n in $changed; do fact secret-update "$n"; done
  for n in $restart; do fact secret-restart "$n"; done
  for file in "$ours"/set/* "$ours"/set/.[!.]* "$ours"/set/..?*; do
    [ -f "$file" ] || continue
    wanted=
    secret() { [ "$2" != "${file##*/}" ] || wanted=1; }
    eval "$secrets"
    [ -n "$wanted" ] || fact secret-delete "$(printf %s "${file##*/}" | tr '\n' '?')"
  done
}

status() {
  tell
  fact booted "$(target /run/booted-system)"
  tell_reasons "$running"
  compare_secrets
  tell_secrets
  if [ -n "$toplevel" ]; then
    wished
    if is_done; then fact matches yes; else fact matches no; fi
  fi
  # While a deployment is under way nothing was cut short.
  if [ -e "$dir/vars" ]; then
    fact deployment "$(. "$dir/vars" && stage && echo "$toplevel, $now"), $(cat "$dir/owner")"
  else
    cut_short
  fi
  if [ -e "$run/last/outcome" ]; then fact last "$(. "$run/last/vars" && echo "$toplevel: $(cat "$run/last/outcome")")"; fi
  fact stage status
}
cut_short() {
  if leftover; then fact left "units to start: $(cat /run/nixos/*-list | sort -u | tr '\n' ' ')"; fi
  [ ! -e "$pending" ] || fact left "a commit of $(sed -n 1p "$pending") that was cut short"
  if unsettled_keys; then fact left 'secrets that were not confirmed'; fi
}
