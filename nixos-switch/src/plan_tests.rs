use super::*;
use crate::answers::Reader;
use clap::Parser;
use machine_record::Records;

/// Resource, action and reason of each entry of the plan, where `said` is known of the machine.
fn of(flags: &str, said: &str) -> Vec<String> {
    let args = Args::parse_from(["nixos-switch"].into_iter().chain(flags.split_whitespace()));
    let record = r#"{"name":"web-1","ssh":{"host":"127.0.0.2","hostKeys":["ssh-ed25519 AAAA"]},
        "closure":{"toplevel":"/nix/store/11bgd045z0d4icpbc2yyz4gx48ak44la-nixos-system-new"}}"#;
    let record = Records::new(record.as_bytes()).read().unwrap().unwrap();
    let wish = Wish::of(&args, &record).unwrap();
    let mut reader = Reader::new("web-1", 0);
    reader.take(format!("nixpipe\n{said}").as_bytes());
    let entries = show(&wish, &std::mem::take(&mut reader.answers));
    entries.into_iter().map(|it| format!("{} {}: {}", it.action, it.resource, it.reason.unwrap_or_default())).collect()
}

#[test]
fn what_becomes_of_the_system_depends_on_the_action() {
    for (flags, reason) in [
        ("", "runs and boots it"),
        ("--action boot", "boots it from then on"),
        ("--action test", "runs it until the next reboot"),
    ] {
        assert_eq!(of(flags, "stage=dry\n"), [format!("update system/web-1: {reason}")], "{flags}");
    }
    let absent = of("", "stage=absent\n");
    assert!(absent[0].ends_with("the machine does not have it yet; units and packages are known after nix-push"));
    assert!(of("", "stage=unchanged\n").is_empty());
}

#[test]
fn a_reboot_is_in_the_plan_if_it_is_needed_or_asked_for() {
    let reboot = |flags, said: &str| of(flags, &format!("matches=1\nstage=dry\n{said}"));
    assert_eq!(
        reboot("", "reboot-for=kernel\nreboot-for=initrd\n"),
        ["reboot machine/web-1: needed for a new kernel, initrd; not done without --reboot"]
    );
    assert_eq!(reboot("--reboot if-needed", "reboot-for=kernel\n"), ["reboot machine/web-1: needed for a new kernel"]);
    assert_eq!(
        reboot("--reboot always", ""),
        ["reboot machine/web-1: needed for a new system, as --reboot always says"]
    );
    assert!(reboot("--reboot if-needed", "").is_empty());
}

#[test]
fn a_secret_of_ours_that_nobody_wishes_any_more_goes() {
    assert_eq!(
        of("", "matches=1\nstage=dry\nsecret-delete=old key\n"),
        ["delete secret/old key: it is wished no longer"]
    );
}
