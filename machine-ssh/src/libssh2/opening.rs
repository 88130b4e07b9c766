//! A command that is being begun over libssh2: a channel, then the command on it.

use super::{EAGAIN, Link, channel, plain};
use crate::channel::Wire;
use crate::session;
use anyhow::{Context, Result};
use machine_record::{Failure, Kind};
use ssh2::{BlockDirections, ErrorCode};
use std::rc::Rc;
use std::time::Instant;

/// `LIBSSH2_ERROR_CHANNEL_FAILURE` of libssh2.h, for a channel that the other side does not open.
const CHANNEL_REFUSED: ErrorCode = ErrorCode::Session(-21);

/// A channel that the machine is being asked for.
#[derive(Default)]
pub(super) struct Asked {
    channel: Option<ssh2::Channel>,
    /// When the machine was asked for what it has not answered yet
    since: Option<Instant>,
}

impl Asked {
    /// Goes on as far as it can without waiting; true once the channel is there.
    fn step(&mut self, link: &Link) -> Result<bool> {
        if self.channel.is_none() {
            self.since.get_or_insert_with(Instant::now);
            let channel = link.attempt(|ssh| match ssh.channel_session() {
                Err(error) if error.code() == CHANNEL_REFUSED => Ok(Err(error)),
                channel => channel.map(Ok),
            });
            let channel = channel.context("cannot open a channel")?;
            self.channel = channel.transpose().map_err(|error| refused(&link.host, &error))?;
            if self.channel.is_some() {
                self.answered(link);
            }
        }
        Ok(self.channel.is_some())
    }

    /// Notes down how long an answer took.
    fn answered(&mut self, link: &Link) {
        let took = self.since.take().map(|since| since.elapsed());
        link.answered.set([took, link.answered.get()].into_iter().flatten().min());
    }
}

/// The failure of a login that may run no command, or none beside the one that runs.
fn refused(host: &str, error: &ssh2::Error) -> Failure {
    let text = format!("the sshd of {host} opens no channel for a command: {}", plain(error));
    Failure::new(Kind::Denied, text).hint("set MaxSessions in its sshd_config to 2 or more")
}

/// Asks for the channel of the next command. What fails is said when that one begins.
pub(super) fn ask_ahead(link: &Link) {
    let mut spare = link.spare.borrow_mut();
    if spare.get_or_insert_default().step(link).is_err() {
        *spare = None;
    }
}

pub(super) struct Opening {
    link: Rc<Link>,
    command: String,
    asked: Asked,
}

impl Opening {
    /// Takes the channel that was asked for ahead, if there is one.
    pub(super) fn new(link: Rc<Link>, command: &str) -> Self {
        let asked = link.spare.take().unwrap_or_default();
        Opening { link, command: command.into(), asked }
    }

    /// Whether the channel is there, and the machine was told the command.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.channel.is_some()
    }
}

impl session::Opening for Opening {
    fn step(&mut self) -> Result<Option<Box<dyn Wire>>> {
        if !self.asked.step(&self.link)? {
            return Ok(None);
        }
        let Some(channel) = &mut self.asked.channel else { return Ok(None) };
        self.asked.since.get_or_insert_with(Instant::now);
        let command = &self.command;
        if self.link.attempt(|_| channel.exec(command)).context("cannot run a command")?.is_none() {
            return Ok(None);
        }
        self.asked.answered(&self.link);
        let wire = |channel| Box::new(channel::Stream::new(self.link.clone(), channel)) as Box<dyn Wire>;
        Ok(self.asked.channel.take().map(wire))
    }
}

impl Link {
    /// Tries `work` until only the machine's answer is left to wait for: then `None`. What is to be
    /// sent has been by then, as nothing else may be before it.
    fn attempt<T>(&self, mut work: impl FnMut(&ssh2::Session) -> Result<T, ssh2::Error>) -> Result<Option<T>> {
        loop {
            match work(&self.ssh) {
                Ok(value) => return Ok(Some(value)),
                Err(error) if error.code() == EAGAIN => match self.ssh.block_directions() {
                    BlockDirections::Inbound | BlockDirections::None => return Ok(None),
                    BlockDirections::Outbound | BlockDirections::Both => self.wait()?,
                },
                Err(error) => return Err(self.lost(&error)),
            }
        }
    }
}
