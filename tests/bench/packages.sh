#!/bin/bash
# Makes a closure of real packages in two versions, as a Nix expression over their files.
#
#   packages.sh FOLDER
#
# FOLDER/closure.nix takes `rev`: 1 is the older version of every package, 2 the newer. FOLDER/pairs
# names them. Debian 12's packages; where a version is gone, the oldest and the newest that there are.
set -euo pipefail
out=$1
rm -rf "$out"
mkdir -p "$out"
cd "$out"

# fetch PACKAGE VERSION FOLDER: from what was fetched before, if it was
fetch() {
    local deb
    deb=$(ls debs/"$1"_"${2//:/%3a}"_*.deb 2>/dev/null) ||
        { download "$1=$2" && deb=$(ls debs/"$1"_"${2//:/%3a}"_*.deb); } || return
    dpkg -x "$deb" "$3"
}
download() { (cd debs && apt-get download -qq -o APT::Sandbox::User=root "$@" 2>/dev/null); }

make() { # NAME FOLDER
    # What Nix takes in a name has no epoch and no tilde.
    local name=${1#*:}
    printf 'make "%s" %s' "${name//[^0-9a-zA-Z+._-]/.}" "$2"
}

mkdir debs
wish=$(cat <<'PAIRS'
libc6 2.36-9+deb12u7 2.36-9+deb12u14
openssh-client 1:9.2p1-2+deb12u9 1:9.2p1-2+deb12u10
libssl3 3.0.20-1~deb12u2 3.0.22-1~deb12u2
python3.11-minimal 3.11.2-6+deb12u8 3.11.2-6+deb12u9
libpython3.11-stdlib 3.11.2-6+deb12u8 3.11.2-6+deb12u9
systemd 252.38-1~deb12u1 252.39-1~deb12u2
git 1:2.39.5-0+deb12u2 1:2.39.5-0+deb12u3
libcurl4 7.88.1-10+deb12u5 7.88.1-10+deb12u15
PAIRS
)
# All at once is quickest; it gives none where one is gone.
# shellcheck disable=SC2046  # packages are words
download $(awk '{ print $1 "=" $2, $1 "=" $3 }' <<<"$wish") || true

{
    echo '{ rev }:'
    echo 'let'
    echo '  make = name: files: derivation {'
    echo '    inherit name; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin";'
    # shellcheck disable=SC2016  # for Nix
    echo '    args = [ "-c" "cp -r ${files} $out" ];'
    echo '  };'
    echo '  all = ['
    while read -r package old new; do
        if ! fetch "$package" "$old" "$package-old" || ! fetch "$package" "$new" "$package-new"; then
            versions=$(apt-cache madison "$package" | awk '$2 == "|" { print $3 }' | sort -uV)
            old=$(head -n 1 <<<"$versions") new=$(tail -n 1 <<<"$versions")
            rm -rf "$package"-{old,new}
            if [ "$old" = "$new" ] || ! fetch "$package" "$old" "$package-old" || ! fetch "$package" "$new" "$package-new"; then
                echo "packages: no two versions of $package" >&2
                continue
            fi
        fi
        echo "$package $old $new" >> pairs
        printf '    (if rev == 1 then %s else %s)\n' "$(make "$package-${old#*:}" "./$package-old")" "$(make "$package-${new#*:}" "./$package-new")"
    done
    echo '  ];'
    echo 'in derivation {'
    echo '  name = "nixos-system-update"; inherit all; system = builtins.currentSystem; builder = "/bin/sh";'
    # shellcheck disable=SC2016
    echo '  args = [ "-c" "echo $all > $out" ];'
    echo '}'
} > closure.nix <<<"$wish"
rm -r debs
