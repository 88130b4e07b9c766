#!/bin/sh
# Runs on the machine: makes the stream of the serve protocol from blocks of differences (delta.rs).
#
# The stream begins with a line `SIZE` and so many bytes: a frame of zstd of the requests that bring the
# older versions out of the store; then a line of the sizes of all references. A block is a line
# `OLD NEW` and NEW bytes: a frame whose reference is the next OLD bytes of the older versions.
# While one block is rebuilt, the reference of the next is taken out of the store: two files in turn.
# The files have no name for longer than a moment: nothing is left behind, however this ends.
folder=$(mktemp -d /var/tmp/nix-push.XXXXXX) || exit
mkfifo "$folder/free" || exit
exec 3<&0 4<>"$folder/requests" 5<>"$folder/even" 6<>"$folder/odd"
read -r new && head -c "$new" | zstd -dqc >&4 && read -r sizes || exit
nix-store --serve </proc/self/fd/4 3<&- 4<&- 5<&- 6<&- | {
    # Opened here and below alone: who waits at one end hears when the other is gone.
    exec 7<"$folder/free"
    # The answer to the greeting.
    head -c 16 >/dev/null
    this=5 other=6
    for size in $sizes; do
        read -r _ <&7 || exit
        # As `head -c` does, with a quarter of its calls.
        dd bs=128k iflag=fullblock,count_bytes count="$size" status=none >/proc/self/fd/$this || exit
        echo $this
        next=$other other=$this this=$next
    done
    # Nobody may write to it any more once this has ended.
    while read -r _ <&7; do :; done
} 3<&- 4<&- | {
    exec 4<&0 8>"$folder/free"
    rm -r "$folder"
    printf '\n\n' >&8
    while read -r old new <&3; do
        if [ "$old" = 0 ]; then
            head -c "$new" <&3 | zstd -dqc || exit
        else
            read -r reference <&4 || exit
            head -c "$new" <&3 | zstd -dqc --long=27 --patch-from=/proc/self/fd/"$reference" || exit
            echo >&8
        fi
    done
}
