//! One command over libssh2.

use super::Link;
use crate::channel::{Heard, Wire};
use anyhow::Result;
use rustix::event::PollFlags;
use ssh2::BlockDirections;
use std::io::{self, ErrorKind, Read, Write};
use std::rc::Rc;
use std::time::Duration;

pub(super) struct Stream {
    link: Rc<Link>,
    channel: ssh2::Channel,
    /// With a packet sent by half nothing else may be sent, and reading may send.
    half_sent: bool,
}

impl Stream {
    pub(super) fn new(link: Rc<Link>, channel: ssh2::Channel) -> Self {
        Stream { link, channel, half_sent: false }
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
        let (mut any, mut whole) = (false, false);
        if self.half_sent {
            return Ok(any);
        }
        // Both streams share one window: what is not taken from one would stop the other.
        for stream in [0, 1] {
            loop {
                if heard.is_full() {
                    return Ok(true);
                }
                match self.channel.stream(stream).read(&mut piece) {
                    Ok(0) => break,
                    Ok(count) if stream == 0 => heard.stdout.extend(&piece[..count]),
                    Ok(count) => heard.stderr.extend_from_slice(&piece[..count]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        let waits_for = self.link.ssh.block_directions();
                        if whole || matches!(waits_for, BlockDirections::Inbound | BlockDirections::None) {
                            break;
                        }
                        // The packet that opens the window was sent by half, and nothing else can be sent before its end.
                        self.link.wait_for(PollFlags::OUT)?;
                        whole = true;
                        continue;
                    }
                    Err(error) => return Err(self.link.lost(&error)),
                }
                (any, whole) = (true, false);
            }
        }
        heard.ended = self.channel.eof();
        Ok(any)
    }

    fn wait(&mut self, _: bool) -> Result<()> {
        // What has come cannot be read before the packet is whole: waiting for it, too, would be no wait.
        if self.half_sent { self.link.wait_for(PollFlags::OUT) } else { self.link.wait() }
    }

    fn keep(&mut self, heard: &mut Heard) -> Result<bool> {
        // A packet that is sent by half must be finished before any other.
        let any = !self.half_sent && self.link.keep();
        self.take_in(heard)?;
        Ok(any)
    }

    fn was_link(&self, wait: Duration) -> bool {
        was_link(self.half_sent, self.link.answered.get(), wait)
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

/// Whether a wait to send was for the link: with a packet sent by half it was. A window that is closed for longer than a
/// round trip is one that the command does not open.
fn was_link(half_sent: bool, round_trip: Option<Duration>, wait: Duration) -> bool {
    half_sent || round_trip.is_none_or(|round_trip| wait <= round_trip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_that_opens_within_a_round_trip_was_closed_by_the_link() {
        let round_trip = Some(Duration::from_millis(30));
        let wait = Duration::from_millis;
        assert!(was_link(false, round_trip, wait(30)));
        assert!(!was_link(false, round_trip, wait(31)), "the command takes nothing");
        assert!(was_link(true, round_trip, wait(900)), "the socket takes nothing");
        assert!(was_link(false, None, wait(900)), "no round trip is known");
    }
}
