//! One SSH connection over OpenSSH's own client, with the user's configuration.
//!
//! One `ssh` makes the connection and shares it (`ControlMaster`) with one more for each command.
//! It is a connection of our own: whatever the user's configuration shares was checked against
//! other host keys than the pinned ones, and would prove nothing of a new login.

use crate::Address;
use crate::channel::Wire;
use crate::complaint::complaint;
use crate::host_key::{Unmet, meet, mismatch};
use crate::session::{Connection, Opening, ask_after};
use crate::stderr::Stderr;
use anyhow::{Context, Result};
use machine_record::{Failure, Kind, WithHint, WithKind};
use scratch::Scratch;
use std::cell::RefCell;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

mod channel;
mod scratch;

/// Runs on the machine for as long as this program lives, and then ends the connection with it.
const HOLD: &str = "exec /bin/sh -c 'read -r _'";

/// What a login and its channels share.
pub(crate) struct Link {
    program: PathBuf,
    address: Address,
    scratch: Scratch,
    master: RefCell<Child>,
    stderr: Stderr,
}

/// See [`crate::Session::connect`].
pub(crate) fn connect(program: &Path, address: &Address, timeout: Duration) -> Result<Rc<Link>> {
    if let Some(file) = &address.private_key {
        std::fs::File::open(file)
            .with_context(|| format!("cannot read the private key {}", file.display()))
            .with_kind(Kind::Input)
            .with_hint(crate::NO_KEY)?;
    }
    let mut again = false;
    meet(&address.host_keys, |offered| {
        // The first time the user's configuration has its say.
        let offered = std::mem::replace(&mut again, true).then(|| format!("HostKeyAlgorithms={}", offered.join(",")));
        log_in(program, address, timeout, offered)
    })
}

/// Starts the ssh that makes the connection, with an option more.
fn log_in(program: &Path, address: &Address, timeout: Duration, option: Option<String>) -> Result<Rc<Link>, Unmet> {
    let Address { host, user, .. } = address;
    let scratch = Scratch::new(address)?;
    let mut command = Command::new(program);
    command.args(options(program, address, &scratch, timeout, option)).args(["--", host, HOLD]);
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let (mut master, stderr) =
        Stderr::spawn(&mut command).map_err(|error| anyhow::Error::from(cannot_run(program, &error)))?;
    let end = Instant::now() + timeout * 3;
    while !scratch.socket().exists() {
        if master.try_wait().context("cannot wait for ssh")?.is_some() {
            let failure = complaint(&format!("cannot log in to {host} as {user}"), &stderr.take());
            return Err(match scratch.shown() {
                Some((print, kind)) if failure.kind == Kind::HostKey => {
                    Unmet { error: mismatch(host, &print, &address.host_keys).into(), shown: Some(kind) }
                }
                _ => anyhow::Error::from(failure).into(),
            });
        }
        if Instant::now() > end {
            let _ = master.kill();
            let _ = master.wait();
            let text = format!("no login to {host} within {} s", (timeout * 3).as_secs());
            return Err(anyhow::Error::from(Failure::new(Kind::Timeout, text).hint("what does `ssh -v` say?")).into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // What it said so far is no complaint of a connection that is lost later.
    stderr.take();
    let (program, address) = (program.into(), address.clone());
    Ok(Rc::new(Link { program, address, scratch, master: RefCell::new(master), stderr }))
}

/// The options that the user's configuration does not override: OpenSSH takes the first that it finds.
fn options(
    program: &Path,
    address: &Address,
    scratch: &Scratch,
    timeout: Duration,
    option: Option<String>,
) -> Vec<String> {
    let seconds = timeout.as_secs().max(1);
    let interval = ask_after(timeout);
    let mut options: Vec<String> = [
        // The pinned keys and no others.
        "StrictHostKeyChecking=yes",
        "GlobalKnownHostsFile=/dev/null",
        "NoHostAuthenticationForLocalhost=no",
        "VerifyHostKeyDNS=no",
        "CheckHostIP=no",
        "UpdateHostKeys=no",
        // No questions, and nothing beside what is asked for.
        "BatchMode=yes",
        "LogLevel=INFO",
        "ClearAllForwardings=yes",
        "ForwardAgent=no",
        "ForwardX11=no",
        "PermitLocalCommand=no",
        "RemoteCommand=none",
        "RequestTTY=no",
        "ConnectionAttempts=1",
        "ControlMaster=yes",
        "ControlPersist=no",
    ]
    .map(String::from)
    .to_vec();
    options.extend(scratch.options());
    options.extend(option);
    options.push(format!("ConnectTimeout={seconds}"));
    options.push(format!("ServerAliveInterval={interval}"));
    options.push(format!("ServerAliveCountMax={}", seconds.div_ceil(interval)));
    if let Some(jump) = &address.jump {
        options.push(format!("ProxyCommand={}", jump.proxy_command(program, timeout)));
    }
    let mut words: Vec<String> = options.into_iter().flat_map(|option| ["-o".into(), option]).collect();
    words.extend(["-l".into(), address.user.clone(), "-p".into(), address.port.to_string()]);
    words
}

/// What a command takes: its channel, and itself.
const ROUND_TRIPS: u64 = 2;

impl Connection for Rc<Link> {
    fn open(&self, command: &str, _: bool) -> Result<(Box<dyn Wire>, u64)> {
        let child = Command::new(&self.program)
            // Should the connection be gone, this one must not make another.
            .args(["-F", "none", "-o", "ProxyCommand=exit 1", "-o", "BatchMode=yes", "-T", "-S"])
            .arg(self.scratch.socket())
            .args(["--", &self.address.host, command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| cannot_run(&self.program, &error))?;
        Ok((Box::new(channel::Stream::new(self.clone(), child)?), ROUND_TRIPS))
    }

    fn begin(&self, _: &str) -> Option<Box<dyn Opening>> {
        None
    }

    fn round_trip(&self) -> Option<Duration> {
        None
    }
}

impl Link {
    /// The exit status of a command by that of its ssh; -1 if a signal ended it.
    ///
    /// # Errors
    /// Kinds `timeout` and `unreachable` where it was the connection that ended.
    fn status(&self, status: ExitStatus) -> Result<i32> {
        match status.code() {
            Some(255) | None if UnixStream::connect(self.scratch.socket()).is_err() => Err(self.lost()),
            Some(255) | None => Ok(-1),
            Some(code) => Ok(code),
        }
    }

    /// The failure of a command that hears no more, over a connection that lives.
    fn broken(&self) -> anyhow::Error {
        let text = format!("the connection to {} was lost: its command takes no more input", self.address.host);
        Failure::new(Kind::Unreachable, text).hint("run the pipe again: what has arrived stays").into()
    }

    /// The failure behind the end of the connection.
    fn lost(&self) -> anyhow::Error {
        let mut master = self.master.borrow_mut();
        let end = Instant::now() + Duration::from_millis(500);
        while matches!(master.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        let host = &self.address.host;
        let failure = complaint(&format!("the connection to {host} was lost"), &self.stderr.take());
        match failure.kind {
            Kind::Timeout => failure.hint("look at the machine's console and network, then run the pipe again"),
            _ => Failure { kind: Kind::Unreachable, ..failure }.hint("run the pipe again: what has arrived stays"),
        }
        .into()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let master = self.master.get_mut();
        let _ = master.kill();
        let _ = master.wait();
    }
}

fn cannot_run(program: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Kind::Input, format!("cannot run {}: {error}", program.display()))
        .hint("--ssh names OpenSSH's client, such as ssh")
}
