# Builder of the tools: copies programs and files of the Debian root into $out.
#   debian    the Debian root
#   programs  names in its usr/bin or usr/sbin
#   files     FROM=TO pairs: a path in the root, a path in $out
#   links     NAME=PROGRAM pairs for $out/bin
set -eu

if [ ! -d "$debian/usr/bin" ]; then
    echo "cannot make $name: $debian is not there (tests/cloud/image.sh makes it; machines get their tools with the image)" >&2
    exit 1
fi
PATH=$debian/usr/bin
mkdir -p "$out/bin"

for program in $programs; do
    from=$debian/usr/bin/$program
    [ -e "$from" ] || [ -L "$from" ] || from=$debian/usr/sbin/$program
    if [ -L "$from" ]; then
        # Several names of one program, such as nix-store: the other must be in the list too.
        target=$(readlink "$from")
        ln -s "${target##*/}" "$out/bin/$program"
    else
        cp "$from" "$out/bin/$program"
    fi
done
for pair in $links; do
    ln -s "${pair#*=}" "$out/bin/${pair%%=*}"
done
for pair in $files; do
    to=$out/${pair#*=}
    mkdir -p "${to%/*}"
    cp -RL "$debian/${pair%%=*}" "$to"
done

for program in "$out"/bin/*; do
    if [ -n "$programs" ] && [ ! -e "$program" ]; then
        echo "cannot make $name: $program points at nothing" >&2
        exit 1
    fi
done
eval "${extra:-}"
