# Puts what comes on two channels behind each other again (lanes.rs); $folder is theirs.
#
# A line `FROM BYTES` says that so many follow, and a line end: on this channel, 0, or on the other, which
# comes by a pipe, 4. What ends before its time ends all: never does anything come behind a gap.
merge() {
    made=
    # Without it all comes on this channel, and nothing is said of that.
    if mkdir -m 700 "$folder" 2>/dev/null && made=$folder && mkfifo "$folder/new"; then
        # Both ends open it so that they do not wait for the other one, and hear when the other is gone.
        exec 3<>"$folder/new" 4<"$folder/new" 3<&-
        mv "$folder/new" "$folder/pipe"
    fi
    while read -r from bytes && head -c "$bytes" <&"$from" && read -r _ <&"$from"; do :; done
    [ -z "$made" ] || rm -rf "$made"
}
