//! What a switch costs in connections and round trips; the man page states it.

use crate::machine::{Machine, said};
use serde_json::Value;
use std::time::Instant;
use tests::project;

/// Connections to the machine so far, and how often they waited for it.
fn counts(machine: &Machine) -> (u64, u64) {
    let status: Value = serde_json::from_str(&machine.cloud.run(&["raw", "GET", "status"])).unwrap();
    let id = machine.id();
    let one = status["machines"].as_array().unwrap().iter().find(|one| one["id"] == id).unwrap().clone();
    (one["connections"].as_u64().unwrap(), one["turns"].as_u64().unwrap())
}

#[test]
fn round_trips_are_few_and_those_that_the_page_states() {
    // The page states those of libssh2; OpenSSH's client asks in ways of its own.
    if std::env::var_os("NIXPIPE_TEST_SSH").is_some() {
        return;
    }
    let machine = Machine::new("trips");
    let systems = [machine.push_greeter("one", ""), machine.push_greeter("two", "")];
    machine.switch(&systems[0], "").ok();
    let cost = |record: &Value, outcome: &str| {
        let before = counts(&machine);
        let start = Instant::now();
        let ran = machine.switch(record, "").ok();
        assert_eq!(said(&ran).0, outcome);
        let after = counts(&machine);
        // A machine that is silent for a third of --connect-timeout is asked for a sign of life, which is no part of the switch.
        let signs = start.elapsed().as_secs() / 6;
        (after.0 - before.0, (after.1 - before.1).saturating_sub(signs))
    };
    // With a way to go, what is sent without waiting for an answer is not taken for a round trip.
    machine.cloud.run(&["delay", "20", &machine.id()]);
    let unchanged = cost(&systems[0], "unchanged");
    let changed = cost(&systems[1], "switched");
    let page = std::fs::read_to_string(project().join("nixos-switch/nixos-switch.1")).unwrap();
    for (what, (connections, turns)) in [("unchanged", unchanged), ("changed", changed)] {
        let stated = page.lines().find_map(|line| line.strip_prefix(&format!("{what}: "))).unwrap();
        let numbers: Vec<u64> = stated.split(' ').filter_map(|word| word.parse().ok()).collect();
        assert_eq!(numbers[0], connections, "{what}");
        // What the machine says twice in a row is one turn, so on a busy one there are fewer.
        assert!((turns..=turns + 2 * connections).contains(&numbers[1]), "{what}: {turns}, stated: {stated}");
    }
}
