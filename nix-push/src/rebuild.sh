#!/bin/sh
# Runs on the machine: makes the stream of the serve protocol from blocks of differences (delta.rs).
#
# A block is a line `NAMES START SIZE NEW`; NAMES bytes, a frame of zstd of names; and NEW bytes, a frame of
# the block with a reference of SIZE bytes: those of all files that are named, or with a START those that
# follow there in the one. A block without names has no reference.
# While one block is rebuilt, the reference of the next is read: two files in turn.
# The files have no name for longer than a moment: nothing is left behind, however this ends.
folder=$(mktemp -d /var/tmp/nix-push.XXXXXX) && mkfifo "$folder/free" || exit
exec 5<>"$folder/even" 6<>"$folder/odd"
{
    # Opened here and below alone: who waits at one end hears when the other is gone.
    exec 7<"$folder/free"
    this=5 other=6
    while read -r names start size new; do
        if [ "$names" = 0 ]; then
            echo "0 $new"
        else
            read -r _ <&7 || exit
            # Written over: making room for it anew would take as long as writing.
            head -c "$names" | zstd -dqc | if [ "$start" = - ]; then
                xargs -0 cat
            else
                xargs -0 -I % dd if=% bs=128k iflag=skip_bytes,count_bytes skip="$start" count="$size" status=none
            fi 1<>/proc/self/fd/$this && truncate -s "$size" /proc/self/fd/$this || exit
            echo "$this $new"
            next=$other other=$this this=$next
        fi
        head -c "$new" || exit
    done
    # That was all. Nobody may write to it any more once this has ended.
    exec >&-
    while read -r _ <&7; do :; done
} | {
    exec 8>"$folder/free"
    rm -r "$folder"
    printf '\n\n' >&8
    while read -r reference new; do
        if [ "$reference" = 0 ]; then
            head -c "$new" | zstd -dqc || exit
        else
            head -c "$new" | zstd -dqc --long=27 --patch-from=/proc/self/fd/"$reference" || exit
            echo >&8
        fi
    done
}
