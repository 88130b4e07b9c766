//! Answers in pages, shorter than what is asked for.

use crate::region::Region;
use std::collections::BTreeSet;
use tests::sample;

#[test]
fn of_answers_in_small_pages_nothing_is_lost_and_nothing_doubled() {
    let region = Region::new("pages");
    let machines = sample(100, 24);
    let names: String = (1..=machines).map(|number| format!("{{\"name\":\"m{number}\"}}\n")).collect();
    region.cloud("set page 7");
    region.sh("nixos-ami -q --release 25.11 --source ec2 | keygen -q --file '{name}' > made.json", &names).ok();
    let up = "ec2-up -q --wait running --elastic-ip";
    let records = region.sh(&format!("{up} < made.json | tee up.json"), "").ok().records();
    let of = |records: &[serde_json::Value], what: &str| -> BTreeSet<String> {
        records.iter().map(|record| record.pointer(what).unwrap().to_string()).collect()
    };
    let ids = of(&records, "/instance/id");
    assert_eq!((records.len(), ids.len(), of(&records, "/instance/publicIp").len()), (machines, machines, machines));
    // Compared volume by volume, and changed.
    region.cloud("set modifying 0");
    let wish = "--volume-size 60 --credits standard --open 443 --tag a=b";
    let changed = region.sh(&format!("{up} {wish} < made.json"), "").ok().records();
    assert_eq!(of(&changed, "/instance/id"), ids);
    assert_eq!((region.count("ModifyVolume"), region.count("ModifyInstanceCreditSpecification")), (machines, machines));
    let plan = region.sh(&format!("{up} --plan {wish} < made.json"), "").ok().records();
    assert!(plan.iter().all(|record| record.get("plan").is_none()), "{plan:?}");
    let asked = region.count("DescribeInstanceCreditSpecifications");
    assert!(asked < machines / 2, "{asked} calls for two looks at {machines} machines");
    let listed = region.sh("ec2-ls -q", "").ok().records();
    assert_eq!((listed.len(), of(&listed, "/instance/id")), (machines, ids));
    assert_eq!(of(&listed, "/keyPair/name"), of(&records, "/keyPair/name"));
    for (action, prefix) in [
        ("RunInstances", "i-"),
        ("CreateSecurityGroup", "sg-"),
        ("ImportKeyPair", "key-"),
        ("AllocateAddress", "eipalloc-"),
    ] {
        assert_eq!(region.made(action, prefix).len(), machines, "{action}");
    }
    region.sh("ec2-down -q -n --all", "").ok();
    assert_eq!(region.sh("ec2-ls -q; ec2-ls -q --orphans", "").ok().stdout, "");
    for action in ["DeleteSecurityGroup", "DeleteKeyPair", "ReleaseAddress"] {
        assert_eq!(region.count(action), machines, "{action}");
    }
}
