//! One command over a shared connection: an ssh of its own, whose three pipes are the command's.

use super::Link;
use crate::channel::{Heard, LAST_WORDS, Wire};
use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionbio;
use std::io::{ErrorKind, Read, Write};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, ExitStatus};
use std::rc::Rc;
use std::time::{Duration, Instant};

pub(super) struct Stream {
    link: Rc<Link>,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    ended: Option<ExitStatus>,
}

impl Stream {
    pub(super) fn new(link: Rc<Link>, mut child: Child) -> Result<Stream> {
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        // The child's ends are other open files: it does not notice.
        let set = stdin.as_ref().map_or(Ok(()), |pipe| ioctl_fionbio(pipe, true));
        let set = set.and(stdout.as_ref().map_or(Ok(()), |pipe| ioctl_fionbio(pipe, true)));
        set.and(stderr.as_ref().map_or(Ok(()), |pipe| ioctl_fionbio(pipe, true))).context("cannot wait for ssh")?;
        Ok(Stream { link, child, stdin, stdout, stderr, ended: None })
    }

    fn poll(&self, write: bool, limit: Option<&Timespec>) -> Result<()> {
        let mut ready = Vec::with_capacity(3);
        ready.extend(self.stdout.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        ready.extend(self.stderr.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        ready.extend(self.stdin.as_ref().filter(|_| write).map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
        match poll(&mut ready, limit) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(std::io::Error::from(error)).context("cannot wait for ssh"),
        }
    }

    /// Why the command takes no more input: it has ended, or the connection has.
    fn refused(&mut self, heard: &mut Heard) -> Result<anyhow::Error> {
        let end = Instant::now() + LAST_WORDS;
        while !heard.ended && Instant::now() < end {
            if !self.take_in(heard)? {
                self.poll(false, Some(&Timespec { tv_sec: 0, tv_nsec: 50_000_000 }))?;
            }
        }
        Ok(self.link.broken())
    }
}

impl Wire for Stream {
    fn write(&mut self, bytes: &[u8], heard: &mut Heard) -> Result<Option<usize>> {
        match self.stdin.as_mut().map_or(Ok(0), |stdin| stdin.write(bytes)) {
            Ok(count @ 1..) => Ok(Some(count)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
            Ok(0) | Err(_) => Err(self.refused(heard)?),
        }
    }

    fn take_in(&mut self, heard: &mut Heard) -> Result<bool> {
        let mut any = drain(&mut self.stdout, |bytes| heard.stdout.extend(bytes));
        any |= drain(&mut self.stderr, |bytes| heard.stderr.extend_from_slice(bytes));
        // ssh holds its stdout until the command has ended.
        if !any && self.stdout.is_none() && !heard.ended {
            let status = self.child.wait().context("cannot wait for ssh")?;
            drain(&mut self.stderr, |bytes| heard.stderr.extend_from_slice(bytes));
            self.ended = Some(status);
            self.link.status(status)?;
            heard.ended = true;
        }
        Ok(any)
    }

    fn wait(&mut self, write: bool) -> Result<()> {
        // At the end of stdout there is the status to take in.
        if self.stdout.is_none() && self.ended.is_none() {
            return Ok(());
        }
        self.poll(write, None)
    }

    fn keep(&mut self, heard: &mut Heard) -> Result<bool> {
        // The ssh that made the connection does so by itself, and ends where the machine is silent.
        self.take_in(heard).map(|_| true)
    }

    fn was_link(&self, _: Duration) -> bool {
        true // ssh does not tell.
    }

    fn finish_input(&mut self) -> Result<()> {
        self.stdin = None;
        Ok(())
    }

    fn status(&mut self, _: &mut Heard) -> Result<i32> {
        self.link.status(self.ended.unwrap_or_default())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads what is there; true if it was anything. What has ended is dropped.
fn drain(pipe: &mut Option<impl Read>, mut take: impl FnMut(&[u8])) -> bool {
    let mut piece = [0; 32 * 1024];
    let mut any = false;
    while let Some(open) = pipe {
        match open.read(&mut piece) {
            Ok(0) => *pipe = None,
            Ok(count) => {
                take(&piece[..count]);
                any = true;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => *pipe = None,
        }
    }
    any
}
