# Secrets: a set of files that changes as a whole. Session and jobs share this.
#
# The folder $keys, /run/keys or that of --secrets-dir, holds
#   NAME                 for each secret a link to .nixpipe/set/NAME
#   .nixpipe/set         a link to the set that counts: by one rename all secrets change
#   .nixpipe/TOKEN/      a set, root's alone until it counts; its files are those that we put there
#   .nixpipe/before      a link to the set that counted before, until the new one is confirmed
#   .nixpipe/committing  the same while profile and boot entry are written, for the system
#   .nixpipe/system      that this links to
# What the secrets shall be comes as lines `secret INDEX NAME MODE OWNER GROUP UNITS`.

keys_in() { keys=$1 ours=$1/.nixpipe; }

# All folders that secrets were ever kept in, and today's; those of --secrets-dir are noted, a line each.
noted=/var/lib/nixpipe/secrets-dirs
# shellcheck disable=SC2086  # it has no white space
keys_folders() {
  [ ! -e "$noted" ] || cat "$noted"
  echo /run/keys /var/keys $secrets_dir
}
note_folder() {
  case $keys in /run/keys | /var/keys) return ;; esac
  keep_folder && { grep -qxF "$keys" "$noted" 2>/dev/null || { printf '%s\n' "$keys" >>"$noted" && sync "$noted"; }; }
}

# Who may read a file, last of all: until then it is root's. False if there is no such user yet.
own() { chown "$3:$4" "$1" 2>/dev/null && chmod "$2" "$1"; }

is_ours() {
  [ -L "$1" ] || return 1
  case $(readlink "$1") in .nixpipe/set/*) ;; *) return 1 ;; esac
}

# Makes set $1 the one that counts, or none.
count_as() {
  if [ -d "$ours/$1" ]; then
    chgrp keys "$ours/$1" && chmod 750 "$ours/$1"
    for file in "$ours/$1"/* "$ours/$1"/.[!.]* "$ours/$1"/..?*; do
      [ ! -f "$file" ] || is_ours "$keys/${file##*/}" || ln -s ".nixpipe/set/${file##*/}" "$keys/${file##*/}"
    done
    sync -f "$ours/$1"
    ln -sfn "$1" "$ours/set.new" && mv -T "$ours/set.new" "$ours/set"
  else
    rm -f "$ours/set"
  fi
  for file in "$keys"/* "$keys"/.[!.]* "$keys"/..?*; do
    if is_ours "$file" && [ ! -e "$file" ]; then rm -f "$file"; fi
  done
  sync -f "$keys"
}

# Puts the set that the session has received in place, and keeps the one before.
place_secrets() {
  [ -d "$ours/$token" ] || return 0
  [ "$(readlink "$ours/set")" != "$token" ] || return 0
  ln -sfn "$toplevel" "$ours/system"
  [ -L "$ours/before" ] || ln -s "$(readlink "$ours/set" || echo none)" "$ours/before"
  count_as "$token"
}

# The set before counts again.
put_secrets_back() {
  for link in committing before; do
    if [ -L "$ours/$link" ]; then count_as "$(readlink "$ours/$link")" && rm -f "$ours/$link"; fi
  done
  rm -f "$ours/system"
  clear_sets
}

# The new set stays.
keep_secrets() {
  rm -f "$ours/before" "$ours/committing" "$ours/system"
  clear_sets
}
clear_sets() {
  for file in "$ours"/*; do
    [ -L "$file" ] || [ ! -d "$file" ] || [ "$file" -ef "$ours/set" ] || rm -rf "$file"
  done
}

# What a crash left: what was not confirmed goes back, what was goes with its system. A commit that was cut short is undone
# where its system does not run, whatever the profile is.
settle_secrets() {
  if [ -L "$ours/committing" ] && [ "$(target "$profile")" = "$(readlink "$ours/system")" ] &&
    { [ ! -e "$pending" ] || runs "$ours/system"; }; then keep_secrets; fi
  if unsettled_secrets; then put_secrets_back; else clear_sets; fi
}
unsettled_secrets() { [ -L "$ours/before" ] || [ -L "$ours/committing" ]; }
