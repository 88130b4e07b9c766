//! One command on a machine: bytes in, bytes out, its status.

use crate::session::Link;
use anyhow::Result;
use ssh2::BlockDirections;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::rc::Rc;

/// What a command left behind.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its exit status; -1 if a signal ended it
    pub status: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// A running command.
pub struct Channel {
    link: Rc<Link>,
    channel: ssh2::Channel,
    stdout: VecDeque<u8>,
    stderr: Vec<u8>,
    ended: bool,
}

impl Channel {
    pub(crate) fn new(link: Rc<Link>, channel: ssh2::Channel) -> Self {
        Channel { link, channel, stdout: VecDeque::new(), stderr: Vec::new(), ended: false }
    }

    /// Sends all of `bytes`. While the machine takes none, what it says is taken in, so that
    /// neither side can wait for the other for ever.
    pub fn write_all(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match self.channel.write(bytes) {
                Ok(0) => return Err(self.link.lost(&io::Error::from(ErrorKind::WriteZero))),
                Ok(count) => {
                    self.link.sent();
                    bytes = &bytes[count..];
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    // With a packet sent by half nothing else may be sent, and reading may send.
                    let inbound = matches!(self.link.ssh.block_directions(), BlockDirections::Inbound);
                    if !(inbound && self.take_in()?) {
                        self.link.wait()?;
                    }
                }
                Err(error) => return Err(self.link.lost(&error)),
            }
        }
        Ok(())
    }

    /// Reads from the command's stdout; waits for at least one byte, 0 at the end.
    pub fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match self.try_read(buffer)? {
                Some(count) => return Ok(count),
                None => self.link.wait()?,
            }
        }
    }

    /// Reads what has arrived of the command's stdout: `None` if nothing has, 0 at the end.
    pub fn try_read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>> {
        if self.stdout.is_empty() {
            self.take_in()?;
        }
        if !self.stdout.is_empty() {
            return Ok(Some(self.stdout.read(buffer)?));
        }
        Ok((self.ended || self.channel.eof()).then_some(0))
    }

    /// Takes what has arrived on the command's stderr so far.
    pub fn take_stderr(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.stderr)
    }

    /// Ends the command's stdin.
    pub fn finish_input(&mut self) -> Result<()> {
        self.link.sent();
        self.link.until_done(|_| self.channel.send_eof())
    }

    /// Waits for the command's end and gives its exit status; -1 if a signal ended it.
    pub fn wait(mut self) -> Result<i32> {
        let mut rest = [0; 8192];
        while self.read_some(&mut rest)? > 0 {}
        self.link.until_done(|_| self.channel.wait_close())?;
        let signal = self.link.until_done(|_| self.channel.exit_signal())?;
        if signal.exit_signal.is_some() {
            return Ok(-1);
        }
        self.link.until_done(|_| self.channel.exit_status())
    }

    /// Takes in all that has come; true if it was anything.
    fn take_in(&mut self) -> Result<bool> {
        let mut piece = [0; 32 * 1024];
        let mut any = false;
        // Both streams share one window: what is not taken from one would stop the other.
        for stream in [0, 1] {
            loop {
                match self.channel.stream(stream).read(&mut piece) {
                    Ok(0) => break,
                    Ok(count) if stream == 0 => self.stdout.extend(&piece[..count]),
                    Ok(count) => self.stderr.extend_from_slice(&piece[..count]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(self.link.lost(&error)),
                }
                any = true;
            }
        }
        if any {
            self.link.heard();
        }
        self.ended = self.channel.eof();
        Ok(any)
    }
}
