//! What would be done, as Terraform's readers know it: a line for each resource, and a summary.

use machine_record::{Failure, PlanEntry, Record, log};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

/// Collects what would be done, over all machines.
#[derive(Default)]
pub struct Plan {
    /// Action and resource; a key pair that machines share is counted once
    entries: RefCell<BTreeSet<(String, String)>>,
    /// Machines of which it is not known
    unknown: Cell<usize>,
}

impl Plan {
    /// Adds an entry to the machine's record and says it to people.
    pub fn add(&self, record: &mut Record, entry: PlanEntry) -> Result<(), Failure> {
        let sign = match entry.action.as_str() {
            "create" => "+",
            "delete" => "-",
            "replace" => "-/+",
            _ => "~",
        };
        let reason = entry.reason.as_deref().unwrap_or_default();
        log::event(&record.name(), &format!("{sign} {} ({reason})", entry.resource));
        self.entries.borrow_mut().insert((entry.action.clone(), entry.resource.clone()));
        record.plan(&entry)
    }

    /// Hears how the look at a machine ended.
    pub fn looked<T, E>(&self, result: &Result<T, E>) {
        self.unknown.set(self.unknown.get() + usize::from(result.is_err()));
    }

    /// The last line: what all of it comes to.
    pub fn summary(&self) {
        log::note(&self.sum());
    }

    fn sum(&self) -> String {
        let entries = self.entries.borrow();
        let is = |action: &str, resource: &str| entries.contains(&(action.to_string(), resource.to_string()));
        // What is made anew is not changed beside it.
        let counted = entries.iter().filter(|(action, resource)| action == "replace" || !is("replace", resource));
        let changes: BTreeSet<(&str, &str)> = counted
            .map(|(action, resource)| match action.as_str() {
                "start" | "stop" => ("update", resource.as_str()),
                action => (action, resource.as_str()),
            })
            .collect();
        let count = |wanted: &[&str]| changes.iter().filter(|(action, _)| wanted.contains(action)).count();
        let (add, change, destroy) = (count(&["create", "replace"]), count(&["update"]), count(&["delete", "replace"]));
        let sum = match entries.is_empty() {
            true => "plan: nothing to do".into(),
            false => format!("plan: {add} to add, {change} to change, {destroy} to destroy"),
        };
        match self.unknown.get() {
            0 => sum,
            some => format!("{sum}; not known of {}", log::count(some, "machine")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_could_not_be_looked_at_is_not_one_without_changes() {
        let plan = Plan::default();
        plan.looked(&Ok::<_, ()>(()));
        assert_eq!(plan.sum(), "plan: nothing to do");
        plan.looked(&Err::<(), _>(()));
        assert_eq!(plan.sum(), "plan: nothing to do; not known of 1 machine");
        let entry = PlanEntry::new("ec2-up", "create", "instance/web-1", "it has none");
        plan.add(&mut Record::default(), entry).unwrap();
        assert_eq!(plan.sum(), "plan: 1 to add, 0 to change, 0 to destroy; not known of 1 machine");
    }
}
