//! What would be done, as Terraform's readers know it: a line for each resource, and a summary.

use machine_record::{Failure, PlanEntry, Record, log};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// Collects what would be done, over all machines.
#[derive(Default)]
pub struct Plan {
    /// Action and resource; a key pair that machines share is counted once
    entries: RefCell<BTreeSet<(String, String)>>,
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

    /// The last line: what all of it comes to.
    pub fn summary(&self) {
        let entries = self.entries.borrow();
        let count = |wanted: &[&str]| entries.iter().filter(|(action, _)| wanted.contains(&action.as_str())).count();
        let (add, change, destroy) =
            (count(&["create", "replace"]), count(&["update", "start", "stop"]), count(&["delete", "replace"]));
        log::note(&match entries.is_empty() {
            true => "plan: nothing to do".into(),
            false => format!("plan: {add} to add, {change} to change, {destroy} to destroy"),
        });
    }
}
