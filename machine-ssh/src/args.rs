//! The flags of a login, shared by the tools that log in.

use crate::elevate::{Elevation, Password};
use clap::{Args, ValueEnum};
use machine_record::{Failure, Kind};
use rustix::fs::{FlockOperation, flock};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The longest password that is read, in bytes: sudo takes no longer one.
const LONGEST: usize = 255;

/// Flags of every tool that logs in to machines.
#[derive(Args, Clone, Debug, Default)]
pub struct LoginArgs {
    /// Connect with OpenSSH's client, such as ssh, and all of its configuration [default: libssh2]
    #[arg(long, value_name = "PROGRAM", hide_short_help = true)]
    ssh: Option<PathBuf>,

    /// Become root on the machine, where the login is not root's
    #[arg(long, value_enum, default_value_t = Elevate::None, hide_short_help = true)]
    elevate: Elevate,

    /// Ask at the terminal for the password that sudo may want
    #[arg(long, hide_short_help = true)]
    ask_elevate_password: bool,

    /// Read that password from a file descriptor, up to the first line's end
    #[arg(long, value_name = "FD", conflicts_with = "ask_elevate_password", value_parser = clap::value_parser!(u32).range(3..), hide_short_help = true)]
    elevate_password_fd: Option<u32>,

    #[arg(skip)]
    password: OnceLock<Option<Password>>,
}

/// The ways to become root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Elevate {
    /// Log in as root
    #[default]
    None,
    /// With sudo
    Sudo,
    /// With doas, without a password
    Doas,
}

impl LoginArgs {
    /// Reads the password, if there is to be one: once, before any machine is worked on.
    ///
    /// # Errors
    /// Kind `input`: wrong usage.
    pub fn prepare(&self, tool: &str) -> Result<(), Failure> {
        let password = match (self.elevate_password_fd, self.ask_elevate_password) {
            (None, false) => None,
            _ if self.elevate != Elevate::Sudo => {
                return Err(Failure::new(Kind::Input, "a password is for --elevate sudo alone")
                    .hint("doas takes one from a terminal only"));
            }
            (Some(fd), _) => Some(read(fd)?),
            (None, true) => Some(ask(tool)?),
        };
        let _ = self.password.set(password);
        Ok(())
    }

    pub(crate) fn program(&self) -> Option<&Path> {
        self.ssh.as_deref()
    }

    pub(crate) fn elevation(&self) -> Elevation {
        match self.elevate {
            Elevate::None => Elevation::None,
            Elevate::Sudo => Elevation::Sudo(self.password.get().cloned().flatten()),
            Elevate::Doas => Elevation::Doas,
        }
    }
}

fn read(fd: u32) -> Result<Password, Failure> {
    let cannot = |error: String| {
        Failure::new(Kind::Input, format!("cannot read a password from descriptor {fd}: {error}"))
            .hint(format!("the shell opens it: --elevate-password-fd {fd} {fd}< FILE, or {fd}< <(COMMAND)"))
    };
    let mut file = File::open(format!("/dev/fd/{fd}")).map_err(|error| cannot(error.to_string()))?;
    let mut password = Vec::new();
    let mut byte = [0];
    // Byte by byte: what follows may be for others.
    while file.read(&mut byte).map_err(|error| cannot(error.to_string()))? > 0 && byte != *b"\n" {
        password.push(byte[0]);
    }
    checked(password).map_err(|what| cannot(what.into()))
}

/// Asks without showing what is typed.
fn ask(tool: &str) -> Result<Password, Failure> {
    let cannot = |error: String| {
        Failure::new(Kind::Input, format!("cannot ask for a password: {error}"))
            .hint("without a terminal: --elevate-password-fd")
    };
    let io = |error: std::io::Error| cannot(error.to_string());
    let mut terminal = File::options().read(true).write(true).open("/dev/tty").map_err(io)?;
    // Tools of one pipe ask one after the other, and nobody redraws a line meanwhile: that takes the same lock, which is by the
    // terminal's own name (one on /dev/tty is for all terminals).
    let named = || File::options().write(true).open("/proc/self/fd/2");
    let held = match std::io::stderr().is_terminal().then(named) {
        Some(Ok(held)) => held,
        // After `su` it is another user's.
        _ => terminal.try_clone().map_err(io)?,
    };
    flock(&held, FlockOperation::LockExclusive).map_err(|error| io(error.into()))?;
    let before = tcgetattr(&terminal).map_err(|error| io(error.into()))?;
    let mut quiet = before.clone();
    // Ctrl-C comes as a byte, so that the terminal is left as it was.
    quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
    tcsetattr(&terminal, OptionalActions::Flush, &quiet).map_err(|error| io(error.into()))?;
    let typed = terminal.write_all(format!("{tool}: password for sudo on the machines: ").as_bytes());
    let typed = typed.and_then(|()| type_in(&mut terminal));
    let _ = tcsetattr(&terminal, OptionalActions::Flush, &before);
    let _ = terminal.write_all(b"\r\n");
    checked(typed.map_err(io)?).map_err(|what| cannot(what.into()))
}

/// What is typed up to Enter, with the keys that a line usually has.
fn type_in(terminal: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut typed = Vec::new();
    let mut byte = [0];
    loop {
        if terminal.read(&mut byte)? == 0 {
            return Ok(typed);
        }
        match byte[0] {
            b'\r' | b'\n' | 0x04 => return Ok(typed),
            0x03 => return Err(std::io::Error::from(std::io::ErrorKind::Interrupted)),
            0x08 | 0x7f => drop(typed.pop()),
            0x15 => typed.clear(),
            other => typed.push(other),
        }
    }
}

fn checked(password: Vec<u8>) -> Result<Password, &'static str> {
    match password.len() {
        0 => Err("it is empty"),
        1..=LONGEST => Ok(Password(password)),
        _ => Err("it is longer than 255 bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_can_be_corrected_and_given_up() {
        let typed = |keys: &[u8]| type_in(&mut &keys[..]);
        assert_eq!(typed(b"secret\nrest").unwrap(), b"secret");
        assert_eq!(typed(b"wrong\x15sx\x7fecret\r").unwrap(), b"secret");
        assert!(typed(b"sec\x03").is_err());
        assert!(checked(Vec::new()).is_err() && checked(vec![b'x'; 256]).is_err());
    }

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(format!("{:?}", Elevation::Sudo(Some(Password(b"secret".to_vec())))), "Sudo(Some(Password))");
    }
}
