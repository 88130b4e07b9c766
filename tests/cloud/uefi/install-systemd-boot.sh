#! @bash@/bin/bash
# install-systemd-boot.sh TOPLEVEL: writes an entry of systemd-boot for each generation of the system and of other
# profiles, makes TOPLEVEL's the default, and keeps the kernels that they need on /boot, as NixOS's
# systemd-boot-builder.py does (nixpkgs: nixos/modules/system/boot/loader/systemd-boot/). Each file is replaced whole.
set -eu
PATH=@path@
wished=$(readlink -f "$1")
shopt -s nullglob
mkdir -p /boot/loader/entries /boot/EFI/nixos

whole() { # FILE: stdin becomes its content
    cat > "$1.tmp"
    sync "$1.tmp"
    mv "$1.tmp" "$1"
}

# Puts a file of the store where the firmware can read it: `place`.
to_boot() {
    local name=${1#/nix/store/}
    place=/EFI/nixos/${name%%/*}-${name##*/}.efi
    [ -e "/boot$place" ] || whole "/boot$place" < "$1"
}

names='' files='' default=
for link in /nix/var/nix/profiles/system-*-link /nix/var/nix/profiles/system-profiles/*-link; do
    toplevel=$(readlink -f "$link")
    [ -e "$toplevel/kernel" ] || continue
    number=${link%-link}
    profile=${number##*/}
    number=${number##*-}
    profile=${profile%-"$number"}
    case $link in */system-profiles/*) name=nixos-$profile-generation-$number.conf ;; *) name=nixos-generation-$number.conf ;; esac
    to_boot "$(readlink -f "$toplevel/kernel")"
    kernel=$place
    to_boot "$(readlink -f "$toplevel/initrd")"
    printf '%s\n' "title NixOS" "sort-key nixos" "version Generation $number" "linux $kernel" "initrd $place" \
        "options init=$toplevel/init $(cat "$toplevel/kernel-params")" | whole "/boot/loader/entries/$name"
    names="$names $name " files="$files $kernel  $place "
    [ "$toplevel" != "$wished" ] || default=$name
done
# As there, a system that no generation is stays without an entry.
[ -z "$default" ] || printf '%s\n' "timeout 0" "default $default" "console-mode keep" | whole /boot/loader/loader.conf

for file in /boot/loader/entries/nixos-*.conf; do
    case $names in *" ${file##*/} "*) ;; *) rm "$file" ;; esac
done
for file in /boot/EFI/nixos/*; do
    case $files in *" ${file#/boot} "*) ;; *) rm "$file" ;; esac
done
