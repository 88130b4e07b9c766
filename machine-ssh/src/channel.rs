//! One command on a machine: bytes in, bytes out, its status.

use anyhow::Result;
use machine_record::{Failure, Kind};
use std::cell::Cell;
use std::collections::VecDeque;
use std::io::Read;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long to wait for the last words of a command that takes no more input.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(2);
/// Bytes that may wait to be read: a command that says more while it takes nothing would fill the memory.
const MOST_HEARD: usize = 64 << 20;

/// The same of a command that nothing is asked of.
const MOST_IDLE: usize = 1 << 20;

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
    wire: Box<dyn Wire>,
    heard: Heard,
    turns: Rc<Turns>,
    link_waits: Duration,
}

/// Counts the round trips of a session.
pub(crate) struct Turns {
    /// Something was sent, and nothing has come since
    asked: Cell<bool>,
    count: Cell<u64>,
}

impl Turns {
    pub(crate) fn after(count: u64) -> Self {
        Turns { asked: Cell::new(false), count: Cell::new(count) }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.get()
    }

    pub(crate) fn sent(&self) {
        self.asked.set(true);
    }

    pub(crate) fn heard(&self) {
        self.count.update(|count| count + u64::from(self.asked.replace(false)));
    }
}

/// What a command has said and nobody has read yet.
#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) stdout: VecDeque<u8>,
    pub(crate) stderr: Vec<u8>,
    /// True once stdout has ended
    pub(crate) ended: bool,
}

impl Heard {
    fn bytes(&self) -> usize {
        self.stdout.len() + self.stderr.len()
    }

    /// Whether so much waits to be read that no more is to be taken in.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes() > MOST_HEARD
    }
}

/// The way to one command, as a client gives it. Errors are those of a lost connection.
pub(crate) trait Wire {
    /// Sends as much as can be sent at once: `None` if nothing can.
    fn write(&mut self, bytes: &[u8], heard: &mut Heard) -> Result<Option<usize>>;
    /// Takes in all that has come; true if it was anything.
    fn take_in(&mut self, heard: &mut Heard) -> Result<bool>;
    /// Waits until something has come or, with `write`, something can be sent.
    fn wait(&mut self, write: bool) -> Result<()>;
    /// Asks for a sign of life where it is time to, and answers what the machine asks; true if anything has come, or if
    /// the client does so by itself.
    fn keep(&mut self, heard: &mut Heard) -> Result<bool>;
    /// Whether such a wait to send, just over, was for the link; else it was for the command.
    fn was_link(&self, wait: Duration) -> bool;
    /// Ends the command's stdin.
    fn finish_input(&mut self) -> Result<()>;
    /// The exit status of a command whose stdout has ended; -1 if a signal ended it.
    fn status(&mut self, heard: &mut Heard) -> Result<i32>;
}

impl Channel {
    pub(crate) fn new(wire: Box<dyn Wire>, turns: Rc<Turns>) -> Self {
        Channel { wire, heard: Heard::default(), turns, link_waits: Duration::ZERO }
    }

    /// Sends all of `bytes`. While the machine takes none, what it says is taken in, so that
    /// neither side can wait for the other for ever.
    pub fn write_all(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match self.wire.write(bytes, &mut self.heard)? {
                Some(count) => {
                    self.turns.sent();
                    bytes = &bytes[count..];
                }
                None if self.take_in()? => {}
                None => {
                    let began = Instant::now();
                    self.wire.wait(true)?;
                    let wait = began.elapsed();
                    self.link_waits += if self.wire.was_link(wait) { wait } else { Duration::ZERO };
                }
            }
        }
        Ok(())
    }

    /// How long sending has waited for the link so far, and not for the command to take what was sent.
    pub fn link_waits(&self) -> Duration {
        self.link_waits
    }

    /// Reads from the command's stdout; waits for at least one byte, 0 at the end.
    pub fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match self.try_read(buffer)? {
                Some(count) => {
                    self.turns.heard();
                    return Ok(count);
                }
                None => self.wire.wait(false)?,
            }
        }
    }

    /// Reads what has arrived of the command's stdout: `None` if nothing has, 0 at the end.
    pub fn try_read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>> {
        let Heard { stdout, ended, .. } = &self.heard;
        if stdout.is_empty() && !ended {
            self.take_in()?;
        }
        if !self.heard.stdout.is_empty() {
            return Ok(Some(self.heard.stdout.read(buffer)?));
        }
        Ok(self.heard.ended.then_some(0))
    }

    /// Takes what has arrived on the command's stderr so far.
    pub fn take_stderr(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.heard.stderr)
    }

    /// The same, of a command that is about to end: what it says up to then, or for two seconds.
    pub fn last_words(&mut self) -> Vec<u8> {
        let end = Instant::now() + LAST_WORDS;
        while !self.heard.ended && Instant::now() < end {
            match self.take_in() {
                Ok(true) => {}
                Ok(false) => std::thread::sleep(Duration::from_millis(10)),
                Err(_) => break,
            }
        }
        self.take_stderr()
    }

    /// Keeps the connection alive while nothing is asked of the command, if it is done every second or so: the machine is
    /// asked for signs of life, and gets those that it asks for. True if it has given one since the last time; `None` where
    /// the connection is lost or the command has ended, or talks on and on.
    pub fn keep(&mut self) -> Option<bool> {
        let any = self.wire.keep(&mut self.heard).ok()?;
        (!self.heard.ended && self.heard.bytes() < MOST_IDLE).then_some(any)
    }

    /// Whether the command's stdout has ended, as far as it was heard.
    pub fn has_ended(&self) -> bool {
        self.heard.ended
    }

    /// Ends the command's stdin.
    pub fn finish_input(&mut self) -> Result<()> {
        self.turns.sent();
        self.wire.finish_input()
    }

    fn take_in(&mut self) -> Result<bool> {
        let any = self.wire.take_in(&mut self.heard)?;
        if self.heard.is_full() {
            return Err(Failure::new(Kind::Unreachable, "the machine's command says far more than was asked for")
                .hint("what does it say? Try: ssh MACHINE nix-store --version")
                .into());
        }
        Ok(any)
    }

    /// Waits for the command's end and gives its exit status; -1 if a signal ended it. Where
    /// OpenSSH's client is used, so is 255, which it does not tell from a signal.
    pub fn wait(mut self) -> Result<i32> {
        self.end()
    }

    /// Waits until the command says something; false at the end.
    pub(crate) fn hear(&mut self) -> Result<bool> {
        while !self.heard.ended {
            if self.take_in()? {
                return Ok(true);
            }
            if !self.heard.ended {
                self.wire.wait(false)?;
            }
        }
        Ok(false)
    }

    /// Drops what came on stdout up to these words, and them; false if they have not come.
    pub(crate) fn skip_to_stdout(&mut self, words: &str) -> bool {
        let found = position(self.heard.stdout.make_contiguous(), words);
        found.map(|end| self.heard.stdout.drain(..end)).is_some()
    }

    /// The same of stderr.
    pub(crate) fn skip_to_stderr(&mut self, words: &str) -> bool {
        let found = position(&self.heard.stderr, words);
        found.map(|end| self.heard.stderr.drain(..end)).is_some()
    }

    pub(crate) fn end(&mut self) -> Result<i32> {
        let mut rest = [0; 8192];
        while self.read_some(&mut rest)? > 0 {}
        self.wire.status(&mut self.heard)
    }
}

/// Where words end in what was heard.
fn position(heard: &[u8], words: &str) -> Option<usize> {
    let start = heard.windows(words.len()).position(|window| window == words.as_bytes())?;
    Some(start + words.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes nothing, and has always more to say.
    struct Flood;

    impl Wire for Flood {
        fn write(&mut self, _: &[u8], _: &mut Heard) -> Result<Option<usize>> {
            Ok(None)
        }
        fn take_in(&mut self, heard: &mut Heard) -> Result<bool> {
            heard.stdout.extend(vec![0; 1 << 20]);
            Ok(true)
        }
        fn wait(&mut self, _: bool) -> Result<()> {
            Ok(())
        }
        fn keep(&mut self, _: &mut Heard) -> Result<bool> {
            Ok(true)
        }
        fn was_link(&self, _: Duration) -> bool {
            false
        }
        fn finish_input(&mut self) -> Result<()> {
            Ok(())
        }
        fn status(&mut self, _: &mut Heard) -> Result<i32> {
            Ok(0)
        }
    }

    #[test]
    fn a_command_that_talks_and_does_not_listen_is_given_up() {
        let mut channel = Channel::new(Box::new(Flood), Rc::new(Turns::after(0)));
        let failure = Failure::of(&channel.write_all(b"x").unwrap_err());
        assert_eq!(failure.message, "the machine's command says far more than was asked for");
        assert_eq!(failure.hint.as_deref(), Some("what does it say? Try: ssh MACHINE nix-store --version"));
        assert!(channel.heard.stdout.len() < 2 * MOST_HEARD);
    }
}
