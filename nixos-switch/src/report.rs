//! What is said of a switch: the section `activation`, and the failure if it is one.

use crate::Reboot;
use crate::answers::Answers;
use crate::deploy::{End, GOES_ON, Wish};
use anyhow::Result;
use machine_record::{Activation, Failure, Kind, StorePath, log};
use serde_json::json;

/// Why switch-to-configuration did not begin, or would not.
pub const HELD: &str = "another switch-to-configuration holds NixOS's own lock";

/// Puts together what is known; no section if nothing was learned of the machine.
pub fn report(wish: &Wish, end: End) -> (Option<Activation>, Result<()>) {
    let End { answers, seconds, booted, begun, failure } = end;
    let path = |name: &str| answers.one(name).and_then(|path| StorePath::new(path).ok());
    let (outcome, result) = match failure {
        Some(error) if !begun => (Some("refused"), Err(error)),
        // A reboot is no help to what is written just now.
        Some(error) if Failure::of(&error).hint.as_deref() == Some(GOES_ON) => (None, Err(error)),
        Some(error) => (None, Err(with_way_out(wish, error))),
        None => verdict(wish, &answers, booted),
    };
    if answers.one("running").is_none() {
        return (None, result);
    }
    let activation = Activation {
        action: wish.action.word().into(),
        outcome: outcome.map(str::to_string),
        previous: path("previous").or_else(|| path("running")),
        current: path("running"),
        generation: answers.one("generation").and_then(|number| number.parse().ok()),
        boot_id: answers.one("boot-id").map(str::to_string),
        machine_id: answers.one("machine-id").map(str::to_string),
        rebooted: booted,
        failed_units: answers.all("failed"),
        seconds: (seconds * 1000.0).round() / 1000.0,
    };
    if let (Some(outcome), Ok(())) = (outcome, &result) {
        let current = activation.current.as_ref().map_or("", |path| path.as_str());
        let numbers = json!({ "seconds": activation.seconds });
        log::figures(&wish.machine, &format!("{outcome}: {current} ({seconds:.1} s)"), numbers);
    }
    (Some(activation), result)
}

/// The outcome in DESIGN's words, from the last stage and what the machine wrote down.
fn verdict(wish: &Wish, answers: &Answers, booted: bool) -> (Option<&'static str>, Result<()>) {
    match answers.stage() {
        Some("unchanged") => return (Some("unchanged"), Ok(())),
        Some("unhealthy") if !booted => {
            let words = answers.one("unhealthy").unwrap_or_default();
            let failure =
                Failure::new(Kind::Activation, format!("a health check fails on the unchanged system: {words}"));
            return (
                Some("unchanged"),
                Err(failure.hint("nixos-switch --rollback goes back to the previous one").into()),
            );
        }
        Some("done") => {}
        _ if booted => return after_a_boot(wish, answers),
        stage => {
            let text = format!("the switch was lost: its traces are gone from the machine ({})", stage.unwrap_or("?"));
            return (None, Err(with_way_out(wish, Failure::new(Kind::Internal, text).into())));
        }
    }
    let (word, status) = answers.one("outcome").unwrap_or_default().split_once(' ').unwrap_or_default();
    let units = answers.all("failed").join(", ");
    let refused = |kind, text: String, hint: &str| (Some("refused"), Err(Failure::new(kind, text).hint(hint).into()));
    match word {
        "switched" => (Some("switched"), Ok(())),
        "rebooted" => (Some("rebooted"), Ok(())),
        "booted-next" => (Some("booted-next"), Ok(())),
        "units-failed" if wish.args.allow_failed_units => (Some("units-failed"), Ok(())),
        "units-failed" => {
            let which = if units.is_empty() { String::new() } else { format!(": {units}") };
            let text = format!("units failed{which}; the new system stays{}", last_words(answers));
            let failure = Failure::new(Kind::Activation, text);
            (Some("units-failed"), Err(failure.hint("nixos-switch --rollback goes back to the previous one").into()))
        }
        "left" => {
            let result = answers.one("result").unwrap_or_default();
            let why = answers.one("reason").map_or_else(|| format!("the activation failed: {result}"), String::from);
            // Where the activation went well, it is the way back that did not.
            let hint = if result.starts_with("ok") || result.starts_with("units-failed") {
                "reboot it into the previous system from its console"
            } else {
                "the boot entry is the previous system's: a reboot goes back"
            };
            (None, Err(Failure::new(Kind::Activation, format!("{why}; it is left as it is")).hint(hint).into()))
        }
        "rolled-back" => (Some("rolled-back"), Err(rolled_back(answers, status))),
        "superseded" => refused(
            Kind::Conflict,
            "somebody else switched the machine before this switch was committed".into(),
            "see --status, and agree on who deploys",
        ),
        "locked" => refused(Kind::Locked, HELD.into(), "wait for it, with a longer --lock-timeout"),
        "reboot-needed" => refused(
            Kind::Activation,
            "the new system cannot be started without a reboot: see the log above".into(),
            "nixos-switch --reboot if-needed does it; --action boot leaves the reboot to you",
        ),
        "boot-failed" => refused(
            Kind::Activation,
            format!("the boot entry could not be written: switch-to-configuration ended with status {status}"),
            "the log above says why; is /boot full?",
        ),
        "refused" => refused(
            Kind::Activation,
            format!("the new system refused to start: switch-to-configuration ended with status {status}"),
            "the log above says why; nothing was changed",
        ),
        _ => (None, Err(Failure::new(Kind::Internal, format!("an unknown outcome: {word:?}")).into())),
    }
}

fn rolled_back(answers: &Answers, status: &str) -> anyhow::Error {
    let reason = answers.one("reason").unwrap_or("the new system failed");
    let mut text = format!("the previous system runs again: {reason}");
    if let (true, Some(words)) = (reason.starts_with("nobody confirmed"), answers.one("unhealthy")) {
        text += &format!("; not healthy: {words}");
    }
    if let Some(words) = answers.one("unconfirmed") {
        text += &format!("; {words}");
    }
    if status != "0" {
        let ended = if status == "4" {
            "with failed units of its own".into()
        } else {
            format!("its own switch-to-configuration ended with status {status}")
        };
        text += &format!(" ({ended})");
    }
    let hint = "the whole log is on the machine: journalctl -t nixpipe; mend the configuration and push it again";
    Failure::new(Kind::RolledBack, text + &last_words(answers)).hint(hint).into()
}

/// The ends of the logs of the units that failed.
fn last_words(answers: &Answers) -> String {
    let lines = answers.all("failed-log");
    if lines.is_empty() { String::new() } else { format!("; their logs end: {}", lines.join(" / ")) }
}

/// The machine booted on the way, so its boot entry decided.
fn after_a_boot(wish: &Wish, answers: &Answers) -> (Option<&'static str>, Result<()>) {
    let running = answers.one("running");
    let wished = wish.toplevel_in(answers);
    if running == wished && answers.one("profile") == wished && answers.one("pending").is_none() {
        let outcome = Some(if wish.args.reboot == Reboot::Never { "switched" } else { "rebooted" });
        if answers.stage() == Some("unhealthy") {
            let text = "a health check fails after an unprotected reboot; the new system stays";
            let hint = "nixos-switch --rollback goes back to the previous one";
            return (outcome, Err(Failure::new(Kind::Activation, text).hint(hint).into()));
        }
        return (outcome, Ok(()));
    }
    if running == answers.one("previous") {
        let text = "the machine rebooted before the new system was committed: the previous one runs again";
        return (
            Some("rolled-back"),
            Err(Failure::new(Kind::RolledBack, text)
                .hint("the end of journalctl -b -1 there may say why; then run it again")
                .into()),
        );
    }
    let text = format!("the machine rebooted on the way and runs {}", running.unwrap_or("an unknown system"));
    (None, Err(Failure::new(Kind::Activation, text).hint("run nixos-switch again").into()))
}

/// Adds the way out for a machine that cannot be seen to have come back.
fn with_way_out(wish: &Wish, error: anyhow::Error) -> anyhow::Error {
    let failure = Failure::of(&error);
    let reboot = match (&wish.instance, &wish.region) {
        (Some(id), Some(region)) => format!("aws ec2 reboot-instances --region {region} --instance-ids {id}"),
        (Some(id), None) => format!("aws ec2 reboot-instances --instance-ids {id}"),
        _ => "a power cycle".into(),
    };
    failure
        .hint(format!("its boot entry is still the previous system unless the new one was confirmed: {reboot}"))
        .into()
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
