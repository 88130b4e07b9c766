# What is built, with the tools of ../pkgs (their source is made by tests/cloud/image.sh).
builds() { # sentence expression script: runs with $out, must succeed
    wanted "$1" || return 0
    out=$(nix-build --no-out-link -E "$prelude $2" 2> "$work/stderr") || { bad "$1" "$(tail -n 20 "$work/stderr")"; return 0; }
    export out
    said=$(sh -eux -c "$3" 2>&1) || bad "$1" "$(printf %s "$said" | tail -n 5 | tail -c 2000)"
}
breaks() { # sentence expression part-of-message
    wanted "$1" || return 0
    if nix-build --no-out-link -E "$prelude $2" > "$work/stdout" 2> "$work/stderr"; then bad "$1" "  it was built"; return 0; fi
    grep -qF -- "$3" "$work/stderr" || bad "$1" "  not in the message: $3
$(tail -n 20 "$work/stderr")"
}

builds 'a file of /etc with a mode has its owner beside it' \
    '(nixos { environment.etc."a/b" = { text = "x"; mode = "0640"; group = "keys"; }; environment.etc.c.text = "y"; }).system.build.etc' \
    '[ "$(cat $out/etc/a/b $out/etc/a/b.mode $out/etc/a/b.uid $out/etc/a/b.gid)" = "x0640
+0
keys" ] && [ -L $out/etc/c ] && [ "$(cat $out/etc/c)" = y ]'
builds 'units are linked where they are wanted' \
    '(nixos { systemd.services.a = { wantedBy = [ "multi-user.target" ]; requiredBy = [ "b.service" ]; aliases = [ "z.service" ]; }; systemd.services.off = { enable = false; wantedBy = [ "multi-user.target" ]; }; }).system.build.units' \
    'cd $out; [ multi-user.target.wants/a.service -ef a.service ]; [ b.service.requires/a.service -ef a.service ]; [ z.service -ef a.service ]
     [ "$(readlink -f off.service)" = /dev/null ]; [ ! -e multi-user.target.wants/off.service ]'
builds 'settings for a unit of a package are an addition to it' \
    '(nixos ({ pkgs, ... }: { systemd.packages = [ (pkgs.writeTextDir "lib/systemd/system/p.service" "[Service]\nExecStart=/x\n") ]; systemd.services.p.serviceConfig.Nice = 5; })).system.build.units' \
    'grep -q ExecStart=/x $out/p.service; grep -q Nice=5 $out/p.service.d/overrides.conf'
builds 'of two packages with one file the first is taken' \
    'let pkgs = import <nixpkgs> { }; in pkgs.buildEnv { name = "e"; paths = [ (pkgs.writeTextDir "bin/a" "1") (pkgs.writeTextDir "bin/a" "2") (pkgs.writeTextDir "bin/b" "3") ]; }' \
    '[ "$(cat $out/bin/a $out/bin/b)" = 13 ]'
builds 'a package is built from a folder in phases' \
    'let pkgs = import <nixpkgs> { }; in pkgs.stdenv.mkDerivation { pname = "p"; version = "1"; src = <nixpkgs/nixos/lib>; installPhase = "mkdir $out; cp utils.nix $out"; }' \
    '[ -s $out/utils.nix ]'
builds 'a closure has its size, and about a third of it cannot be compressed' \
    '(import <nixpkgs> { }).linkFarm "c" (lib.imap0 (i: p: { name = toString i; path = p; }) (nixos { nixpipe.closure = { paths = 40; megabytes = 20; }; }).system.extraDependencies)' \
    'all() { find -L $out -type f -exec cat {} +; }
     size=$(all | wc -c); part=$(($(all | gzip | wc -c) * 100 / size)); [ "$size" -gt 19000000 ]; [ "$size" -lt 21000000 ]; [ $part -ge 35 ]; [ $part -lt 50 ]'
breaks 'a misspelt setting of sshd stops the build' \
    '(nixos { services.openssh.settings.PermitRotLogin = "yes"; }).environment.etc."ssh/sshd_config".source' 'Bad configuration option: PermitRotLogin'
breaks 'two files with one name in /etc stop the build' \
    '(nixos { environment.etc.a.text = "1"; environment.etc.b = { target = "a"; text = "2"; }; }).system.build.etc' 'duplicate entry a in environment.etc'
