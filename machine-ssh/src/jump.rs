//! Jump hosts: reached by OpenSSH's own client, with the user's configuration and known hosts.

use crate::complaint::complaint;
use crate::quote;
use crate::stderr::Stderr;
use anyhow::Result;
use machine_record::{Failure, Kind};
use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// The hosts on the way to a machine, as OpenSSH's `ProxyJump` takes them:
/// `[user@]host[:port]` or `ssh://[user@]host[:port]`, with commas between, the nearest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jump(String);

impl FromStr for Jump {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Jump, Failure> {
        // They become arguments of ssh, and it makes a shell's command of some.
        let fits = |hop: &str| {
            !hop.is_empty()
                && !hop.starts_with('-')
                && hop.chars().all(|c| c.is_alphanumeric() || "._:@/[]+-".contains(c))
        };
        if text.split(',').all(fits) {
            Ok(Jump(text.into()))
        } else {
            Err(Failure::new(Kind::Input, format!("cannot use the record's `ssh.jump`: {text:?}"))
                .hint("it is [user@]host[:port], or several with commas between"))
        }
    }
}

impl fmt::Display for Jump {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Jump {
    /// The words of a command whose stdin and stdout become the connection to `target`.
    fn words(&self, program: &str, target: &str, timeout: Duration) -> Vec<String> {
        let (others, last) = self.0.rsplit_once(',').map_or((None, &*self.0), |(others, last)| (Some(others), last));
        let wait = format!("ConnectTimeout={}", timeout.as_secs().max(1));
        let mut words = [program, "-o", "BatchMode=yes", "-o", &wait].map(String::from).to_vec();
        if let Some(others) = others {
            words.extend(["-J".into(), others.into()]);
        }
        words.extend(["-W".into(), target.into(), "--".into()]);
        // A port is understood in a URI alone.
        words.push(if last.contains("://") { last.into() } else { format!("ssh://{last}") });
        words
    }

    /// The value of OpenSSH's `ProxyCommand`; `%h` and `%p` are what its configuration makes of
    /// the machine's host and port.
    pub(crate) fn proxy_command(&self, program: &Path, timeout: Duration) -> String {
        let program = program.to_string_lossy().replace('%', "%%");
        let words = self.words(&program, "[%h]:%p", timeout);
        words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
    }

    /// Starts the way to a port of the machine.
    pub(crate) fn dial(&self, host: &str, port: u16, timeout: Duration) -> Result<(OwnedFd, Way)> {
        let words = self.words("ssh", &format!("[{host}]:{port}"), timeout);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        dial_by(command).map_err(|error| {
            Failure::new(Kind::Input, format!("cannot run ssh for the jump host {self}: {error}"))
                .hint("jump hosts are reached by OpenSSH's client: install it")
                .into()
        })
    }
}

/// A command that a connection goes through; it ends with this.
pub(crate) struct Way {
    child: Child,
    stderr: Stderr,
}

/// Starts a command whose stdin and stdout become the connection.
pub(crate) fn dial_by(mut command: Command) -> std::io::Result<(OwnedFd, Way)> {
    let (ours, theirs) = UnixStream::pair()?;
    command.stdin(OwnedFd::from(theirs.try_clone()?)).stdout(OwnedFd::from(theirs));
    let (child, stderr) = Stderr::spawn(&mut command)?;
    Ok((ours.into(), Way { child, stderr }))
}

impl Way {
    /// Why it ended, if it did.
    pub(crate) fn complaint(&mut self, host: &str) -> Option<Failure> {
        // It closes its end of the socket a moment before it is gone.
        let end = Instant::now() + Duration::from_millis(200);
        while self.child.try_wait().ok()?.is_none() {
            if Instant::now() > end {
                return None;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(complaint(&format!("cannot reach {host} by way of others"), &self.stderr.take()))
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_last_hop_connects_to_the_machine() {
        let words = |jump: &str| {
            let jump: Jump = jump.parse().unwrap();
            jump.words("ssh", "[::1]:22", Duration::from_secs(7))[5..].join(" ")
        };
        assert_eq!(words("bastion"), "-W [::1]:22 -- ssh://bastion");
        assert_eq!(words("me@a:2222,b,ssh://c:1"), "-J me@a:2222,b -W [::1]:22 -- ssh://c:1");
    }

    #[test]
    fn a_way_that_says_much_stays_open() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "head -c 1000000 /dev/zero >&2; echo through; echo 'no way: Connection refused' >&2"]);
        let (socket, mut way) = dial_by(command).unwrap();
        let mut came = String::new();
        UnixStream::from(socket).read_to_string(&mut came).unwrap();
        assert_eq!(came, "through\n");
        let message = way.complaint("web-1").unwrap().message;
        assert!(message.starts_with("cannot reach web-1 by way of others: ") && message.ends_with("refused"));
    }

    #[test]
    fn no_hop_is_an_option_or_a_command() {
        for bad in ["", "a,", "-oProxyCommand=x", "a,-v", "a b", "$(x)", "a;b", "a'b", "%h"] {
            assert_eq!(bad.parse::<Jump>().unwrap_err().kind, Kind::Input, "{bad}");
        }
    }
}
