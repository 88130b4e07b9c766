//! One stream on two channels of a connection, where the machine is far.
//!
//! An sshd lets 2 MiB be under way on a channel (OpenSSH `channels.h`, `CHAN_SES_WINDOW_DEFAULT`): at a
//! round trip of 150 ms that is 14 MB/s, whatever the link could carry. A second channel doubles it, and
//! needs no login, no second TCP that has to speed up, and none that takes its share of a narrow link.
//! Pieces go by turns; `merge.sh` puts them behind each other there.

use anyhow::Result;
use machine_ssh::{Channel, Session};
use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::time::Duration;

mod second;

pub use second::Second;

/// What goes on one channel before it is the other's turn: a quarter of what may be under way.
const PIECE: usize = 512 << 10;
/// The round trip in which a machine of two processors takes in about 2 MiB of compressed paths: with a
/// shorter one it is what is waited for, and not the channel.
const FAR: Duration = Duration::from_millis(60);
/// NAR bytes from which on it pays: about three times what fills the first channel.
const WORTH: u64 = 16 << 20;
/// Where the machine has the pipe, for a moment.
const FOLDER: &str = "/var/tmp/nix-push.";

/// The folder in which both channels meet on the machine; `None` where one is enough for so many
/// bytes of NAR.
pub fn folder(session: &Session, bytes: u64) -> Option<String> {
    let far = session.round_trip().is_some_and(|round_trip| round_trip >= FAR);
    if !far || bytes < WORTH {
        return None;
    }
    let mut random = [0; 16];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random)).ok()?;
    let mut folder = FOLDER.to_string();
    random.iter().try_for_each(|byte| write!(folder, "{byte:02x}")).ok()?;
    Some(folder)
}

/// A second channel that is not there yet.
pub trait Join<L> {
    /// Gives it once it is; does not wait.
    fn joined(&mut self) -> Result<Option<L>>;
}

/// What a stream goes on.
pub trait Lane {
    fn send(&mut self, bytes: &[u8]) -> Result<()>;
    fn finish(&mut self) -> Result<()>;
}

impl Lane for Channel {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes)
    }
    fn finish(&mut self) -> Result<()> {
        self.finish_input()
    }
}

/// A stream to the machine, on one channel or two.
pub struct Lanes<'a, L, J> {
    pub main: &'a mut L,
    second: Option<L>,
    join: Option<J>,
    /// Whether the machine merges: else all goes on the first, as it is
    merges: bool,
    on_second: bool,
    /// Bytes left of the piece that was announced
    left: usize,
}

impl<'a, L: Lane, J: Join<L>> Lanes<'a, L, J> {
    /// With `join`, the machine runs `merge.sh`, and the second one may come or not.
    pub fn new(main: &'a mut L, join: Option<J>) -> Self {
        Lanes { main, second: None, merges: join.is_some(), join, on_second: false, left: 0 }
    }

    /// Sends all of `bytes`.
    pub fn send(&mut self, mut bytes: &[u8]) -> Result<()> {
        if !self.merges {
            return self.main.send(bytes);
        }
        self.meet();
        while !bytes.is_empty() {
            if self.left == 0 {
                self.on_second = self.second.is_some() && !self.on_second;
                self.left = PIECE;
                let from = if self.on_second { 4 } else { 0 };
                self.main.send(format!("{from} {PIECE}\n").as_bytes())?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(self.left));
            bytes = later;
            self.left -= now.len();
            let lane = self.second.as_mut().filter(|_| self.on_second).unwrap_or(self.main);
            lane.send(now)?;
            if self.left == 0 {
                lane.send(b"\n")?;
            }
        }
        Ok(())
    }

    /// Takes the second one in, if it has come. One is enough where it does not.
    fn meet(&mut self) {
        let joined = match &mut self.join {
            Some(join) => join.joined(),
            None => return,
        };
        if !matches!(joined, Ok(None)) {
            (self.second, self.join) = (joined.ok().flatten(), None);
        }
    }

    /// Ends the stream.
    pub fn finish(&mut self) -> Result<()> {
        if let Some(second) = &mut self.second {
            second.finish()?;
        }
        self.main.finish()
    }
}

impl<J> Lanes<'_, Channel, J> {
    /// How long sending has waited for the link so far.
    pub fn link_waits(&self) -> Duration {
        self.main.link_waits() + self.second.as_ref().map_or(Duration::ZERO, Channel::link_waits)
    }
}

#[cfg(test)]
mod tests {
    use super::second::HERE;
    use super::*;
    use std::io::Write as _;
    use std::process::{Child, ChildStdin, Command, Stdio};

    struct Input(Option<ChildStdin>);

    impl Lane for Input {
        fn send(&mut self, bytes: &[u8]) -> Result<()> {
            Ok(self.0.as_mut().unwrap().write_all(bytes)?)
        }
        fn finish(&mut self) -> Result<()> {
            self.0 = None;
            Ok(())
        }
    }

    /// Comes when it was asked for often enough, or fails.
    struct After(u32, Option<Result<Input>>);

    impl Join<Input> for After {
        fn joined(&mut self) -> Result<Option<Input>> {
            self.0 = self.0.saturating_sub(1);
            if self.0 > 0 { Ok(None) } else { self.1.take().unwrap().map(Some) }
        }
    }

    /// The machine's side: `merge.sh` and `lane.sh` in a folder of the test.
    struct Machine {
        folder: String,
        merge: Child,
        lane: Option<Child>,
    }

    impl Machine {
        fn new(test: &str) -> Machine {
            let folder = std::env::temp_dir().join(format!("lanes-{test}-{}", std::process::id()));
            let folder = folder.to_str().unwrap().to_string();
            let script = format!("folder=$1\n{}merge", include_str!("merge.sh"));
            let merge = spawn(&script, &folder);
            Machine { folder, merge, lane: None }
        }

        /// The first channel's input, and the second one's once it is ready.
        fn inputs(&mut self) -> (Input, Input) {
            let mut lane = spawn(include_str!("lane.sh"), &self.folder);
            let mut said = [0; HERE.len()];
            lane.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
            assert_eq!(said, HERE.as_bytes());
            let second = lane.stdin.take();
            self.lane = Some(lane);
            (Input(self.merge.stdin.take()), Input(second))
        }

        /// What came out while `work` put it in; nothing is left then, neither a process nor a folder.
        fn out(mut self, work: impl FnOnce() + Send) -> Vec<u8> {
            let mut out = Vec::new();
            let mut stdout = self.merge.stdout.take().unwrap();
            std::thread::scope(|scope| {
                scope.spawn(work);
                stdout.read_to_end(&mut out).unwrap();
            });
            self.merge.wait().unwrap();
            if let Some(mut lane) = self.lane.take() {
                lane.wait().unwrap();
            }
            assert!(!std::path::Path::new(&self.folder).exists());
            out
        }
    }

    fn spawn(script: &str, folder: &str) -> Child {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script, "test", folder]).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.spawn().unwrap()
    }

    fn bytes(count: usize) -> Vec<u8> {
        (0..count as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
    }

    #[test]
    fn pieces_come_out_in_order_whenever_the_second_channel_joins_and_wherever_the_last_one_ends() {
        for (test, (joins, count)) in
            [(1, 5 * PIECE + 7), (1, 4 * PIECE + 9), (3, 6 * PIECE), (4, 4 * PIECE), (2, 100), (1, 0)]
                .into_iter()
                .enumerate()
        {
            let mut machine = Machine::new(&format!("order-{test}"));
            let (mut main, second) = machine.inputs();
            let sent = bytes(count);
            let out = machine.out(|| {
                let mut lanes = Lanes::new(&mut main, Some(After(joins, Some(Ok(second)))));
                sent.chunks(200_000).for_each(|part| lanes.send(part).unwrap());
                lanes.finish().unwrap();
                assert_eq!(lanes.second.is_some(), count > 100);
            });
            assert!(out == sent, "joined at {joins}: {} of {count} bytes", out.len());
        }
    }

    #[test]
    fn one_channel_is_enough_where_the_second_is_refused() {
        let mut machine = Machine::new("refused");
        let mut main = Input(machine.merge.stdin.take());
        let sent = bytes(3 * PIECE + 1);
        let out = machine.out(|| {
            let mut lanes = Lanes::new(&mut main, Some(After(1, Some(Err(anyhow::anyhow!("refused"))))));
            lanes.send(&sent).unwrap();
            lanes.finish().unwrap();
        });
        assert!(out == sent);
    }

    #[test]
    fn one_channel_is_enough_where_the_folder_cannot_be_made_and_one_that_is_there_stays() {
        let folder = std::env::temp_dir().join(format!("lanes-there-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let script = format!("folder=$1\n{}merge", include_str!("merge.sh"));
        let mut merge = spawn(&script, folder.to_str().unwrap());
        let mut main = Input(merge.stdin.take());
        let mut lanes = Lanes::new(&mut main, Some(After(u32::MAX, None)));
        lanes.send(b"what fits into a pipe").unwrap();
        lanes.finish().unwrap();
        let output = merge.wait_with_output().unwrap();
        assert_eq!(output.stdout, b"what fits into a pipe");
        std::fs::remove_dir(&folder).unwrap();
    }

    #[test]
    fn nothing_comes_behind_the_gap_of_a_channel_that_is_cut() {
        let mut machine = Machine::new("cut");
        let (mut main, second) = machine.inputs();
        let sent = bytes(5 * PIECE);
        let out = machine.out(|| {
            let mut lanes = Lanes::new(&mut main, Some(After(1, Some(Ok(second)))));
            // The second one has the first piece.
            lanes.send(&sent[..PIECE / 2]).unwrap();
            lanes.second.as_mut().unwrap().finish().unwrap();
            lanes.on_second = false;
            // The pipe holds some of it; then nobody reads any more.
            let _ = lanes.send(&sent[PIECE / 2..]);
            let _ = lanes.finish();
        });
        assert!(out == sent[..PIECE / 2], "{} bytes", out.len());
    }

    #[test]
    fn a_stream_without_a_merge_goes_as_it_is() {
        let mut cat = spawn("exec cat", "");
        let mut main = Input(cat.stdin.take());
        let mut lanes = Lanes::<_, After>::new(&mut main, None);
        lanes.send(b"as it is").unwrap();
        lanes.finish().unwrap();
        let mut out = String::new();
        cat.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        cat.wait().unwrap();
        assert_eq!(out, "as it is");
    }
}
