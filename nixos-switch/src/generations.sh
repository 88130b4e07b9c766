# The generations of the system profile: listed, and the old ones deleted.

numbers() {
  for link in "$profile"-*-link; do
    [ ! -L "$link" ] || { n=${link#"$profile"-} && echo "${n%-link}"; }
  done | sort -n
}

# A line for each: number, time, path, version, kernel, specialisations, with tabs between.
generations() {
  tell
  fact booted "$(target /run/booted-system)"
  for n in $(numbers); do
    link=$profile-$n-link
    path=$(readlink "$link")
    kernel=$(cd "$path/kernel-modules/lib/modules" 2>/dev/null && echo *)
    fact is "$(printf '%s\t' "$n" "$(date -u -d "@$(stat -c %Y "$link")" +%FT%TZ)" "$path" \
      "$(cat "$path/nixos-version" 2>/dev/null)" "$kernel" "$(ls "$path/specialisation" 2>/dev/null | tr '\n' ' ')")"
  done
  fact stage listed
}

# Deletes all generations but the newest $keep_generations; never the profile's, the one before it,
# or one that runs, was booted, boots, or ran before the last deployment. Then the boot menu is
# written anew, without what is no longer there, and garbage is collected.
tidy() {
  [ -n "$keep_generations" ] && [ "$action" != test ] || return 0
  lock "$lock_timeout" || { fact warning 'no generations were deleted: another deployment is under way'; return; }
  find_deployment
  if [ -e "$dir" ] || [ -e "$pending" ]; then fact warning 'no generations were deleted: another deployment is under way'; return; fi
  look
  booted=$(target /run/booted-system)
  before=$([ ! -e "$run/last/vars" ] || { . "$run/last/vars" && echo "$previous"; })
  current=${number%-link}
  ranks=0 neighbour='' old=''
  for n in $(numbers | sort -rn); do
    ranks=$((ranks + 1))
    [ $ranks -gt "$keep_generations" ] || { [ "$n" -ge "$current" ] || neighbour=${neighbour:-$n}; continue; }
    [ "$n" != "$current" ] || continue
    if [ "$n" -lt "$current" ] && [ -z "$neighbour" ]; then neighbour=$n; continue; fi
    path=$(target "$profile-$n-link")
    for kept in "$running" "$booted" "$entry" "$before"; do
      if [ "$path" = "$kept" ] || is_specialisation "$path" "$kept"; then continue 2; fi
    done
    old="$old $n"
  done
  if [ -z "$old" ]; then unlock; return; fi
  # shellcheck disable=SC2086
  nix-env -p "$profile" --delete-generations $old >/dev/null 2>&1 9>&- &&
    "$in_profile/bin/switch-to-configuration" boot >/dev/null 2>&1 9>&-
  status=$?
  unlock
  if [ $status != 0 ]; then fact warning 'old generations were not all deleted: the boot menu could not be written'; return; fi
  fact deleted "$old"
  fact freed "$(nix-store --gc 2>/dev/null | tail -n 1)"
}
