//! Looking first: what a switch would do.

use crate::answers::Answers;
use crate::deploy::{self, Wish};
use crate::difference::{self, Package, signed};
use crate::report::HELD;
use crate::{Action, Args, Reboot, TOOL};
use anyhow::Result;
use machine_record::{Activation, Closure, Failure, Kind, PlanEntry, Record, Section, StorePath, log};
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
pub fn is_unknown(args: &Args, record: &Record) -> bool {
    !record.has_address() || (record.text(Closure::NAME).is_none() && !args.rollback)
}

/// Adds to the plan that the system changes, to one that is not known yet.
pub fn plan_unknown(record: &mut Record) -> Result<()> {
    let name = record.name();
    log::event(&name, "would switch to the new system; known after apply");
    Ok(record.plan(&PlanEntry::new(TOOL.name, "update", format!("system/{name}"), "known after apply"))?)
}

/// Asks the machine what the switch would do.
///
/// # Errors
/// Also where switch-to-configuration would not begin: kind `locked`, or `activation`.
fn look(wish: &Wish) -> Result<Answers> {
    let answers = deploy::ask_once(wish, "dry")?;
    let veto: Vec<&str> = answers.one("vetoed").unwrap_or_default().splitn(3, ' ').collect();
    Err(match veto[..] {
        ["11", ..] => Failure::new(Kind::Locked, HELD).hint("wait for it").into(),
        [_, system, words] => Failure::new(Kind::Activation, format!("the new system would refuse to start: {words}"))
            .hint(format!("on the machine, {system}/bin/switch-to-configuration dry-activate says all of it"))
            .into(),
        _ => return Ok(answers),
    })
}

/// Adds to the plan what the switch would do.
pub fn plan(wish: &Wish, record: &mut Record) -> Result<()> {
    let answers = look(wish)?;
    for entry in show(wish, &answers) {
        record.plan(&entry)?;
    }
    Ok(())
}

/// Shows what starting the system would do, and adds `activation`.
pub fn dry_activate(wish: &Wish, record: &mut Record) -> Result<()> {
    let start = Instant::now();
    let answers = look(wish)?;
    show(wish, &answers);
    for line in answers.all("says") {
        log::detail(&wish.machine, &line);
    }
    let path = |name: &str| answers.one(name).and_then(|path| StorePath::new(path).ok());
    Ok(record.put(&Activation {
        action: wish.action.word().into(),
        outcome: Some("dry".into()),
        previous: path("running"),
        current: path("running"),
        generation: answers.one("generation").and_then(|number| number.parse().ok()),
        boot_id: answers.one("boot-id").map(str::to_string),
        machine_id: answers.one("machine-id").map(str::to_string),
        rebooted: false,
        failed_units: Vec::new(),
        seconds: start.elapsed().as_secs_f64(),
    })?)
}

/// Says to people what would be done, and gives it for programs.
fn show(wish: &Wish, answers: &Answers) -> Vec<PlanEntry> {
    let say = |text: &str| log::event(&wish.machine, text);
    if answers.stage() == Some("unchanged") {
        say("nothing to do: it runs and boots the wished system");
        return Vec::new();
    }
    let mut entries = system(wish, answers);
    entries.extend(units(wish, answers));
    entries.extend(secrets(wish, answers));
    let (rebuilt, packages): (Vec<_>, Vec<_>) =
        difference::packages(&answers.all("path"), &answers.all("size")).into_iter().partition(Package::is_rebuilt);
    entries.extend(packages.iter().map(|package| package.entry(TOOL.name)));
    for entry in &entries {
        let reason = entry.reason.as_deref().unwrap_or_default();
        say(&format!("{} {} ({}: {reason})", sign(&entry.action), entry.resource, entry.action));
    }
    // For people one line: they are many, and follow from the others.
    let growth = |packages: &[Package]| packages.iter().map(Package::growth).sum::<i128>();
    if !rebuilt.is_empty() {
        let count = log::count(rebuilt.len(), "package");
        say(&format!("~ {count} rebuilt in the same version ({})", signed(growth(&rebuilt))));
    }
    if answers.stage() != Some("absent") {
        say(&summary(&entries, growth(&rebuilt) + growth(&packages)));
    }
    entries.extend(rebuilt.iter().map(|package| package.entry(TOOL.name)));
    entries
}

fn sign(action: &str) -> &'static str {
    match action {
        "create" | "start" => "+",
        "delete" | "stop" => "-",
        "restart" | "reboot" => "-/+",
        _ => "~",
    }
}

/// The system itself, and a reboot that it needs.
fn system(wish: &Wish, answers: &Answers) -> Vec<PlanEntry> {
    let mut entries = Vec::new();
    if answers.one("matches").is_none() {
        let wished = wish.toplevel.as_ref().map(|path| path.as_str()).or(answers.one("toplevel"));
        let reason = match (wish.action, answers.stage()) {
            (_, Some("absent")) => "the machine does not have it yet; units and packages are known after nix-push",
            (Action::Boot, _) => "boots it from then on",
            (Action::Test, _) => "runs it until the next reboot",
            _ => "runs and boots it",
        };
        let details = json!({ "from": answers.one("running"), "to": wished });
        entries.push(entry("update", format!("system/{}", wish.machine), reason).details(details));
    }
    let mut parts = answers.all("reboot-for");
    if parts.is_empty() && wish.args.reboot == Reboot::Always {
        parts.push("system, as --reboot always says".into());
    }
    if !parts.is_empty() {
        let asked = if wish.args.reboot == Reboot::Never { "; not done without --reboot" } else { "" };
        let reason = format!("needed for a new {}{asked}", parts.join(", "));
        entries.push(entry("reboot", format!("machine/{}", wish.machine), &reason).details(json!({ "for": parts })));
    }
    entries
}

/// The units that switch-to-configuration would touch, and those whose secrets change.
fn units(wish: &Wish, answers: &Answers) -> Vec<PlanEntry> {
    let mut entries = Vec::new();
    for line in answers.all("says") {
        for (words, action) in WORDS {
            let units = line.strip_prefix(words).unwrap_or_default();
            for unit in units.split(", ").filter(|unit| !unit.is_empty()) {
                entries.push(entry(action, format!("unit/{unit}"), "as switch-to-configuration says"));
            }
        }
    }
    let restarts = if wish.action == Action::Boot { Vec::new() } else { answers.all("secret-restart") };
    let starts = answers.all("starts").into_iter().map(|unit| (unit, "start", "a target that runs wants it"));
    for (unit, action, reason) in starts.chain(restarts.into_iter().map(|unit| (unit, "restart", "its secrets change")))
    {
        let resource = format!("unit/{unit}");
        if !entries.iter().any(|entry| entry.resource == resource) {
            entries.push(entry(action, resource, reason));
        }
    }
    entries
}

fn secrets(wish: &Wish, answers: &Answers) -> Vec<PlanEntry> {
    let mut entries = Vec::new();
    let actions =
        [("secret-create", "create", "the machine does not have it"), ("secret-update", "update", "it differs")];
    for (answer, action, reason) in actions {
        for number in answers.all(answer) {
            if let Some(name) = wish.secrets.as_ref().and_then(|secrets| secrets.name(&number)) {
                entries.push(entry(action, format!("secret/{name}"), reason));
            }
        }
    }
    for name in answers.all("secret-delete") {
        entries.push(entry("delete", format!("secret/{name}"), "it is wished no longer"));
    }
    entries
}

/// The last line: what all of it comes to.
fn summary(entries: &[PlanEntry], growth: i128) -> String {
    let count = |kind: &str, action: &str| {
        entries.iter().filter(|entry| entry.resource.starts_with(kind) && entry.action == action).count()
    };
    let units = |action| count("unit/", action);
    let packages = |action| count("package/", action);
    let reboot = if count("machine/", "reboot") > 0 { "; a reboot is needed" } else { "" };
    format!(
        "plan: units: {} to start, {} to stop, {} to restart, {} to reload; packages: {} added, {} changed, {} removed, {}{reboot}",
        units("start"),
        units("stop"),
        units("restart"),
        units("reload"),
        packages("create"),
        packages("update"),
        packages("delete"),
        signed(growth)
    )
}

fn entry(action: &str, resource: String, reason: &str) -> PlanEntry {
    PlanEntry::new(TOOL.name, action, resource, reason)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
