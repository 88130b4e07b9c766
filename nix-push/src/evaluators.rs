//! Evaluators: processes of Nix, as many at a time as a stated memory holds.
//!
//! Nix takes hundreds of megabytes for one NixOS and gives nothing back before it ends, so each
//! process is measured while it runs. What else this tool takes counts, too. Machines that wait
//! for the same evaluation but for their facts are evaluated in one process, one after the other:
//! what they have in common is then read once.

use crate::evaluator::Run;
use crate::memory;
use crate::nix::{self, Outcome};
use crate::recorder::Beginning;
use crate::room::{ASKING, Place, Room, Taken, Told, Waiting};
use anyhow::Result;
use machine_record::{Failure, Kind, log};
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// What all evaluators share.
pub struct Evaluators {
    /// Bytes that they may take together with this tool; one alone may take more
    pub memory: u64,
    /// How many may run at a time
    jobs: usize,
    room: Mutex<Room>,
    changed: Condvar,
}

/// What is to be run.
pub struct Wanted<'a> {
    pub machine: &'a str,
    /// Those of one template differ in their facts alone
    pub template: &'a str,
    pub facts: &'a str,
    /// Whether the error that it ends with is not to be shown
    pub hold: bool,
    /// What it is given on stdin, for the facts of one machine or several
    pub input: &'a dyn Fn(&[&str]) -> String,
    pub command: &'a dyn Fn() -> (Command, Option<Arc<Beginning>>),
    /// Called when the machine's evaluation begins, again where it has to be done again
    pub begins: &'a dyn Fn(),
    /// Told what it has looked at so far
    pub looks: &'a dyn Fn(&[String]),
    /// How long it may run, if that is bounded
    pub limit: Option<Duration>,
}

impl<'a> Wanted<'a> {
    /// A question to the store, which has no facts and may take so long.
    pub fn asking(
        machine: &'a str,
        command: &'a dyn Fn() -> (Command, Option<Arc<Beginning>>),
        limit: Duration,
    ) -> Self {
        Wanted {
            machine,
            template: ASKING,
            facts: "",
            hold: false,
            input: &|_| String::new(),
            command,
            begins: &|| {},
            looks: &|_| {},
            limit: Some(limit),
        }
    }
}

/// How a machine comes to be evaluated.
enum Turn {
    /// It leads a process, and takes these along
    Leads(u64, Vec<Waiting>),
    /// Another machine has taken it along
    Taken(Receiver<Told>),
}

impl Evaluators {
    /// `memory` is half of what is free unless said, `jobs` the number of processors.
    pub fn new(memory: Option<u64>, jobs: Option<usize>) -> Self {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        Evaluators {
            // Where nothing can be measured, only the number of evaluators bounds them.
            memory: memory.or_else(|| Some(memory::free()? / 2)).unwrap_or(u64::MAX),
            jobs: jobs.unwrap_or_else(processors),
            room: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Runs an evaluator when there is room for it. One that is too much beside the others is ended
    /// and run again when no other does. Whom a process of several machines does not answer has one
    /// of its own.
    pub fn run(&self, wanted: &Wanted) -> Result<Told> {
        let mut company = wanted.template != ASKING;
        let mut alone = false;
        loop {
            let (id, others) = match self.enter(wanted, company, alone) {
                Turn::Leads(id, others) => (id, others),
                Turn::Taken(told) => {
                    (wanted.begins)();
                    if let Ok(told) = told.recv() {
                        return Ok(told);
                    }
                    company = false;
                    continue;
                }
            };
            (wanted.begins)();
            let (mut command, began) = (wanted.command)();
            let mut run = Run::new(self, wanted, (id, others), began);
            let outcome = run.run(&mut command);
            self.leave(wanted.template, id, run.learned(outcome.as_ref().is_ok_and(|outcome| outcome.success)));
            let outcome = Outcome { facts: run.facts, ..outcome? };
            if let (Some(limit), true) = (wanted.limit, run.late && run.own.is_none()) {
                if run.machines > 1 {
                    // Another of them may be the one that takes so long.
                    company = false;
                    continue;
                }
                if wanted.template != ASKING {
                    return Err(nix::late("evaluating", "--eval-timeout", limit).into());
                }
                let what = format!("{} did not answer in {} s", command.get_program().display(), limit.as_secs());
                return Err(Failure::new(Kind::Timeout, what)
                    .hint("-v shows what it was asked: try that by hand")
                    .into());
            }
            if let Some(own) = run.own {
                return Ok((own, run.began));
            } else if run.machines > 1 {
                company = false;
            } else if run.ended && !outcome.success {
                log::event(wanted.machine, "the evaluators took more than --eval-memory: this one starts again, alone");
                alone = true;
            } else {
                return Ok((outcome, run.began));
            }
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits for its turn.
    fn enter(&self, wanted: &Wanted, company: bool, alone: bool) -> Turn {
        let Wanted { machine, template, facts, .. } = *wanted;
        let mut room = self.lock();
        room.next += 1;
        let id = room.next;
        room.lonely += usize::from(alone);
        let (tell, told) = mpsc::channel();
        let company = company && !alone;
        if company {
            let [machine, template, facts] = [machine, template, facts].map(String::from);
            room.waiting.insert(id, Waiting { machine, template, facts, tell });
        }
        loop {
            if company && !room.waiting.contains_key(&id) {
                return Turn::Taken(told);
            }
            let left = self.memory.saturating_sub(room.beside());
            if room.has_room(template, alone, left, self.jobs) {
                room.lonely -= usize::from(alone);
                room.waiting.remove(&id);
                let others = if company { room.company(template, facts, left, self.jobs) } else { Vec::new() };
                let aside = room.expected(template, others.len() + 1);
                room.next += 1;
                let id = room.next;
                room.running.push(Place { id, process: None, left: others.len() + 1, aside, held: 0, alone });
                // Those who were taken along wait for something else now.
                self.changed.notify_all();
                return Turn::Leads(id, others);
            }
            room = self.changed.wait(room).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    fn leave(&self, template: &str, id: u64, learned: Option<Taken>) {
        let mut room = self.lock();
        room.running.retain(|place| place.id != id);
        if let Some(learned) = learned {
            room.known.entry(template.into()).or_default().add(learned);
        }
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_does_not_answer_is_ended() {
        let command = || {
            let mut command = Command::new("sleep");
            command.arg("3600");
            (command, None)
        };
        let wanted = Wanted::asking("a", &command, Duration::from_millis(1));
        let evaluators = Evaluators::new(None, None);
        let told = evaluators.run(&wanted).map(drop).unwrap_err();
        let failure = Failure::of(&told);
        assert_eq!((failure.kind, &*failure.message), (Kind::Timeout, "sleep did not answer in 0 s"));
        assert_eq!(failure.hint.as_deref(), Some("-v shows what it was asked: try that by hand"));
        assert!(evaluators.lock().running.is_empty());
    }
}
