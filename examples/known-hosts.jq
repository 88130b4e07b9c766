# Lines of a known hosts file (sshd(8)) for the machines of a stream: see ssh-config.jq. A
# fingerprint is not enough for one; ec2-up writes whole keys.
(.name // "machine") as $name | .ssh.hostKeys[]? | select(startswith("SHA256:") | not) | "\($name) \(.)"
