//! One SSH connection over libssh2.

use crate::channel::{Channel, Output};
use crate::{Address, host_key};
use anyhow::{Context, Result};
use machine_record::{Failure, Kind, WithKind, log};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use ssh2::{BlockDirections, ErrorCode, MethodType};
use std::cell::Cell;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// AES-GCM first: the fastest with AES instructions, where libssh2's own first choice is
/// ChaCha20, a fifth slower (measured in `scripts/bench`).
const CIPHERS: &str =
    "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr,aes256-ctr";

/// How often a silent machine is asked for a sign of life, in seconds.
const KEEPALIVE: u32 = 10;

/// Round trips of a login with a key: TCP, the versions, both steps of the key exchange (RFC 4253),
/// the service, the key, the signature (RFC 4252).
const LOGIN: u64 = 7;

/// `LIBSSH2_ERROR_*` of libssh2.h.
const EAGAIN: ErrorCode = ErrorCode::Session(-37);
const TIMED_OUT: ErrorCode = ErrorCode::Session(-9);
const AUTHENTICATION_FAILED: ErrorCode = ErrorCode::Session(-18);
const PUBLIC_KEY_REFUSED: ErrorCode = ErrorCode::Session(-19);

/// A login on a machine whose host key was checked. It ends when it is dropped.
pub struct Session {
    pub(crate) link: Rc<Link>,
}

/// What a session and its channels share.
pub(crate) struct Link {
    pub(crate) ssh: ssh2::Session,
    socket: TcpStream,
    host: String,
    silence: Cell<Duration>,
    /// Something was sent, and nothing has come since
    asked: Cell<bool>,
    round_trips: Cell<u64>,
}

impl Session {
    /// Connects, checks the host key, and logs in. `timeout` bounds each of the three, and the
    /// longest silence that is borne later.
    ///
    /// # Errors
    /// Kinds `unreachable`, `timeout`, `host-key` (never tried again by anybody), `denied`, and
    /// `input` for a private key that cannot be read.
    pub fn connect(address: &Address, timeout: Duration) -> Result<Session> {
        let Address { host, port, user, .. } = address;
        log::detail(&address.machine, &format!("ssh {user}@{host} -p {port}"));
        let types: Vec<&str> = address.host_keys.iter().filter_map(|pin| pin.split_whitespace().next()).collect();
        let (ssh, socket) = shake_hands(dial(host, *port, timeout)?, host, &types, timeout)?;
        host_key::check(&host_key::shown(&ssh, host)?, &address.host_keys, host)?;
        log_in(&ssh, address)?;
        ssh.set_keepalive(true, KEEPALIVE);
        ssh.set_blocking(false);
        let link = Link {
            ssh,
            socket,
            host: host.clone(),
            silence: Cell::new(timeout),
            asked: Cell::new(false),
            round_trips: Cell::new(LOGIN),
        };
        Ok(Session { link: Rc::new(link) })
    }

    /// How often the machine was waited for so far: to connect and to log in, and whenever it
    /// answered what was sent. What TCP and the channels' windows do below is not counted.
    pub fn round_trips(&self) -> u64 {
        self.link.round_trips.get()
    }

    /// Sets the longest silence that is borne: no byte from the machine, though it is asked for
    /// a sign of life every ten seconds.
    pub fn set_timeout(&self, silence: Duration) {
        self.link.silence.set(silence);
    }

    /// Runs a command to its end with `input` on its stdin.
    pub fn run(&self, command: &str, input: &[u8]) -> Result<Output> {
        let mut channel = self.open(command)?;
        channel.write_all(input)?;
        channel.finish_input()?;
        let mut stdout = Vec::new();
        let mut piece = [0; 32 * 1024];
        loop {
            match channel.read_some(&mut piece)? {
                0 => break,
                count => stdout.extend_from_slice(&piece[..count]),
            }
        }
        let stderr = channel.take_stderr();
        Ok(Output { status: channel.wait()?, stdout, stderr })
    }

    /// Begins a command, with both directions open. It runs under the user's login shell.
    pub fn open(&self, command: &str) -> Result<Channel> {
        self.link.sent();
        let mut channel = self.link.until_done(|ssh| ssh.channel_session()).context("cannot open a channel")?;
        self.link.heard();
        self.link.sent();
        self.link.until_done(|_| channel.exec(command)).context("cannot run a command")?;
        self.link.heard();
        Ok(Channel::new(self.link.clone(), channel))
    }
}

impl Link {
    /// Notes that the machine was told something.
    pub(crate) fn sent(&self) {
        self.asked.set(true);
    }

    /// Notes that it said something.
    pub(crate) fn heard(&self) {
        self.round_trips.update(|count| count + u64::from(self.asked.replace(false)));
    }

    /// Tries `work` until it no longer has to wait for the machine.
    pub(crate) fn until_done<T>(&self, mut work: impl FnMut(&ssh2::Session) -> Result<T, ssh2::Error>) -> Result<T> {
        loop {
            match work(&self.ssh) {
                Ok(value) => return Ok(value),
                Err(error) if error.code() == EAGAIN => self.wait()?,
                Err(error) => return Err(self.lost(&error)),
            }
        }
    }

    /// Waits until the socket is ready for what libssh2 wants to do next.
    pub(crate) fn wait(&self) -> Result<()> {
        let outbound = matches!(self.ssh.block_directions(), BlockDirections::Outbound | BlockDirections::Both);
        let mut flags = PollFlags::IN;
        flags.set(PollFlags::OUT, outbound);
        let end = Instant::now() + self.silence.get();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let seconds = self.silence.get().as_secs();
                return Err(Failure::new(Kind::Timeout, format!("{} has been silent for {seconds} s", self.host))
                    .hint("look at the machine's console and network, then run the pipe again")
                    .into());
            }
            let slice = left.min(Duration::from_secs(KEEPALIVE.into()));
            let timeout = Timespec { tv_sec: slice.as_secs() as i64, tv_nsec: slice.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&self.socket, flags)], Some(&timeout)) {
                // A packet that is sent by half must be finished before any other.
                Ok(0) if !outbound => drop(self.ssh.keepalive_send()),
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(io::Error::from(error)).context("cannot wait for the machine"),
            }
        }
    }

    /// The failure behind an error of an established connection.
    pub(crate) fn lost(&self, cause: &dyn std::error::Error) -> anyhow::Error {
        Failure::new(Kind::Unreachable, format!("the connection to {} was lost: {}", self.host, plain(cause)))
            .hint("run the pipe again: what has arrived stays")
            .into()
    }
}

/// Opens a TCP connection to the first address that answers.
pub(crate) fn dial(host: &str, port: u16, timeout: Duration) -> Result<TcpStream> {
    let addresses = (host, port)
        .to_socket_addrs()
        .with_context(|| format!("cannot look up {host}"))
        .with_kind(Kind::Unreachable)?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(socket) => {
                // Requests are small and waited for.
                socket.set_nodelay(true)?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    let kind = if last.kind() == io::ErrorKind::TimedOut { Kind::Timeout } else { Kind::Unreachable };
    Err(Failure::new(kind, format!("cannot connect to {host} port {port}: {last}"))
        .hint("is the machine running, and does its security group let this address in?")
        .into())
}

/// Exchanges keys; the host key is the caller's to check.
pub(crate) fn shake_hands(
    socket: TcpStream,
    host: &str,
    types: &[&str],
    timeout: Duration,
) -> Result<(ssh2::Session, TcpStream)> {
    let watched = socket.try_clone().context("cannot watch the connection")?;
    let mut ssh = ssh2::Session::new().context("cannot start libssh2")?;
    ssh.set_timeout(u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX));
    ssh.method_pref(MethodType::HostKey, &host_key::algorithms(types)).context("cannot choose host key types")?;
    for direction in [MethodType::CryptCs, MethodType::CryptSc] {
        ssh.method_pref(direction, CIPHERS).context("cannot choose ciphers")?;
    }
    ssh.set_tcp_stream(socket);
    ssh.handshake().map_err(|error| {
        let kind = if error.code() == TIMED_OUT { Kind::Timeout } else { Kind::Unreachable };
        Failure::new(kind, format!("no key exchange with {host}: {}", plain(&error)))
            .hint("is it an sshd that answers there, and has the machine finished booting?")
    })?;
    Ok((ssh, watched))
}

fn log_in(ssh: &ssh2::Session, address: &Address) -> Result<()> {
    let Address { host, user, .. } = address;
    let (result, with) = match &address.private_key {
        Some(file) => {
            // libssh2 says the same of a missing file as of a refused key.
            std::fs::File::open(file)
                .with_context(|| format!("cannot read the private key {}", file.display()))
                .with_kind(Kind::Input)?;
            (ssh.userauth_pubkey_file(user, None, file, None), format!("the key {}", file.display()))
        }
        None => (ssh.userauth_agent(user), "the keys of the ssh-agent".into()),
    };
    result.map_err(|error| {
        let kind = match error.code() {
            AUTHENTICATION_FAILED | PUBLIC_KEY_REFUSED => Kind::Denied,
            TIMED_OUT => Kind::Timeout,
            _ if address.private_key.is_none() => Kind::Denied,
            _ => Kind::Unreachable,
        };
        Failure::new(kind, format!("cannot log in to {host} as {user} with {with}: {}", plain(&error)))
            .hint("the machine takes the key pair that it was launched with")
            .into()
    })
}

/// libssh2's own words, without the crate's code in front.
fn plain(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    match text.strip_prefix("[Session(").and_then(|rest| rest.split_once("] ")) {
        Some((_, words)) => words.to_string(),
        None => text,
    }
}
