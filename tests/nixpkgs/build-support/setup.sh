# What every builder does: run buildCommand, or else unpack, build and install in NixOS's order of phases.
export HOME=/homeless-shelter
for output in ${outputs:-out}; do : "${!output:?}"; done
[ -z "${NIX_BUILD_TOP-}" ] || cd "$NIX_BUILD_TOP"

if [ -n "${buildCommandPath-}" ]; then
    . "$buildCommandPath"
elif [ -n "${buildCommand-}" ]; then
    eval "$buildCommand"
else
    if [ -n "${src-}" ]; then
        if [ -d "$src" ]; then
            cp -r "$src" source
            chmod -R u+w source
            cd source
        elif [ -z "${dontUnpack-}" ]; then
            echo "cannot unpack $src: only folders are unpacked here; set dontUnpack and write an installPhase" >&2
            exit 1
        fi
    fi
    for phase in "${patchPhase-}" "${configurePhase-}" "${buildPhase-}" "${checkPhase-}" \
        "${installPhase:?the package has neither buildCommand nor installPhase}" "${fixupPhase-}"; do
        eval "$phase"
    done
fi
