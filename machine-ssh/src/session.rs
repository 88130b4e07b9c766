//! One login on a machine, whichever client made it.

use crate::channel::{Channel, Output, Turns, Wire};
use crate::elevate::Elevation;
use crate::{Address, Client, libssh2, openssh};
use anyhow::Result;
use machine_record::log;
use std::rc::Rc;
use std::time::Duration;

/// Round trips of a login with a key: TCP, the versions, both steps of the key exchange (RFC 4253),
/// the service, the key, the signature (RFC 4252). OpenSSH's client asks first what is allowed.
const LOGIN: u64 = 7;
const LOGIN_OPEN_SSH: u64 = 8;

/// How often a silent machine is asked for a sign of life, in seconds; oftener where less silence is borne.
const SIGN_OF_LIFE: u64 = 10;

/// A login on a machine whose host key was checked. It ends when it and its channels are dropped.
pub struct Session {
    connection: Box<dyn Connection>,
    elevation: Elevation,
    turns: Rc<Turns>,
}

/// Seconds of silence after which a machine is asked for a sign of life, where it may be silent for so long.
pub(crate) fn ask_after(silence: Duration) -> u64 {
    (silence.as_secs() / 3).clamp(1, SIGN_OF_LIFE)
}

/// What a client can do once it is logged in.
pub(crate) trait Connection {
    /// Begins a command, and with `ahead` asks for the channel of the next one meanwhile. Gives also how often
    /// the machine was waited for.
    fn open(&self, command: &str, ahead: bool) -> Result<(Box<dyn Wire>, u64)>;
    /// The same without waiting for the machine, where the client can.
    fn begin(&self, command: &str) -> Option<Box<dyn Opening>>;
    /// The shortest time in which the machine has answered, where the client tells.
    fn round_trip(&self) -> Option<Duration>;
}

/// A command that the machine is being asked to begin.
pub(crate) trait Opening {
    /// Goes on as far as it can without waiting; gives the way to the command once it has begun.
    fn step(&mut self) -> Result<Option<Box<dyn Wire>>>;
}

/// A command that begins while its session does something else.
pub struct Beginning<'a> {
    session: &'a Session,
    command: String,
    opening: Option<Box<dyn Opening>>,
}

impl Beginning<'_> {
    /// Gives the command once it has begun. Waits for that only where it is to run as root by an
    /// [`Elevation`], or where OpenSSH's client is used, which is told at once.
    ///
    /// # Errors
    /// As [`Session::open`]; others may go on where the machine wants no more commands at a time.
    pub fn begun(&mut self) -> Result<Option<Channel>> {
        match &mut self.opening {
            // What is not waited for is no round trip.
            Some(opening) => Ok(opening.step()?.map(|wire| Channel::new(wire, self.session.turns.clone()))),
            None => self.session.open(&self.command).map(Some),
        }
    }
}

impl Session {
    /// Connects, checks the host key, and logs in. `timeout` bounds each of the three, and the
    /// longest silence that is borne later: no byte from the machine, though it is asked for a
    /// sign of life every ten seconds, or three times in that time.
    ///
    /// # Errors
    /// Kinds `unreachable`, `timeout`, `host-key` (never tried again by anybody), `denied`, and
    /// `input` for a private key that cannot be read, or a client that cannot be run.
    pub fn connect(address: &Address, timeout: Duration) -> Result<Session> {
        let Address { host, port, user, .. } = address;
        let by = address.jump.as_ref().map_or(String::new(), |jump| format!(" by way of {jump}"));
        let with = match &address.client {
            Client::Libssh2 => "ssh".into(),
            Client::OpenSsh(program) => program.display().to_string(),
        };
        log::detail(&address.machine, &format!("{with} {user}@{host} -p {port}{by}"));
        let _step = log::step(&address.machine, "logging in");
        let (connection, login): (Box<dyn Connection>, u64) = match &address.client {
            Client::Libssh2 => (Box::new(libssh2::connect(address, timeout)?), LOGIN),
            Client::OpenSsh(program) => (Box::new(openssh::connect(program, address, timeout)?), LOGIN_OPEN_SSH),
        };
        Ok(Session { connection, elevation: address.elevation.clone(), turns: Rc::new(Turns::after(login)) })
    }

    /// How often the machine was waited for so far: to connect and to log in, and whenever it
    /// answered what was sent. What TCP, the channels' windows and jump hosts do below is not counted.
    pub fn round_trips(&self) -> u64 {
        self.turns.count()
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
        let mut stderr = channel.take_stderr();
        let status = channel.end()?;
        stderr.extend(channel.take_stderr());
        Ok(Output { status, stdout, stderr })
    }

    /// Begins a command, with both directions open. It runs under the user's login shell, or
    /// where the login is to become root, under /bin/sh.
    ///
    /// # Errors
    /// Kind `denied` where it cannot become root, or the machine lets no more commands run at a time.
    pub fn open(&self, command: &str) -> Result<Channel> {
        self.elevation.open(command, |command| self.begin(command, false))
    }

    /// The same, and asks for the channel of the next command meanwhile, where the client can: that one begins
    /// a round trip sooner.
    ///
    /// # Errors
    /// As [`Session::open`]; a machine that gives no second channel says so when it is wanted.
    pub fn open_ahead(&self, command: &str) -> Result<Channel> {
        self.elevation.open(command, |command| self.begin(command, true))
    }

    /// Begins a command beside what this session does, step by step in [`Beginning::begun`].
    pub fn open_beside(&self, command: &str) -> Beginning<'_> {
        let opening = if self.elevation.is_needed() { None } else { self.connection.begin(command) };
        Beginning { session: self, command: command.into(), opening }
    }

    /// The shortest time in which the machine has answered so far; libssh2 alone tells.
    pub fn round_trip(&self) -> Option<Duration> {
        self.connection.round_trip()
    }

    fn begin(&self, command: &str, ahead: bool) -> Result<Channel> {
        let (wire, round_trips) = self.connection.open(command, ahead)?;
        for _ in 0..round_trips {
            self.turns.sent();
            self.turns.heard();
        }
        Ok(Channel::new(wire, self.turns.clone()))
    }
}
