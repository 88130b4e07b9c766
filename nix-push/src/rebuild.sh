#!/bin/sh
# Runs on the machine: makes the stream of the serve protocol from blocks of differences (delta.rs).
#
# A block is a line `OLD NEW` and NEW bytes: a frame of zstd whose reference is the next OLD bytes of
# the older versions, as they come out of the store. The first holds the requests that bring them out.
# The files have no name for longer than a moment: nothing is left behind, however this ends.
folder=$(mktemp -d /var/tmp/nix-push.XXXXXX) || exit
exec 3<&0 4<>"$folder/requests" 5<>"$folder/reference"
rm -r "$folder"
read -r _ new && head -c "$new" | zstd -dqc >&4 || exit
nix-store --serve </proc/self/fd/4 | {
    # The answer to the greeting.
    head -c 16 >/proc/self/fd/5
    while read -r old new <&3; do
        if [ "$old" = 0 ]; then
            head -c "$new" <&3 | zstd -dqc || exit
        else
            head -c "$old" >/proc/self/fd/5
            head -c "$new" <&3 | zstd -dqc --long=27 --patch-from=/proc/self/fd/5 || exit
        fi
    done
}
