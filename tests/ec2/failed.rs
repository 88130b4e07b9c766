//! Machines that failed in another tool: ec2-down takes them as any other, or they would go on costing.

use crate::region::{DOWN, Region, UP};
use serde_json::{Value, json};
use tests::Ran;

/// The tool whose error each machine has, by name.
fn errors(ran: &Ran) -> Vec<(String, Value)> {
    let text = |value: &Value| value.as_str().unwrap().to_string();
    let mut errors: Vec<_> =
        ran.records().iter().map(|record| (text(&record["name"]), record["error"]["tool"].clone())).collect();
    errors.sort_by_key(|(name, _)| name.clone());
    errors
}

#[test]
fn a_machine_that_failed_before_is_removed_as_any_other() {
    let region = Region::new("failed");
    let both = format!("(cat web-1.json; jq -c '.name = \"web-2\"' web-1.json) | {UP}");
    let fails = "if .name == \"web-2\" then .error = {tool: \"nix-push\", kind: \"evaluation\", message: \"m\", hint: null} else . end";
    region.sh(&format!("{both} | jq -c '{fails}' > all.json"), "").ok();
    let tools = |first: Value, second: Value| vec![("web-1".to_string(), first), ("web-2".to_string(), second)];

    // A look changes nothing, so what failed has failed.
    let planned = region.sh("ec2-down --plan < all.json", "");
    assert_eq!((planned.status, errors(&planned)), (1, tools(Value::Null, json!("nix-push"))), "{}", planned.stderr);
    for record in planned.records() {
        let resource = format!("instance/{}", record["name"].as_str().unwrap());
        assert_eq!(record["plan"][0]["resource"], resource, "{record}");
    }
    assert!(planned.stderr.contains("plan: 0 to add, 0 to change, "), "{}", planned.stderr);

    region.cloud("fault deny TerminateInstances");
    let denied = region.sh(&format!("{DOWN} < all.json"), "");
    assert_eq!((denied.status, errors(&denied)), (1, tools(json!("ec2-down"), json!("ec2-down"))), "{}", denied.stderr);
    region.cloud("fault clear");

    // ec2-up has refused another of the name, whose record came out first.
    let refused = "select(.name == \"web-1\") | del(.instance, .ssh) | .error = {tool: \"ec2-up\", kind: \"input\", message: \"m\", hint: null}";
    let down = region.sh(&format!("{{ jq -c '{refused}' all.json; cat all.json; }} | {DOWN}"), "").ok();
    assert_eq!((down.records().len(), errors(&down).pop()), (3, Some(("web-2".into(), Value::Null))));
    assert!(down.records().iter().all(|record| record.get("error").or(record.get("instance")).is_none()), "{down:?}");
    assert_eq!(region.sh("ec2-ls -q; ec2-ls -q --orphans", "").ok().stdout, "");
    // Again, and one that was never made.
    let again = region.sh(&format!("{} < all.json", DOWN.replace("-q ", "")), "").ok();
    let gone = "web-2: warning: the record's i-";
    assert!(again.stderr.contains(gone) && again.stderr.contains("or is of another account"), "{}", again.stderr);
    region.sh(&format!("jq -c 'del(.instance, .ssh)' all.json | {DOWN}"), "").ok();

    // A machine that is nowhere in EC2 is as it was.
    let own = r#"{"version":1,"name":"pi","ssh":{"host":"pi.example","hostKeys":["k"]},"error":{"tool":"nixos-switch","kind":"activation","message":"m","hint":null}}"#;
    let kept = region.sh(DOWN, own);
    assert_eq!((kept.status, kept.stdout.trim()), (1, own), "{}", kept.stderr);
}
