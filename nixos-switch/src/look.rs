//! What is on a machine: `status` and `generations`.

use crate::answers::Answers;
use crate::deploy::{self, Wish};
use anyhow::Result;
use machine_record::{Generation, Record, Status, StorePath, log};

/// Adds `status`, and shows it.
pub fn status(wish: &Wish, record: &mut Record) -> Result<()> {
    let answers = deploy::ask_once(wish, "status")?;
    let secrets = |answer: &str| -> Vec<String> {
        let numbers = answers.all(answer);
        numbers.iter().filter_map(|number| Some(wish.secrets.as_ref()?.name(number)?.to_string())).collect()
    };
    let status = Status {
        running: path(&answers, "running"),
        booted: path(&answers, "booted"),
        profile: path(&answers, "profile"),
        boot_entry: path(&answers, "entry"),
        generation: number(&answers),
        boot_id: answers.one("boot-id").map(str::to_string),
        matches: answers.one("matches").map(|word| word == "yes"),
        reboot_for: answers.all("reboot-for"),
        secrets_missing: secrets("secret-create"),
        secrets_changed: secrets("secret-update"),
        deployment: answers.one("deployment").map(str::to_string),
        left: answers.all("left"),
    };
    for line in lines(wish.toplevel.as_ref(), answers.one("last"), &status) {
        log::event(&wish.machine, &line);
    }
    Ok(record.set("status", &status)?)
}

/// The status for people.
fn lines(wished: Option<&StorePath>, last: Option<&str>, status: &Status) -> Vec<String> {
    let mut lines = Vec::new();
    let mut say = |text: String| lines.push(text);
    let systems = [
        ("runs", &status.running),
        ("boots", &status.boot_entry),
        ("profile", &status.profile),
        ("booted", &status.booted),
    ];
    for (what, path) in systems {
        let mark = match (path, wished) {
            (Some(path), Some(wished)) if path == wished => " (the record's)",
            (Some(_), Some(_)) => " (not the record's)",
            _ => "",
        };
        say(format!("{what}: {}{mark}", path.as_ref().map_or("unknown", StorePath::as_str)));
    }
    if let Some(number) = status.generation {
        say(format!("generation: {number}"));
    }
    match status.matches {
        Some(true) => say("it runs and boots the record's system".into()),
        Some(false) => say("it does not run and boot the record's system".into()),
        None => {}
    }
    if !status.reboot_for.is_empty() {
        say(format!("reboot pending: {} differ from what was booted", status.reboot_for.join(", ")));
    }
    for (what, names) in
        [("secrets missing", &status.secrets_missing), ("secrets that differ", &status.secrets_changed)]
    {
        if !names.is_empty() {
            let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
            say(format!("{what}: {}", names.join(", ")));
        }
    }
    if let Some(deployment) = &status.deployment {
        say(format!("under way: {deployment}"));
    }
    for left in &status.left {
        say(format!("left by a deployment that was cut short: {left}; the next run settles it"));
    }
    if let Some(last) = last {
        say(format!("last deployment since boot: {last}"));
    }
    lines
}

/// Adds `generations`, and shows them.
pub fn generations(wish: &Wish, record: &mut Record) -> Result<()> {
    let answers = deploy::ask_once(wish, "generations")?;
    let current = number(&answers);
    let (running, booted, entry) = (path(&answers, "running"), path(&answers, "booted"), path(&answers, "entry"));
    let generations: Vec<Generation> = answers
        .all("is")
        .iter()
        .filter_map(|line| {
            let mut fields = line.split('\t');
            let generation = fields.next()?.parse().ok()?;
            let mut text = || fields.next().filter(|field| !field.is_empty()).map(str::to_string);
            let date = text();
            let toplevel = StorePath::new(text()?).ok();
            let (nixos_version, kernel_version) = (text(), text());
            let specialisations = text().unwrap_or_default().split_whitespace().map(str::to_string).collect();
            Some(Generation {
                generation,
                date,
                nixos_version,
                kernel_version,
                specialisations,
                current: Some(generation) == current,
                running: toplevel.is_some() && toplevel == running,
                booted: toplevel.is_some() && toplevel == booted,
                boots: toplevel.is_some() && toplevel == entry,
                toplevel,
            })
        })
        .collect();
    for one in &generations {
        let marks = [(one.current, "current"), (one.running, "running"), (one.booted, "booted"), (one.boots, "boots")];
        let marks: String = marks.iter().filter(|(is, _)| *is).map(|(_, word)| format!(" {word}")).collect();
        let text = |field: &Option<String>| field.clone().unwrap_or_else(|| "unknown".into());
        let toplevel = one.toplevel.as_ref().map_or("gone", StorePath::as_str);
        let line = format!("{} {} {} {toplevel}{marks}", one.generation, text(&one.date), text(&one.nixos_version));
        log::event(&wish.machine, &line);
    }
    Ok(record.set("generations", &generations)?)
}

fn path(answers: &Answers, name: &str) -> Option<StorePath> {
    answers.one(name).and_then(|path| StorePath::new(path).ok())
}

fn number(answers: &Answers) -> Option<u64> {
    answers.one("generation").and_then(|number| number.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_what_is_not_as_wished() {
        let path = |name: &str| StorePath::new(format!("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-{name}")).unwrap();
        let status = Status {
            running: Some(path("new")),
            booted: Some(path("old")),
            profile: Some(path("new")),
            boot_entry: None,
            generation: Some(7),
            boot_id: None,
            matches: Some(false),
            reboot_for: vec!["kernel".into(), "initrd".into()],
            secrets_missing: vec!["key".into()],
            secrets_changed: vec!["a b".into()],
            deployment: None,
            left: vec!["a commit".into()],
        };
        let said = lines(Some(&path("new")), None, &status);
        assert_eq!(said[0], format!("runs: {} (the record's)", path("new")));
        assert_eq!(said[1], "boots: unknown");
        assert_eq!(said[3], format!("booted: {} (not the record's)", path("old")));
        assert_eq!(
            said[4..],
            [
                "generation: 7",
                "it does not run and boot the record's system",
                "reboot pending: kernel, initrd differ from what was booted",
                "secrets missing: \"key\"",
                "secrets that differ: \"a b\"",
                "left by a deployment that was cut short: a commit; the next run settles it",
            ]
        );
    }
}
