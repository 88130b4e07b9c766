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
        log::note(&match entries.is_empty() {
            true => "plan: nothing to do".into(),
            false => format!("plan: {add} to add, {change} to change, {destroy} to destroy"),
        });
    }
}
