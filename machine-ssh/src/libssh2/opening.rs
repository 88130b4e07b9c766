//! A command that is being begun over libssh2: a channel, then the command on it.

use super::{EAGAIN, Link, channel};
use crate::channel::Wire;
use crate::session;
use anyhow::{Context, Result};
use ssh2::BlockDirections;
use std::rc::Rc;
use std::time::Instant;

pub(super) struct Opening {
    link: Rc<Link>,
    command: String,
    channel: Option<ssh2::Channel>,
    /// When the machine was asked for what it has not answered yet
    asked: Option<Instant>,
}

impl Opening {
    pub(super) fn new(link: Rc<Link>, command: &str) -> Self {
        Opening { link, command: command.into(), channel: None, asked: None }
    }

    /// Notes down how long an answer took.
    fn answered(&mut self) {
        let took = self.asked.take().map(|asked| asked.elapsed());
        let shortest = [took, self.link.answered.get()].into_iter().flatten().min();
        self.link.answered.set(shortest);
    }
}

impl session::Opening for Opening {
    fn step(&mut self) -> Result<Option<Box<dyn Wire>>> {
        self.asked.get_or_insert_with(Instant::now);
        if self.channel.is_none() {
            self.channel = self.link.attempt(|ssh| ssh.channel_session()).context("cannot open a channel")?;
            if self.channel.is_none() {
                return Ok(None);
            }
            self.answered();
            self.asked = Some(Instant::now());
        }
        let Some(channel) = &mut self.channel else { return Ok(None) };
        let command = &self.command;
        if self.link.attempt(|_| channel.exec(command)).context("cannot run a command")?.is_none() {
            return Ok(None);
        }
        self.answered();
        let wire = |channel| Box::new(channel::Stream::new(self.link.clone(), channel)) as Box<dyn Wire>;
        Ok(self.channel.take().map(wire))
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
