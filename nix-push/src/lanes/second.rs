//! The second channel, which begins while the first one sends.

use super::Join;
use anyhow::{Result, bail};
use machine_record::log;
use machine_ssh::{Beginning, Channel};

/// What it says once it is ready.
pub(super) const HERE: &str = "nix-push: here\n";

/// The second channel to a machine, from the request for it to the word that it is ready.
pub struct Second<'a> {
    machine: &'a str,
    beginning: Beginning<'a>,
    channel: Option<Channel>,
    said: Vec<u8>,
}

impl<'a> Second<'a> {
    /// `beginning` runs `lane.sh`.
    pub fn new(machine: &'a str, beginning: Beginning<'a>) -> Self {
        Second { machine, beginning, channel: None, said: Vec::new() }
    }
}

impl Join<Channel> for Second<'_> {
    fn joined(&mut self) -> Result<Option<Channel>> {
        if self.channel.is_none() {
            self.channel = self.beginning.begun()?;
        }
        let Some(channel) = &mut self.channel else { return Ok(None) };
        let mut piece = [0; 4096];
        while let Some(count) = channel.try_read(&mut piece)? {
            if count == 0 {
                bail!("it ended");
            }
            self.said.extend_from_slice(&piece[..count]);
        }
        if !self.said.ends_with(HERE.as_bytes()) {
            return Ok(None);
        }
        log::detail(self.machine, "sending on two channels");
        Ok(self.channel.take())
    }
}
