use super::*;
use crate::Args;
use crate::answers::Reader;
use clap::Parser;
use machine_record::Records;

const OLD: &str = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-nixos-system-old";
const NEW: &str = "/nix/store/11bgd045z0d4icpbc2yyz4gx48ak44la-nixos-system-new";

const LOG: &str = "the whole log is on the machine: journalctl -t nixpipe; mend the configuration and push it again";

/// The outcome and the failure of a deployment from `OLD` to `NEW` that begun and of which `said` is known.
fn of(flags: &str, instance: &str, booted: bool, said: &str) -> (Option<String>, Option<Failure>) {
    let args = Args::parse_from(["nixos-switch"].into_iter().chain(flags.split_whitespace()));
    let record = format!(
        r#"{{"name":"web-1",{instance}"ssh":{{"host":"127.0.0.2","hostKeys":["ssh-ed25519 AAAA"]}},
            "closure":{{"toplevel":"{NEW}"}}}}"#
    );
    let record = Records::new(record.as_bytes()).read().unwrap().unwrap();
    let wish = Wish::of(&args, &record).unwrap();
    let mut reader = Reader::new("web-1", 0);
    reader.take(format!("nixpipe\nprevious={OLD}\nrunning={OLD}\n{said}").as_bytes());
    let answers = std::mem::take(&mut reader.answers);
    let (section, result) = report(&wish, End { answers, seconds: 1.0, booted, begun: true, failure: None });
    (section.and_then(|section| section.outcome), result.err().map(|error| Failure::of(&error)))
}

#[test]
fn every_end_has_its_outcome_and_says_what_to_do() {
    for (ended, outcome, kind, message, hint) in [
        (
            "rolled-back 0",
            Some("rolled-back"),
            Kind::RolledBack,
            "the previous system runs again: the new system failed",
            Some(LOG),
        ),
        (
            "rolled-back 4",
            Some("rolled-back"),
            Kind::RolledBack,
            "the previous system runs again: the new system failed (with failed units of its own)",
            Some(LOG),
        ),
        (
            "rolled-back 1",
            Some("rolled-back"),
            Kind::RolledBack,
            "the previous system runs again: the new system failed (its own switch-to-configuration ended with status 1)",
            Some(LOG),
        ),
        (
            "superseded 0",
            Some("refused"),
            Kind::Conflict,
            "somebody else switched the machine before this switch was committed",
            Some("see --status, and agree on who deploys"),
        ),
        (
            "boot-failed 1",
            Some("refused"),
            Kind::Activation,
            "the boot entry could not be written: switch-to-configuration ended with status 1",
            Some("the log above says why; is /boot full?"),
        ),
        (
            "refused 1",
            Some("refused"),
            Kind::Activation,
            "the new system refused to start: switch-to-configuration ended with status 1",
            Some("the log above says why; nothing was changed"),
        ),
        (
            "left 2",
            None,
            Kind::Activation,
            "the activation failed: exit 2; it is left as it is",
            Some("the boot entry is the previous system's: a reboot goes back"),
        ),
        (
            "odd 1",
            None,
            Kind::Internal,
            "an unknown outcome: \"odd\"",
            Some("run it again; if it stays so, -v shows every step: report what it says"),
        ),
    ] {
        let (told, failure) = of("", "", false, &format!("result=exit 2\noutcome={ended}\nstage=done\n"));
        let failure = failure.unwrap();
        assert_eq!((told.as_deref(), failure.kind), (outcome, kind), "{ended}");
        assert_eq!((failure.message.as_str(), failure.hint.as_deref()), (message, hint), "{ended}");
    }
    assert_eq!(of("", "", false, "outcome=switched 0\nstage=done\n"), (Some("switched".into()), None));
    // Where the machine knows better what failed, it is that.
    for (result, hint) in [
        ("failed 2", "the boot entry is the previous system's: a reboot goes back"),
        ("ok", "reboot it into the previous system from its console"),
    ] {
        let said = format!("result={result}\nreason=no room\noutcome=left 0\nstage=done\n");
        let failure = of("", "", false, &said).1.unwrap();
        assert_eq!((&*failure.message, failure.hint.as_deref()), ("no room; it is left as it is", Some(hint)));
    }
}

#[test]
fn a_machine_that_booted_on_the_way_is_judged_by_what_it_runs() {
    let (outcome, failure) = of("", "", true, "stage=idle\n");
    assert_eq!((outcome.as_deref(), failure.unwrap().kind), (Some("rolled-back"), Kind::RolledBack));
    let new = format!("running={NEW}\nprofile={NEW}\nstage=idle\n");
    assert_eq!(of("", "", true, &new), (Some("switched".into()), None));
    assert_eq!(of("--reboot always", "", true, &new), (Some("rebooted".into()), None));
    let (outcome, failure) = of("", "", true, &format!("{new}running=/nix/store/other\n"));
    let failure = failure.unwrap();
    assert_eq!(outcome, None);
    assert_eq!(failure.message, "the machine rebooted on the way and runs /nix/store/other");
    assert_eq!(failure.hint.as_deref(), Some("run nixos-switch again"));
    let failure = of("", "", true, "running=\nstage=idle\n").1.unwrap();
    assert_eq!(failure.message, "the machine rebooted on the way and runs an unknown system");
}

#[test]
fn a_machine_that_was_lost_has_a_way_out() {
    let id = r#""instance":{"id":"i-0123456789abcdef0"},"#;
    for (instance, way_out) in [
        (
            format!(r#""region":"eu-central-1",{id}"#),
            "aws ec2 reboot-instances --region eu-central-1 --instance-ids i-0123456789abcdef0",
        ),
        (id.into(), "aws ec2 reboot-instances --instance-ids i-0123456789abcdef0"),
        (String::new(), "a power cycle"),
    ] {
        let (outcome, failure) = of("", &instance, false, "stage=gone\n");
        let failure = failure.unwrap();
        assert_eq!((outcome, failure.kind), (None, Kind::Internal));
        assert_eq!(failure.message, "the switch was lost: its traces are gone from the machine (gone)");
        let hint = format!("its boot entry is still the previous system unless the new one was confirmed: {way_out}");
        assert_eq!(failure.hint, Some(hint));
    }
}
