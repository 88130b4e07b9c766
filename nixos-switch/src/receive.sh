# Secrets, as the session compares and receives them. Beside `secrets` come their sizes and
# SHA-256 digests as `sums`; they are for this session alone.

# Size and digest of secret number $1.
sum() {
  n=$1
  # shellcheck disable=SC2086
  set -- $sums
  shift $((n * 2))
  size=$1 digest=$2
}

# Compares what is wished with what is there: `missing` and `changed` are numbers, `send` those to
# be sent, `restart` the units that it concerns; `differs` is set if anything is to be done.
compare_secrets() {
  send='' differs='' restart='' missing='' changed='' present=0 found=0
  [ -n "$secrets_dir" ] || return 0
  keys_in "$secrets_dir"
  ! unsettled_secrets || differs=1
  secret() { compare_one "$@"; }
  eval "$secrets"
  for file in "$ours"/set/* "$ours"/set/.[!.]* "$ours"/set/..?*; do
    [ ! -f "$file" ] || found=$((found + 1))
  done
  [ "$found" = "$present" ] || differs=1
}
compare_one() {
  file=$ours/set/$2
  sum "$1"
  if [ ! -f "$file" ]; then
    missing="$missing $1" send="$send $1"
  else
    present=$((present + 1))
    if [ "$(sha256sum <"$file")" != "$digest  -" ]; then send="$send $1"
    elif [ "$keys/$2" -ef "$file" ] && is_owned "$file" "$3" "$4" "$5"; then return 0; fi
  fi
  [ ! -f "$file" ] || changed="$changed $1"
  differs=1 restart="$restart $6"
}
is_owned() {
  stat -c '%a %U %u %G %g' "$1" | {
    read -r bits user uid group gid
    [ "$bits" = "$2" ] && { [ "$user" = "$3" ] || [ "$uid" = "$3" ]; } && { [ "$group" = "$4" ] || [ "$gid" = "$4" ]; }
  }
}

# Asks for what is to be sent, and puts the whole set together. Nothing counts yet.
receive_secrets() {
  secret() { check_one "$@"; }
  eval "$secrets"
  # It is closed to all but root and the group keys.
  if [ "$keys" != /run/keys ] && [ -d "$keys" ] && [ ! -e "$ours" ] && [ -n "$(ls -A "$keys")" ] &&
    [ "$(stat -c %G "$keys")" != keys ]; then
    fail conflict "$keys is there already, and is no folder for secrets" \
      'choose one that is not there, is empty, or belongs to the group keys'
  fi
  (umask 027 && mkdir -p "$keys") && chgrp keys "$keys" && chmod 750 "$keys" && (umask 027 && mkdir -p "$ours") &&
    chgrp keys "$ours" || fail input "cannot keep secrets in $keys" 'is there a group keys? NixOS has one'
  clear_sets
  note_folder && (umask 077 && mkdir "$ours/$token") || fail internal "cannot make a set of secrets in $ours" 'is there space left?'
  fact send "$send"
  secret() { receive_one "$@"; }
  eval "$secrets"
  exec 7<&-
}
check_one() {
  [ -e "$keys/$2" ] || [ -L "$keys/$2" ] || return 0
  ! is_ours "$keys/$2" || return 0
  fact secret "$1"
  fail conflict "a secret's name is taken in $keys, by a file that nixos-switch did not put there" \
    'remove that file, or name the secret otherwise'
}
# 0400 and root's from the first byte; created, never opened.
receive_one() {
  sum "$1"
  file=$ours/$token/$2
  case " $send " in
    *" $1 "*) (umask 0377 && set -C && timeout 300 head -c "$size" <&7 >"$file") ;;
    *) (umask 0377 && set -C && cat <"$ours/set/$2" >"$file") ;;
  esac
  if [ "$(sha256sum <"$file")" != "$digest  -" ]; then
    rm -rf "${ours:?}/$token"
    fail copy "the secrets did not arrive whole in $keys" 'run it again; is there space left?'
  fi
  # Its user may be one that only the new system has.
  own "$file" "$3" "$4" "$5" || :
}

# After a reboot the secrets in memory are gone: they are asked for again, while it still boots.
refill_secrets() {
  [ -n "$secrets_dir" ] || return 0
  lock 60
  compare_secrets
  if [ -n "$send" ]; then
    receive_secrets
    # For the next login, if the connection is lost before these have started.
    echo "$restart" >"$dir/refilled"
    place_secrets
  fi
  unlock
}
# What started without them has another chance before anybody judges: what has failed, and the units $1.
start_refilled() {
  # shellcheck disable=SC2046,SC2086  # names of units
  for unit in $({ failed_units | cut -d' ' -f1; printf '%s\n' $1; } | sort -u); do
    systemctl restart "$unit" 2>/dev/null || :
  done
}
