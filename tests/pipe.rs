//! The whole pipe, from a release number to a switched machine, on the local cloud.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::Value;
use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tests::{Folder, cloud, project, sample};

/// A deployment that is taken down when the test ends, however it ends.
struct Deployment {
    folder: Folder,
    name: &'static str,
}

impl Deployment {
    fn new(name: &'static str) -> Deployment {
        cloud();
        let deployment = Deployment { folder: Folder::new(name), name };
        deployment.down();
        let example = project().join("examples/tutorial");
        for file in ["configuration.nix", "changed.nix"] {
            std::fs::copy(example.join(file), deployment.folder.path().join(file)).unwrap();
        }
        deployment
    }

    fn down(&self) {
        self.folder
            .sh(&format!("ec2-down --all --deployment {} --region eu-central-1 < /dev/null", self.name), "")
            .ok();
    }

    /// The tutorial's pipe after its first tool, which `start` is.
    fn pipe(&self, start: &str, configuration: &str) -> String {
        let name = self.name;
        format!(
            "{start} | keygen --type rsa | ec2-up --deployment {name} --instance-type t3.micro --volume-size 50 \
             | nix-push {configuration} | nixos-switch"
        )
    }

    fn machines(&self) -> Vec<Value> {
        let script = format!("ec2-ls --deployment {} --region eu-central-1", self.name);
        self.folder.sh(&script, "").ok().records()
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        // A failure here must not hide the test's own.
        let script = format!("ec2-down --all --deployment {} --region eu-central-1 < /dev/null", self.name);
        self.folder.sh(&script, "");
    }
}

#[test]
fn the_demo_succeeds() {
    cloud();
    // After a demo that was interrupted, and with settings of a user for other work.
    let folder = Folder::new("demo");
    let before =
        "nixos-ami -n --release 20.09 --region eu-central-1 | keygen | ec2-up --deployment demo --wait running";
    folder.sh(before, "").ok();
    let mut demo = Command::new(project().join("scripts/demo"));
    demo.env("CARGO_TARGET_DIR", folder.path()).env("AWS_REGION", "eu-west-1").env("http_proxy", "http://127.0.0.1:1");
    let output = demo.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("Every step was verified."), "{text}");
}

#[test]
fn what_the_user_added_reaches_the_end_and_the_configuration() {
    let deployment = Deployment::new("facts");
    let facts = r#""role":"it's a \"${db}\"","big":12345678901234567890123,"list":[1,2.50,null,{"ü":"😀"}]"#;
    std::fs::write(
        deployment.folder.path().join("facts.nix"),
        r#"{ machine, ... }: {
             imports = [ <nixpkgs/nixos/modules/virtualisation/amazon-image.nix> ];
             networking.hostName = machine.name;
             environment.etc."role".text = machine.role;
             environment.etc."facts".text = builtins.toJSON [ machine.list machine.instance.id machine.ami.id ];
           }"#,
    )
    .unwrap();
    let record = format!(
        "{{\"name\":\"db-1\",\"release\":\"20.09\",\"region\":\"eu-central-1\",{}}}",
        facts.replace("\"big\":12345678901234567890123,", "")
    );
    let ran = deployment.folder.sh(&deployment.pipe("nixos-ami", "facts.nix"), &record).ok();
    assert!(ran.stdout.contains(r#""role":"it's a \"${db}\"","list":[1,2.50,null,{"ü":"😀"}]"#), "{}", ran.stdout);
    let record = ran.record();
    let address = record["ssh"]["host"].as_str().unwrap();
    let script = format!(
        "printf '%s %s\\n' {address} '{}' > known_hosts
         ssh -i id_rsa.pem -o UserKnownHostsFile=known_hosts -o StrictHostKeyChecking=yes root@{address} 'cat /etc/role; echo; cat /etc/facts; echo; cat /proc/sys/kernel/hostname' < /dev/null",
        record["ssh"]["hostKeys"][0].as_str().unwrap()
    );
    let there = deployment.folder.sh(&script, "").ok().stdout;
    let mut lines = there.lines();
    assert_eq!(lines.next(), Some(r#"it's a "${db}""#));
    let facts: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert_eq!(facts[0][3]["ü"], "😀");
    assert_eq!((&facts[1], &facts[2]), (&record["instance"]["id"], &record["ami"]["id"]));
    assert_eq!(lines.next(), Some("db-1"));
}

#[test]
fn one_bad_machine_of_three_stops_nobody() {
    let deployment = Deployment::new("three");
    let stream =
        r#"{"name":"good-1","release":"20.09"} {"name":"bad","release":"99.99"} {"name":"good-2","release":"20.09"}"#;
    let ran = deployment
        .folder
        .sh(&deployment.pipe("nixos-ami --region eu-central-1 --source table", "configuration.nix"), stream);
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    let outcome = |name: &str| {
        let record = ran.records().into_iter().find(|record| record["name"] == name).unwrap();
        (record["activation"]["outcome"].clone(), record["error"]["tool"].clone(), record["error"]["kind"].clone())
    };
    assert_eq!(outcome("good-1").0, "switched", "{}", ran.stderr);
    assert_eq!(outcome("good-2").0, "switched", "{}", ran.stderr);
    assert_eq!(outcome("bad"), (Value::Null, "nixos-ami".into(), "not-found".into()));
    let ids: BTreeSet<_> = deployment.machines().iter().map(|machine| machine["instance"]["id"].to_string()).collect();
    assert_eq!(ids.len(), 2);
}

#[test]
fn killed_anywhere_and_run_again_the_pipe_ends_as_if_undisturbed() {
    let deployment = Deployment::new("killed-pipe");
    let start = "nixos-ami -n --release 20.09 --region eu-central-1 --name k";
    let pipe = deployment.pipe(start, "changed.nix");
    let began = Instant::now();
    let undisturbed = deployment.folder.sh(&pipe, "").ok().record();
    let whole = began.elapsed();
    assert_eq!(undisturbed["activation"]["outcome"], "switched");
    let points = sample(20, 4);
    // All of them at once, or one of them.
    let victims = [None, Some("nix-push"), Some("ec2-up"), Some("nixos-switch"), Some("keygen"), Some("nixos-ami")];
    for point in 0..points {
        deployment.down();
        let victim = victims[point % victims.len()];
        let after = whole.mul_f64((point as f64 + 0.5) / points as f64);
        let mut command = deployment.folder.command(&pipe);
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(after);
        let group = child.id().to_string();
        let mut kill = Command::new("pkill");
        kill.args(["-KILL", "-g", &group]).args(victim.map(|tool| ["-x", tool]).into_iter().flatten());
        // Nobody may be left by then.
        kill.status().unwrap();
        child.wait().unwrap();
        let again = deployment.folder.sh(&pipe, "").ok().record();
        let at = format!("{} killed after {after:?}: {again}", victim.unwrap_or("the whole pipe"));
        assert!(
            ["switched", "unchanged"].contains(&again["activation"]["outcome"].as_str().unwrap_or_default()),
            "{at}"
        );
        for member in ["ami", "keyPair"] {
            assert_eq!(again[member], undisturbed[member], "{at}");
        }
        let machines = deployment.machines();
        assert_eq!(machines.len(), 1, "{at}");
        assert_eq!(machines[0]["instance"]["id"], again["instance"]["id"], "{at}");
        // The tools say the same of it when they look once more.
        let settled = deployment.folder.sh(&pipe, "").ok().record();
        assert_eq!(settled["activation"]["outcome"], "unchanged", "{at}");
        assert_eq!(settled["activation"]["current"], settled["closure"]["toplevel"], "{at}");
    }
}

#[test]
fn the_private_key_is_in_no_record_log_argument_list_store_path_or_metadata() {
    let deployment = Deployment::new("secret");
    deployment.folder.sh("keygen -n --type rsa", "").ok();
    let key = std::fs::read_to_string(deployment.folder.path().join("id_rsa.pem")).unwrap();
    // Any line of the key gives it away.
    let needles: Vec<String> = key.lines().filter(|line| !line.starts_with('-')).map(String::from).collect();
    let holds = |text: &str| needles.iter().any(|needle| text.contains(needle));

    let done = AtomicBool::new(false);
    let script = deployment.pipe("nixos-ami -v -n --release 20.09 --region eu-central-1", "changed.nix");
    let script = script
        .replace("| keygen", "| keygen -v")
        .replace("| ec2-up", "| ec2-up -v")
        .replace("| nix-push", "| nix-push -v")
        .replace("| nixos-switch", "| nixos-switch -v");
    let (ran, seen) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            while !done.load(Ordering::SeqCst) {
                for entry in std::fs::read_dir("/proc").unwrap().flatten() {
                    for file in ["cmdline", "environ"] {
                        if let Ok(text) = std::fs::read(entry.path().join(file)) {
                            seen.insert(String::from_utf8_lossy(&text).into_owned());
                        }
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            seen
        });
        let ran = deployment.folder.sh(&script, "");
        done.store(true, Ordering::SeqCst);
        (ran, watch.join().unwrap())
    });
    let ran = ran.ok();
    assert!(seen.iter().any(|text| text.contains("nix-push")), "the tools' argument lists were seen");
    assert!(!seen.iter().any(|text| holds(text)), "an argument list or environment holds the key");
    assert!(!holds(&ran.stdout) && !holds(&ran.stderr));
    assert!(!holds(&cloud().run(&["log"])), "a request to EC2 holds the key");
    assert!(!holds(&cloud().run(&["console", ran.record()["instance"]["id"].as_str().unwrap()])));
    let needle = &needles[needles.len() / 2];
    let toplevel = ran.record()["closure"]["toplevel"].as_str().unwrap().to_string();
    let drv = ran.record()["closure"]["drv"].as_str().unwrap().to_string();
    let store =
        deployment.folder.sh(&format!("grep -rFl -e '{needle}' $(nix-store -qR {toplevel} {drv}); true"), "").ok();
    assert_eq!(store.stdout, "", "the store holds the key");
}
