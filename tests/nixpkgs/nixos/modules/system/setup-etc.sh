# setup-etc.sh ETC: makes /etc what the tree ETC says (config/etc.nix): links
# through /etc/static, copies of the files that have a mode, and nothing that an
# earlier system had put there. Sourced by the activation script's shell.
setup_etc() {
    local tree=$1 name target mode user group
    local -A copies=() links=()

    ln -sfn "$tree" /etc/.static.tmp && mv -T /etc/.static.tmp /etc/static || return 1

    while IFS= read -r name; do links[$name]=1; done < <(find /etc -type l -lname '/etc/static/*' -printf '%P\n')
    while IFS= read -r name; do
        case $name in *.mode | *.uid | *.gid) if [ -e "$tree/${name%.*}" ]; then continue; fi ;; esac
        target=/etc/$name
        if [[ $name == */* ]] && [ ! -d "${target%/*}" ]; then
            mkdir -p "${target%/*}"
        fi
        if [ -d "$target" ] && [ ! -L "$target" ]; then
            echo "warning: $target is a directory, so it is not replaced by a file" >&2
            continue
        fi
        mode=symlink
        if [ -e "$tree/$name.mode" ]; then read -r mode < "$tree/$name.mode"; fi
        case $mode in
        symlink)
            # Most links are right already.
            if [ -n "${links[$name]-}" ] && [ "$target" -ef "/etc/static/$name" ]; then continue; fi
            ln -sfn "/etc/static/$name" "$target.tmp"
            ;;
        direct-symlink) ln -sfn "$(readlink -f "$tree/$name")" "$target.tmp" ;;
        *)
            read -r user < "$tree/$name.uid"
            read -r group < "$tree/$name.gid"
            install -m "$mode" -o "${user#+}" -g "${group#+}" "$tree/$name" "$target.tmp" || return 1
            copies[$name]=1
            ;;
        esac
        mv -T "$target.tmp" "$target" || return 1
    done < <(find "$tree" -mindepth 1 ! -type d -printf '%P\n')

    # Links of earlier systems lead nowhere now; copies are on a list.
    find /etc -xtype l -lname '/etc/static/*' -printf 'removing obsolete symlink ‘%p’...\n' -delete
    if [ -e /etc/.clean ]; then
        while IFS= read -r name; do
            if [ -z "${copies[$name]-}" ] && [ ! -L "/etc/$name" ]; then
                echo "removing obsolete file ‘/etc/$name’..."
                rm -f "/etc/$name"
            fi
        done < /etc/.clean
    fi
    printf '%s\n' "${!copies[@]}" | sed '/^$/d' > /etc/.clean
    touch /etc/NIXOS
}
