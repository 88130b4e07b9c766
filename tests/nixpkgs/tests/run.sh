#!/bin/sh
# Checks of the small <nixpkgs>: each is a sentence, a Nix expression and what must come out of it.
# Usage: run.sh [WORD]   only sentences that hold WORD
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
only=${1-}
export NIX_PATH="nixpkgs=$root"
NIX_CONFIG=$(printf 'sandbox = false\nsubstituters =\nbuild-users-group =\nexperimental-features = nix-command flakes')
export NIX_CONFIG
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
checks=0 failures=0

prelude='
  let
    lib = import <nixpkgs/lib>;
    inherit (lib) mkOption types mkIf mkMerge mkDefault mkForce mkOverride mkBefore mkAfter;
    inherit (lib.types) str int bool listOf attrsOf submodule;
    option = type: mkOption { inherit type; };
    eval = modules: (lib.evalModules { inherit modules; }).config;
    of = type: value: (eval [ { options.x = option type; config.x = value; } ]).x;
    nixos = module: (import <nixpkgs/nixos> { configuration = { imports = [ module <nixpkgs/nixos/modules/virtualisation/amazon-image.nix> ]; }; }).config;
  in'

wanted() { case $1 in *"$only"*) checks=$((checks + 1)) ;; *) return 1 ;; esac; }
bad() { # sentence, what came
    failures=$((failures + 1))
    printf 'FAILED: %s\n%s\n\n' "$1" "$2"
}
run() { nix-instantiate --eval --strict --json "$@" 2> "$work/stderr"; }

value() { # sentence expression json
    wanted "$1" || return 0
    got=$(run -E "$prelude $2") || { bad "$1" "$(cat "$work/stderr")"; return 0; }
    [ "$got" = "$3" ] || bad "$1" "  wanted $3
  got    $got"
}
fails() { # sentence expression part-of-message...
    wanted "$1" || return 0
    sentence=$1
    if got=$(run -E "$prelude $2"); then bad "$sentence" "  no error, but $got"; return 0; fi
    shift 2
    for part; do
        grep -qF -- "$part" "$work/stderr" || bad "$sentence" "  not in the message: $part
$(cat "$work/stderr")"
    done
}

# shellcheck source=/dev/null
for file in "$here"/*.test.sh; do . "$file"; done
echo "$checks checks, $failures failed"
[ "$failures" = 0 ]
