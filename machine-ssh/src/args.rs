//! The flags of a login, shared by the tools that log in.

use crate::elevate::{Elevation, Password};
use clap::{Args, ValueEnum};
use machine_record::{Failure, Kind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, fcntl_lock, flock};
use rustix::process::{Signal, getpgrp, kill_current_process_group};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The longest password that is read, in bytes: sudo takes no longer one.
const LONGEST: usize = 255;

/// How long a tool may draw while another wants to ask: a turn takes a second.
const DRAWING: Duration = Duration::from_secs(2);

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
    // By the terminal's own name: a lock on /dev/tty is for all terminals. After `su` it is another user's.
    let held = name().and_then(|name| File::options().write(true).open(name).ok());
    let held = held.map_or_else(|| terminal.try_clone(), Ok).map_err(io)?;
    // What asks in the background is stopped, before it has a lock.
    if tcgetpgrp(&terminal).is_ok_and(|front| front != getpgrp()) {
        let _ = kill_current_process_group(Signal::TTOU);
    }
    take_turn(&held).map_err(|error| io(error.into()))?;
    let before = tcgetattr(&terminal).map_err(|error| io(error.into()))?;
    let mut quiet = before.clone();
    // Ctrl-C comes as a byte, so that the terminal is left as it was.
    quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
    tcsetattr(&terminal, OptionalActions::Flush, &quiet).map_err(|error| io(error.into()))?;
    let question = format!("{tool}: password for sudo on the machines: ");
    let typed = put(&terminal, &question).and_then(|()| type_in(|| key(&terminal, &question)));
    let _ = tcsetattr(&terminal, OptionalActions::Flush, &before);
    let _ = terminal.write_all(b"\r\n");
    if typed.as_ref().is_err_and(|error| error.kind() == ErrorKind::Interrupted) {
        // For the whole pipe, as where the terminal makes a signal of it. It ends this tool, too, unless it is ignored.
        let _ = kill_current_process_group(Signal::INT);
        sleep(Duration::from_secs(1));
    }
    checked(typed.map_err(io)?).map_err(|what| cannot(what.into()))
}

/// The name of the terminal that this process belongs to, if it is one of a window or a login over the network: the others are
/// few, and /dev/tty does (proc_pid_stat(5), *tty_nr*; linux Documentation/admin-guide/devices.txt, 136 char).
fn name() -> Option<PathBuf> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let number: u32 = stat.rsplit_once(')')?.1.split_whitespace().nth(4)?.parse().ok()?;
    let (major, minor) = (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xf_ff00);
    (136..144).contains(&major).then(|| format!("/dev/pts/{}", (major - 136) * 256 + minor).into())
}

/// Waits until no other tool asks at the terminal, and none draws there.
fn take_turn(terminal: &File) -> rustix::io::Result<()> {
    // Two locks of two kinds: who asks holds its own as long as somebody thinks.
    if fcntl_lock(terminal, FlockOperation::NonBlockingLockExclusive).is_err() {
        fcntl_lock(terminal, FlockOperation::LockExclusive)?;
        // If Ctrl-C ended the tool before, this one is about to end as well.
        sleep(Duration::from_secs(1));
    }
    let began = Instant::now();
    // One that was stopped while it drew holds the lock for ever; it draws no more.
    while flock(terminal, FlockOperation::NonBlockingLockExclusive).is_err() && began.elapsed() < DRAWING {
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Writes the question in the place of what another tool may have drawn there.
fn put(mut terminal: &File, question: &str) -> std::io::Result<()> {
    let draws = std::env::var("TERM").is_ok_and(|term| term != "dumb");
    terminal.write_all(format!("\r{}{question}", if draws { "\x1b[K" } else { "" }).as_bytes())
}

/// The next key; none at the end. Until it comes, the question is written anew: another tool may have printed a line over it.
fn key(mut terminal: &File, question: &str) -> std::io::Result<Option<u8>> {
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    while let Ok(0) | Err(rustix::io::Errno::INTR) = poll(&mut [PollFd::new(&terminal, PollFlags::IN)], Some(&second)) {
        // Where it takes two rows, the second one alone could be written over.
        if tcgetwinsize(terminal).is_ok_and(|size| usize::from(size.ws_col) > question.len()) {
            put(terminal, question)?;
        }
    }
    let mut byte = [0];
    Ok((terminal.read(&mut byte)? > 0).then_some(byte[0]))
}

/// What is typed up to Enter, with the keys that a line usually has.
fn type_in(mut key: impl FnMut() -> std::io::Result<Option<u8>>) -> std::io::Result<Vec<u8>> {
    let mut typed = Vec::new();
    while let Some(key) = key()? {
        match key {
            b'\r' | b'\n' | 0x04 => break,
            0x03 => return Err(ErrorKind::Interrupted.into()),
            0x08 | 0x7f => drop(typed.pop()),
            0x15 => typed.clear(),
            other => typed.push(other),
        }
    }
    Ok(typed)
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
        let typed = |keys: &[u8]| {
            let mut keys = keys.iter().copied();
            type_in(|| Ok(keys.next()))
        };
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
