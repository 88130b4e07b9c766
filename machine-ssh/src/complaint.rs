//! What OpenSSH's client complains of, as one of our kinds of failure.
//!
//! It has one exit status for everything, 255, and no codes; its words are not translated.

use machine_record::{Failure, Kind};

/// What tells the kinds apart (OpenSSH `sshconnect.c`, `sshconnect2.c`, `clientloop.c`,
/// `readconf.c`, and the words of the C library for what the network says). The first that
/// is said decides: a lost connection is what follows from most of them.
const WORDS: [(&str, Kind); 14] = [
    ("Host key verification failed", Kind::HostKey),
    ("host key is known for", Kind::HostKey),
    ("no matching host key type found", Kind::HostKey),
    ("Permission denied", Kind::Denied),
    ("Too many authentication failures", Kind::Denied),
    ("administratively prohibited", Kind::Denied),
    ("timed out", Kind::Timeout),
    ("Timeout, server", Kind::Timeout),
    ("Bad configuration option", Kind::Input),
    ("terminating, ", Kind::Input),
    ("Bad owner or permissions", Kind::Input),
    ("Bad stdio forwarding", Kind::Input),
    ("illegal option", Kind::Input),
    ("unknown option", Kind::Input),
];

const FOLLOWING: [&str; 2] = ["kex_exchange_identification", "Connection closed by UNKNOWN"];

/// The failure behind what was said on stderr; `what` says what failed.
pub(crate) fn complaint(what: &str, said: &str) -> Failure {
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let known = lines.iter().find_map(|line| {
        let (_, kind) = WORDS.iter().find(|(words, _)| line.contains(words))?;
        Some((*line, *kind))
    });
    // What follows from the end of a ProxyCommand says less than its own words.
    let tells = |line: &&&str| !FOLLOWING.iter().any(|words| line.starts_with(words));
    let last = lines.iter().rev().find(tells).or(lines.last()).unwrap_or(&"ssh ended without a word");
    let (line, kind) = known.unwrap_or((last, Kind::Unreachable));
    let hint = match kind {
        Kind::HostKey => "the keys in the record are the machine's; those of a jump host are in your known_hosts",
        Kind::Denied => {
            "the machine takes the key pair that it was launched with; a jump host, what ssh_config and the ssh-agent have for it"
        }
        Kind::Input => "look at your ssh_config",
        _ => "is the machine running, and does its security group let this address in?",
    };
    Failure::new(kind, format!("{what}: {}", line.trim_end_matches('.'))).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart_by_what_is_said() {
        for (said, kind) in [
            (
                "No ED25519 host key is known for web-1 and you have requested strict checking.\r\nHost key verification failed.\r\n",
                Kind::HostKey,
            ),
            (
                "Unable to negotiate with 127.0.0.1 port 22: no matching host key type found. Their offer: ssh-ed25519",
                Kind::HostKey,
            ),
            ("root@127.0.0.1: Permission denied (publickey).\r\n", Kind::Denied),
            ("ssh: connect to host 192.0.2.1 port 22: Connection timed out", Kind::Timeout),
            (
                "Connection timed out during banner exchange\r\nConnection to 127.0.0.1 port 1 timed out\r\n",
                Kind::Timeout,
            ),
            ("Timeout, server 127.0.0.1 not responding.\r\n", Kind::Timeout),
            ("ssh: connect to host 127.0.0.1 port 1: Connection refused", Kind::Unreachable),
            ("ssh: Could not resolve hostname nowhere: Name or service not known", Kind::Unreachable),
            ("Connection to 127.0.0.1 closed by remote host.", Kind::Unreachable),
            (
                "/root/.ssh/config: line 1: Bad configuration option: nonsense\r\n/root/.ssh/config: terminating, 1 bad configuration options",
                Kind::Input,
            ),
            ("me@bastion: Permission denied (publickey).\r\nConnection closed by UNKNOWN port 65535\r\n", Kind::Denied),
            (
                "channel 0: open failed: connect failed: Connection timed out\r\nstdio forwarding failed\r\n",
                Kind::Timeout,
            ),
            ("", Kind::Unreachable),
        ] {
            assert_eq!(complaint("cannot", said).kind, kind, "{said}");
        }
        let failure = complaint(
            "cannot",
            "sh: 1: nc: not found\nkex_exchange_identification: x\nConnection closed by UNKNOWN port 65535",
        );
        assert_eq!(failure.message, "cannot: sh: 1: nc: not found");
        let failure = complaint("cannot log in", "first\nssh: connect to host h port 1: Connection refused\n");
        assert_eq!(failure.message, "cannot log in: ssh: connect to host h port 1: Connection refused");
    }
}
