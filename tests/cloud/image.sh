#!/bin/sh
# image.sh: makes the image of the local cloud's machines, unless it is there.
#
#   /var/lib/nixpipe-cloud/debian   programs and libraries, unpacked from Debian packages
#   /var/lib/nixpipe-cloud/image    the root file system of a machine, see image/root.sh
#
# Both carry a stamp: a digest of what they were made from. Must run as root, on
# Debian 12, whose packages (from the mirror that apt is set up with) they are.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
cloud=${NIXPIPE_CLOUD:-/var/lib/nixpipe-cloud}
nixpkgs=$repository/tests/nixpkgs

say() { echo "image: $*" >&2; }
fail() { say "$*"; exit 1; }
# Of paths in the repository, so that every clone of it finds the same image current.
digest() { (cd "$repository" && find "$@" -type f ! -path '*/tests/*.md' -print0 | sort -z | xargs -0 sha256sum) | sha256sum | cut -d ' ' -f 1; }
is_current() { [ "$(cat "$cloud/$1.stamp" 2>/dev/null)" = "$2" ] && [ -d "$cloud/$1" ]; }

debian_stamp=$(digest tests/nixpkgs/pkgs/debian.txt)
image_stamp=$(digest tests/nixpkgs/.version tests/nixpkgs/default.nix tests/nixpkgs/build-support tests/nixpkgs/lib tests/nixpkgs/nixos tests/nixpkgs/pkgs tests/cloud/image tests/cloud/image.sh)
if is_current debian "$debian_stamp" && is_current image "$image_stamp"; then
    exit 0
fi

[ "$(id -u)" = 0 ] || fail "cannot make the image: must run as root"
grep -qs '^VERSION_ID="12"' /etc/os-release && grep -qs '^ID=debian' /etc/os-release ||
    fail "cannot make the image: it is made of Debian 12's packages, on Debian 12 (needed: mmdebstrap, nix-bin, systemd-container, iproute2)"
"$repository/scripts/install-packages" "to unpack Debian packages, build the system and run machines" mmdebstrap nix-bin systemd-container iproute2

mkdir -p "$cloud"
exec 9> "$cloud/image.lock"
flock 9
if is_current debian "$debian_stamp" && is_current image "$image_stamp"; then
    exit 0 # another run has just made it
fi
if ! is_current debian "$debian_stamp"; then
    say "unpacking Debian packages into $cloud/debian"
    rm -rf "$cloud/debian" "$cloud/debian.new" "$cloud/debian.stamp"
    # Where the host's apt gets Debian 12 from, whatever shape its lists have.
    sources=$(apt-get indextargets --format 'deb $(SITE) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' | grep -E ' bookworm[^ ]* main$' | sort -u)
    [ -n "$sources" ] || fail "cannot find a Debian 12 (bookworm) mirror among apt's sources: see /etc/apt/sources.list.d"
    packages=$(grep -v '^#' "$nixpkgs/pkgs/debian.txt" | paste -sd,)
    echo "$sources" | mmdebstrap --quiet --mode=root --variant=extract --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
        --include="$packages" bookworm "$cloud/debian.new" - > "$cloud/debian.log" 2>&1 ||
        { tail -n 20 "$cloud/debian.log" >&2; fail "cannot unpack Debian packages: see $cloud/debian.log"; }
    mv "$cloud/debian.new" "$cloud/debian"
    rm "$cloud/debian.log"
    echo "$debian_stamp" > "$cloud/debian.stamp"
fi

say "building the machines' first system"
export NIX_CONFIG="sandbox = false
substituters =
build-users-group ="
export NIX_PATH="nixpkgs=$nixpkgs"
# What is built for the image is rooted beside it.
build() { nix-build --quiet --out-link "$cloud/$1" "$here/image/system.nix" -A "$1" > /dev/null 2> "$cloud/build.log" || { tail -n 30 "$cloud/build.log" >&2; fail "cannot build the $1 of the image: see $cloud/build.log"; }; }
build system
build tools

say "making $cloud/image"
rm -rf "$cloud/image.new" "$cloud/image.stamp"
"$here/image/root.sh" "$cloud/debian" "$(readlink -f "$cloud/system")" "$(readlink -f "$cloud/tools")" "$cloud/image.new" 2> "$cloud/build.log" ||
    { tail -n 30 "$cloud/build.log" >&2; fail "cannot make $cloud/image: see $cloud/build.log"; }
# Machines that run go on with the image that they were made from, under another name.
if [ -d "$cloud/image" ]; then
    mv "$cloud/image" "$cloud/image.old.$$"
fi
mv "$cloud/image.new" "$cloud/image"
if ! [ -d "$cloud/run/machines" ] || [ -z "$(ls "$cloud/run/machines")" ]; then
    rm -rf "$cloud"/image.old.*
fi
rm -f "$cloud/build.log"
echo "$image_stamp" > "$cloud/image.stamp"
