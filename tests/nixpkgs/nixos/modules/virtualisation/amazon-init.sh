# A script is run; lines with host keys and comments are not for here; anything else would be a configuration for
# nixos-rebuild, which needs a channel.
data=/etc/ec2-metadata/user-data
if [ ! -s "$data" ]; then
    echo "no user data"
elif [ "$(head -c 2 "$data")" = '#!' ]; then
    echo "user data is a script: running it"
    install -m 0700 "$data" /run/user-data-script
    exec /run/user-data-script
elif grep -q -v -e '^#' -e '^SSH_HOST_' -e '^[[:space:]]*$' "$data"; then
    mkdir -p /etc/nixos
    cp "$data" /etc/nixos/configuration.nix
    echo "user data is a NixOS configuration: it is in /etc/nixos/configuration.nix, but this machine has no nixos-rebuild" >&2
    exit 1
fi
