//! Machines with a kernel, a clock and a disk of their own. They are slow, so only `scripts/test --all` has them.

use crate::machine::{Machine, said, toplevel};
use serde_json::json;
use std::time::{Duration, Instant};
use tests::PATIENCE;

/// A login takes a computer seconds, and minutes where others are at work: that is not what is asked here.
const SLOW: &str = "--connect-timeout 3m --confirm-timeout 10m";

/// A health command that writes `word` on the console as soon as `condition` holds, while the switch goes on.
fn tells(word: &str, condition: &str) -> String {
    format!(
        "--health 'systemd-run --quiet $(command -v sh) -c \"PATH=$PATH; until {condition}; do sleep 0.02; done; echo {word} >/dev/console\"'"
    )
}

#[test]
#[ignore = "long: scripts/test --all"]
fn a_clock_that_jumps_disarms_no_rescuer() {
    let machine = Machine::computer("clock");
    let computer = machine.computer.as_ref().unwrap();
    let old = machine.push_greeter("old", "");
    machine.switch(&old, SLOW).ok();
    let new = machine.push_greeter("new", "");
    let boot_id = || machine.ssh("cat /proc/sys/kernel/random/boot_id").stdout;

    // Nobody confirms, as the client is gone. A timer of the wall clock would ring at once, or in a day.
    for (jump, reboots) in [("+1 day", false), ("-1 day", true)] {
        let case = format!("the clock jumps by {jump} inside the window");
        let (before, boot) = (computer.said(), boot_id());
        let flags = format!(
            "--connect-timeout 3m --confirm-timeout 3m --return-timeout {}s --health 'date -s \"{jump}\"; echo jumped >/dev/console; sleep 60'",
            if reboots { 5 } else { 300 }
        );
        let mut child = machine.begin(&new, &flags);
        computer.await_word(before, "jumped");
        child.kill().unwrap();
        child.wait().unwrap();
        let start = Instant::now();
        if reboots {
            while [boot.as_str(), ""].contains(&boot_id().as_str()) {
                assert!(start.elapsed() < PATIENCE, "{case}: no reboot\n{}", computer.console(0));
                std::thread::sleep(Duration::from_secs(1));
            }
        } else {
            while machine.ssh("[ -e /run/nixpipe/deploy/restored ]").status != 0 {
                assert!(start.elapsed() < PATIENCE, "{case}: no way back\n{}", computer.console(0));
                std::thread::sleep(Duration::from_secs(1));
            }
            assert_eq!(boot_id(), boot);
        }
        // Not before its time, either.
        assert!(start.elapsed() > Duration::from_secs(15), "{case}: {:?}", start.elapsed());
        assert_eq!(said(&machine.switch(&old, SLOW).ok()).0, "unchanged", "{case}");
        machine.assert_keeps(&old, "old", &case);
    }

    let ran =
        machine.switch(&new, &format!("{SLOW} --health 'date -s \"+1 day\"' --health 'date -s \"-2 days\"'")).ok();
    assert_eq!(said(&ran).0, "switched");
    machine.assert_keeps(&new, "new", "the clock jumps, and the new system is confirmed");
}

#[test]
#[ignore = "long: scripts/test --all"]
fn a_computer_that_loses_its_power_boots_one_of_the_two() {
    let machine = Machine::computer("computer");
    let computer = machine.computer.as_ref().unwrap();
    let loud = "systemd.services.loud = { wantedBy = [ \"multi-user.target\" ]; serviceConfig.Type = \"oneshot\"; script = \"echo starting units >/dev/console\"; };";
    let old = machine.push_greeter("old", "");
    machine.switch(&old, SLOW).ok();
    let new = machine.push_greeter("new", loud);
    let note = "/var/lib/nixpipe/commit-pending";
    let (menu, path) = ("/boot/grub/grub.cfg", toplevel(&new));
    machine.ssh("echo kept > /root/kept; sync").ok();
    let mut runs_new = false;
    for (word, flags, ends) in [
        ("starting units", String::new(), "old"),
        ("in the window", "--health 'echo in the window >/dev/console; false'".into(), "old"),
        ("noted", tells("noted", &format!("[ -e {note} ]")), "either"),
        ("chosen", tells("chosen", &format!("[ \\$(readlink -f /nix/var/nix/profiles/system) = {path} ]")), "either"),
        ("written", tells("written", &format!("sed -n /init=/p {menu} | sed 1q | grep -q {path}")), "either"),
        ("settled", tells("settled", &format!("[ -e {note} ]; do sleep 0.02; done; while [ -e {note} ]")), "new"),
    ] {
        let case = format!("power cut of a computer: {word}");
        if runs_new {
            machine.switch(&old, SLOW).ok();
        }
        let before = computer.said();
        let mut child = machine.begin(&new, &format!("{SLOW} {flags}"));
        computer.await_word(before, word);
        if word == "in the window" {
            machine.ssh("echo lost > /root/lost").ok();
        }
        machine.power_cycle();
        child.kill().unwrap();
        child.wait().unwrap();
        if word == "in the window" {
            assert_eq!(machine.ssh("cd /root; echo $(cat kept lost 2>/dev/null)").ok().stdout, "kept\n");
        }
        let state = machine.state();
        let runs = [(&old, "old"), (&new, "new")].into_iter().find(|(record, _)| toplevel(record) == state.running);
        let (record, text) = runs.unwrap_or_else(|| panic!("{case}: neither of the two runs: {state:?}"));
        assert!(ends == text || ends == "either", "{case}: {text} runs");
        assert_eq!(state.greeter, format!("active {text}"), "{case}");
        // What it says of itself is what is so: whether the wished system runs and boots, and what was cut short.
        let status = machine.switch(&new, &format!("{SLOW} --status")).ok().record()["status"].clone();
        assert_eq!(status["running"], json!(state.running), "{case}");
        // The note of a commit may have been lost before it had its name.
        let pending = state.left.split_whitespace().any(|left| left == "commit-pending");
        let whole = state.running == path && state.profile == path && state.entry == path && !pending;
        assert_eq!(status["matches"], json!(whole), "{case}: {state:?}");
        assert_eq!(status["left"].as_array().unwrap().is_empty(), !pending, "{case}: {state:?}");
        // Run again, either way it finishes.
        machine.switch(record, SLOW).ok();
        machine.assert_keeps(record, text, &case);
        runs_new = text == "new";
    }
}
