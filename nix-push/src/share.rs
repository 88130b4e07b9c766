//! One evaluation for all machines that it would come out the same for.

use crate::evaluate::Evaluated;
use crate::used::{Facts, Used};
use machine_record::Failure;
use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard};

/// What an evaluation came to: an error of the configuration is the same for its like.
pub type Verdict = Result<Evaluated, Failure>;

/// The evaluations of this run.
#[derive(Default)]
pub struct Shared {
    templates: Mutex<HashMap<String, Template>>,
    changed: Condvar,
}

/// What is known of one configuration, apart from the machines' facts.
#[derive(Default)]
struct Template {
    done: Known,
    /// The facts of the machines that are being evaluated
    running: Vec<(u64, Facts)>,
    next: u64,
}

/// Evaluations by what they looked at and what they saw.
#[derive(Default)]
pub struct Known(Vec<(Used, HashMap<String, Verdict>)>);

impl Known {
    pub fn find(&self, facts: &Facts) -> Option<&Verdict> {
        self.0.iter().find_map(|(used, verdicts)| verdicts.get(&facts.digest(used)))
    }

    pub fn add(&mut self, used: Used, facts: &Facts, verdict: Verdict) {
        let digest = facts.digest(&used);
        match self.0.iter_mut().find(|(known, _)| *known == used) {
            Some((_, verdicts)) => drop(verdicts.insert(digest, verdict)),
            None => self.0.push((used, HashMap::from([(digest, verdict)]))),
        }
    }

    /// Whether two machines look the same as far as is known of what matters.
    fn alike(&self, one: &Facts, two: &Facts) -> bool {
        self.0.iter().all(|(used, _)| one.digest(used) == two.digest(used))
    }
}

/// What is to be done for a machine.
pub enum Turn<'a> {
    /// Another machine's evaluation holds for it
    Done(Box<Verdict>),
    /// It is to be evaluated, and told to [`Work::done`]
    Work(Work<'a>),
}

/// An evaluation in hand; others may wait for it.
pub struct Work<'a> {
    shared: &'a Shared,
    template: &'a str,
    id: u64,
}

impl Shared {
    /// Waits for evaluations that may hold for this machine too.
    pub fn turn<'a>(&'a self, template: &'a str, facts: &Facts) -> Turn<'a> {
        let mut templates = self.lock();
        loop {
            let known = templates.entry(template.into()).or_default();
            if let Some(verdict) = known.done.find(facts) {
                return Turn::Done(Box::new(verdict.clone()));
            }
            if !known.running.iter().any(|(_, other)| known.done.alike(facts, other)) {
                known.next += 1;
                known.running.push((known.next, facts.clone()));
                return Turn::Work(Work { shared: self, template, id: known.next });
            }
            templates = self.changed.wait(templates).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Template>> {
        self.templates.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Work<'_> {
    /// Tells the others what it came to, and what it looked at.
    pub fn done(self, used: Used, facts: &Facts, verdict: Verdict) {
        if let Some(known) = self.shared.lock().get_mut(self.template) {
            known.done.add(used, facts, verdict);
        }
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        if let Some(known) = self.shared.lock().get_mut(self.template) {
            known.running.retain(|(id, _)| *id != self.id);
        }
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machine_record::Kind;

    fn facts(name: &str, role: &str) -> Facts {
        Facts::new(&format!(r#"{{"name":"{name}","role":"{role}"}}"#)).unwrap()
    }

    #[test]
    fn one_evaluation_serves_all_that_look_the_same_to_it() {
        let shared = Shared::default();
        let Turn::Work(work) = shared.turn("t", &facts("a", "db")) else { panic!("nothing is known") };
        let used = vec!["[]".to_string(), r#"["role"]"#.to_string()];
        work.done(used, &facts("a", "db"), Err(Failure::new(Kind::Evaluation, "x")));
        assert!(matches!(shared.turn("t", &facts("b", "db")), Turn::Done(_)));
        assert!(matches!(shared.turn("t", &facts("a", "web")), Turn::Work(_)));
        assert!(matches!(shared.turn("u", &facts("b", "db")), Turn::Work(_)), "another configuration");
    }

    #[test]
    fn who_may_be_the_same_waits_and_others_do_not() {
        let shared = Shared::default();
        let Turn::Work(first) = shared.turn("t", &facts("a", "db")) else { panic!("nothing is known") };
        std::thread::scope(|scope| {
            let second = scope.spawn(|| matches!(shared.turn("t", &facts("b", "db")), Turn::Done(_)));
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(!second.is_finished());
            first.done(vec!["[]".into()], &facts("a", "db"), Err(Failure::new(Kind::Evaluation, "x")));
            assert!(second.join().unwrap());
        });
    }

    #[test]
    fn one_that_is_given_up_is_taken_over() {
        let shared = Shared::default();
        let Turn::Work(first) = shared.turn("t", &facts("a", "db")) else { panic!("nothing is known") };
        std::thread::scope(|scope| {
            let second = scope.spawn(|| matches!(shared.turn("t", &facts("b", "db")), Turn::Work(_)));
            drop(first);
            assert!(second.join().unwrap());
        });
    }
}
