# The key pair goes to root, once: who changes the file later keeps the change.
if [ ! -e /root/.ssh/authorized_keys ] && [ -s /etc/ec2-metadata/public-keys-0-openssh-key ]; then
    echo "obtaining SSH key..."
    mkdir -p /root/.ssh
    chmod 0700 /root/.ssh
    (umask 077 && cat /etc/ec2-metadata/public-keys-0-openssh-key >> /root/.ssh/authorized_keys)
fi

# A host key in the user data (its line breaks written as |) becomes the machine's, if it has none yet.
data=/etc/ec2-metadata/user-data
if [ -s "$data" ]; then
    key=$(sed -n 's/^SSH_HOST_ED25519_KEY://p' "$data" | tr '|' '\n')
    public=$(sed -n 's/^SSH_HOST_ED25519_KEY_PUB://p' "$data")
    if [ -n "$key" ] && [ -n "$public" ] && [ ! -e /etc/ssh/ssh_host_ed25519_key ]; then
        mkdir -p /etc/ssh
        (umask 077 && printf '%s\n' "$key" > /etc/ssh/ssh_host_ed25519_key)
        printf '%s\n' "$public" > /etc/ssh/ssh_host_ed25519_key.pub
    fi
fi
