//! What the tools do not do: change anything for a plan, touch what others made, pay for what cannot work.

use crate::region::{DOWN, Region, UP};
use serde_json::Value;

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
