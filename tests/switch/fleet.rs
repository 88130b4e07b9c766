//! Many machines: none waits for another that is dead, and a roll-out that goes wrong stops.

use crate::machine::{Machine, said};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::Stdio;

/// A machine of the stream that takes connections and never says a word.
fn dead(record: &Value, name: &str, silence: &TcpListener) -> Value {
    let mut dead = record.clone();
    dead["name"] = json!(name);
    dead["ssh"]["host"] = json!("127.0.0.1");
    dead["ssh"]["port"] = json!(silence.local_addr().unwrap().port());
    dead
}

fn stream(records: &[&Value]) -> String {
    records.iter().map(|record| format!("{record}\n")).collect()
}

#[test]
#[ignore = "long: scripts/test --all"]
fn one_dead_machine_holds_up_no_other_and_failures_end_a_roll_out() {
    let machines = [Machine::new("fleet-a"), Machine::new("fleet-b")];
    let old = [machines[0].push_greeter("old", ""), machines[1].push_greeter("old", "")];
    let folder = &machines[0].folder;
    let silence = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = ["dead-1", "dead-2"].map(|name| dead(&old[0], name, &silence));

    // Whoever waits for the dead ones waits for ever.
    let mut command = folder.command("exec nixos-switch -j 4 --connect-timeout 1h");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(stream(&[&dead[0], &old[0], &dead[1], &old[1]]).as_bytes()).unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in lines.take(2) {
        let record: Value = serde_json::from_str(&line.unwrap()).unwrap();
        assert_eq!(record["activation"]["outcome"], "switched", "{record}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    machines[0].assert_keeps(&old[0], "old", "beside dead machines");
    machines[1].assert_keeps(&old[1], "old", "beside dead machines");

    // One at a time, the dead one costs its own limit, and then the roll-out ends.
    let new = [machines[0].push_greeter("new", ""), machines[1].push_greeter("new", "")];
    let input = stream(&[&new[0], &dead[0], &new[1], &dead[1]]);
    let ran = folder.sh("nixos-switch -j 1 --max-failures 1 --connect-timeout 10s", &input);
    let kinds: Vec<String> =
        ran.records().iter().map(|record| record["error"]["kind"].as_str().unwrap_or_default().to_string()).collect();
    assert_eq!(ran.status, 1);
    assert_eq!(
        (kinds[0].as_str(), &kinds[2..]),
        ("", &["not-started".to_string(), "not-started".into()][..]),
        "{}",
        ran.stderr
    );
    assert!(!kinds[1].is_empty());
    assert!(ran.records()[2].get("activation").is_none());
    machines[0].assert_keeps(&new[0], "new", "before the failures");
    machines[1].assert_keeps(&old[1], "old", "not begun after the failures");

    // Those not begun are gone on with.
    let rest: String = ran
        .records()
        .iter()
        .filter(|record| record["name"] == new[1]["name"])
        .map(|record| format!("{record}\n"))
        .collect();
    let ran = folder.sh("nixos-switch --retry", &rest).ok();
    assert_eq!(said(&ran).0, "switched");
    machines[1].assert_keeps(&new[1], "new", "gone on with");

    // The waves of the README, as they are printed there.
    let readme = std::fs::read_to_string(tests::project().join("README.md")).unwrap();
    let waves = readme.lines().map(str::trim).find(|line| line.starts_with("head -n 1 pushed.json")).unwrap();
    std::fs::write(folder.path().join("pushed.json"), stream(&[&old[0], &old[1]])).unwrap();
    folder.sh(waves, "").ok();
    machines[0].assert_keeps(&old[0], "old", "the first wave");
    machines[1].assert_keeps(&old[1], "old", "the second wave");
    std::fs::write(folder.path().join("pushed.json"), stream(&[&dead[0], &new[1]])).unwrap();
    assert_ne!(folder.sh(waves, "").status, 0);
    machines[1].assert_keeps(&old[1], "old", "no second wave after a failed one");
}
