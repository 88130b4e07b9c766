//! Sends paths: groups that the spool makes are written while the next ones are made.

use crate::delta;
use crate::groups;
use crate::intake;
use crate::lanes::{Lanes, Second};
use crate::pack::{Pace, Packer, Packing};
use crate::pairs::Pairs;
use crate::serve::{ADDED_ANSWER, HELLO_ANSWER, PathInfo, SERVER_MAGIC};
use crate::spool::{Order, Spool};
use crate::wire::Request;
use anyhow::{Result, anyhow};
use machine_record::log;
use machine_ssh::Channel;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often progress is told.
const TELL: Duration = Duration::from_secs(10);

/// What a stream was.
#[derive(Debug, Default)]
pub struct Sent {
    pub raw: u64,
    pub packed: u64,
    /// About how many bytes differences saved
    pub saved: u64,
}

/// Sends `infos`, which are in order, into the intake of a machine; all have arrived when this
/// returns without an error, and the channel then says whether the system is rooted. `second` comes
/// where the intake expects two channels.
pub fn send(
    machine: &str,
    channel: &mut Channel,
    second: Option<Second>,
    packing: Packing,
    spool: &Spool,
    infos: &[&PathInfo],
    pairs: &Pairs,
) -> Result<Sent> {
    let mut pace = Pace::new(spool.expected());
    let order = spool.order(packing, pace.level(), groups::cut(infos, pairs));
    let total = infos.iter().map(|info| info.nar_size).sum();
    let step = log::step(machine, "sending").of_bytes(total);
    let mut progress = Progress { machine, total, began: Instant::now(), told: Instant::now(), step };
    std::thread::scope(|scope| {
        for _ in 0..spool.makers().min(order.len()) {
            scope.spawn(|| order.make());
        }
        let mut lanes = Lanes::new(channel, second);
        let result = transfer(&mut lanes, packing, &order, infos.len(), &mut pace, &mut progress);
        order.close();
        intake::explain(result, lanes.main)
    })
}

/// Writes all groups, then counts the answers.
fn transfer(
    lanes: &mut Lanes<Channel, Second>,
    packing: Packing,
    order: &Order,
    paths: usize,
    pace: &mut Pace,
    progress: &mut Progress,
) -> Result<Sent> {
    let mut sent = Sent::default();
    let mut answers = Answers::default();
    let mut answer = [0; 4096];
    let mut write = |lanes: &mut Lanes<Channel, Second>, bytes: &[u8]| {
        lanes.send(bytes)?;
        while let Some(count) = lanes.main.try_read(&mut answer)? {
            if count == 0 {
                return Err(answers.ended(paths));
            }
            answers.take(&answer[..count]);
        }
        Ok(bytes.len() as u64)
    };
    let hello = match packing {
        Packing::Delta(_) => delta::opening(&Request::hello())?,
        _ => {
            let mut hello = Packer::new(packing, pace.level(), 1)?;
            hello.pack(&Request::hello().0)?;
            hello.finish()?
        }
    };
    sent.packed += write(lanes, &hello)?;
    for group in 0..order.len() {
        let mut part = 0;
        while let Some((bytes, figures)) = order.part(group, part)? {
            let waits = lanes.link_waits();
            sent.packed += write(lanes, &bytes)?;
            sent.raw += figures.raw;
            sent.saved += figures.saved;
            pace.waited(lanes.link_waits() - waits);
            order.level.store(pace.level(), Ordering::Relaxed);
            progress.step.add_bytes(figures.raw);
            progress.tell(&sent);
            part += 1;
        }
    }
    lanes.finish()?;
    let expected = HELLO_ANSWER + ADDED_ANSWER * paths;
    while answers.count < expected {
        // Not a byte more: what follows is the word about the root.
        let most = if answers.count == 0 { 1 } else { answer.len().min(expected - answers.count) };
        match lanes.main.read_some(&mut answer[..most])? {
            0 => return Err(answers.ended(paths)),
            count => answers.take(&answer[..count]),
        }
    }
    Ok(sent)
}

/// What the machine's nix-store answers, from its greeting on.
#[derive(Default)]
struct Answers {
    /// What came before the greeting: a login shell may have something to say
    before: Vec<u8>,
    /// Bytes of answers
    count: usize,
}

impl Answers {
    fn take(&mut self, bytes: &[u8]) {
        if self.count > 0 {
            self.count += bytes.len();
            return;
        }
        self.before.extend_from_slice(bytes);
        let greeting = SERVER_MAGIC.to_le_bytes();
        if let Some(at) = self.before.windows(greeting.len()).position(|bytes| bytes == greeting) {
            self.count = self.before.len() - at;
        }
        self.before.drain(..self.before.len().saturating_sub(greeting.len()));
    }

    /// The failure of a machine that has ended after these.
    fn ended(&self, paths: usize) -> anyhow::Error {
        anyhow!("it took only {} of {paths} paths", self.count.saturating_sub(HELLO_ANSWER) / ADDED_ANSWER)
    }
}

/// Tells people how far a long copy has come.
struct Progress<'a> {
    machine: &'a str,
    total: u64,
    began: Instant,
    told: Instant,
    step: log::Step,
}

impl Progress<'_> {
    fn tell(&mut self, sent: &Sent) {
        if self.told.elapsed() < TELL {
            return;
        }
        self.told = Instant::now();
        let mut numbers = self.step.numbers();
        numbers["packedBytes"] = sent.packed.into();
        log::figures(self.machine, &far(sent, self.total, self.began.elapsed().as_secs_f64()), numbers);
    }
}

fn far(sent: &Sent, total: u64, seconds: f64) -> String {
    let (rate, packed) = (sent.raw as f64 / seconds, size((sent.packed as f64 / seconds) as u64));
    let left = total.saturating_sub(sent.raw) as f64 / rate;
    format!("sent {} of {}, {packed}/s compressed, about {left:.0} s left", size(sent.raw), size(total))
}

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_that_nothing_is_sent_to_make_the_link_no_slower() {
        let spool = Spool::new();
        let _present: Vec<_> = (0..5).map(|_| spool.enter()).collect();
        let level = || Pace::new(spool.expected()).level();
        let fast = level();
        let mut expected: Vec<_> = (0..4).map(|_| spool.expecting()).collect();
        assert!(level() > fast, "four share it");
        expected.pop();
        assert_eq!(level(), fast, "one of them has all");
        drop(expected);
        assert_eq!((level(), spool.machines()), (fast, 5));
    }

    #[test]
    fn a_machine_that_ends_early_is_told_how_far_it_came() {
        let ended = |count| Answers { count, ..Answers::default() }.ended(3).to_string();
        assert_eq!(ended(0), "it took only 0 of 3 paths");
        assert_eq!(ended(HELLO_ANSWER + 2 * ADDED_ANSWER + 1), "it took only 2 of 3 paths");
    }

    #[test]
    fn what_a_login_shell_says_is_no_answer() {
        let mut answers = Answers::default();
        let said = [&b"Welcome!\n"[..], &SERVER_MAGIC.to_le_bytes(), &[7; 16]].concat();
        said.chunks(5).for_each(|part| answers.take(part));
        assert_eq!(answers.count, HELLO_ANSWER + ADDED_ANSWER);
    }

    #[test]
    fn a_long_copy_says_how_far_it_is() {
        let sent = Sent { raw: 30 << 20, packed: 10 << 20, ..Sent::default() };
        let text = far(&sent, 90 << 20, 10.0);
        assert_eq!(text, "sent 30.0 MiB of 90.0 MiB, 1.0 MiB/s compressed, about 20 s left");
    }
}
