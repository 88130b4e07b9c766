//! One evaluation for all machines that it would come out the same for.

use crate::evaluate::Evaluated;
use crate::tree::{At, Tree};
use crate::used::{Facts, Used};
use machine_record::Failure;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};

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
    tree: Tree<Verdict>,
    /// Those that are being evaluated
    running: HashMap<u64, Running>,
    next: u64,
}

struct Running {
    facts: Facts,
    /// How many facts it has looked at, and where that led; None if that is nowhere
    told: (usize, Option<At>),
    /// Where it is sure to come; None if nobody can tell
    sure: Option<At>,
    fate: Arc<Fate>,
}

/// Where an evaluation ended without a verdict, and why: for those who wait for it there.
type Fate = OnceLock<(At, Failure)>;

/// What is to be done for a machine.
pub enum Turn<'a> {
    /// Another machine's evaluation holds for it
    Done(Box<Verdict>),
    /// What it waited for was ended, and came to nothing
    Failed(Failure),
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
    /// Waits for evaluations that may hold for this machine too: those that are not known to look at
    /// a fact in which the two differ.
    pub fn turn<'a>(&'a self, template: &'a str, facts: &Facts) -> Turn<'a> {
        let mut templates = self.lock();
        let mut at = Some(At::default());
        let mut awaited: Option<Arc<Fate>> = None;
        loop {
            let known = templates.entry(template.into()).or_default();
            at = at.and_then(|at| known.tree.walk(at, facts));
            if let Some(verdict) = at.and_then(|at| known.tree.end(at)) {
                return Turn::Done(Box::new(verdict.clone()));
            }
            if let Some((end, failure)) = awaited.as_ref().and_then(|fate| fate.get())
                && at == Some(*end)
            {
                return Turn::Failed(failure.clone());
            }
            let same = known.running.values().find(|running| at.is_some() && running.sure == at);
            let Some(same) = same else {
                known.next += 1;
                let facts = facts.clone();
                let running = Running { facts, told: (0, Some(At::default())), sure: at, fate: Arc::default() };
                known.running.insert(known.next, running);
                return Turn::Work(Work { shared: self, template, id: known.next });
            };
            awaited = Some(same.fate.clone());
            templates = self.changed.wait(templates).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Template>> {
        self.templates.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Template {
    /// The running evaluation has looked at all these facts.
    fn looks(&mut self, id: u64, used: &[String]) {
        let Template { tree, running, .. } = self;
        let Some(one) = running.get_mut(&id) else { return };
        let (count, at) = one.told;
        // One that began again has looked at fewer.
        let (count, at) = if used.len() < count { (0, Some(At::default())) } else { (count, at) };
        let at = used[count..].iter().try_fold(at, |at, fact| Some(Some(tree.step(at?, fact, &one.facts)?)));
        one.told = (used.len(), at.flatten());
        // What has become known there may have shown the way for all.
        running
            .values_mut()
            .for_each(|running| running.sure = running.sure.and_then(|sure| tree.walk(sure, &running.facts)));
    }

    /// The running evaluation has looked at all these facts from its beginning, and come to this.
    fn ends(&mut self, id: u64, used: &[String], verdict: Verdict) {
        let Some(one) = self.running.get_mut(&id) else { return };
        // It may have begun again since it told.
        one.told = (0, Some(At::default()));
        self.looks(id, used);
        if let Some(Running { told: (_, Some(at)), .. }) = self.running.get(&id) {
            self.tree.close(*at, verdict);
        }
    }
}

impl Work<'_> {
    /// Tells the others what it has looked at so far.
    pub fn looks(&self, used: &[String]) {
        if let Some(known) = self.shared.lock().get_mut(self.template) {
            known.looks(self.id, used);
        }
        self.shared.changed.notify_all();
    }

    /// Tells the others what it came to, and what it looked at.
    pub fn done(self, used: &Used, verdict: Verdict) {
        if let Some(known) = self.shared.lock().get_mut(self.template) {
            known.ends(self.id, used, verdict);
        }
    }

    /// Tells those who wait for it now why it came to nothing, as it took too long: they would wait as long again, one
    /// after the other. Who comes later tries again.
    pub fn failed(self, failure: &Failure) {
        let templates = self.shared.lock();
        let running = templates.get(self.template).and_then(|known| known.running.get(&self.id));
        if let Some((at, running)) = running.and_then(|running| Some((running.sure?, running))) {
            let _ = running.fate.set((at, failure.clone()));
        }
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        if let Some(known) = self.shared.lock().get_mut(self.template) {
            known.running.remove(&self.id);
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
        work.done(&used, Err(Failure::new(Kind::Evaluation, "x")));
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
            first.done(&vec!["[]".into()], Err(Failure::new(Kind::Evaluation, "x")));
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

    #[test]
    fn one_that_fails_fails_for_those_who_wait_for_it_and_for_nobody_else() {
        let shared = Shared::default();
        let Turn::Work(first) = shared.turn("t", &facts("a", "db")) else { panic!("nothing is known") };
        std::thread::scope(|scope| {
            let failed = |one: Facts| match shared.turn("t", &one) {
                Turn::Failed(failure) => Some(failure.message),
                Turn::Done(_) | Turn::Work(_) => None,
            };
            let other = scope.spawn(move || failed(facts("b", "web")));
            let same = scope.spawn(move || failed(facts("c", "db")));
            // Both wait.
            while shared.lock()["t"].running.values().all(|one| Arc::strong_count(&one.fate) < 3) {
                std::thread::yield_now();
            }
            first.looks(&["[]".into(), r#"["role"]"#.into()]);
            first.failed(&Failure::new(Kind::Timeout, "x"));
            assert_eq!(same.join().unwrap().as_deref(), Some("x"));
            assert_eq!(other.join().unwrap(), None, "it is another evaluation");
        });
        assert!(matches!(shared.turn("t", &facts("d", "db")), Turn::Work(_)), "who comes later tries again");
    }

    #[test]
    fn who_differs_in_what_is_looked_at_waits_no_longer() {
        let shared = Shared::default();
        let Turn::Work(first) = shared.turn("t", &facts("a", "db")) else { panic!("nothing is known") };
        std::thread::scope(|scope| {
            let other = scope.spawn(|| matches!(shared.turn("t", &facts("b", "web")), Turn::Work(_)));
            let same = scope.spawn(|| matches!(shared.turn("t", &facts("c", "db")), Turn::Done(_)));
            first.looks(&["[]".into()]);
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(!other.is_finished());
            first.looks(&["[]".into(), r#"["role"]"#.into()]);
            assert!(other.join().unwrap(), "it is evaluated beside the first");
            assert!(!same.is_finished());
            first.done(&vec!["[]".into(), r#"["role"]"#.into()], Err(Failure::new(Kind::Evaluation, "x")));
            assert!(same.join().unwrap());
        });
    }

    #[test]
    fn what_an_evaluation_will_look_at_is_known_from_others() {
        let shared = Shared::default();
        let [all, role, name] = ["[]", r#"["role"]"#, r#"["name"]"#].map(String::from);
        let done = |work: Work, used: &[&String]| {
            work.done(&used.iter().map(|fact| fact.to_string()).collect(), Err(Failure::new(Kind::Evaluation, "x")));
        };
        let begin = |one: Facts| match shared.turn("t", &one) {
            Turn::Work(work) => work,
            Turn::Done(_) | Turn::Failed(_) => panic!("it is known already"),
        };
        // A database uses its own name, nobody else does.
        done(begin(facts("a", "db")), &[&all, &role, &name]);
        let (_b, _c, web) = (begin(facts("b", "db")), begin(facts("c", "db")), begin(facts("d", "web")));
        std::thread::scope(|scope| {
            let same = scope.spawn(|| matches!(shared.turn("t", &facts("e", "web")), Turn::Done(_)));
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(!same.is_finished(), "the name may not count for it");
            done(web, &[&all, &role]);
            assert!(same.join().unwrap());
        });
        // One that begins again looks at the same.
        let again = begin(facts("f", "db"));
        again.looks(&[all.clone(), role.clone()]);
        again.looks(std::slice::from_ref(&all));
        done(again, &[&all, &role, &name]);
        assert!(matches!(shared.turn("t", &facts("f", "db")), Turn::Done(_)));
    }
}
