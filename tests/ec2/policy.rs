//! docs/iam-policy.json is enough for the tools, and nothing in it is too much.

use crate::faults::MEDDLE;
use crate::region::Region;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tests::{Ran, project, sample};

fn policy() -> Value {
    serde_json::from_str(&std::fs::read_to_string(project().join("docs/iam-policy.json")).unwrap()).unwrap()
}

fn list(value: &Value) -> Vec<String> {
    match value {
        Value::String(one) => vec![one.clone()],
        Value::Array(all) => all.iter().map(|one| one.as_str().unwrap().to_string()).collect(),
        _ => vec![],
    }
}

/// Every action that the policy allows, without `ec2:`.
fn allowed() -> BTreeSet<String> {
    let policy = policy();
    let statements = policy["Statement"].as_array().unwrap();
    let actions = statements.iter().flat_map(|statement| list(&statement["Action"]));
    actions.map(|action| action.strip_prefix("ec2:").unwrap().to_string()).collect()
}

/// All that the tools do to a machine; the first failure ends it. `meddle` stands for somebody with all permissions, who
/// changes what the security group lets out.
const PIPE: &str = "set -e
    nixos-ami -q -n --release 25.11 --source ec2 --name web-1 | keygen -q > made.json
    up='ec2-up -q --wait running --elastic-ip'
    $up < made.json > up.json
    meddle
    $up --open 443 --ssh-from 10.0.0.0/8 --tag a=b --volume-size 60 --imds optional --credits standard < made.json
    $up --instance-type t3.small --stop-to-resize < made.json
    ec2-ls --all-regions
    ec2-down -q < up.json
    ec2-ls -q --orphans";

/// Runs the pipe, with a zone that has no room at first, as a user with the policy's actions.
fn with(region: &Region, actions: &BTreeSet<String>) -> Ran {
    let keys = |name: &str, actions: &Value| {
        let policy = json!({ "Version": "2012-10-17",
            "Statement": [{ "Effect": "Allow", "Action": actions, "Resource": "*" }] });
        let file = region.folder.path().join(name);
        std::fs::write(&file, policy.to_string()).unwrap();
        region.cloud(&format!("iam {}", file.display()))
    };
    region.cloud("fault capacity 1");
    let admin = keys("admin.json", &json!("*"));
    let actions: Vec<String> = actions.iter().map(|action| format!("ec2:{action}")).collect();
    let user = keys("policy.json", &json!(actions));
    region.sh(&format!("meddle() {{ (\n{admin}\n{}) }}\n{user}\n{PIPE}", region.python(MEDDLE)), "")
}

#[test]
fn the_policy_is_enough_and_any_action_less_is_named() {
    let region = Region::new("policy");
    let actions = allowed();
    region.cloud("raw POST clear-log");
    with(&region, &actions).ok();
    let used: BTreeSet<String> =
        region.log().iter().map(|entry| entry["action"].as_str().unwrap().to_string()).collect();
    assert_eq!(used, actions, "the policy and what the tools call differ");
    let step = used.len() / sample(used.len(), 3);
    for action in used.iter().step_by(step) {
        region.cloud("iam off");
        region.reset();
        let mut fewer = actions.clone();
        fewer.remove(action);
        let failed = with(&region, &fewer);
        // A list is one without the consoles, too.
        assert_eq!(failed.status == 0, action == "GetConsoleOutput", "without {action}: {}", failed.stderr);
        let named =
            ["\n", ";"].iter().any(|end| failed.stderr.contains(&format!("allow the IAM action ec2:{action}{end}")));
        assert!(named, "{action}: {}", failed.stderr);
    }
    region.cloud("iam off");
}

/// The conditions, which the local cloud does not evaluate, are checked against the logged requests.
#[test]
fn every_request_meets_the_conditions() {
    let region = Region::new("conditions");
    region.cloud("fault capacity 1");
    region.sh(&format!("meddle() {{ {}; }}\n{PIPE}", region.python(MEDDLE)), "").ok();
    let mut checked = 0;
    let mut ours: BTreeSet<String> = BTreeSet::new();
    for entry in region.log() {
        let action = entry["action"].as_str().unwrap();
        let params: Vec<(String, String)> = entry["params"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_string()))
            .collect();
        if action.starts_with("Describe") {
            continue;
        }
        checked += 1;
        let tagged =
            |key: &str| params.iter().any(|(name, value)| name.starts_with("TagSpecification") && value == key);
        match action {
            "RunInstances" | "CreateSecurityGroup" | "ImportKeyPair" | "AllocateAddress" => {
                assert!(tagged("nixpipe:deployment"), "{action} makes something without the deployment's tag: {entry}");
                ours.extend(entry["made"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_string()));
                ours.extend(params.iter().filter(|(name, _)| name == "KeyName").map(|(_, value)| value.clone()));
            }
            // Everything else is allowed for what carries the tag: made above, by the same pipe.
            _ => {
                let names = |name: &str| {
                    ["GroupId", "InstanceId", "KeyName", "AllocationId", "VolumeId", "ResourceId", "InstanceCreditSpec"]
                        .iter()
                        .any(|start| name.starts_with(start) && !name.ends_with("CpuCredits"))
                };
                let targets: Vec<&String> =
                    params.iter().filter(|(name, _)| names(name)).map(|(_, value)| value).collect();
                assert!(!targets.is_empty(), "{action} names nothing: {entry}");
                for target in targets {
                    // Volume and interface are made and tagged by RunInstances, whose answer does not name them.
                    let parts = target.starts_with("vol-") || target.starts_with("eni-");
                    assert!(ours.contains(target) || parts, "{action} of {target}: {entry}");
                }
            }
        }
    }
    assert!(checked > 10);
    // What changes or removes something is allowed only with a condition on its tag.
    for statement in policy()["Statement"].as_array().unwrap() {
        let looks = list(&statement["Action"]).iter().all(|action| action.starts_with("ec2:Describe"));
        let uses = statement["Sid"] == "UseWhatAMachineNeeds";
        assert!(looks || uses || statement["Condition"].is_object(), "{statement}");
    }
}
