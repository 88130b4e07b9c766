//! Something goes wrong at a call: after at most one more run all is as wished, nothing doubled, nothing orphaned.

use crate::region::{DOWN, Region, UP};
use serde_json::Value;
use std::collections::BTreeSet;
use tests::sample;

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
    let step = cases.len() / sample(cases.len(), cases.len() / 12);
    // Not always the same column.
    cases
        .into_iter()
        .enumerate()
        .filter(|(index, _)| (index + index / FAULTS.len()).is_multiple_of(step))
        .map(|(_, case)| case)
        .collect()
}

/// What a machine's security group lets out is changed by somebody else.
pub const MEDDLE: &str = "
[group] = ec2.describe_security_groups(Filters=[{'Name': 'group-name', 'Values': ['nixpipe-default-web-1']}])['SecurityGroups']
ec2.revoke_security_group_egress(GroupId=group['GroupId'], IpPermissions=group['IpPermissionsEgress'])
web = [{'IpProtocol': 'tcp', 'FromPort': 443, 'ToPort': 443, 'IpRanges': [{'CidrIp': '0.0.0.0/0'}]}]
ec2.authorize_security_group_egress(GroupId=group['GroupId'], IpPermissions=web)";

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
        let hint = error["hint"].as_str().unwrap();
        assert_eq!(hint.split(';').next().unwrap(), format!("allow the IAM action ec2:{call}"), "{fault}: {error}");
    }
    region.cloud("fault clear");
    region.sh(command, "").ok().record()
}

#[test]
#[ignore = "long: scripts/test --all"]
fn a_fault_at_any_call_of_up_and_down_leaves_nothing_doubled_and_nothing_orphaned() {
    let region = Region::new("faults");
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
#[ignore = "long: scripts/test --all"]
fn a_fault_at_any_step_of_a_resize_ends_in_the_wish() {
    let region = Region::new("resize");
    let wish = format!("{UP} --instance-type t3.small --stop-to-resize < web-1.json");
    let mut cases = table(&["StopInstances", "ModifyInstanceAttribute", "StartInstances"]);
    cases.push(("StartInstances".into(), "fault capacity 1 --action StartInstances".into(), true));
    for case in cases {
        region.reset();
        let made = region.sh(&format!("{UP} < web-1.json"), "").ok().record();
        let machine = at_most_twice(&region, &wish, &case);
        let of = |what: &str| machine["instance"][what].as_str().unwrap().to_string();
        assert_eq!((of("state"), of("type")), ("running".into(), "t3.small".into()), "{case:?}");
        assert_eq!(machine["instance"]["id"], made["instance"]["id"], "{case:?}");
    }
}

#[test]
#[ignore = "long: scripts/test --all"]
fn a_fault_at_any_step_of_a_replacement_ends_in_one_machine() {
    let region = Region::new("replacement");
    let wish = format!("{UP} --spot --replace < web-1.json");
    let mut cases = table(&["TerminateInstances", "RunInstances", "AssociateAddress"]);
    cases.push(("RunInstances".into(), "fault capacity 20 --action RunInstances".into(), true));
    for case in cases {
        region.reset();
        let made = region.sh(&format!("{UP} < web-1.json"), "").ok().record();
        let machine = at_most_twice(&region, &wish, &case);
        assert_ne!(machine["instance"]["id"], made["instance"]["id"], "{case:?}");
        assert_eq!(machine["instance"]["publicIp"], made["instance"]["publicIp"], "{case:?}");
        assert_eq!(region.sh("ec2-ls -q", "").ok().records().len(), 1, "{case:?}");
        assert_eq!(region.made("RunInstances", "i-").len(), 2, "{case:?}");
    }
}

#[test]
fn a_fault_at_any_change_ends_in_the_wish() {
    let region = Region::new("changes");
    let wish = format!(
        "{UP} --open 443 --ssh-from 10.0.0.0/8 --tag team=web --volume-size 60 --volume-type gp2 --imds optional \
         --credits standard < web-1.json"
    );
    let calls = [
        "AuthorizeSecurityGroupIngress",
        "AuthorizeSecurityGroupEgress",
        "RevokeSecurityGroupIngress",
        "RevokeSecurityGroupEgress",
        "CreateTags",
        "ModifyVolume",
        "ModifyInstanceMetadataOptions",
        "ModifyInstanceCreditSpecification",
    ];
    for case in table(&calls) {
        region.reset();
        region.sh(&format!("{UP} < web-1.json"), "").ok();
        region.boto(MEDDLE);
        let machine = at_most_twice(&region, &wish, &case);
        assert_eq!(machine["instance"]["created"], false, "{case:?}");
        let plan = region.sh(&wish.replace("ec2-up", "ec2-up --plan"), "").ok().record();
        assert_eq!(plan.get("plan"), None, "{case:?}: {plan}");
        assert_eq!(region.made("RunInstances", "i-").len(), 1, "{case:?}");
    }
}
