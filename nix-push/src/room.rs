//! Which evaluations run together: as many processes as a stated memory holds, and as many machines in each.

use crate::memory::Beside;
use crate::nix::Outcome;
use crate::recorder::Beginning;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// The template of a process that asks the store: it takes little.
pub const ASKING: &str = "";

/// What an evaluation is taken to need before one has shown it, in bytes: NixOS takes some 400 MB.
pub const UNKNOWN: u64 = 1 << 30;

/// The most machines of one process: more save little, and Nix gives no memory back before it ends.
const COMPANY: usize = 8;

/// The most bytes of their records.
const RECORDS: usize = 1 << 20;

/// What is known of the memory, and who wants it.
#[derive(Default)]
pub struct Room {
    pub running: Vec<Place>,
    /// Those who can be taken along, in the order they came
    pub waiting: BTreeMap<u64, Waiting>,
    /// How many wait for all others to end
    pub lonely: usize,
    pub known: HashMap<String, Taken>,
    pub next: u64,
    pub beside: Beside,
    /// Whether it was said that one alone takes too much
    pub warned: bool,
}

/// An evaluator that runs.
pub struct Place {
    pub id: u64,
    pub process: Option<u32>,
    /// Machines that it has not done
    pub left: usize,
    /// Bytes that are set aside for it, and those that it has taken
    pub aside: u64,
    pub held: u64,
    pub alone: bool,
}

/// A machine whose evaluation may be done in the process of another one's.
pub struct Waiting {
    pub machine: String,
    pub template: String,
    pub facts: String,
    pub tell: Sender<Told>,
}

/// What an evaluation came to, and when its process began; a process that ends without is no answer.
pub type Told = (Outcome, Option<Arc<Beginning>>);

/// The most that evaluations of a template have taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Bytes of the first machine of a process
    pub first: u64,
    /// Bytes that each more machine came on top, where that is known
    pub more: Option<u64>,
    /// Whether Nix says something to people: it says for one machine alone what holds for several
    pub talks: bool,
}

impl Taken {
    pub fn add(&mut self, other: Taken) {
        self.first = self.first.max(other.first);
        self.more = self.more.max(other.more);
        self.talks |= other.talks;
    }

    fn bytes(&self, machines: usize) -> u64 {
        let more = self.more.unwrap_or(self.first);
        self.first.saturating_add(more.saturating_mul(machines as u64 - 1))
    }
}

impl Room {
    /// What an evaluation will take: as the last of its template, else as the largest of any.
    pub fn expected(&self, template: &str, machines: usize) -> u64 {
        let evaluations = self.known.iter().filter(|(template, _)| *template != ASKING);
        let known = self.known.get(template).map(|taken| taken.bytes(machines));
        known.or_else(|| evaluations.map(|(_, taken)| taken.first).max()).unwrap_or(UNKNOWN)
    }

    /// What this tool and all else that it runs take.
    pub fn beside(&mut self) -> u64 {
        self.beside.bytes(self.running.iter().filter_map(|place| place.process))
    }

    /// What the evaluators take, or will.
    fn taken(&self) -> u64 {
        self.running.iter().map(|place| place.aside.max(place.held)).sum()
    }

    /// What all together take now.
    pub fn held(&mut self) -> u64 {
        self.beside() + self.running.iter().map(|place| place.held).sum::<u64>()
    }

    /// Whether an evaluation may begin, in what `memory` this tool leaves.
    pub fn has_room(&self, template: &str, alone: bool, memory: u64, jobs: usize) -> bool {
        if self.running.is_empty() {
            // Who waits to be alone comes first, or would never be.
            return alone || self.lonely == 0;
        }
        if alone || self.lonely > 0 || self.running.len() >= jobs {
            return false;
        }
        self.taken().saturating_add(self.expected(template, 1)) <= memory
    }

    /// Takes others along that wait for the same template: their share of those that are not done,
    /// whoever has them, as far as there is room for them. None where it is not known what one takes.
    pub fn company(&mut self, template: &str, facts: &str, memory: u64, jobs: usize) -> Vec<Waiting> {
        if self.known.get(template).is_none_or(|taken| taken.talks) {
            return Vec::new();
        }
        let same = |waiting: &Waiting| waiting.template == template;
        let all: Vec<u64> = self.waiting.iter().filter(|(_, one)| same(one)).map(|(id, _)| *id).collect();
        let busy: usize = self.running.iter().map(|place| place.left).sum();
        let most = (all.len() + 1 + busy).div_ceil(jobs.max(1)).min(COMPANY);
        let (mut company, mut bytes) = (Vec::new(), facts.len());
        for id in all {
            let fits = self.taken().saturating_add(self.expected(template, company.len() + 2)) <= memory;
            bytes += self.waiting.get(&id).map_or(0, |one| one.facts.len());
            if company.len() + 1 >= most || !fits || bytes > RECORDS {
                break;
            }
            company.extend(self.waiting.remove(&id));
        }
        company
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn place(id: u64, aside: u64) -> Place {
        Place { id, process: None, left: 1, aside, held: 0, alone: false }
    }

    fn taken(first: u64) -> Taken {
        Taken { first, ..Taken::default() }
    }

    #[test]
    fn there_is_room_for_what_the_memory_holds() {
        let mut room = Room::default();
        assert!(room.has_room("a", false, 100, 4), "nobody runs");
        room.running.push(place(1, 10));
        assert!(!room.has_room("a", false, UNKNOWN, 4), "nobody knows yet what it takes");
        assert!(room.has_room("a", false, UNKNOWN + 10, 4));
        room.known.insert("a".into(), taken(40));
        assert!(room.has_room("a", false, 100, 4));
        assert!(!room.has_room("a", false, 100, 1), "one job at a time");
        room.running.push(place(2, 70));
        assert!(!room.has_room("a", false, 100, 4));
        // Another configuration is taken to be as large as the largest.
        assert_eq!((room.expected("b", 1), room.expected("a", 1)), (40, 40));
        // What a question takes says nothing of an evaluation.
        let room = Room { known: [(ASKING.into(), taken(1))].into(), ..Room::default() };
        assert_eq!((room.expected("b", 1), room.expected(ASKING, 1)), (UNKNOWN, 1));
    }

    #[test]
    fn who_must_be_alone_is_not_overtaken() {
        let mut room = Room { lonely: 1, ..Room::default() };
        room.known.insert("a".into(), taken(1));
        assert!(!room.has_room("a", false, 100, 4) && room.has_room("a", true, 100, 4));
        room.running.push(place(1, 1));
        assert!(!room.has_room("a", false, 100, 4) && !room.has_room("a", true, 100, 4));
    }

    #[test]
    fn those_that_wait_are_shared_out_among_evaluators() {
        let wait = |room: &mut Room, count: u64, template: &str| {
            for id in 0..count {
                let (machine, facts) = (format!("m{id}"), "{}".into());
                let one = Waiting { machine, template: template.into(), facts, tell: mpsc::channel().0 };
                room.waiting.insert(room.waiting.len() as u64, one);
            }
        };
        let mut room = Room::default();
        wait(&mut room, 5, "a");
        wait(&mut room, 20, "b");
        assert!(room.company("a", "", 1000, 2).is_empty(), "nobody knows what one takes");
        room.known.insert("a".into(), taken(40));
        let names = |company: Vec<Waiting>| company.into_iter().map(|one| one.machine).collect::<Vec<_>>();
        assert_eq!(names(room.company("a", "", 1000, 2)), ["m0", "m1"]);
        // Who is busy with many leaves the rest to others.
        let mut busy = Room { running: vec![Place { left: 3, ..place(1, 10) }], ..Room::default() };
        busy.known.insert("a".into(), taken(40));
        wait(&mut busy, 3, "a");
        assert_eq!(names(busy.company("a", "", 1000, 2)), ["m0", "m1", "m2"]);
        assert_eq!(names(room.company("a", "", 79, 1)), [""; 0], "a second may take as much as the first");
        room.known.insert("a".into(), Taken { more: Some(10), ..taken(40) });
        assert_eq!(names(room.company("a", "", 69, 1)), ["m2", "m3"]);
        room.known.insert("b".into(), taken(1));
        assert_eq!(room.company("b", &"x".repeat(RECORDS), 1000, 1).len(), 0);
        assert_eq!(room.company("b", "", 1000, 1).len(), COMPANY - 1);
        room.known.insert("b".into(), Taken { talks: true, ..taken(1) });
        assert_eq!((room.company("b", "", 1000, 1).len(), room.waiting.len()), (0, 1 + 20 + 1 - COMPANY));
    }
}
