//! EC2 without a state file: faults at every call, races, and what is left afterwards.
//!
//! Each test has a cloud of its own, on a port of its own, whose instances have states only.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Command;
use tests::{Folder, Ran, project, sample};

/// An EC2 region without machines; it goes with the test.
struct Region {
    folder: Folder,
    port: u16,
}

impl Region {
    fn new(test: &str, port: u16) -> Region {
        let region = Region { folder: Folder::new(test), port };
        region.cloud("down || true");
        region.cloud("up --api-only");
        region.sh("nixos-ami -q -n --release 25.11 --name web-1 | keygen -q > web-1.json", "").ok();
        region
    }

    fn cloud(&self, command: &str) -> String {
        let script = format!("scripts/local-cloud --port {} {command}", self.port);
        let ran = Command::new("bash").args(["-c", &script]).current_dir(project()).output().unwrap();
        assert!(ran.status.success(), "{script}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    }

    /// Runs a shell command in the environment of this region.
    fn sh(&self, script: &str, input: &str) -> Ran {
        let keys = "AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_EC2_METADATA_DISABLED=true";
        let place = format!("AWS_ENDPOINT_URL=http://127.0.0.1:{} AWS_REGION=eu-central-1", self.port);
        self.folder.sh(&format!("export {keys} {place}; {script}"), input)
    }

    fn log(&self) -> Vec<Value> {
        self.cloud("log").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Everything that a call has made since the log was cleared.
    fn made(&self, action: &str, prefix: &str) -> BTreeSet<String> {
        let log = self.log();
        let calls = log.iter().filter(|entry| entry["action"] == action);
        let ids = calls.flat_map(|entry| entry["made"].as_array().unwrap().iter());
        ids.filter_map(|id| id.as_str()).filter(|id| id.starts_with(prefix)).map(String::from).collect()
    }

    /// How often a call was made.
    fn count(&self, action: &str) -> usize {
        self.log().iter().filter(|entry| entry["action"] == action).count()
    }

    fn reset(&self) {
        self.cloud("reset");
        self.cloud("raw POST clear-log");
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let script = format!("scripts/local-cloud --port {} down", self.port);
        let _ = Command::new("bash").args(["-c", &script]).current_dir(project()).output();
    }
}

/// What goes wrong: the fault for a call, and whether it ends by itself.
const FAULTS: [(&str, bool); 6] = [
    ("throttle 3", true),
    ("cut-before 1", true),
    ("cut-after 1", true),
    ("hang 1", true),
    ("late 1.2", true),
    ("deny", false),
];

/// Every fault at every call, or every so many of them.
fn table(calls: &[&str]) -> Vec<(String, String, bool)> {
    let mut cases = Vec::new();
    for call in calls {
        for (fault, ends) in FAULTS {
            let fault = match fault {
                "deny" => format!("fault deny {call}"),
                fault => format!("fault {fault} --action {call}"),
            };
            cases.push((call.to_string(), fault, ends));
        }
    }
    let step = cases.len() / sample(cases.len(), cases.len() / 4);
    // Not always the same column.
    cases
        .into_iter()
        .enumerate()
        .filter(|(index, _)| (index + index / FAULTS.len()) % step == 0)
        .map(|(_, case)| case)
        .collect()
}

const UP: &str = "ec2-up -q --wait running --elastic-ip --call-timeout 1s";
const DOWN: &str = "ec2-down -q --call-timeout 1s";

/// Runs a command with a fault, and once more if that has failed, without it.
fn at_most_twice(region: &Region, command: &str, (call, fault, ends): &(String, String, bool)) -> Value {
    region.cloud(fault);
    let first = region.sh(command, "");
    if first.status == 0 {
        assert!(*ends, "{call}: {fault} was not noticed");
        region.cloud("fault clear");
        return first.record();
    }
    let error = &first.record()["error"];
    assert_ne!(error["kind"], "internal", "{fault}: {error}");
    if !ends {
        assert_eq!(error["kind"], "denied", "{fault}: {error}");
        assert!(error["hint"].as_str().unwrap().contains(call), "{fault}: {error}");
    }
    region.cloud("fault clear");
    region.sh(command, "").ok().record()
}

#[test]
fn a_fault_at_any_call_of_up_and_down_leaves_nothing_doubled_and_nothing_orphaned() {
    let region = Region::new("faults", 5591);
    let up = [
        "ImportKeyPair",
        "CreateSecurityGroup",
        "AuthorizeSecurityGroupIngress",
        "RunInstances",
        "AllocateAddress",
        "AssociateAddress",
    ];
    for case in table(&up) {
        region.reset();
        let machine = at_most_twice(&region, &format!("{UP} < web-1.json"), &case);
        assert_eq!(machine["instance"]["state"], "running", "{case:?}");
        let ids = region.made("RunInstances", "i-");
        assert_eq!(ids, BTreeSet::from([machine["instance"]["id"].as_str().unwrap().to_string()]), "{case:?}");
        assert_eq!(region.made("CreateSecurityGroup", "sg-").len(), 1, "{case:?}");
        assert_eq!(region.made("AllocateAddress", "eipalloc-").len(), 1, "{case:?}");
        assert_eq!(region.sh("ec2-ls -q", "").ok().records().len(), 1, "{case:?}");
        // Nothing differs from the wish any more.
        let plan = region.sh(&format!("{UP} --plan < web-1.json"), "").ok().record();
        assert_eq!(plan.get("plan"), None, "{case:?}");
    }
    let down = ["TerminateInstances", "ReleaseAddress", "DeleteSecurityGroup", "DeleteKeyPair"];
    for case in table(&down) {
        region.reset();
        region.sh(&format!("{UP} < web-1.json > up.json"), "").ok();
        let machine = at_most_twice(&region, &format!("{DOWN} < up.json"), &case);
        assert_eq!(machine.get("instance"), None, "{case:?}");
        assert_eq!(region.sh("ec2-ls -q", "").ok().stdout, "", "{case:?}");
        assert_eq!(region.sh("ec2-ls -q --orphans", "").ok().stdout, "", "{case:?}");
    }
}

#[test]
fn a_fault_at_any_change_ends_in_the_wish() {
    let region = Region::new("changes", 5592);
    let wish =
        format!("{UP} --open 443 --ssh-from 10.0.0.0/8 --tag team=web --volume-size 60 --imds optional < web-1.json");
    let calls = [
        "AuthorizeSecurityGroupIngress",
        "RevokeSecurityGroupIngress",
        "CreateTags",
        "ModifyVolume",
        "ModifyInstanceMetadataOptions",
    ];
    for case in table(&calls) {
        region.reset();
        region.sh(&format!("{UP} < web-1.json"), "").ok();
        let machine = at_most_twice(&region, &wish, &case);
        assert_eq!(machine["instance"]["created"], false, "{case:?}");
        let plan = region.sh(&wish.replace("ec2-up", "ec2-up --plan"), "").ok().record();
        assert_eq!(plan.get("plan"), None, "{case:?}: {plan}");
        assert_eq!(region.made("RunInstances", "i-").len(), 1, "{case:?}");
    }
}

#[test]
fn ten_at_once_make_one_machine() {
    let region = Region::new("ten", 5593);
    for _ in 0..sample(5, 2) {
        region.reset();
        region.cloud("fault late 0.7");
        let script = format!("for i in 1 2 3 4 5 6 7 8 9 10; do {UP} < web-1.json & done; wait");
        let records = region.sh(&script, "").ok().records();
        let ids: BTreeSet<_> = records.iter().map(|record| record["instance"]["id"].to_string()).collect();
        assert_eq!((records.len(), ids.len()), (10, 1), "{records:?}");
        assert_eq!(region.made("RunInstances", "i-").len(), 1);
        assert_eq!(region.made("CreateSecurityGroup", "sg-").len(), 1);
        region.cloud("fault clear");
        assert_eq!(region.sh("ec2-ls -q --orphans", "").ok().stdout, "");
    }
}

#[test]
fn up_after_down_makes_a_fresh_machine_and_the_tokens_of_old_ones_do_not_matter() {
    let region = Region::new("again", 5594);
    let mut ids = BTreeSet::new();
    for _ in 0..3 {
        let up = region.sh(&format!("{UP} < web-1.json"), "").ok().record();
        assert_eq!(up["instance"]["created"], true);
        assert!(ids.insert(up["instance"]["id"].to_string()));
        let down = region.sh(DOWN, &up.to_string()).ok().record();
        assert_eq!((down.get("instance"), down.get("ssh")), (None, None));
        let again = region.sh(DOWN, &up.to_string()).ok();
        assert_eq!(again.record().get("instance"), None);
    }
}

#[test]
fn a_plan_makes_no_change() {
    let region = Region::new("plan", 5595);
    region.cloud("raw POST clear-log");
    let plan = region.sh("ec2-up --plan --open 443 < web-1.json", "").ok();
    let entries = plan.record()["plan"].as_array().unwrap().clone();
    let made: Vec<_> =
        entries.iter().map(|entry| entry["resource"].as_str().unwrap().split('/').next().unwrap()).collect();
    assert_eq!(made, ["key-pair", "security-group", "instance"]);
    assert!(plan.stderr.contains("plan: 3 to add, 0 to change, 0 to destroy"), "{}", plan.stderr);
    region.sh(&format!("{UP} < web-1.json > up.json"), "").ok();
    region.cloud("raw POST clear-log");
    let change = region.sh("ec2-up --plan --open 443 --instance-type t3.small --volume-size 40 < web-1.json", "").ok();
    let entries = change.record()["plan"].as_array().unwrap().clone();
    let actions: Vec<_> = entries.iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["update", "update", "replace"], "{entries:?}");
    let down = region.sh("ec2-down --plan < up.json", "").ok();
    assert!(down.stderr.contains("plan: 0 to add, 0 to change, 4 to destroy"), "{}", down.stderr);
    for entry in region.log() {
        let action = entry["action"].as_str().unwrap();
        assert!(action.starts_with("Describe"), "{action}");
    }
}

#[test]
fn what_cannot_change_in_place_needs_a_word_and_a_changed_image_never_does() {
    let region = Region::new("word", 5596);
    let first = region.sh(&format!("{UP} < web-1.json"), "").ok().record();
    let refused = region.sh(&format!("{UP} --instance-type t3.small < web-1.json"), "");
    let error = &refused.record()["error"];
    assert_eq!((refused.status, &error["kind"]), (1, &Value::from("conflict")));
    assert!(error["hint"].as_str().unwrap().contains("--stop-to-resize"));
    let resized = region.sh(&format!("{UP} --instance-type t3.small --stop-to-resize < web-1.json"), "").ok().record();
    assert_eq!(
        (&resized["instance"]["id"], &resized["instance"]["type"]),
        (&first["instance"]["id"], &Value::from("t3.small"))
    );
    // The Elastic IP outlives the stop.
    assert_eq!(resized["instance"]["publicIp"], first["instance"]["publicIp"]);

    let newer = region.sh("jq -c '.ami.id = \"ami-0072c85c2e836d622\"' web-1.json", "").ok().stdout;
    let kept = region.sh(&format!("{UP} --replace"), &newer).ok().record();
    assert_eq!(kept["instance"]["id"], first["instance"]["id"]);

    let refused = region.sh(&format!("{UP} --spot < web-1.json"), "").record();
    assert!(refused["error"]["hint"].as_str().unwrap().contains("--replace"), "{refused}");
    let replaced = region.sh(&format!("{UP} --spot --replace < web-1.json"), "").ok().record();
    assert_ne!(replaced["instance"]["id"], first["instance"]["id"]);
    assert_eq!(replaced["instance"]["created"], true);
    assert_eq!(region.sh("ec2-ls -q", "").ok().records().len(), 1);
}

#[test]
fn a_zone_without_room_is_left_for_another() {
    let region = Region::new("room", 5597);
    region.cloud("fault capacity 1");
    let machine = region.sh(&format!("{UP} < web-1.json"), "").ok().record();
    assert_eq!(machine["instance"]["state"], "running");
    region.reset();
    region.cloud("fault capacity 20");
    let full = region.sh(&format!("{UP} < web-1.json"), "");
    assert_eq!((full.status, &full.record()["error"]["kind"]), (1, &Value::from("limit")));
}

#[test]
fn what_others_made_is_neither_used_nor_removed() {
    let region = Region::new("others", 5598);
    let aws = |call: &str| {
        let python = "/var/lib/nixpipe-cloud/venv/bin/python";
        let code = format!("import boto3; ec2 = boto3.client('ec2'); print({call})");
        region.sh(&format!("AWS_DEFAULT_REGION=eu-central-1 {python} -c \"{code}\""), "").ok().stdout
    };
    aws("ec2.create_security_group(GroupName='nixpipe-default-web-1', Description='x')");
    let refused = region.sh(&format!("{UP} < web-1.json"), "");
    assert_eq!((refused.status, &refused.record()["error"]["kind"]), (1, &Value::from("conflict")));
    region.sh(&format!("{DOWN} --name web-1 -n"), "").ok();
    assert!(aws("ec2.describe_security_groups(GroupNames=['nixpipe-default-web-1'])").contains("sg-"));
    // With the user's word it is taken over, and goes with the machine.
    region.sh(&format!("{UP} --adopt < web-1.json > up.json"), "").ok();
    region.sh(&format!("{DOWN} < up.json"), "").ok();
    assert_eq!(region.sh("ec2-ls -q --orphans", "").ok().stdout, "");

    // A key pair under the name, with another key in it.
    let name = region.sh("jq -r .keyPair.name web-1.json", "").ok().stdout;
    region.sh("mkdir -p other && cd other && nixos-ami -q -n --release 25.11 | keygen -q > key.json", "").ok();
    let other = region.sh("jq -r .keyPair.publicKey other/key.json", "").ok().stdout;
    aws(&format!("ec2.import_key_pair(KeyName='{}', PublicKeyMaterial=b'{}')", name.trim(), other.trim()));
    let refused = region.sh(&format!("{UP} < web-1.json"), "").record();
    assert_eq!(refused["error"]["kind"], "conflict", "{refused}");
    assert_eq!(region.count("DeleteKeyPair"), 1);
}

#[test]
fn machines_that_share_a_key_pair_leave_it_to_the_last() {
    let region = Region::new("shared", 5599);
    region.sh(&format!("(cat web-1.json; jq -c '.name = \"web-2\"' web-1.json) | {UP} > both.json"), "").ok();
    assert_eq!(region.count("ImportKeyPair"), 1);
    region.sh(&format!("head -1 both.json | {DOWN}"), "").ok();
    assert_eq!(region.count("DeleteKeyPair"), 0);
    region.sh(&format!("{DOWN} -n --all"), "").ok();
    assert_eq!(region.count("DeleteKeyPair"), 1);
    assert_eq!(region.sh("ec2-ls -q --orphans", "").ok().stdout, "");
}

#[test]
fn wishes_that_cannot_work_are_refused_before_anything_is_made() {
    let region = Region::new("wishes", 5600);
    region.sh("echo '{ }' > configuration.nix; nixos-ami -q -n --release 25.11 --system aarch64-linux | keygen -q > arm.json", "").ok();
    for (command, kind, word) in [
        ("ec2-up --volume-size 1 < web-1.json", "input", "too small"),
        ("ec2-up --instance-type t9.nano < web-1.json", "input", "t9.nano"),
        ("ec2-up --instance-type t4g.micro < web-1.json", "input", "cannot run"),
        ("ec2-up --instance-type t3.micro < arm.json", "input", "t4g.micro"),
        ("ec2-up --subnet subnet-12345678 < web-1.json", "not-found", "subnet-12345678"),
        ("ec2-up --user-data configuration.nix < web-1.json", "input", "nix-push"),
        ("jq -c '.ami.id = \"ami-00000000000000000\"' web-1.json | ec2-up", "not-found", "25.11, 26.05"),
        ("jq -c 'del(.keyPair)' web-1.json | ec2-up", "input", "keygen"),
        ("jq -c '.region = \"us-east-1\"' web-1.json | ec2-up", "input", "us-east-1"),
    ] {
        let ran = region.sh(command, "");
        let error = ran.record()["error"].clone();
        assert_eq!((ran.status, error["kind"].as_str().unwrap()), (1, kind), "{command}: {error}");
        assert!(error.to_string().contains(word), "{command}: {error}");
    }
    for entry in region.log() {
        let action = entry["action"].as_str().unwrap();
        assert!(action.starts_with("Describe"), "{action}");
    }
}

#[test]
fn a_protected_machine_stays() {
    let region = Region::new("protected", 5601);
    region.sh(&format!("{UP} < web-1.json > up.json"), "").ok();
    let id = region.sh("jq -r .instance.id up.json", "").ok().stdout;
    let python = "/var/lib/nixpipe-cloud/venv/bin/python";
    let call = format!(
        "boto3.client('ec2').modify_instance_attribute(InstanceId='{}', DisableApiTermination={{'Value': True}})",
        id.trim()
    );
    region.sh(&format!("AWS_DEFAULT_REGION=eu-central-1 {python} -c \"import boto3; {call}\""), "").ok();
    let refused = region.sh(&format!("{DOWN} < up.json"), "");
    let error = refused.record()["error"].clone();
    assert_eq!((refused.status, error["kind"].as_str().unwrap()), (1, "conflict"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("protect"), "{error}");
}
