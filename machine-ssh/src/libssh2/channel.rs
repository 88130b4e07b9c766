//! One command over libssh2.

use super::{EAGAIN, Link};
use crate::channel::{Heard, Wire};
use anyhow::{Context, Result};
use rustix::event::PollFlags;
use ssh2::BlockDirections;
use std::io::{self, ErrorKind, Read, Write};
use std::rc::Rc;
use std::time::Duration;

pub(super) struct Stream {
    link: Rc<Link>,
    channel: ssh2::Channel,
    /// The command whose start the machine has not confirmed yet
    starting: Option<String>,
    /// With a packet sent by half nothing else may be sent, and reading may send.
    half_sent: bool,
}

impl Stream {
    /// Asks for the command and does not wait for the answer: its input may follow at once, which
    /// saves a round trip (RFC 4254, 6.5 lets the client go on).
    pub(super) fn start(link: Rc<Link>, channel: ssh2::Channel, command: &str) -> Result<Self> {
        let mut stream = Stream { link, channel, starting: Some(command.into()), half_sent: false };
        // All of the question has to leave first.
        while !stream.started()? && !matches!(stream.link.ssh.block_directions(), BlockDirections::Inbound) {
            stream.link.wait()?;
        }
        Ok(stream)
    }

    /// True once the machine has confirmed that the command runs.
    fn started(&mut self) -> Result<bool> {
        let Some(command) = &self.starting else { return Ok(true) };
        match self.channel.exec(command) {
            Ok(()) => self.starting = None,
            Err(error) if error.code() == EAGAIN => return Ok(false),
            Err(error) => return Err(self.link.lost(&error)).context("cannot run a command"),
        }
        Ok(true)
    }
}

impl Wire for Stream {
    fn write(&mut self, bytes: &[u8], _: &mut Heard) -> Result<Option<usize>> {
        self.half_sent = false;
        match self.channel.write(bytes) {
            Ok(0) => Err(self.link.lost(&io::Error::from(ErrorKind::WriteZero))),
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.half_sent = !matches!(self.link.ssh.block_directions(), BlockDirections::Inbound);
                // The window of a closed channel is never opened again, and libssh2 does not say so.
                if !self.half_sent && self.channel.eof() && self.channel.wait_close().is_ok() {
                    return Err(self.link.broken());
                }
                Ok(None)
            }
            Err(error) => Err(self.link.lost(&error)),
        }
    }

    fn take_in(&mut self, heard: &mut Heard) -> Result<bool> {
        let mut piece = [0; 32 * 1024];
        let mut any = false;
        if self.half_sent || !self.started()? {
            return Ok(any);
        }
        // Both streams share one window: what is not taken from one would stop the other.
        for stream in [0, 1] {
            loop {
                match self.channel.stream(stream).read(&mut piece) {
                    Ok(0) => break,
                    Ok(count) if stream == 0 => heard.stdout.extend(&piece[..count]),
                    Ok(count) => heard.stderr.extend_from_slice(&piece[..count]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(self.link.lost(&error)),
                }
                any = true;
            }
        }
        heard.ended = self.channel.eof();
        Ok(any)
    }

    fn wait(&mut self, _: bool) -> Result<()> {
        // What has come cannot be read before the packet is whole: waiting for it, too, would be no wait.
        if self.half_sent { self.link.wait_for(PollFlags::OUT) } else { self.link.wait() }
    }

    fn was_link(&self, wait: Duration) -> bool {
        // A window that is closed for longer than a round trip is one that the command does not open.
        self.half_sent || self.link.round_trip.is_none_or(|round_trip| wait <= round_trip)
    }

    fn finish_input(&mut self) -> Result<()> {
        self.link.until_done(|_| self.channel.send_eof())
    }

    fn status(&mut self, heard: &mut Heard) -> Result<i32> {
        self.link.until_done(|_| self.channel.wait_close())?;
        self.take_in(heard)?;
        let signal = self.link.until_done(|_| self.channel.exit_signal())?;
        if signal.exit_signal.is_some() {
            return Ok(-1);
        }
        self.link.until_done(|_| self.channel.exit_status())
    }
}
