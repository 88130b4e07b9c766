# Lines of ssh_config(5) for the machines of a stream, so that `ssh web-1` just works:
#
#   jq -r -f examples/ssh-config.jq machines.json > ~/.ssh/machines.config
#   jq -r -f examples/known-hosts.jq machines.json > ~/.ssh/machines.known_hosts
#
# and, once, as the first line of ~/.ssh/config:
#
#   Include machines.config
#
# The host keys are those of the records, under the machine's name: an address that is used again
# for another machine is no surprise, and nothing is taken on trust.
select(.ssh.host) | (.name // "machine") as $name |
"Host \($name)",
"  HostName \(.ssh.host)",
"  Port \(.ssh.port // 22)",
"  User \(.ssh.user // "root")",
"  HostKeyAlias \($name)",
"  UserKnownHostsFile ~/.ssh/machines.known_hosts",
"  StrictHostKeyChecking yes",
(.ssh.jump // empty | "  ProxyJump \(.)"),
(.keyPair.privateKeyFile // empty | "  IdentityFile \"\(.)\"", "  IdentitiesOnly yes")
