//! One SSH connection over libssh2.

use crate::channel::Wire;
use crate::jump::{Jump, Way, dial_by};
use crate::session::{Connection, Opening, ask_after};
use crate::ssh_config::{self, Configured};
use crate::{Address, host_key};
use anyhow::{Context, Result};
use machine_record::{Failure, Kind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use ssh2::{BlockDirections, ErrorCode, MethodType};
use std::cell::{Cell, RefCell};
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

mod channel;
mod ciphers;
mod login;
mod opening;

/// The shortest silence that is an end: libssh2 asks for a sign of life every two seconds at most.
const SILENCE: Duration = Duration::from_secs(4);

/// `LIBSSH2_ERROR_*` of libssh2.h.
const EAGAIN: ErrorCode = ErrorCode::Session(-37);
const TIMED_OUT: ErrorCode = ErrorCode::Session(-9);

/// What a login and its channels share.
pub(crate) struct Link {
    ssh: ssh2::Session,
    socket: Socket,
    host: String,
    silence: Duration,
    /// The shortest time in which it has answered a request for a channel or a command
    answered: Cell<Option<Duration>>,
    /// A channel that was asked for ahead
    spare: RefCell<Option<opening::Asked>>,
}

/// See [`crate::Session::connect`].
pub(crate) fn connect(address: &Address, timeout: Duration) -> Result<Rc<Link>> {
    let Address { host, port, user, jump, host_keys, .. } = address;
    let configured = ssh_config::of(Path::new("ssh"), host, Some(user), Some(*port))?;
    let (ssh, socket) = host_key::meet(host_keys, |offered| {
        let (ssh, socket) = shake_hands(dial(&configured, jump.as_ref(), timeout)?, host, offered, timeout)?;
        host_key::check(&host_key::shown(&ssh, host)?, host_keys, host)?;
        Ok((ssh, socket))
    })?;
    login::log_in(&ssh, address, &configured.agent())?;
    let (host, silence) = (host.clone(), timeout.max(SILENCE));
    ssh.set_keepalive(true, ask_after(silence) as u32);
    ssh.set_blocking(false);
    Ok(Rc::new(Link { ssh, socket, host, silence, answered: Cell::default(), spare: RefCell::default() }))
}

impl Connection for Rc<Link> {
    fn open(&self, command: &str, mut ahead: bool) -> Result<(Box<dyn Wire>, u64)> {
        // One for the channel, one for the command.
        let round_trips = if self.spare.borrow().is_some() { 1 } else { 2 };
        let mut opening = opening::Opening::new(self.clone(), command);
        loop {
            match opening.step()? {
                Some(wire) => return Ok((wire, round_trips)),
                // What came meanwhile may have been read by that: the next step sees it, and a wait would not.
                None if ahead && opening.is_asked() => {
                    opening::ask_ahead(self);
                    ahead = false;
                }
                None => self.wait()?,
            }
        }
    }

    fn begin(&self, command: &str) -> Option<Box<dyn Opening>> {
        Some(Box::new(opening::Opening::new(self.clone(), command)))
    }

    fn round_trip(&self) -> Option<Duration> {
        self.answered.get()
    }
}

impl Link {
    /// Tries `work` until it no longer has to wait for the machine.
    fn until_done<T>(&self, mut work: impl FnMut(&ssh2::Session) -> Result<T, ssh2::Error>) -> Result<T> {
        loop {
            match work(&self.ssh) {
                Ok(value) => return Ok(value),
                Err(error) if error.code() == EAGAIN => self.wait()?,
                Err(error) => return Err(self.lost(&error)),
            }
        }
    }

    /// Waits until the socket is ready for what libssh2 wants to do next.
    fn wait(&self) -> Result<()> {
        match self.ssh.block_directions() {
            BlockDirections::Outbound => self.wait_for(PollFlags::OUT),
            BlockDirections::Both => self.wait_for(PollFlags::IN | PollFlags::OUT),
            BlockDirections::Inbound | BlockDirections::None => self.wait_for(PollFlags::IN),
        }
    }

    /// Waits until the socket is ready for one of these.
    fn wait_for(&self, flags: PollFlags) -> Result<()> {
        let outbound = flags.contains(PollFlags::OUT);
        let end = Instant::now() + self.silence;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let seconds = self.silence.as_secs();
                return Err(Failure::new(Kind::Timeout, format!("{} has been silent for {seconds} s", self.host))
                    .hint("look at the machine's console and network, then run the pipe again")
                    .into());
            }
            let slice = left.min(Duration::from_secs(ask_after(self.silence)));
            match poll(&mut [PollFd::new(&self.socket.fd, flags)], Some(&timespec(slice))) {
                // A packet that is sent by half must be finished before any other.
                Ok(0) if !outbound => drop(self.ssh.keepalive_send()),
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(io::Error::from(error)).context("cannot wait for the machine"),
            }
        }
    }

    /// Asks for a sign of life where it is time to; whether anything has come.
    fn keep(&self) -> bool {
        // What cannot be sent is seen by whoever reads next.
        drop(self.ssh.keepalive_send());
        matches!(poll(&mut [PollFd::new(&self.socket.fd, PollFlags::IN)], Some(&timespec(Duration::ZERO))), Ok(1..))
    }

    /// The failure of a command that has ended while it was written to.
    fn broken(&self) -> anyhow::Error {
        self.lost(&io::Error::new(io::ErrorKind::BrokenPipe, "its command takes no more input"))
    }

    /// The failure behind an error of an established connection.
    fn lost(&self, cause: &dyn std::error::Error) -> anyhow::Error {
        Failure::new(Kind::Unreachable, format!("the connection to {} was lost: {}", self.host, plain(cause)))
            .hint("run the pipe again: what has arrived stays")
            .into()
    }
}

/// A connection to the machine's sshd, not yet encrypted.
pub(crate) struct Socket {
    fd: OwnedFd,
    /// The ssh that goes by way of a jump host
    by: Option<Way>,
}

/// Opens a connection: by way of `jump`, or as the user's configuration says, or to the first
/// address that answers.
pub(crate) fn dial(configured: &Configured, jump: Option<&Jump>, timeout: Duration) -> Result<Socket> {
    let (host, port) = (configured.host.as_str(), configured.port);
    let their_jump = configured.jump()?;
    if let Some(jump) = jump.or(their_jump.as_ref()) {
        let (fd, way) = jump.dial(host, port, timeout)?;
        return Ok(Socket { fd, by: Some(way) });
    }
    if let Some(script) = configured.proxy_command()? {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("exec {script}")]);
        let (fd, way) = dial_by(command).context("cannot run /bin/sh")?;
        return Ok(Socket { fd, by: Some(way) });
    }
    let addresses = (host, port).to_socket_addrs().map_err(|error| {
        Failure::new(Kind::Unreachable, format!("cannot look up {host}: {error}"))
            .hint("is the record's ssh.host right? A name of ssh_config counts where OpenSSH's client is installed")
    })?;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(socket) => {
                // Requests are small and waited for.
                socket.set_nodelay(true)?;
                return Ok(Socket { fd: socket.into(), by: None });
            }
            Err(error) => last = error,
        }
    }
    let kind = if last.kind() == io::ErrorKind::TimedOut { Kind::Timeout } else { Kind::Unreachable };
    Err(Failure::new(kind, format!("cannot connect to {host} port {port}: {last}"))
        .hint("is the machine running, and does its security group let this address in?")
        .into())
}

/// Exchanges keys, with these algorithms for the host key; that one is the caller's to check.
pub(crate) fn shake_hands(
    mut socket: Socket,
    host: &str,
    algorithms: &[&str],
    timeout: Duration,
) -> Result<(ssh2::Session, Socket)> {
    let mut ssh = ssh2::Session::new().context("cannot start libssh2")?;
    ssh.set_timeout(milliseconds(timeout));
    ssh.method_pref(MethodType::HostKey, &algorithms.join(",")).context("cannot start libssh2")?;
    ciphers::prefer(&ssh, ciphers::ANY).context("cannot start libssh2")?;
    ssh.set_tcp_stream(socket.fd.try_clone().context("cannot start libssh2")?);
    ciphers::shake_hands(&mut ssh, &socket.fd, timeout).map_err(|error| {
        if let Some(failure) = socket.by.as_mut().and_then(|way| way.complaint(host)) {
            return failure;
        }
        let kind = if error.code() == TIMED_OUT { Kind::Timeout } else { Kind::Unreachable };
        Failure::new(kind, format!("no key exchange with {host}: {}", plain(&error)))
            .hint("is it an sshd that answers there, and has the machine finished booting?")
    })?;
    Ok((ssh, socket))
}

fn timespec(length: Duration) -> Timespec {
    Timespec { tv_sec: length.as_secs() as i64, tv_nsec: length.subsec_nanos().into() }
}

fn milliseconds(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX)
}

/// libssh2's own words, without the crate's code in front.
fn plain(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    match text.strip_prefix("[Session(").and_then(|rest| rest.split_once("] ")) {
        Some((_, words)) => words.to_string(),
        None => text,
    }
}
