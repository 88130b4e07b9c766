//! Many machines in one run: one evaluation for those that are the same, in a stated memory.

use serde_json::Value;
use std::collections::BTreeSet;
use tests::{Folder, Ran, cloud, project, sample};

pub fn fleet(name: &str, module: &str) -> Folder {
    cloud();
    let folder = Folder::new(&format!("fleet-{name}"));
    let text = format!(
        "{{ machine, ... }}: {{ imports = [ <nixpkgs/nixos/modules/virtualisation/amazon-image.nix> ];
          system.stateVersion = \"20.09\"; {module} }}"
    );
    std::fs::write(folder.path().join("c.nix"), text).unwrap();
    // What changed a moment before Nix looked is not certain, so it is not kept for the next run.
    std::thread::sleep(std::time::Duration::from_millis(100));
    folder
}

pub fn records(count: usize, members: impl Fn(usize) -> String) -> String {
    (0..count).map(|i| format!("{{\"name\":\"m{i}\",{}}}\n", members(i))).collect()
}

pub fn toplevel(record: &Value) -> String {
    record["plan"][0]["resource"].as_str().unwrap_or_else(|| panic!("{record}")).into()
}

pub fn evaluations(ran: &Ran) -> usize {
    ran.stderr.lines().filter(|line| line.contains(": evaluating ")).count()
}

#[test]
fn a_fleet_with_different_facts_is_evaluated_once_for_each_difference() {
    let module = "networking.hostName = if machine ? own then machine.name else \"\";
                  environment.etc.role.text = machine.role;";
    let folder = fleet("roles", module);
    let count = sample(100, 24);
    let roles = ["db", "web", "proxy", "mail"];
    // Every tenth uses its own name, the others differ in their role, and in what nobody looks at.
    let own = |i: usize| if i.is_multiple_of(10) { ",\"own\":true" } else { "" };
    let input = records(count, |i| format!("\"role\":\"{}\",\"unused\":{i}{}", roles[i % 4], own(i)));
    let ran = folder.sh("nix-push --plan c.nix", &input).ok();
    assert_eq!(ran.records().len(), count);
    let toplevels: BTreeSet<_> = ran.records().iter().map(toplevel).collect();
    let different = roles.len() + count.div_ceil(10);
    assert_eq!(toplevels.len(), different);
    assert_eq!(evaluations(&ran), different, "{}", ran.stderr);
    // Each is what it is alone.
    for record in ran.records().iter().take(11).step_by(5) {
        let line = input.lines().find(|line| line.contains(&format!("{},", record["name"]))).unwrap();
        let alone = folder.sh("nix-push --plan --no-eval-cache c.nix", line).ok();
        assert_eq!(toplevel(&alone.record()), toplevel(record));
    }
    let again = folder.sh("nix-push --plan c.nix", &input).ok();
    assert_eq!(evaluations(&again), 0, "{}", again.stderr);
    let one = |ran: &Ran| -> BTreeSet<_> {
        ran.records().iter().map(|one| (one["name"].to_string(), toplevel(one))).collect()
    };
    assert_eq!(one(&again), one(&ran));
}

#[test]
fn one_process_of_nix_is_asked_what_is_to_be_built() {
    let folder = fleet("asked", "networking.hostName = machine.name;");
    let input = records(3, |i| format!("\"x\":{i}"));
    folder.sh("mkdir bin; printf '#!/bin/sh\nexit 1\n' > bin/nix-daemon; chmod +x bin/nix-daemon", "").ok();
    let plans = |before: &str, flags: &str, daemons: usize, stores: usize| -> BTreeSet<_> {
        let ran = folder.sh(&format!("{before} nix-push -v --plan {flags} c.nix"), &input).ok();
        let count = |words: &str| ran.stderr.lines().filter(|line| line.contains(words)).count();
        assert_eq!((count(": nix-daemon --stdio"), count("--realise --dry-run")), (daemons, stores), "{}", ran.stderr);
        let plan = |record: &Value| {
            let build = record["plan"][0]["details"]["build"].as_array().unwrap().clone();
            let last = build.last().unwrap().to_string();
            (last, build.iter().map(Value::to_string).collect::<BTreeSet<_>>(), toplevel(record))
        };
        ran.records().iter().map(plan).collect()
    };
    let all = plans("", "", 1, 0);
    assert_eq!(all.len(), 3);
    // Where it cannot be asked, or not for one machine alone, Nix says the same.
    assert_eq!(plans("PATH=$PWD/bin:$PATH", "", 1, 3), all);
    assert_eq!(plans("", "--option cores 1", 0, 3), all);
    // Behind a daemon: what is handed on to it is the question alone, not the settings of who asks.
    let behind = "rm -f socket; NIX_DAEMON_SOCKET_PATH=$PWD/socket nix-daemon 2> daemon.log & daemon=$!
        trap 'kill $daemon' EXIT; until [ -S socket ]; do sleep 0.1; done
        export HOME=$PWD/home NIX_REMOTE=unix://$PWD/socket";
    assert_eq!(plans(&format!("{behind}; NIX_CONFIG="), "", 1, 0), all);
    assert_eq!(plans(&format!("{behind};"), "", 1, 3), all);
    folder.sh("mkdir -p home/.config/nix; echo 'cores = 1' > home/.config/nix/nix.conf", "").ok();
    assert_eq!(plans(&format!("{behind}; NIX_CONFIG="), "", 1, 3), all);
}

#[test]
fn one_bad_machine_of_a_fleet_stops_nobody() {
    let folder = fleet("bad", "networking.hostName = machine.name; environment.etc.role.text = machine.role;");
    let input = records(5, |i| format!("\"role\":{}", if i == 2 { "7" } else { "\"db\"" }));
    let ran = folder.sh("nix-push --plan c.nix", &input);
    assert_eq!(ran.status, 1);
    for record in ran.records() {
        let bad = record["name"] == "m2";
        assert_eq!(record["error"]["kind"].as_str(), bad.then_some("evaluation"), "{record}");
    }
}

/// Runs nix-push, the first machine some seconds before the others; gives the most MiB that all its processes held.
pub fn peak(folder: &Folder, before: f32, flags: &str, input: &str) -> (u64, Ran) {
    std::fs::write(folder.path().join("records"), input).unwrap();
    let measure = project().join("tests/bench/measure.py");
    let script = format!(
        "/usr/bin/python3 {} bash -c '(head -n 1 records; sleep {before}; tail -n +2 records) | nix-push --plan --no-eval-cache {flags} c.nix > out 2> err'; cat err >&2",
        measure.display()
    );
    let ran = folder.sh(&script, "").ok();
    let peak = ran.stdout.split_whitespace().last().unwrap().parse().unwrap();
    (peak, ran)
}

#[test]
fn evaluations_stay_within_their_memory_however_many_there_are() {
    let folder = fleet("memory", "networking.hostName = machine.name; nixpipe.evaluation.megabytes = 100;");
    let (one, _) = peak(&folder, 1.0, "--eval-jobs 1", &records(1, |i| format!("\"x\":{i}")));
    let budget = one * 5 / 2;
    let input = records(sample(20, 6), |i| format!("\"x\":{i}"));
    let (all, ran) = peak(&folder, 1.0, &format!("--eval-memory {budget}M --eval-jobs 8 -j 20"), &input);
    assert!(all <= budget * 11 / 10, "{all} MiB of {budget}, one takes {one}");
    // More than one at a time did fit.
    assert!(all > one * 5 / 4, "{all} MiB, one takes {one}");
    assert!(evaluations(&ran) >= 6);
}

#[test]
fn an_evaluation_that_takes_too_much_is_done_again_alone() {
    let module = "networking.hostName = machine.name; nixpipe.evaluation.megabytes = machine.megabytes;";
    let folder = fleet("alone", module);
    // The first shows what one takes; the others take far more, and two at a time too much.
    let input = records(3, |i| format!("\"megabytes\":{}", if i == 0 { 60 } else { 200 }));
    let (all, ran) = peak(&folder, 1.0, "--eval-memory 300M --eval-jobs 4", &input);
    assert!(all <= 330, "{all} MiB of 300");
    let records = std::fs::read_to_string(folder.path().join("out")).unwrap();
    assert_eq!(records.lines().filter(|line| line.contains("\"plan\"")).count(), 3, "{records}");
    assert!(
        ran.stderr.contains("the evaluators took more than --eval-memory: this one starts again, alone"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_signal_ends_what_is_evaluated_too() {
    let folder = fleet("signal", "");
    let slow = "{ machine }: { config.system.build.toplevel = builtins.foldl' (a: b: a + b) machine.x
        (builtins.concatMap (x: builtins.genList (y: x + y) 3000) (builtins.genList (x: x) 20000)); }";
    std::fs::write(folder.path().join("slow.nix"), slow).unwrap();
    for signal in ["INT", "TERM"] {
        // Tests that were started in the background ignore INT, and so would what they start.
        let script = format!(
            r#"cat > in; set -m; env --default-signal=INT nix-push --plan --hermetic slow.nix < in > out & push=$!
            ours() {{ for i in /proc/[0-9]*; do [ "$(readlink $i/cwd)" = "$PWD" ] && grep nix-instantiate $i/comm; done 2> /dev/null; }}
            until [ -n "$(ours)" ]; do sleep 0.1; done; kill -{signal} $push; wait $push; echo $?; sleep 0.3; ours; cat out"#
        );
        let ran = folder.sh(&script, r#"{"name":"a","x":1} {"name":"b","x":2} {"name":"c","x":3}"#);
        let status = if signal == "INT" { "130\n" } else { "143\n" };
        assert_eq!(ran.stdout, status, "{signal}: {}", ran.stderr);
    }
}
