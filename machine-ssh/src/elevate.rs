//! Becoming root on a machine where the login is not root's.

use crate::channel::Channel;
use crate::quote;
use anyhow::Result;
use machine_record::{Failure, Kind};
use std::fmt;

/// What sudo is told to ask with, and what says that it let us in.
const PROMPT: &str = "nixpipe: password: ";
const READY: &str = "nixpipe: root\n";

/// How to become root.
#[derive(Clone, Debug, Default)]
pub enum Elevation {
    /// The login is root's
    #[default]
    None,
    /// By sudo, with a password for when it asks
    Sudo(Option<Password>),
    /// By doas, which takes a password from a terminal only
    Doas,
}

/// A password. It is shown nowhere, and goes nowhere but to the sudo that asks for it.
#[derive(Clone)]
pub struct Password(pub(crate) Vec<u8>);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Password")
    }
}

impl Elevation {
    /// False if the login is root's.
    pub fn is_needed(&self) -> bool {
        !matches!(self, Elevation::None)
    }

    /// Begins a command as root; `open` begins one as the login's user. What is written next is
    /// the command's input.
    pub(crate) fn open(&self, command: &str, open: impl FnOnce(&str) -> Result<Channel>) -> Result<Channel> {
        let (program, flags, password) = match self {
            Elevation::None => return open(command),
            Elevation::Sudo(None) => ("sudo", "-n".into(), None),
            Elevation::Sudo(Some(password)) => ("sudo", format!("-S -p {}", quote(PROMPT)), Some(password)),
            Elevation::Doas => ("doas", "-n".into(), None),
        };
        // Any login shell understands these words.
        let script = format!("echo {}; {command}", quote(READY.trim_end()));
        let mut channel = open(&format!("exec {program} {flags} /bin/sh -c {}", quote(&script)))?;
        let mut asked = false;
        loop {
            if channel.skip_to_stdout(READY) {
                return Ok(channel);
            }
            if channel.skip_to_stderr(PROMPT) {
                match password {
                    Some(Password(bytes)) if !asked => channel.write_all(&[bytes, &b"\n"[..]].concat())?,
                    // The same one would be refused again.
                    _ => channel.finish_input()?,
                }
                asked = true;
            } else if !channel.hear()? {
                return Err(refused(program, asked, &channel.take_stderr()).into());
            }
        }
    }
}

fn refused(program: &str, asked: bool, stderr: &[u8]) -> Failure {
    let said = String::from_utf8_lossy(stderr);
    let words = said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it said nothing");
    let hint = if asked {
        "is it the password of the login's user, and may that user become root?"
    } else if program == "doas" {
        "the machine must let that user in without a password (security.doas.extraRules, noPass)"
    } else if words.contains("password is required") {
        "give it one with --ask-elevate-password or --elevate-password-fd, or let that user in without (security.sudo.wheelNeedsPassword)"
    } else {
        "log in as root, or let that user become root (security.sudo)"
    };
    Failure::new(Kind::Denied, format!("cannot become root with {program}: {words}")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_become_root_hears_what_to_do() {
        for (program, asked, said, hint) in [
            (
                "sudo",
                true,
                "sudo: 1 incorrect password attempt",
                "is it the password of the login's user, and may that",
            ),
            ("doas", false, "doas: Authorization required", "the machine must let that user in without a password"),
            ("sudo", false, "sudo: a password is required", "give it one with --ask-elevate-password"),
            (
                "sudo",
                false,
                "ops is not in the sudoers file.",
                "log in as root, or let that user become root (security.sudo)",
            ),
        ] {
            let failure = refused(program, asked, format!("banner\n{said}\n\n").as_bytes());
            assert_eq!(failure.message, format!("cannot become root with {program}: {said}"));
            assert!(failure.hint.unwrap().starts_with(hint), "{said}");
        }
    }
}
