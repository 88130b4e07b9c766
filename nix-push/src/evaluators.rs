//! Evaluators: processes of Nix, as many at a time as a stated memory holds.
//!
//! Nix takes hundreds of megabytes for one NixOS and gives nothing back before it ends, so each
//! machine has a process of its own, measured while it runs.

use crate::nix::{self, Outcome};
use anyhow::Result;
use machine_record::log;
use std::collections::HashMap;
use std::fs;
use std::process::{Child, Command};
use std::sync::{Condvar, Mutex, MutexGuard};

/// What all evaluators share.
pub struct Evaluators {
    /// Bytes that they may take together; one alone may take more
    memory: u64,
    /// How many may run at a time
    jobs: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    running: Vec<Place>,
    /// How many wait for all others to end
    lonely: usize,
    /// The most that an evaluation of each template has taken
    known: HashMap<String, u64>,
    next: u64,
}

/// An evaluator that runs, and the memory that is set aside for it.
struct Place {
    id: u64,
    bytes: u64,
    alone: bool,
}

impl Evaluators {
    /// `memory` is half of what is free unless said, `jobs` the number of processors.
    pub fn new(memory: Option<u64>, jobs: Option<usize>) -> Self {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        Evaluators {
            // Where nothing can be measured, only the number of evaluators bounds them.
            memory: memory.or_else(|| Some(free()? / 2)).unwrap_or(u64::MAX),
            jobs: jobs.unwrap_or_else(processors),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Runs an evaluator when there is room for it. One that is too much beside the others is
    /// ended and run again when no other does.
    pub fn run(
        &self,
        machine: &str,
        template: &str,
        input: &str,
        hold: bool,
        command: impl Fn() -> Result<Command>,
    ) -> Result<Outcome> {
        let mut alone = false;
        loop {
            let id = self.enter(template, alone);
            let mut seen = Seen { most: 0, ended: false, warned: false };
            let outcome = command().and_then(|mut command| {
                nix::run_beside(machine, &mut command, input.into(), hold, |child| {
                    self.look(machine, id, child, &mut seen)
                })
            });
            let succeeded = outcome.as_ref().is_ok_and(|outcome| outcome.success);
            self.leave(template, id, if succeeded || seen.ended { seen.most } else { 0 });
            if !seen.ended || succeeded {
                return outcome;
            }
            log::event(machine, "the evaluators took more than --eval-memory: evaluating this machine again, alone");
            alone = true;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn enter(&self, template: &str, alone: bool) -> u64 {
        let mut state = self.lock();
        state.lonely += usize::from(alone);
        let waits = |state: &mut State| !state.has_room(template, alone, self.memory, self.jobs);
        state = self.changed.wait_while(state, waits).unwrap_or_else(|poisoned| poisoned.into_inner());
        state.lonely -= usize::from(alone);
        state.next += 1;
        let place = Place { id: state.next, bytes: state.expected(template).unwrap_or(0), alone };
        state.running.push(place);
        state.next
    }

    fn leave(&self, template: &str, id: u64, most: u64) {
        let mut state = self.lock();
        state.running.retain(|place| place.id != id);
        if most > 0 {
            let known = state.known.entry(template.into()).or_default();
            *known = most.max(*known);
        }
        self.changed.notify_all();
    }

    /// Measures an evaluator, and ends it if it is the last that came and all are too much.
    fn look(&self, machine: &str, id: u64, child: &mut Child, seen: &mut Seen) {
        let Some(bytes) = resident(child.id()) else { return };
        seen.most = bytes.max(seen.most);
        let mut state = self.lock();
        if let Some(place) = state.running.iter_mut().find(|place| place.id == id) {
            place.bytes = bytes.max(place.bytes);
        }
        let last = state.running.iter().filter(|place| !place.alone).map(|place| place.id).max() == Some(id);
        let all: u64 = state.running.iter().map(|place| place.bytes).sum();
        if all <= self.memory {
            return;
        }
        if last && state.running.len() > 1 {
            // It is waited for by who started it; a kill that comes too late does no harm.
            seen.ended = child.kill().is_ok();
        } else if state.running.len() == 1 && bytes > self.memory && !std::mem::replace(&mut seen.warned, true) {
            let mebibytes = |bytes: u64| bytes >> 20;
            let (taken, given) = (mebibytes(bytes), mebibytes(self.memory));
            log::warning(
                machine,
                &format!("this evaluation alone takes more than --eval-memory: {taken} of {given} MiB"),
            );
        }
    }
}

/// What was seen of an evaluator while it ran.
struct Seen {
    most: u64,
    ended: bool,
    warned: bool,
}

impl State {
    /// What an evaluation will take: as the last of its template, else as the largest of any.
    fn expected(&self, template: &str) -> Option<u64> {
        self.known.get(template).or(self.known.values().max()).copied()
    }

    fn has_room(&self, template: &str, alone: bool, memory: u64, jobs: usize) -> bool {
        if self.running.is_empty() {
            // Who waits to be alone comes first, or would never be.
            return alone || self.lonely == 0;
        }
        if alone || self.lonely > 0 || self.running.len() >= jobs {
            return false;
        }
        let taken: u64 = self.running.iter().map(|place| place.bytes).sum();
        // The first of all runs alone: it shows what the others will take.
        self.expected(template).is_some_and(|expected| taken.saturating_add(expected) <= memory)
    }
}

/// Reads a size: `512M`, `4G` (powers of 1024, as nix.conf and systemd have them), or bytes.
pub fn size(text: &str) -> Result<u64, String> {
    let upper = text.trim_end_matches("iB").trim_end_matches('B');
    let (number, shift) = match upper.as_bytes().last() {
        Some(b'K' | b'k') => (&upper[..upper.len() - 1], 10),
        Some(b'M' | b'm') => (&upper[..upper.len() - 1], 20),
        Some(b'G' | b'g') => (&upper[..upper.len() - 1], 30),
        Some(b'T' | b't') => (&upper[..upper.len() - 1], 40),
        _ => (upper, 0),
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift)) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err("a size is a number and a unit, such as 512M or 4G".into()),
    }
}

/// The memory that a process holds (proc(5)): pages that it shares with others count in full.
fn resident(process: u32) -> Option<u64> {
    kibibytes(&fs::read_to_string(format!("/proc/{process}/status")).ok()?, "VmRSS:")
}

/// The memory that is free: the kernel's estimate (proc(5)), or less where a cgroup gives less.
fn free() -> Option<u64> {
    let free = kibibytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    let number = |file: &str| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    let left = |limit: &str, usage: &str| Some(number(limit)?.saturating_sub(number(usage)?));
    let cgroup = left("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current").or_else(|| {
        let folder = "/sys/fs/cgroup/memory/memory";
        left(&format!("{folder}.limit_in_bytes"), &format!("{folder}.usage_in_bytes"))
    });
    Some(cgroup.map_or(free, |cgroup| free.min(cgroup)))
}

fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(id: u64, bytes: u64) -> Place {
        Place { id, bytes, alone: false }
    }

    #[test]
    fn there_is_room_for_what_the_memory_holds() {
        let mut state = State::default();
        assert!(state.has_room("a", false, 100, 4), "nobody runs");
        state.running.push(place(1, 10));
        assert!(!state.has_room("a", false, 100, 4), "nobody knows yet what it takes");
        state.known.insert("a".into(), 40);
        assert!(state.has_room("a", false, 100, 4));
        assert!(!state.has_room("a", false, 100, 1), "one job at a time");
        state.running.push(place(2, 70));
        assert!(!state.has_room("a", false, 100, 4));
        // Another configuration is taken to be as large as the largest.
        assert_eq!((state.expected("b"), state.expected("a")), (Some(40), Some(40)));
    }

    #[test]
    fn who_must_be_alone_is_not_overtaken() {
        let mut state = State { lonely: 1, ..State::default() };
        state.known.insert("a".into(), 1);
        assert!(!state.has_room("a", false, 100, 4) && state.has_room("a", true, 100, 4));
        state.running.push(place(1, 1));
        assert!(!state.has_room("a", false, 100, 4) && !state.has_room("a", true, 100, 4));
    }

    #[test]
    fn sizes_have_a_unit_or_are_bytes() {
        for (text, bytes) in [("4G", 4 << 30), ("512M", 512 << 20), ("512MiB", 512 << 20), ("1k", 1024), ("77", 77)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "0", "G", "-1M", "1.5G", "1X", "99999999999T"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
