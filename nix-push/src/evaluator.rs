//! One evaluator: a process of Nix that evaluates a machine or several, measured while it runs.

use crate::evaluators::{Evaluators, Wanted};
use crate::memory::Held;
use crate::nix::{self, Event, Outcome};
use crate::recorder::Beginning;
use crate::remarks::remarks;
use crate::room::{Taken, Waiting};
use anyhow::Result;
use machine_record::log;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Instant;

/// A process that runs.
pub struct Run<'a> {
    evaluators: &'a Evaluators,
    wanted: &'a Wanted<'a>,
    id: u64,
    pub began: Option<Arc<Beginning>>,
    /// Those before the own machine, in their order
    others: Vec<Waiting>,
    pub machines: usize,
    done: usize,
    /// What the one in hand has looked at
    pub facts: Vec<String>,
    /// What the own machine came to
    pub own: Option<Outcome>,
    /// The most bytes that were seen, and at the end of the last one that is done
    most: u64,
    before: u64,
    taken: Taken,
    /// How many facts were told of
    told: Option<usize>,
    /// Whether it was ended for memory, and for its time
    pub ended: bool,
    pub late: bool,
    started: Instant,
}

impl<'a> Run<'a> {
    pub fn new(
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

    pub fn run(&mut self, command: &mut Command) -> Result<Outcome> {
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

    /// Tells whom it is about. What Nix says of a configuration is not known to be about one machine alone: it says once
    /// what several have in common.
    fn hear(&mut self, event: Event) {
        if self.taken.talks {
            return;
        }
        match event {
            Event::Looks(at, fact) if at == self.done => self.facts.push(fact),
            Event::Looks(..) => {}
            Event::Done(outcome) => {
                let outcome = Outcome { facts: std::mem::take(&mut self.facts), ..outcome };
                self.taken.talks = !remarks(&outcome.stderr).is_empty();
                self.grown();
                // Each has the whole time.
                self.started = Instant::now();
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
    pub fn learned(&self, succeeded: bool) -> Option<Taken> {
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
