# setup-users.sh USERS GROUPS: writes /etc/passwd, /etc/group and /etc/shadow from
#   USERS   name:uid:group:home:mode or nothing:shell:password hash:description
#   GROUPS  name:gid:members with commas
# Ids left open are kept from the files that are there, else the next free one
# is taken (NixOS: from 1000 for normal users, below for others). Passwords set
# on the machine stay. Sourced by the activation script's shell.
setup_users() {
    local users=$1 groups=$2
    local name id group home mode shell password description members line
    local -A uids=() gids=() taken_uids=() taken_gids=() hashes=() group_ids=()

    while IFS=: read -r name _ id _; do uids[$name]=$id; taken_uids[$id]=1; done < <(cat /etc/passwd 2>/dev/null)
    while IFS=: read -r name _ id _; do gids[$name]=$id; taken_gids[$id]=1; done < <(cat /etc/group 2>/dev/null)
    while IFS=: read -r name password _; do hashes[$name]=$password; done < <(cat /etc/shadow 2>/dev/null)
    while IFS=: read -r _ id _; do if [ -n "$id" ]; then taken_uids[$id]=1; fi; done < "$users"
    while IFS=: read -r _ id _; do if [ -n "$id" ]; then taken_gids[$id]=1; fi; done < "$groups"

    free() { # MAP FROM: the first free id
        local -n map=$1
        id=$2
        while [ -n "${map[$id]-}" ]; do id=$((id + 1)); done
        map[$id]=1
    }

    umask 077
    while IFS=: read -r name id members; do
        id=${id:-${gids[$name]-}}
        if [ -z "$id" ]; then free taken_gids 400; fi
        group_ids[$name]=$id
        echo "$name:x:$id:$members"
    done < "$groups" > /etc/group.tmp
    while IFS=: read -r name id group home mode shell password description; do
        id=${id:-${uids[$name]-}}
        if [ -z "$id" ]; then
            if [ "$group" = users ]; then free taken_uids 1000; else free taken_uids 400; fi
        fi
        if [ -z "${group_ids[$group]-}" ]; then
            echo "user $name is of the group $group, which does not exist" >&2
            umask 022
            return 1
        fi
        echo "$name:x:$id:${group_ids[$group]}:$description:$home:$shell"
        echo "$name:${password:-${hashes[$name]:-!}}:1::::::" >&3
        if [ -n "$mode" ] && [ ! -e "$home" ]; then
            install -d -m "$mode" -o "$id" -g "${group_ids[$group]}" "$home"
        fi
    done < "$users" > /etc/passwd.tmp 3> /etc/shadow.tmp || return 1
    umask 022
    chmod 644 /etc/passwd.tmp /etc/group.tmp
    mv /etc/group.tmp /etc/group && mv /etc/passwd.tmp /etc/passwd && mv /etc/shadow.tmp /etc/shadow
}
