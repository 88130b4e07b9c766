//! What a program says on its stderr beside a connection that goes through it.

use rustix::event::{PollFd, PollFlags, poll};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;

/// Bytes that are kept, the last ones.
const MOST: usize = 64 << 10;

/// Takes in what a program says for as long as it runs: one that nobody listens to stands still once the pipe is full, and
/// the connection with it.
pub(crate) struct Stderr {
    ear: Arc<Ear>,
    /// Whose other end hears when this is dropped
    _wanted: UnixStream,
}

struct Ear {
    pipe: File,
    said: Mutex<Vec<u8>>,
}

impl Stderr {
    /// Starts a command, and listens to its stderr.
    pub(crate) fn spawn(command: &mut Command) -> io::Result<(Child, Stderr)> {
        let (wanted, unwanted) = UnixStream::pair()?;
        let mut child = command.stderr(Stdio::piped()).spawn()?;
        let pipe = child.stderr.take().map(OwnedFd::from).ok_or(ErrorKind::BrokenPipe)?;
        rustix::io::ioctl_fionbio(&pipe, true)?;
        let ear = Arc::new(Ear { pipe: pipe.into(), said: Mutex::default() });
        let listening = ear.clone();
        // Without a thread it is heard at the end alone.
        let _ = Builder::new().spawn(move || listening.listen(&unwanted));
        Ok((child, Stderr { ear, _wanted: wanted }))
    }

    /// Takes what it has said by now. Not until its end: a connection to a jump host that the user's configuration keeps
    /// open may hold it for hours.
    pub(crate) fn take(&self) -> String {
        let mut said = self.ear.lock();
        self.ear.hear(&mut said);
        String::from_utf8_lossy(&std::mem::take(&mut *said)).into_owned()
    }
}

impl Ear {
    fn listen(&self, unwanted: &UnixStream) {
        loop {
            let mut ready = [PollFd::new(&self.pipe, PollFlags::IN), PollFd::new(unwanted, PollFlags::IN)];
            let _ = poll(&mut ready, None);
            if !ready[1].revents().is_empty() || !self.hear(&mut self.lock()) {
                return;
            }
        }
    }

    /// Takes in what has come; false at the end.
    fn hear(&self, said: &mut Vec<u8>) -> bool {
        let mut piece = [0; 4096];
        loop {
            match (&self.pipe).read(&mut piece) {
                Ok(0) => return false,
                Ok(count) => said.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
            said.drain(..said.len().saturating_sub(MOST));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_says_much_is_heard_all_the_time_and_its_last_words_are_kept() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "head -c 1000000 /dev/zero >&2; echo last >&2"]);
        let (mut child, stderr) = Stderr::spawn(&mut command).unwrap();
        assert!(child.wait().unwrap().success());
        let said = stderr.take();
        assert_eq!((said.len(), said.ends_with("\0last\n")), (MOST, true));
        assert_eq!(stderr.take(), "");
    }

    #[test]
    fn what_nobody_wants_to_hear_is_not_waited_for() {
        let mut command = Command::new("/bin/sh");
        // Held by what it leaves behind, as a connection to a jump host that is kept open.
        command.args(["-c", "echo here >&2; sleep 30 & echo $!"]).stdout(Stdio::piped());
        let (child, stderr) = Stderr::spawn(&mut command).unwrap();
        let Stderr { ear, _wanted: wanted } = stderr;
        let mut left = String::new();
        let mut stdout = child.stdout.unwrap();
        let mut byte = [0];
        while stdout.read(&mut byte).unwrap() > 0 && byte != *b"\n" {
            left.push(byte[0].into());
        }
        drop(wanted);
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while Arc::strong_count(&ear) > 1 {
            assert!(std::time::Instant::now() < end, "its thread is still there");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(Command::new("kill").arg(left).status().unwrap().success());
    }
}
