//! Many machines in one stream.

use crate::region::Region;
use std::collections::BTreeSet;
use tests::sample;

#[test]
fn calls_grow_with_pages_and_none_is_lost_or_doubled() {
    let region = Region::new("scale");
    let machines = sample(500, 120);
    region.cloud("raw POST clear-log");
    for action in ["RunInstances", "CreateSecurityGroup", "DescribeInstances", "TerminateInstances"] {
        region.cloud(&format!("fault throttle 5 --action {action}"));
    }
    let names: String = (1..=machines).map(|number| format!("{{\"name\":\"m{number}\"}}\n")).collect();
    let pipe = "nixos-ami -q --release 25.11 | keygen -q";
    // The tool prints its own peak memory: GNU time is not everywhere.
    let memory = "python3 -c 'import resource,subprocess,sys; status = subprocess.call(sys.argv[1:]); \
                  print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=open(\"memory\", \"a\")); sys.exit(status)'";
    let up = region.sh(&format!("{pipe} | {memory} ec2-up -q --wait running > up.json; cat up.json"), &names).ok();
    let ids: BTreeSet<String> = up.records().iter().map(|record| record["instance"]["id"].to_string()).collect();
    assert_eq!(ids.len(), machines);
    assert_eq!(region.made("RunInstances", "i-").len(), machines);
    let calls = |action| region.count(action);
    assert_eq!((calls("ImportKeyPair"), calls("DescribeVpcs"), calls("DescribeInstanceTypes")), (1, 1, 1));
    for action in ["DescribeInstances", "DescribeSecurityGroups", "DescribeKeyPairs", "DescribeNetworkInterfaces"] {
        assert!(calls(action) < machines / 2, "{action}: {} calls for {machines} machines", calls(action));
    }
    region.sh(&format!("{memory} ec2-down -q < up.json > down.json"), "").ok();
    assert_eq!(region.sh("ec2-ls -q; ec2-ls -q --orphans", "").ok().stdout, "");
    let memory = std::fs::read_to_string(region.folder.path().join("memory")).unwrap();
    for kilobytes in memory.lines() {
        assert!(kilobytes.parse::<u64>().unwrap() < 100_000, "{kilobytes} KB");
    }
}

#[test]
fn keys_of_their_own_cost_machines_no_look_of_their_own() {
    let region = Region::new("own-keys");
    let machines = sample(200, 60);
    let names: String = (1..=machines).map(|number| format!("{{\"name\":\"m{number}\"}}\n")).collect();
    region.cloud("raw POST clear-log");
    let pipe = "nixos-ami -q --release 25.11 | keygen -q --file '{name}' | ec2-up -q --wait running | tee up.json";
    assert_eq!(region.sh(pipe, &names).ok().records().len(), machines);
    region.sh("ec2-down -q < up.json", "").ok();
    assert_eq!(region.sh("ec2-ls -q; ec2-ls -q --orphans", "").ok().stdout, "");
    assert_eq!((region.count("ImportKeyPair"), region.count("DeleteKeyPair")), (machines, machines));
    for action in ["DescribeKeyPairs", "DescribeInstances", "DescribeSecurityGroups"] {
        assert!(region.count(action) < machines, "{action}: {} calls for {machines} machines", region.count(action));
    }
}
