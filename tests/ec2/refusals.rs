//! What the tools do not do: change anything for a plan, touch what others made, pay for what cannot work.

use crate::region::{DOWN, Region, UP};
use serde_json::Value;

#[test]
fn a_plan_makes_no_change() {
    let region = Region::new("plan");
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
    assert_eq!(region.changes(), [""; 0]);
}

#[test]
fn a_zone_without_room_is_left_for_another() {
    let region = Region::new("room");
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
    let region = Region::new("others");
    let aws = |call: &str| region.boto(&format!("print({call})"));
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
    let region = Region::new("wishes");
    region.sh("echo '{ }' > configuration.nix; nixos-ami -q -n --release 25.11 --system aarch64-linux | keygen -q > arm.json", "").ok();
    for (command, kind, word) in [
        ("ec2-up --volume-size 1 < web-1.json", "input", "too small"),
        ("ec2-up --instance-type t9.nano < web-1.json", "input", "t9.nano"),
        ("ec2-up --instance-type t4g.micro < web-1.json", "input", "cannot run"),
        ("ec2-up --instance-type t3.micro < arm.json", "input", "t4g.micro"),
        ("ec2-up --subnet subnet-12345678 < web-1.json", "not-found", "subnet-12345678"),
        ("ec2-up --security-group sg-12345678 < web-1.json", "not-found", "sg-12345678"),
        ("ec2-up --security-group sg-12345678 --open 80 < web-1.json", "input", "--open"),
        ("ec2-up --ipv6 < web-1.json", "input", "IPv6 block"),
        ("ec2-up --volume-type io2 < web-1.json", "input", "IOPS"),
        ("ec2-up --credits standard --instance-type m5.large < web-1.json", "input", "burstable"),
        ("ec2-up --open 90-80 < web-1.json", "input", "90-80"),
        ("ec2-up --open 80:10.0.0.0/33 < web-1.json", "input", "10.0.0.0/33"),
        ("ec2-up --tag aws:x=y < web-1.json", "input", "aws:x"),
        ("ec2-up --tag $(seq -s, -f %g= 47) < web-1.json", "input", "47 tags are too many"),
        ("jq -c '.wish = {imds: \"v2\"}' web-1.json | ec2-up", "input", "required"),
        ("jq -c '.name = \"a_b\"' web-1.json | ec2-up", "input", "a_b"),
        // A paravirtual image of 2014 on a type of today.
        (
            "nixos-ami -q -n --release 14.12 --type pv-ebs | keygen -q | ec2-up --instance-type t3.micro",
            "input",
            "paravirtual",
        ),
        ("ec2-up --user-data configuration.nix < web-1.json", "input", "nix-push"),
        ("jq -c '.ami.id = \"ami-00000000000000000\"' web-1.json | ec2-up", "not-found", "25.11, 26.05"),
        ("jq -c 'del(.keyPair)' web-1.json | ec2-up", "input", "keygen"),
        ("jq -c 'del(.keyPair.publicKey)' web-1.json | ec2-up", "input", "no public key"),
        ("jq -c '.region = \"us-east-1\"' web-1.json | ec2-up", "input", "us-east-1"),
    ] {
        let ran = region.sh(command, "");
        let error = ran.record()["error"].clone();
        assert_eq!((ran.status, error["kind"].as_str().unwrap()), (1, kind), "{command}: {error}");
        assert!(error.to_string().contains(word), "{command}: {error}");
    }
    assert_eq!(region.changes(), [""; 0]);
}

#[test]
fn what_stands_in_the_way_of_any_call_is_one_line_and_a_hint() {
    let region = Region::new("way");
    for (command, word, hint) in [
        ("env -u AWS_ACCESS_KEY_ID ec2-ls", "no credentials found\n", "hint: set AWS_ACCESS_KEY_ID"),
        (
            "env -u AWS_ACCESS_KEY_ID nixos-ami -q -n --release latest",
            "no credentials found\n",
            "hint: set AWS_ACCESS_KEY_ID",
        ),
        (
            "env -u AWS_ACCESS_KEY_ID AWS_PROFILE=absent ec2-ls",
            "cannot list machines",
            "hint: is the profile absent of AWS_PROFILE in ~/.aws/config?",
        ),
        (
            "env -u AWS_ACCESS_KEY_ID AWS_DEFAULT_PROFILE=absent AWS_PROFILE= ec2-ls",
            "cannot list machines",
            "hint: is the profile absent of AWS_DEFAULT_PROFILE in ~/.aws/config?",
        ),
        // What `aws login` has written.
        (
            "printf '[profile in]\\nlogin_session = arn:aws:iam::123456789012:user/a\\n' > config
             env -u AWS_ACCESS_KEY_ID AWS_CONFIG_FILE=config AWS_PROFILE=in ec2-ls",
            "cannot list machines",
            "for one of aws login: eval \"$(aws configure export-credentials --format env)\"\n",
        ),
        ("env -u AWS_REGION -u AWS_DEFAULT_REGION ec2-ls", "no region\n", "hint: name one with --region"),
        ("ec2-ls --region EU", "not the name of a region", "eu-central-1"),
        ("ec2-ls --region eu-centrall-1", "cannot list machines", "is eu-centrall-1 a region of EC2?"),
        ("AWS_ENDPOINT_URL=http://127.0.0.1:9 ec2-ls", "cannot list machines", "run it again"),
    ] {
        let ran = region.sh(command, "");
        // A wait is told of, too.
        let lines = ran.stderr.lines().filter(|line| !line.contains(": listing ")).count();
        assert_eq!((ran.status, lines), (1, 2), "{command}: {}", ran.stderr);
        assert!(ran.stderr.contains(word) && ran.stderr.contains(hint), "{command}: {}", ran.stderr);
    }
}

#[test]
fn what_ec2_would_not_take_is_said_when_the_time_is_up() {
    let region = Region::new("late");
    region.cloud("fault throttle 1000 --action RunInstances");
    let error = region.sh(&format!("{UP} --timeout 15s < web-1.json"), "").record()["error"].clone();
    assert_eq!(error["kind"], "timeout");
    assert!(
        error["message"].as_str().unwrap().contains("it was being made; RunInstances: RequestLimitExceeded"),
        "{error}"
    );
}

#[test]
fn a_machine_is_not_stopped_for_a_type_that_cannot_run_it() {
    let region = Region::new("stop");
    region.sh(&format!("{UP} < web-1.json"), "").ok();
    region.cloud("fault error OperationNotPermitted --action StopInstances");
    let refused = region.sh(&format!("{UP} --stop-to-resize --instance-type t3.small < web-1.json"), "").record();
    assert_eq!(refused["error"]["kind"], "conflict", "{refused}");
    assert!(refused["error"]["hint"].as_str().unwrap().contains("stop protection"), "{refused}");
    region.cloud("fault clear");
    let before = region.changes().len();
    for kind in ["t4g.small", "t9.nano"] {
        let refused = region.sh(&format!("{UP} --stop-to-resize --instance-type {kind} < web-1.json"), "").record();
        assert_eq!(refused["error"]["kind"], "input", "{refused}");
        assert_eq!(refused["instance"]["state"], "running", "{refused}");
    }
    assert_eq!(region.changes().len(), before);
}

#[test]
fn a_wish_that_is_misspelled_is_pointed_out() {
    let region = Region::new("misspelled");
    let record = "jq -c '.wish = {instancetype: \"m5.large\"}' web-1.json";
    let ran = region.sh(&format!("{record} | ec2-up --plan"), "").ok();
    assert!(ran.stderr.contains("warning: its wish has instancetype, which no tool knows"), "{}", ran.stderr);
}

#[test]
fn a_protected_machine_stays() {
    let region = Region::new("protected");
    region.sh(&format!("{UP} < web-1.json > up.json"), "").ok();
    let id = region.sh("jq -r .instance.id up.json", "").ok().stdout;
    region.boto(&format!(
        "ec2.modify_instance_attribute(InstanceId='{}', DisableApiTermination={{'Value': True}})",
        id.trim()
    ));
    let before = region.changes().len();
    let refused = region.sh(&format!("{DOWN} < up.json"), "");
    let error = refused.record()["error"].clone();
    assert_eq!((refused.status, error["kind"].as_str().unwrap()), (1, "conflict"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("protect"), "{error}");
    // Nothing of it is taken away, and a plan says that nothing can be.
    assert_eq!(region.changes()[before..], ["TerminateInstances"]);
    let machine = region.sh("ec2-ls -q", "").ok().record();
    assert_eq!(machine["instance"]["state"], "running");
    region.boto(&format!(
        "ec2.modify_instance_attribute(InstanceId='{}', DisableApiTermination={{'Value': False}})",
        id.trim()
    ));
    assert_eq!(region.sh(&format!("{DOWN} < up.json"), "").ok().record().get("instance"), None);
}

#[test]
fn a_machine_is_not_taken_away_for_one_that_cannot_be_made() {
    let region = Region::new("replace");
    let machine = region.sh("ec2-up -q --wait running < web-1.json", "").ok().record();
    let elsewhere = region.boto(
        "vpc = ec2.create_vpc(CidrBlock='10.9.0.0/16')['Vpc']['VpcId']
ec2.create_security_group(GroupName='nixpipe-default-web-1', Description='x', VpcId=vpc)
print(ec2.create_subnet(VpcId=vpc, CidrBlock='10.9.1.0/24')['Subnet']['SubnetId'])",
    );
    let own = machine["instance"]["securityGroupId"].as_str().unwrap();
    std::fs::write(region.folder.path().join("boot.sh"), "#!/bin/sh\n").unwrap();
    std::fs::write(region.folder.path().join("default-web-1.host-key"), "x").unwrap();
    region.sh("chmod 600 default-web-1.host-key", "").ok();
    let before = region.changes().len();
    for (flags, kind, word) in [
        ("--subnet subnet-12345678".to_string(), "not-found", "no subnet"),
        ("--spot --ipv6".into(), "input", "IPv6"),
        (format!("--subnet {elsewhere} --security-group {own}"), "input", "is one of vpc-"),
        (format!("--subnet {elsewhere}"), "conflict", "was not made by ec2-up"),
        ("--spot --host-key user-data --user-data boot.sh".into(), "input", "leaves no room"),
        ("--spot --host-key user-data".into(), "input", "cannot use the host key"),
        ("--spot --instance-type t4g.small".into(), "input", "cannot run"),
        ("--volume-size 1".into(), "input", "too small"),
    ] {
        for plan in ["", "--plan"] {
            let ran = region.sh(&format!("ec2-up -q {plan} --replace {flags} < web-1.json"), "");
            let error = ran.record()["error"].clone();
            assert_eq!((ran.status, &error["kind"]), (1, &Value::from(kind)), "{plan} {flags}: {error}");
            assert!(error["message"].as_str().unwrap().contains(word), "{plan} {flags}: {error}");
        }
    }
    assert_eq!(region.changes()[before..], [""; 0]);
    assert_eq!(region.sh("ec2-ls -q", "").ok().record()["instance"]["id"], machine["instance"]["id"]);
}

#[test]
fn a_plan_refuses_what_the_run_would_and_names_all_that_it_makes() {
    let region = Region::new("plan-refuses");
    region.sh("ec2-up -q --wait running < web-1.json", "").ok();
    let subnet = region.boto(
        "vpc = ec2.create_vpc(CidrBlock='10.9.0.0/16')['Vpc']['VpcId']
tags = [{'Key': 'nixpipe:name', 'Value': 'web-1'}, {'Key': 'nixpipe:deployment', 'Value': 'default'}]
ec2.allocate_address(Domain='vpc', TagSpecifications=[{'ResourceType': 'elastic-ip', 'Tags': tags}])
print(ec2.create_subnet(VpcId=vpc, CidrBlock='10.9.1.0/24')['Subnet']['SubnetId'])",
    );
    for (command, kind) in [
        ("cat web-1.json | ec2-up -q --plan --stop-to-resize --instance-type t4g.small", "input"),
        ("jq -c '.ami.id = \"ami-00000000\"' web-1.json | ec2-up -q --plan --replace --spot", "not-found"),
        ("jq -c 'del(.keyPair)' web-1.json | ec2-up -q --plan --replace --spot", "input"),
    ] {
        let refused = region.sh(command, "");
        assert_eq!((refused.status, &refused.record()["error"]["kind"]), (1, &Value::from(kind)), "{command}");
    }
    let plan = region.sh(&format!("ec2-up -q --plan --elastic-ip --replace --subnet {subnet} < web-1.json"), "");
    let plan = plan.ok().record()["plan"].clone();
    let entries = plan.as_array().unwrap().iter().map(|entry| {
        let resource = entry["resource"].as_str().unwrap().split('/').next().unwrap().to_string();
        format!("{} {resource}", entry["action"].as_str().unwrap())
    });
    assert_eq!(
        entries.collect::<Vec<_>>(),
        ["create security-group", "delete security-group", "update elastic-ip", "replace instance"],
        "{plan}"
    );
}

#[test]
fn an_empty_list_never_opens_ssh_to_everybody() {
    let region = Region::new("empty-list");
    region.cloud("raw POST clear-log");
    for (wish, flags) in [
        ("{sshFrom: []}", ""),
        ("{sshFrom: []}", "--ssh-from 10.0.0.0/8"),
        ("{securityGroups: []}", "--security-group sg-12345678"),
    ] {
        for plan in ["", "--plan"] {
            let ran = region.sh(&format!("jq -c '.wish = {wish}' web-1.json | ec2-up -q {plan} {flags}"), "");
            let error = ran.record()["error"].clone();
            assert_eq!((ran.status, &error["kind"]), (1, &Value::from("input")), "{wish} {flags}: {error}");
            assert!(error["message"].as_str().unwrap().contains("empty list"), "{error}");
        }
    }
    assert_eq!(region.changes(), [""; 0]);
}

#[test]
fn deployments_and_machines_whose_names_run_together_stay_apart() {
    let region = Region::new("together-names");
    // Both groups would be called nixpipe-a-web-1.
    region.sh("jq -c '.name = \"1\"' web-1.json | ec2-up -q --wait running --deployment a-web > first.json", "").ok();
    for flags in ["", "--adopt", "--plan", "--plan --adopt"] {
        let refused = region.sh(&format!("ec2-up -q --wait running --deployment a {flags} < web-1.json"), "");
        let error = refused.record()["error"].clone();
        assert_eq!((refused.status, &error["kind"]), (1, &Value::from("conflict")), "{flags}: {error}");
        assert!(error["message"].as_str().unwrap().ends_with("is that of 1 of the deployment a-web"), "{error}");
    }
    region.sh(&format!("{DOWN} -n --name web-1 --deployment a"), "").ok();
    assert_eq!((region.count("CreateTags"), region.count("DeleteSecurityGroup")), (0, 0));
    region.sh(&format!("{DOWN} --deployment a-web < first.json"), "").ok();
    assert_eq!(region.sh("for d in a a-web; do ec2-ls -q --orphans --deployment $d; done", "").ok().stdout, "");
}
