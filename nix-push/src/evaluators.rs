//! Evaluators: processes of Nix, as many at a time as a stated memory holds.
//!
//! Nix takes hundreds of megabytes for one NixOS and gives nothing back before it ends, so each
//! machine has a process of its own, measured while it runs. What else this tool takes counts, too.

use crate::memory::{self, Beside, Held};
use crate::nix::{self, Outcome};
use anyhow::Result;
use machine_record::log;
use std::collections::HashMap;
use std::process::{Child, Command};
use std::sync::{Condvar, Mutex, MutexGuard};

/// The template of a process that asks the store: it takes little.
pub const ASKING: &str = "";

/// What an evaluation is taken to need before one has shown it, in bytes: NixOS takes some 400 MB.
const UNKNOWN: u64 = 1 << 30;

/// What all evaluators share.
pub struct Evaluators {
    /// Bytes that they may take together with this tool; one alone may take more
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
    beside: Beside,
    /// Whether it was said that one alone takes too much
    warned: bool,
}

/// An evaluator that runs, and the memory that is set aside for it.
struct Place {
    id: u64,
    process: Option<u32>,
    bytes: u64,
    alone: bool,
}

impl Evaluators {
    /// `memory` is half of what is free unless said, `jobs` the number of processors.
    pub fn new(memory: Option<u64>, jobs: Option<usize>) -> Self {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        Evaluators {
            // Where nothing can be measured, only the number of evaluators bounds them.
            memory: memory.or_else(|| Some(memory::free()? / 2)).unwrap_or(u64::MAX),
            jobs: jobs.unwrap_or_else(processors),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Runs an evaluator when there is room for it, and tells `looks` what it has looked at so far.
    /// One that is too much beside the others is ended and run again when no other does.
    pub fn run(
        &self,
        machine: &str,
        template: &str,
        input: &str,
        hold: bool,
        command: impl Fn() -> Result<Command>,
        looks: impl Fn(&[String]),
    ) -> Result<Outcome> {
        let mut alone = false;
        loop {
            let id = self.enter(template, alone);
            let mut seen = Seen::default();
            let outcome = command().and_then(|mut command| {
                nix::run_beside(machine, &mut command, input.into(), hold, |child, facts| {
                    self.look(machine, id, child, &mut seen);
                    looks(facts);
                })
            });
            let succeeded = outcome.as_ref().is_ok_and(|outcome| outcome.success);
            self.leave(template, id, if succeeded || seen.ended { seen.most } else { 0 });
            if !seen.ended || succeeded {
                return outcome;
            }
            log::event(machine, "the evaluators took more than --eval-memory: this one starts again, alone");
            alone = true;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn enter(&self, template: &str, alone: bool) -> u64 {
        let mut state = self.lock();
        state.lonely += usize::from(alone);
        let waits = |state: &mut State| {
            let left = self.memory.saturating_sub(state.beside());
            !state.has_room(template, alone, left, self.jobs)
        };
        state = self.changed.wait_while(state, waits).unwrap_or_else(|poisoned| poisoned.into_inner());
        state.lonely -= usize::from(alone);
        state.next += 1;
        let bytes = state.expected(template);
        let place = Place { id: state.next, process: None, bytes, alone };
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
        let Some(Held { own, .. }) = Held::by(child.id()) else { return };
        seen.most = own.max(seen.most);
        let mut state = self.lock();
        if let Some(place) = state.running.iter_mut().find(|place| place.id == id) {
            place.process = Some(child.id());
            place.bytes = own.max(place.bytes);
        }
        let last = state.running.iter().filter(|place| !place.alone).map(|place| place.id).max() == Some(id);
        let all = state.beside().saturating_add(state.taken());
        if all <= self.memory {
            return;
        }
        if last && state.running.len() > 1 {
            // It is waited for by who started it; a kill that comes too late does no harm.
            seen.ended = child.kill().is_ok();
        } else if state.running.len() == 1 && !std::mem::replace(&mut state.warned, true) {
            let (taken, given) = (all >> 20, self.memory >> 20);
            let what = format!("this evaluation alone takes more than --eval-memory: {taken} of {given} MiB");
            log::warning(machine, &what);
        }
    }
}

/// What was seen of an evaluator while it ran.
#[derive(Default)]
struct Seen {
    most: u64,
    ended: bool,
}

impl State {
    /// What an evaluation will take: as the last of its template, else as the largest of any.
    fn expected(&self, template: &str) -> u64 {
        let evaluations = self.known.iter().filter(|(template, _)| *template != ASKING);
        let known = self.known.get(template).copied().or_else(|| evaluations.map(|(_, bytes)| *bytes).max());
        known.unwrap_or(UNKNOWN)
    }

    /// What this tool and all else that it runs take.
    fn beside(&mut self) -> u64 {
        self.beside.bytes(self.running.iter().filter_map(|place| place.process))
    }

    /// What is set aside for the evaluators.
    fn taken(&self) -> u64 {
        self.running.iter().map(|place| place.bytes).sum()
    }

    fn has_room(&self, template: &str, alone: bool, memory: u64, jobs: usize) -> bool {
        if self.running.is_empty() {
            // Who waits to be alone comes first, or would never be.
            return alone || self.lonely == 0;
        }
        if alone || self.lonely > 0 || self.running.len() >= jobs {
            return false;
        }
        self.taken().saturating_add(self.expected(template)) <= memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(id: u64, bytes: u64) -> Place {
        Place { id, process: None, bytes, alone: false }
    }

    #[test]
    fn there_is_room_for_what_the_memory_holds() {
        let mut state = State::default();
        assert!(state.has_room("a", false, 100, 4), "nobody runs");
        state.running.push(place(1, 10));
        assert!(!state.has_room("a", false, UNKNOWN, 4), "nobody knows yet what it takes");
        assert!(state.has_room("a", false, UNKNOWN + 10, 4));
        state.known.insert("a".into(), 40);
        assert!(state.has_room("a", false, 100, 4));
        assert!(!state.has_room("a", false, 100, 1), "one job at a time");
        state.running.push(place(2, 70));
        assert!(!state.has_room("a", false, 100, 4));
        // Another configuration is taken to be as large as the largest.
        assert_eq!((state.expected("b"), state.expected("a")), (40, 40));
        // What a question takes says nothing of an evaluation.
        let state = State { known: [(ASKING.into(), 1)].into(), ..State::default() };
        assert_eq!((state.expected("b"), state.expected(ASKING)), (UNKNOWN, 1));
    }

    #[test]
    fn who_must_be_alone_is_not_overtaken() {
        let mut state = State { lonely: 1, ..State::default() };
        state.known.insert("a".into(), 1);
        assert!(!state.has_room("a", false, 100, 4) && state.has_room("a", true, 100, 4));
        state.running.push(place(1, 1));
        assert!(!state.has_room("a", false, 100, 4) && !state.has_room("a", true, 100, 4));
    }
}
