//! nixos-ami against EC2.

use crate::region::Region;
use serde_json::Value;

const ASK: &str = "nixos-ami -q --source ec2";

#[test]
fn the_newest_image_of_nixos_is_taken_and_a_strangers_look_alike_is_not() {
    let region = Region::new("stranger", 5602);
    // The local cloud's stranger publishes a newer 25.11 in every region.
    let ami = region.sh(&format!("{ASK} -n --release 25.11"), "").ok().record()["ami"].clone();
    assert_eq!(ami["name"], "nixos/25.11.1240.2fad6eac6077-x86_64-linux");
    let arm = region.sh(&format!("{ASK} -n --release latest --system aarch64-linux"), "").ok().record()["ami"].clone();
    assert_eq!((&arm["release"], &arm["system"]), (&Value::from("26.05"), &Value::from("aarch64-linux")));
    let listed = region.sh(&format!("{ASK} -n --release 25.11 --list"), "").ok().records();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0]["ami"]["id"], ami["id"]);
    let theirs = region.sh(&format!("{ASK} -n --release 25.11 --owner 999988887777"), "").ok().record();
    assert!(theirs["ami"]["name"].as_str().unwrap().contains(".9999."), "{theirs}");
}

#[test]
fn a_thousand_machines_cost_a_call_for_each_region_and_release() {
    let region = Region::new("thousand", 5603);
    region.cloud("raw POST clear-log");
    let mut records = String::new();
    for number in 0..1000 {
        let release = ["25.11", "26.05"][number % 2];
        let place = ["eu-central-1", "us-east-1"][number / 2 % 2];
        records += &format!("{{\"name\":\"m{number}\",\"release\":\"{release}\",\"region\":\"{place}\"}}\n");
    }
    let found = region.sh("nixos-ami -q", &records).ok().records();
    assert_eq!(found.len(), 1000);
    assert!(found.iter().all(|record| record["ami"]["region"] == record["region"]));
    assert_eq!(region.count("DescribeImages"), 4);
}

#[test]
fn an_unknown_release_or_region_is_answered_with_those_that_exist() {
    let region = Region::new("unknown", 5604);
    let ran = region.sh(&format!("{ASK} -n --release 25.12"), "");
    let error = ran.record()["error"].clone();
    assert_eq!((ran.status, error["kind"].as_str().unwrap()), (1, "not-found"));
    assert!(error["message"].as_str().unwrap().ends_with("there are 25.11, 26.05"), "{error}");
}

#[test]
fn verify_tells_the_dead_from_the_living() {
    let region = Region::new("verify", 5605);
    let alive = region.sh("nixos-ami -q -n --release 20.09 --verify", "").ok().record();
    assert_eq!(alive["ami"]["id"], "ami-0eed77c38432886d2");
    assert_ne!(alive["ami"]["creationDate"], Value::Null);
    region.cloud("fault deny DescribeImages");
    let denied = region.sh("nixos-ami -q -n --release 20.09 --verify", "").record()["error"].clone();
    assert_eq!(denied["kind"], "denied");
    assert_eq!(denied["hint"], "allow the IAM action ec2:DescribeImages");
}
