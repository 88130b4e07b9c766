//! nixos-ami against EC2.

use crate::region::Region;
use serde_json::Value;

const ASK: &str = "nixos-ami -q --source ec2";

#[test]
fn the_newest_image_of_nixos_is_taken_and_a_strangers_look_alike_is_not() {
    let region = Region::new("stranger");
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
    let region = Region::new("thousand");
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
    let region = Region::new("unknown");
    let ran = region.sh(&format!("{ASK} -n --release 25.12"), "");
    let error = ran.record()["error"].clone();
    assert_eq!((ran.status, error["kind"].as_str().unwrap()), (1, "not-found"));
    assert!(error["message"].as_str().unwrap().ends_with("there are 25.11, 26.05"), "{error}");
    for (flags, words) in [
        ("--release 25.11 --region eu-centrall-1", "which is none that is known: there are eu-central-1"),
        ("--release 20.9", "the table has no image of NixOS 20.9: there are 20.09"),
        ("--release nixos-25.11", "no image of NixOS nixos-25.11"),
        ("--release 20.09 --region eu-centrall-1", "in eu-centrall-1: there are eu-central-1"),
        ("--release 20.09 --system aarch64", "for aarch64: there are aarch64-linux, x86_64-linux"),
        ("--release 25.11 --system arm64", "for arm64: there are aarch64-linux, x86_64-linux"),
        ("--release 20.09 --type pv-ebs", "of type pv-ebs: there are hvm-ebs"),
        ("--release 25.11 --type hvm-s3", "of type hvm-s3: there are hvm-ebs"),
    ] {
        let ran = region.sh(&format!("nixos-ami -q -n {flags}"), "");
        let error = ran.record()["error"].clone();
        assert_eq!((ran.status, error["kind"].as_str().unwrap()), (1, "not-found"), "{flags}: {error}");
        assert!(error["message"].as_str().unwrap().contains(words), "{flags}: {error}");
        assert!(!error["hint"].is_null() || flags.contains("25.11"), "{flags}: {error}");
    }
    // A region that the table does not know may still be one, and EC2 out of reach.
    let cut = "AWS_ENDPOINT_URL=http://127.0.0.1:9 nixos-ami -q -n --timeout 2s --release 25.11 --region mx-central-1";
    assert_ne!(region.sh(cut, "").record()["error"]["kind"], "not-found");
    // Without EC2 there is still the table, and a word of it for who mistyped a release.
    let keyless = "env -u AWS_ACCESS_KEY_ID -u AWS_SECRET_ACCESS_KEY nixos-ami -q -n";
    region.sh(&format!("{keyless} --release 20.09"), "").ok();
    let error = region.sh(&format!("{keyless} --release 20.08"), "").record()["error"].clone();
    assert_eq!(error["kind"], "denied", "{error}");
    assert!(error["hint"].as_str().unwrap().contains("such as 20.09"), "{error}");
    assert_eq!(region.sh("nixos-ami -n --source table --owner 1 --release 20.09", "").status, 2);
}

#[test]
fn a_catalogue_that_cannot_be_read_loses_no_machine() {
    let region = Region::new("catalogue");
    let records = r#"{"name":"a"}{"name":"b"}"#;
    let ran = region.sh("nixos-ami -q --release 25.11 --catalogue nowhere", records);
    let kinds: Vec<_> = ran.records().iter().map(|record| record["error"]["kind"].clone()).collect();
    assert_eq!((ran.status, kinds), (1, vec!["input".into(), "input".into()]));
}

#[test]
fn legacy_types_and_superseded_ids_are_in_the_table() {
    let region = Region::new("legacy");
    region.cloud("raw POST clear-log");
    let ask = |flags: &str| region.sh(&format!("nixos-ami -q -n --region eu-west-1 {flags}"), "").ok();
    for kind in ["hvm-ebs", "pv-ebs", "pv-s3"] {
        assert_eq!(ask(&format!("--release 15.09 --type {kind}")).record()["ami"]["type"], kind);
    }
    let both = ask("--release 20.09 --list").records();
    assert_eq!(both.len(), 2);
    assert_eq!(ask("--release 20.09").record()["ami"]["id"], both[0]["ami"]["id"]);
    let arm = ask("--release 23.11 --system aarch64-linux").record();
    assert_eq!((&arm["system"], &arm["ami"]["system"]), (&Value::from("aarch64-linux"), &Value::from("aarch64-linux")));
    assert_eq!(region.count("DescribeImages"), 0);
}

#[test]
fn verify_tells_the_dead_from_the_living() {
    let region = Region::new("verify");
    let alive = region.sh("nixos-ami -q -n --release 20.09 --verify", "").ok().record();
    assert_eq!(alive["ami"]["id"], "ami-0eed77c38432886d2");
    assert_ne!(alive["ami"]["creationDate"], Value::Null);
    for image in region.sh("nixos-ami -q -n --release 20.09 --list", "").ok().records() {
        region.boto(&format!("ec2.deregister_image(ImageId={})", image["ami"]["id"]));
    }
    for list in ["", "--list"] {
        let gone = region.sh(&format!("nixos-ami -q -n --release 20.09 --verify {list}"), "").record();
        assert_eq!(gone["error"]["kind"], "not-found", "{list}: {gone}");
    }
    region.cloud("fault deny DescribeImages");
    let denied = region.sh("nixos-ami -q -n --release 20.09 --verify", "").record()["error"].clone();
    assert_eq!(denied["kind"], "denied");
    assert_eq!(denied["hint"], "allow the IAM action ec2:DescribeImages");
}
