#! @bash@/bin/bash
# Puts this system (@out@) into effect. Actions, output, lists in /run/nixos, lock
# and exit codes are those of NixOS's switch-to-configuration-ng (nixpkgs:
# pkgs/by-name/sw/switch-to-configuration-ng/src/main.rs):
#   1    a pre-switch check or the boot loader failed, nothing was changed since
#   2    the activation script failed (and the rest was done all the same)
#   4    units failed (the system is switched)
#   11   another one holds the lock (EAGAIN)
#   100  PID 1 is of another interface: only the boot entry was written
#   101  whoever read the output is gone
# What it leaves out: drop-in instances of templates, and units that activation
# scripts ask for in dry-activate.
PATH=@path@
out=@out@
systemctl=@systemd@/bin/systemctl
lists=/run/nixos

say() { echo "$@" >&2; }

# NixOS's panics when it cannot write (nixpkgs#462179); systems are left half switched by it.
trap 'exit 101' PIPE

action=${1-}
case $action in
check | switch | boot | test | dry-activate) ;;
*)
    say "Usage: ${0##*/} [check|switch|boot|test|dry-activate]
check:        run pre-switch checks and exit
switch:       make the configuration the boot default and activate now
boot:         make the configuration the boot default
test:         activate the configuration, but don't make it the boot default
dry-activate: show what would be done if this configuration were activated"
    exit 1
    ;;
esac
if [ "$EUID" != 0 ]; then
    say "${0##*/} must be run as the root user"
    exit 1
fi
if [ ! -e /etc/NIXOS ] && ! grep -qs '^ID="\?@distroId@"\?$' /etc/os-release; then
    say "This is not a NixOS installation!"
    exit 1
fi
export NIXOS_ACTION=$action

mkdir -p -m 755 $lists
exec 9>$lists/switch-to-configuration.lock
if ! flock --nonblock 9; then
    say "Could not acquire lock"
    exit 11
fi

if [ "${NIXOS_NO_CHECK-}" != 1 ] && ! @preSwitchChecks@ "$out" "$action" 9>&-; then
    say "Pre-switch checks failed"
    exit 1
fi
if [ "$action" = check ]; then
    exit 0
fi

if [ "$action" = switch ] || [ "$action" = boot ]; then
    if ! @installBootLoader@ "$out" 9>&-; then
        say "Failed to install bootloader"
        exit 1
    fi
fi
if [ "${NIXOS_NO_SYNC-}" != 1 ]; then
    sync -f /nix/store
fi
if [ "$action" = boot ]; then
    exit 0
fi

if [ "$(cat /run/current-system/init-interface-version 2>/dev/null)" != "$(cat "$out/init-interface-version")" ]; then
    say "Warning: the new NixOS configuration has an ‘init’ that is
incompatible with the current configuration. The new configuration
won't take effect until you reboot the system."
    exit 100
fi

# What is to be done: sets of units. What must survive an interruption is written to a list.
declare -A stop start restart reload skip hide active
remember() { # LIST UNIT
    if [ "$action" != dry-activate ]; then
        echo "$2" >> "$lists/$1-list"
    fi
}
forget() { # LIST UNIT: an empty list stays
    if [ -e "$lists/$1-list" ]; then
        grep -vxF -- "$2" "$lists/$1-list" > "$lists/$1-list.new"
        cat "$lists/$1-list.new" > "$lists/$1-list"
        rm "$lists/$1-list.new"
    fi
}
recall() { # LIST: prints the units that an interrupted run left
    if [ -e "$lists/$1-list" ]; then
        cat "$lists/$1-list"
    fi
}
for unit in $(recall start); do start[$unit]=1; done
for unit in $(recall restart); do restart[$unit]=1; done
for unit in $(recall reload); do reload[$unit]=1; done

sorted() { # UNIT...: "a, b"
    printf '%s\n' "$@" | sort -f | sed -e ':a' -e '$!N;s/\n/, /;ta'
}
tell() { # WORDS UNIT...: one line, unless there is no unit that people should see
    local words=$1 unit shown=()
    shift
    for unit; do
        if [ -z "${hide[$unit]-}" ]; then shown+=("$unit"); fi
    done
    if [ ${#shown[@]} -gt 0 ]; then
        say "$words: $(sorted "${shown[@]}")"
    fi
}

# A unit file and its drop-ins as sorted "[section]key=value" lines, without what needs no restart.
fingerprint() { # FILE
    cat "$1" "$1".d/*.conf 2>/dev/null | awk '
        /^\[/ { section = $0; next }
        /^[ \t]*([#;]|$)/ || section == "[Install]" { next }
        section == "[Unit]" && /^(X-Reload-Triggers|Description|Documentation|OnFailure|OnSuccess|OnFailureJobMode|IgnoreOnIsolate|StopWhenUnneeded|RefuseManualStart|RefuseManualStop|AllowIsolate|CollectMode|SourcePath)[ \t]*=/ { next }
        { print section $0 }' | sort
}
value() { # FILE KEY: the last value of a key, in `found`; without a process, as it is asked for hundreds of times
    local file line
    found=
    for file in "$1" "$1".d/*.conf; do
        if [ ! -f "$file" ]; then continue; fi
        while IFS= read -r line || [ -n "$line" ]; do
            if [[ $line =~ ^"$2"[[:blank:]]*=[[:blank:]]*(.*)$ ]]; then found=${BASH_REMATCH[1]}; fi
        done < "$file"
    done
}
yes() { # FILE KEY DEFAULT
    value "$1" "$2"
    case $found in
    1 | yes | true | on) return 0 ;;
    "") [ "$3" = yes ] ;;
    *) return 1 ;;
    esac
}
gone() { # FILE: it is not there, or masked
    [ ! -e "$1" ] || [ "$1" -ef /dev/null ]
}

changed() { # UNIT NEW-FILE: decides what to do with an active unit that differs
    local unit=$1 file=$2 socket sockets activated=
    case $unit in
    sysinit.target | basic.target | multi-user.target | graphical.target | *.path | *.slice | *.socket) return ;;
    -.mount | nix.mount) reload[$unit]=1; remember reload "$unit"; return ;;
    *.mount) restart[$unit]=1; remember restart "$unit"; return ;;
    esac
    if yes "$file" X-ReloadIfChanged no; then
        reload[$unit]=1
        remember reload "$unit"
    elif ! yes "$file" X-RestartIfChanged yes || yes "$file" RefuseManualStop no || yes "$file" X-OnlyManualStart no; then
        skip[$unit]=1
    elif ! yes "$file" X-StopIfChanged yes || [[ $unit != *.service ]]; then
        restart[$unit]=1
        remember restart "$unit"
    else
        # A service that its sockets start is started again by them.
        value "$file" Sockets
        sockets=${found:-${unit%.service}.socket}
        if yes "$file" X-NotSocketActivated no; then sockets=; fi
        for socket in $sockets; do
            if [ -n "${active[$socket]-}" ]; then
                stop[$socket]=1
                if [ -e "$out/etc/systemd/system/$socket" ]; then
                    start[$socket]=1
                    remember start "$socket"
                    activated=1
                fi
            fi
        done
        if [ -z "$activated" ]; then
            start[$unit]=1
            remember start "$unit"
        fi
        stop[$unit]=1
    fi
}

compare() { # UNIT: compares an active unit with the new system's
    local unit=$1 base=$1 old new was
    old=/etc/systemd/system/$unit new=$out/etc/systemd/system/$unit
    if [[ $unit == *@?*.* ]] && [ ! -e "$old" ] && [ ! -e "$new" ]; then
        base=${unit%%@*}@.${unit##*.}
        old=/etc/systemd/system/$base new=$out/etc/systemd/system/$base
    fi
    if [[ $unit == *.target ]]; then
        # Systemd's own targets are the image's here, not the configuration's.
        if gone "$new" && [ -e "/usr/lib/systemd/system/$base" ]; then
            old=/usr/lib/systemd/system/$base new=$old
        fi
    fi
    if [ ! -e "$old" ]; then
        return
    elif gone "$new"; then
        if yes "$old" X-StopOnRemoval yes; then stop[$unit]=1; fi
    elif [[ $unit == *.target ]]; then
        # Starting every active target starts what it wants and did not want before.
        if ! yes "$new" RefuseManualStart no && ! yes "$new" X-OnlyManualStart no; then
            start[$unit]=1
            hide[$unit]=1
            remember start "$unit"
        fi
        if yes "$new" X-StopOnReconfiguration no; then stop[$unit]=1; fi
    elif [ "$old" -ef "$new" ] && [ ! -e "$old.d" ] && [ ! -e "$new.d" ]; then
        return
    elif [ "$(fingerprint "$old")" != "$(fingerprint "$new")" ]; then
        changed "$unit" "$new"
    else
        value "$old" X-Reload-Triggers
        was=$found
        value "$new" X-Reload-Triggers
        if [ "$was" != "$found" ]; then
            reload[$unit]=1
            remember reload "$unit"
        fi
    fi
}

while read -r unit _ state _; do
    active[$unit]=$state
done < <($systemctl list-units --full --plain --no-legend)
for unit in "${!active[@]}"; do
    case ${active[$unit]} in
    active | activating) compare "$unit" ;;
    esac
done

# File systems are units made of fstab by a generator: compare the two tables.
declare -A mounts
while read -r device point type options _; do
    case $device in "" | \#*) ;; *) mounts[$point]="$device $type|$options" ;; esac
done < <(cat "$out/etc/fstab" 2>/dev/null)
while read -r device point type options _; do
    case $device in "" | \#*) continue ;; esac
    if [ "$type" = swap ]; then continue; fi
    unit=$(@systemd@/bin/systemd-escape --suffix=mount -p "$point")
    was="$device $type|$options" is=${mounts[$point]-}
    if [ -z "$is" ]; then
        stop[$unit]=1
    elif [ "${was%|*}" != "${is%|*}" ]; then
        case $point in
        / | /nix) skip[$unit]=1 ;;
        *) restart[$unit]=1; remember restart "$unit" ;;
        esac
    elif [ "$was" != "$is" ]; then
        reload[$unit]=1
        remember reload "$unit"
    fi
done < <(cat /etc/fstab 2>/dev/null)

reexec=
if ! [ /proc/1/exe -ef @systemd@/lib/systemd/systemd ]; then reexec=1; fi

if [ "$action" = dry-activate ]; then
    tell "would stop the following units" "${!stop[@]}"
    tell "would NOT stop the following changed units" "${!skip[@]}"
    say "would activate the configuration..."
    "$out/dry-activate" "$out" 9>&-
    if [ -n "$reexec" ]; then say "would restart systemd"; fi
    tell "would reload the following units" "${!reload[@]}"
    tell "would restart the following units" "${!restart[@]}"
    tell "would start the following units" "${!start[@]}"
    exit 0
fi

logger -t nixos -p user.notice "switching to system configuration $out"
code=0

if [ ${#stop[@]} -gt 0 ]; then
    tell "stopping the following units" "${!stop[@]}"
    $systemctl stop -- "${!stop[@]}"
fi
tell "NOT restarting the following changed units" "${!skip[@]}"

say "activating the configuration..."
if ! "$out/activate" "$out" 9>&-; then
    say "Failed to run activate script"
    code=2
fi
# Activation scripts may ask for units, by name.
for list in restart reload; do
    if [ -e $lists/activation-$list-list ]; then
        while read -r unit; do
            if [ -z "${active[$unit]-}" ]; then
                start[$unit]=1
                remember start "$unit"
            elif [ $list = restart ]; then
                restart[$unit]=1
                remember restart "$unit"
            elif [ -z "${restart[$unit]-}${stop[$unit]-}" ]; then
                reload[$unit]=1
                remember reload "$unit"
            fi
        done < $lists/activation-$list-list
        rm $lists/activation-$list-list
    fi
done

if [ -n "$reexec" ]; then
    say "restarting systemd..."
    $systemctl daemon-reexec || code=2
fi
$systemctl reset-failed
$systemctl daemon-reload || code=4

# The managers of users who are logged in see the new units, too.
for runtime in /run/user/*/systemd; do
    if [ -e "$runtime/private" ]; then
        user=${runtime#/run/user/} user=${user%/systemd}
        name=$(id -nu "$user" 2>/dev/null) || continue
        say "reloading user units for $name..."
        XDG_RUNTIME_DIR=/run/user/$user setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups \
            $systemctl --user daemon-reload 9>&-
    fi
done

say "restarting sysinit-reactivation.target"
$systemctl restart sysinit-reactivation.target || code=4

# What was to be reloaded and has stopped meanwhile is started.
for unit in "${!reload[@]}"; do
    if ! $systemctl --quiet is-active "$unit"; then
        unset "reload[$unit]"
        forget reload "$unit"
        start[$unit]=1
        remember start "$unit"
    fi
done
if [ ${#reload[@]} -gt 0 ]; then
    tell "reloading the following units" "${!reload[@]}"
    $systemctl reload -- "${!reload[@]}" || code=4
    rm -f $lists/reload-list
fi
if [ ${#restart[@]} -gt 0 ]; then
    tell "restarting the following units" "${!restart[@]}"
    $systemctl restart -- "${!restart[@]}" || code=4
    rm -f $lists/restart-list
fi
if [ ${#start[@]} -gt 0 ]; then
    tell "starting the following units" "${!start[@]}"
    $systemctl start -- "${!start[@]}" || code=4
    rm -f $lists/start-list
fi

# What fails a moment after its start is seen, too; NixOS waits as long for quiet.
sleep 0.25
failed=() fresh=()
while read -r unit _ state substate _; do
    if [ "$state" = failed ]; then
        failed+=("$unit")
    elif [ "$substate" = auto-restart ] && [ "$($systemctl show -P ExecMainStatus "$unit")" != 0 ]; then
        failed+=("$unit")
    elif [ -z "${active[$unit]-}" ] && [[ $unit != *.scope ]]; then
        fresh+=("$unit")
    fi
done < <($systemctl list-units --full --plain --no-legend)
tell "the following new units were started" "${fresh[@]}"
if [ ${#failed[@]} -gt 0 ]; then
    tell "warning: the following units failed" "${failed[@]}"
    $systemctl status --no-pager --full -- "${failed[@]}" >&2
    code=4
fi

if [ $code = 0 ]; then
    logger -t nixos -p user.info "finished switching to system configuration $out"
else
    logger -t nixos -p user.err "switching to system configuration $out failed (status $code)"
fi
exit $code
