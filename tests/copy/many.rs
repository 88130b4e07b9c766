//! Many machines, one closure: read and compressed once, in little memory, each at its own pace.

use crate::machine::{Machines, nix_push, noise};
use crate::relay::{Relay, Rule};
use serde_json::Value;
use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tests::sample;

/// The bound for any closure and any number of machines.
const MEMORY: u64 = 256 << 20;

#[test]
fn one_closure_for_many_machines_is_read_once_in_little_memory() {
    let count = sample(10, 3);
    let machines = Machines::new("many", count);
    let large = sample(600, 60);
    let top = machines.build(&format!(
        "let small = {{ small = {}; }}; large = path \"many-large-{large}\" [ small.small ] \"r = random.Random(1)\\nwith open(out, 'wb') as f:\\n  for i in range({large}):\\n    f.write(r.randbytes(500000) + b'nixpipe ' * 62500)\\n  f.write(os.environ['references'].encode())\"; in large",
        noise("many", 200, 20_000)
    ));
    let mut command = machines.folder.command(&format!("exec {} -v -j {count} --toplevel {top}", nix_push()));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let input: Vec<String> = machines.records.iter().map(Value::to_string).collect();
    child.stdin.take().unwrap().write_all(input.join("\n").as_bytes()).unwrap();
    let status = format!("/proc/{}/status", child.id());
    let (send, done) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        let mut most = 0;
        while done.recv_timeout(Duration::from_millis(20)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
            most = most.max(line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024);
        }
        most
    });
    let output = child.wait_with_output().unwrap();
    drop(send);
    let most = watch.join().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    for at in 0..count {
        machines.assert_has(at, &top);
    }
    assert!(most > 0 && most < MEMORY, "{} MiB", most >> 20);
    let read: Vec<&str> = stderr.lines().filter_map(|line| line.split_once("reading ")).map(|(_, path)| path).collect();
    let paths = machines.closure(&top).len();
    assert_eq!(read.len(), paths, "each path is read once: {stderr}");
    assert_eq!(read.iter().collect::<HashSet<_>>().len(), paths);
}

#[test]
#[ignore = "long: scripts/test --all"]
fn many_slow_machines_take_little_memory_where_there_is_no_room_for_what_they_share() {
    let machines = Machines::new("slow", 10);
    let top = machines.build(
        "path \"slow-large\" [ ] \"r = random.Random(1)\\nwith open(out, 'wb') as f:\\n  for i in range(100):\\n    f.write(r.randbytes(500000) + b'nixpipe ' * 62500)\"",
    );
    let (mut relays, mut input) = (Vec::new(), String::new());
    for at in 0..10 {
        let relay = Relay::new(machines.address(at), Rule { rate: Some(300_000), ..Rule::default() });
        let mut record = machines.records[at].clone();
        record["ssh"]["host"] = "127.0.0.1".into();
        record["ssh"]["port"] = relay.port.into();
        input += &format!("{record}\n");
        relays.push(relay);
    }
    let script = format!("TMPDIR=/no/such/folder exec {} -j 10 --toplevel {top}", nix_push());
    let mut command = machines.folder.command(&script);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(tests::unread()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    // Until each has what may wait for it, and a compressor that waits with it.
    let end = Instant::now() + Duration::from_secs(120);
    while relays.iter().any(|relay| relay.to_machine() < 2_500_000) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(100));
    }
    let text = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let most = line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024;
    assert!(most < MEMORY / 2, "{} MiB", most >> 20);
}

#[test]
fn a_slow_machine_slows_nobody_and_one_that_fails_takes_nobody_along() {
    let machines = Machines::new("pace", 4);
    let top = machines.build(&noise("pace", 60, 100_000));
    let slow = Relay::new(machines.address(0), Rule { rate: Some(20_000), ..Rule::default() });
    let cut = Relay::new(machines.address(1), Rule { cut_after: Some(2_000_000), ..Rule::default() });
    let mut records = machines.records.clone();
    for (record, relay) in records.iter_mut().zip([&slow, &cut]) {
        record["ssh"]["host"] = "127.0.0.1".into();
        record["ssh"]["port"] = relay.port.into();
    }
    let mut command = machines.folder.command(&format!("exec {} --toplevel {top}", nix_push()));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(tests::unread()).spawn().unwrap();
    let input: Vec<String> = records.iter().map(Value::to_string).collect();
    child.stdin.take().unwrap().write_all(input.join("\n").as_bytes()).unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut seen: Vec<Value> = (0..3).map(|_| serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap()).collect();
    // The slow one has hardly begun.
    assert!(slow.to_machine() < 3_000_000, "{}", slow.to_machine());
    child.kill().unwrap();
    child.wait().unwrap();
    seen.sort_by_key(|record| record["name"].as_str().unwrap().to_string());
    assert_eq!(seen.iter().map(|record| &record["name"]).collect::<Vec<_>>(), ["pace-1", "pace-2", "pace-3"]);
    assert_eq!(seen[0]["error"]["tool"], "nix-push", "{}", seen[0]);
    for at in [2, 3] {
        assert_eq!(seen[at - 1]["error"], Value::Null);
        machines.assert_has(at, &top);
    }
}

#[test]
#[ignore = "long: scripts/test --all"]
fn machines_that_lack_different_paths_get_what_they_lack() {
    let machines = Machines::new("various", 3);
    let top = machines.build(&noise("various", 120, 30_000));
    let paths = machines.closure(&top);
    // References come before: the first of the chain are what half a closure is.
    let part = |name: usize| paths.iter().find(|path| path.ends_with(&format!("-various-{name}"))).unwrap().clone();
    machines.pushed(&part(40), "");
    let half = machines.push(&part(80), "", &machines.records[1..2]).ok().record();
    assert_eq!(half["closure"]["sentPaths"], 81);
    let mut records = machines.push(&top, "", &machines.records).ok().records();
    records.sort_by_key(|record| record["name"].as_str().unwrap().to_string());
    let sent: Vec<_> = records.iter().map(|record| record["closure"]["sentPaths"].as_u64().unwrap()).collect();
    assert_eq!(sent, [79, 39, 120]);
    for at in 0..3 {
        machines.assert_has(at, &top);
        machines.forget(at, &top);
    }
    // Where there is no room for what they share, each is sent its own.
    let input: Vec<String> = machines.records.iter().map(Value::to_string).collect();
    let script = format!("TMPDIR=/no/such/folder {} --toplevel {top}", nix_push());
    let records = machines.folder.sh(&script, input.join("\n")).ok().records();
    assert!(records.iter().all(|record| record["closure"]["sentPaths"] == 120));
    for at in 0..3 {
        machines.assert_has(at, &top);
    }
}

#[test]
fn derivations_for_many_machines_are_read_once_and_built_there() {
    let machines = Machines::new("build-there", 2);
    let configuration = "{ imports = [ <nixpkgs/nixos/modules/virtualisation/amazon-image.nix> ]; environment.etc.built.text = \"there\"; }";
    std::fs::write(machines.path().join("there.nix"), configuration).unwrap();
    let input: Vec<String> = machines.records.iter().map(Value::to_string).collect();
    let ran = machines.folder.sh(&format!("{} -v --build-on machine there.nix", nix_push()), input.join("\n")).ok();
    let records = ran.records();
    let sent: Vec<u64> = records.iter().map(|record| record["closure"]["sentPaths"].as_u64().unwrap()).collect();
    assert!(sent[0] > 20 && sent[0] == sent[1], "{sent:?}");
    let read = ran.stderr.lines().filter(|line| line.contains("reading /nix/store")).count() as u64;
    assert_eq!(read, sent[0], "each derivation is read once");
    let top = records[0]["closure"]["toplevel"].as_str().unwrap();
    for at in 0..2 {
        assert_eq!(machines.ssh(at, &format!("cat {top}/etc/built")).ok().stdout, "there");
    }
}
