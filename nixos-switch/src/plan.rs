//! Looking first: what a switch would do.

use crate::answers::Answers;
use crate::deploy::{self, Wish};
use crate::{Action, TOOL};
use anyhow::Result;
use machine_record::{Activation, Closure, PlanEntry, Record, Ssh, StorePath, log};
use serde_json::json;
use std::time::Instant;

/// switch-to-configuration's words for what it would do (nixpkgs, switch-to-configuration-ng).
const WORDS: [(&str, &str); 4] = [
    ("would stop the following units: ", "stop"),
    ("would restart the following units: ", "restart"),
    ("would reload the following units: ", "reload"),
    ("would start the following units: ", "start"),
];

/// True if an earlier step of the pipe would first have to make what the switch is about.
pub fn is_unknown(record: &Record) -> bool {
    record.text(<Ssh as machine_record::Section>::NAME).is_none()
        || record.text(<Closure as machine_record::Section>::NAME).is_none()
}

/// Adds to the plan that the system changes, to one that is not known yet.
pub fn plan_unknown(record: &mut Record) -> Result<()> {
    let name = record.name();
    log::event(&name, "would switch to the new system; known after apply");
    Ok(record.plan(&PlanEntry::new(TOOL.name, "update", format!("system/{name}"), "known after apply"))?)
}

/// Adds to the plan what the switch would do.
pub fn plan(wish: &Wish, record: &mut Record) -> Result<()> {
    let answers = deploy::ask_once(wish, "dry")?;
    let entries = entries(wish, &answers);
    if entries.is_empty() {
        log::event(&wish.machine, "nothing to do: it runs and boots the wished system");
    }
    for entry in &entries {
        let reason = entry.reason.as_deref().unwrap_or_default();
        log::event(&wish.machine, &format!("would {} {}: {reason}", entry.action, entry.resource));
        record.plan(entry)?;
    }
    Ok(())
}

/// Shows what starting the system would do, and adds `activation`.
pub fn dry_activate(wish: &Wish, record: &mut Record) -> Result<()> {
    let start = Instant::now();
    let answers = deploy::ask_once(wish, "dry")?;
    if answers.stage() == Some("unchanged") {
        log::event(&wish.machine, "nothing would change");
    }
    for line in answers.all("says") {
        log::event(&wish.machine, &line);
    }
    let path = |name: &str| answers.one(name).and_then(|path| StorePath::new(path).ok());
    Ok(record.put(&Activation {
        action: wish.action.word().into(),
        outcome: Some("dry".into()),
        previous: path("running"),
        current: path("running"),
        generation: answers.one("generation").and_then(|number| number.parse().ok()),
        boot_id: answers.one("boot-id").map(str::to_string),
        rebooted: false,
        failed_units: Vec::new(),
        seconds: start.elapsed().as_secs_f64(),
    })?)
}

fn entries(wish: &Wish, answers: &Answers) -> Vec<PlanEntry> {
    if answers.stage() == Some("unchanged") {
        return Vec::new();
    }
    let wished = wish.toplevel.as_ref().map(|path| path.as_str()).or(answers.one("toplevel"));
    let reason = match (wish.action, answers.stage()) {
        (_, Some("absent")) => "the machine does not have it yet; units are known after nix-push",
        (Action::Boot, _) => "boots it from then on",
        (Action::Test, _) => "runs it until the next reboot",
        _ => "runs and boots it",
    };
    let details = json!({ "from": answers.one("running"), "to": wished });
    let mut entries = vec![entry("update", format!("system/{}", wish.machine), reason).details(details)];
    for line in answers.all("says") {
        for (words, action) in WORDS {
            let units = line.strip_prefix(words).unwrap_or_default();
            for unit in units.split(", ").filter(|unit| !unit.is_empty()) {
                entries.push(entry(action, format!("unit/{unit}"), "as switch-to-configuration says"));
            }
        }
    }
    let parts = answers.all("reboot-for");
    if !parts.is_empty() {
        let reason = format!("needed for a new {}; never done unasked", parts.join(", "));
        entries.push(entry("reboot", format!("machine/{}", wish.machine), &reason));
    }
    entries
}

fn entry(action: &str, resource: String, reason: &str) -> PlanEntry {
    PlanEntry::new(TOOL.name, action, resource, reason)
}
