//! Evaluators: processes of Nix, as many at a time as a stated memory holds.
//!
//! Nix takes hundreds of megabytes for one NixOS and gives nothing back before it ends, so each
//! process is measured while it runs. What else this tool takes counts, too. Machines that wait
//! for the same evaluation but for their facts are evaluated in one process, one after the other:
//! what they have in common is then read once.

use crate::memory::{self, Held};
use crate::nix::{self, Event, Outcome};
use crate::recorder::Beginning;
use crate::room::{ASKING, Place, Room, Taken, Told, Waiting};
use anyhow::Result;
use machine_record::{Failure, Kind, log};
use std::process::{Child, Command};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// What all evaluators share.
pub struct Evaluators {
    /// Bytes that they may take together with this tool; one alone may take more
    memory: u64,
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
            if let (Some(limit), true) = (wanted.limit, run.late) {
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

    fn lock(&self) -> MutexGuard<'_, Room> {
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

/// A process that runs.
struct Run<'a> {
    evaluators: &'a Evaluators,
    wanted: &'a Wanted<'a>,
    id: u64,
    began: Option<Arc<Beginning>>,
    /// Those before the own machine, in their order
    others: Vec<Waiting>,
    machines: usize,
    done: usize,
    /// What the one in hand has looked at
    facts: Vec<String>,
    /// What the own machine came to
    own: Option<Outcome>,
    /// The most bytes that were seen, and at the end of the last one that is done
    most: u64,
    before: u64,
    taken: Taken,
    /// How many facts were told of
    told: Option<usize>,
    /// Whether it was ended for memory, and for its time
    ended: bool,
    late: bool,
    started: Instant,
}

impl<'a> Run<'a> {
    fn new(
        evaluators: &'a Evaluators,
        wanted: &'a Wanted,
        (id, others): (u64, Vec<Waiting>),
        began: Option<Arc<Beginning>>,
    ) -> Self {
        Run {
            evaluators,
            wanted,
            id,
            began,
            machines: others.len() + 1,
            others,
            done: 0,
            facts: Vec::new(),
            own: None,
            most: 0,
            before: 0,
            taken: Taken::default(),
            told: None,
            ended: false,
            late: false,
            started: Instant::now(),
        }
    }

    fn run(&mut self, command: &mut Command) -> Result<Outcome> {
        let Wanted { machine, facts, hold, input, .. } = *self.wanted;
        let names: Vec<String> =
            self.others.iter().map(|other| other.machine.clone()).chain([machine.into()]).collect();
        let input = input(&self.others.iter().map(|other| &*other.facts).chain([facts]).collect::<Vec<_>>());
        nix::run_beside(names, command, input, hold || self.machines > 1, |child, events| {
            // What it holds now, the last of those that are done may have needed.
            if let Some(child) = child {
                self.look(child);
            }
            events.into_iter().for_each(|event| self.hear(event));
            // Those who wait are woken up by it.
            if self.done + 1 == self.machines && self.told.replace(self.facts.len()) != Some(self.facts.len()) {
                (self.wanted.looks)(&self.facts);
            }
        })
    }

    /// Tells whom it is about. What Nix says to people is not known to be about one machine alone: it
    /// says once what several have in common.
    fn hear(&mut self, event: Event) {
        if self.taken.talks {
            return;
        }
        match event {
            Event::Looks(at, fact) if at == self.done => self.facts.push(fact),
            Event::Looks(..) => {}
            Event::Done(outcome) => {
                let outcome = Outcome { facts: std::mem::take(&mut self.facts), ..outcome };
                self.taken.talks = !outcome.stderr.is_empty();
                self.grown();
                match self.others.get(self.done) {
                    // Who waits for it waits until then.
                    Some(other) => drop(other.tell.send((outcome, self.began.clone()))),
                    None => self.own = Some(outcome),
                }
                self.done += 1;
            }
        }
    }

    /// One more is done.
    fn grown(&mut self) {
        if self.done == 0 {
            self.taken.first = self.most;
        } else {
            self.taken.more = self.taken.more.max(Some(self.most - self.before));
        }
        self.before = self.most;
    }

    /// Measures it, and ends it if all are too much and it is the last that came or has machines left
    /// that can have another process; also if it cannot tell of those.
    fn look(&mut self, child: &mut Child) {
        if self.ended || self.late {
            return;
        }
        if self.wanted.limit.is_some_and(|limit| self.started.elapsed() > limit) {
            self.late = child.kill().is_ok();
            return;
        }
        let Some(Held { own, .. }) = Held::by(child.id()) else { return };
        self.most = own.max(self.most);
        let mut room = self.evaluators.lock();
        if let Some(place) = room.running.iter_mut().find(|place| place.id == self.id) {
            place.process = Some(child.id());
            place.held = own;
            place.left = self.machines.saturating_sub(self.done);
        }
        let left = (1..self.machines).contains(&self.done);
        let last = room.running.iter().filter(|place| !place.alone).map(|place| place.id).max() == Some(self.id);
        let all = room.held();
        let over = all > self.evaluators.memory;
        if over && (last && room.running.len() > 1 || left) || left && self.taken.talks {
            // It is waited for by who started it; a kill that comes too late does no harm.
            self.ended = child.kill().is_ok();
            // What it holds is about to be free: no other needs to end for it.
            room.running.iter_mut().filter(|place| place.id == self.id).for_each(|place| place.held = 0);
        } else if over && room.running.len() == 1 && !std::mem::replace(&mut room.warned, true) {
            let (taken, given) = (all >> 20, self.evaluators.memory >> 20);
            let what = format!("this evaluation alone takes more than --eval-memory: {taken} of {given} MiB");
            log::warning(self.wanted.machine, &what);
        }
    }

    /// What it showed of the memory that such evaluations take, if that can be told.
    fn learned(&self, succeeded: bool) -> Option<Taken> {
        let mut taken = self.taken;
        if self.done == 0 {
            // It took that much, however far it came.
            taken.first = if succeeded || self.ended { self.most } else { 0 };
        } else if self.ended {
            taken.more = taken.more.max(Some(self.most.saturating_sub(self.before)));
        } else if self.done > 1 {
            let each = self.most.saturating_sub(taken.first) / (self.done as u64 - 1);
            taken.more = taken.more.max(Some(each));
        }
        (taken.first > 0).then_some(taken)
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
