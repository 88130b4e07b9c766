#!/bin/bash
# shellcheck disable=SC2154,SC1007
# The two ends of scripts/bench-copy, to be sourced: chroots with a Nix and a store each, in network
# namespaces of their own, joined by link.c.
#
# Wants $project, $work (a folder that stays) and $suite; gives near, remote, shape, store, make_ends, end_ends.
#
#   near COMMAND...          runs on the source
#   remote N COMMAND         runs on destination N over OpenSSH
#   shape ROUND-TRIP RATE    sets the link, in ms and Mbit/s
#   store N STATE            gives destination N the saved store STATE, as it was

near_root=$work/near/root here=nixpipe-near there=nixpipe-far link=

# A root of Debian with the newest Nix that it has; with the one of the local cloud's image where
# the suite cannot be had.
debian() {
    local apt=$work/apt mirror packages
    root=$work/debian-$suite
    if [ ! -e "$root/done" ]; then
        mkdir -p "$apt"/{lists,archives}/partial "$root"
        : > "$apt/status"
        mirror=$(apt-get indextargets --format '$(SITE)' | grep -v security | head -n 1)
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" > "$apt/sources.list"
        printf '%s\n' "Dir::Etc::sourcelist \"$apt/sources.list\";" 'Dir::Etc::sourceparts "/dev/null";' "Dir::State \"$apt\";" \
            "Dir::State::lists \"$apt/lists\";" "Dir::State::status \"$apt/status\";" "Dir::Cache \"$apt\";" \
            'APT::Sandbox::User "root";' > "$apt/apt.conf"
        packages="nix-bin openssh-server openssh-client zstd dash bash coreutils base-files base-passwd sqlite3 findutils
            grep sed util-linux libc-bin procps libssl3t64 zlib1g libgcc-s1"
        # shellcheck disable=SC2086  # packages are words
        if APT_CONFIG=$apt/apt.conf apt-get update -qq >&2 &&
            APT_CONFIG=$apt/apt.conf apt-get install -y -qq --download-only --no-install-recommends $packages >&2; then
            for folder in bin sbin lib lib64; do mkdir -p "$root/usr/$folder"; ln -sfn usr/$folder "$root/$folder"; done
            for package in "$apt"/archives/*.deb; do dpkg -x "$package" "$root"; done
            touch "$root/done"
        fi
    fi
    [ -e "$root/done" ] || root=/var/lib/nixpipe-cloud/debian
    [ -x $root/usr/bin/nix-store ] || { echo "bench: no Nix in $root: run scripts/local-cloud up first" >&2; exit 1; }
}

# chroot_of ROOT UPPER: a root of our own over that of Debian
chroot_of() {
    mkdir -p "$1" "$2"/{upper,work}
    mount -t overlay -o "lowerdir=$root,upperdir=$2/upper,workdir=$2/work" bench "$1"
    mkdir -p "$1"/{nix,proc,dev,tmp,bench,run/sshd,root/.ssh,etc/nix,etc/ssh,usr/local/bin,var/tmp}
    chmod 1777 "$1/tmp" "$1/var/tmp"
    mount -t proc proc "$1/proc"
    mount --rbind --make-rslave /dev "$1/dev"
    printf 'root:x:0:0:root:/root:/bin/sh\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n' > "$1/etc/passwd"
    printf 'root:x:0:\nnogroup:x:65534:\n' > "$1/etc/group"
    printf 'root:*:19000:0:99999:7:::\n' > "$1/etc/shadow"
    printf 'sandbox = false\nbuild-users-group =\nsubstituters =\nexperimental-features = nix-command\nfsync-metadata = false\n' > "$1/etc/nix/nix.conf"
    chmod 700 "$1/root" "$1/root/.ssh"
    chown -R 0:0 "$1/root"
    chroot "$1" /usr/sbin/ldconfig
}

# make_ends COUNT: the source, and so many destinations at 10.9.0.2 and on, with stores in memory
make_ends() {
    local name far at
    debian
    mkdir -p "$work/memory" "$work/near/nix"
    cc -O2 -pthread -o "$work/link" "$project/tests/bench/link.c"
    for name in $here $there; do
        ip netns add $name
        ip -n $name link set lo up
        # What Linux has with 1 GiB of memory and more.
        nsenter --net=/var/run/netns/$name sysctl -qw net.ipv4.tcp_rmem="4096 131072 6291456" net.ipv4.tcp_wmem="4096 16384 4194304"
    done
    mount -t tmpfs -o size=80% bench "$work/memory"
    chroot_of "$near_root" "$work/memory/near"
    mount --bind "$work/near/nix" "$near_root/nix"
    mkdir -p "$near_root/bench"
    mkdir -p "$work/near/bench"
    mount --bind "$work/near/bench" "$near_root/bench"
    [ -f "$work/near/bench/id" ] || ssh-keygen -q -t ed25519 -N '' -f "$work/near/bench/id"
    [ -f "$work/host" ] || ssh-keygen -q -t ed25519 -N '' -f "$work/host"
    host_key=$(cut -d' ' -f1,2 "$work/host.pub")
    : > "$near_root/root/.ssh/known_hosts"
    printf 'Host *\n  IdentityFile /bench/id\n  StrictHostKeyChecking yes\n  LogLevel ERROR\n' > "$near_root/root/.ssh/config"
    for at in $(seq "$1"); do
        far=$work/far$at
        chroot_of "$far" "$work/memory/far$at"
        printf 'ListenAddress 10.9.0.%s\nPermitRootLogin prohibit-password\nUsePAM no\nPidFile /run/sshd.pid\nMaxStartups 100\n' \
            $((at + 1)) > "$far/etc/ssh/bench"
        cp "$work/host" "$far/etc/ssh/ssh_host_ed25519_key"
        cp "$work/near/bench/id.pub" "$far/root/.ssh/authorized_keys"
        chmod 600 "$far/root/.ssh/authorized_keys" "$far/etc/ssh/ssh_host_ed25519_key"
        echo "10.9.0.$((at + 1)) $host_key" >> "$near_root/root/.ssh/known_hosts"
        printf '{"name":"far%s","ssh":{"host":"10.9.0.%s","hostKeys":["%s"]},"keyPair":{"name":"bench","publicKey":"%s","privateKeyFile":"/bench/id","algorithm":"ed25519"}}\n' \
            "$at" $((at + 1)) "$host_key" "$(cut -d' ' -f1,2 "$work/near/bench/id.pub")" > "$work/near/bench/far$at.json"
    done
    mkdir -p "$work/memory/states/empty"
    mount --bind "$work/memory/states/empty" "$work/far1/nix"
    chroot "$work/far1" nix-store --init
    umount "$work/far1/nix"
    shape 0 0
    for at in $(seq "$1"); do
        store "$at" empty
        nsenter --net=/var/run/netns/$there chroot "$work/far$at" /usr/sbin/sshd -f /etc/ssh/bench
    done
    for _ in $(seq 100); do remote "$1" true 2>/dev/null && break; sleep 0.1; done
}

# end_ends: takes all of it away again
end_ends() {
    local pid
    [ -z "$link" ] || kill "$link" 2>/dev/null || true
    for pid in "$work"/far*/run/sshd.pid; do [ ! -s "$pid" ] || kill "$(cat "$pid")" 2>/dev/null || true; done
    # The deepest first.
    awk -v work="$work/" 'index($2, work) == 1 { print $2 }' /proc/self/mounts | sort -r | while read -r mount; do umount -l "$mount" || true; done
    ip netns delete $here 2>/dev/null || true
    ip netns delete $there 2>/dev/null || true
}

near() { nsenter --net=/var/run/netns/$here chroot "$near_root" /usr/bin/env -i HOME=/root PATH=/usr/local/bin:/usr/bin:/usr/sbin "$@"; }
remote() { local at=$1; shift; near ssh "root@10.9.0.$((at + 1))" "$@"; }

shape() { # ROUND-TRIP RATE
    local at
    [ -z "$link" ] || { kill "$link"; wait "$link" 2>/dev/null || true; }
    "$work/link" $here $there "$1" "$2" & link=$!
    for _ in $(seq 100); do ip -n $there link show link0 >/dev/null 2>&1 && break; sleep 0.05; done
    ip -n $here address add 10.9.0.1/24 dev link0
    for at in $(seq 11); do ip -n $there address add 10.9.0.$((at + 1))/24 dev link0; done
    ip -n $here link set link0 up txqueuelen 10000
    ip -n $there link set link0 up txqueuelen 10000
    # Linux's own choice, whatever the one of this kernel.
    ip -n $here route replace 10.9.0.0/24 dev link0 congctl cubic
    ip -n $there route replace 10.9.0.0/24 dev link0 congctl cubic
}

store() { # N STATE: a copy whose store has the same files by link: Nix writes to none that is there
    local far=$work/far$1 layer=$work/memory/layer$1 state=$work/memory/states/$2
    while mountpoint -q "$far/nix"; do umount -l "$far/nix"; done
    rm -rf "$layer"
    mkdir -p "$layer"
    # No overlay: it would make an import take two fifths more, which no machine's does.
    cp -al "$state/store" "$layer/store"
    cp -a "$state/var" "$layer/var"
    mount --bind "$layer" "$far/nix"
    rm -f "$far/run/current-system"
    [ ! -e "$work/memory/states/$2.system" ] || ln -s "$(cat "$work/memory/states/$2.system")" "$far/run/current-system"
}

save() { # STATE SYSTEM: keeps the store of destination 1, which runs SYSTEM
    rm -rf "$work/memory/states/$1"
    cp -a "$work/far1/nix" "$work/memory/states/$1"
    echo "$2" > "$work/memory/states/$1.system"
}

# What the source has sent so far, in bytes of IP packets.
sent() { near cat /proc/net/dev | awk '/link0:/ { sub(/.*:/, ""); print $9 }'; }
