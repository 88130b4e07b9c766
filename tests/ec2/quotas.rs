//! Quotas of the account that are used up: each is named, with the place where a higher one is asked for.

use crate::region::Region;
use tests::sample;

#[test]
fn a_quota_that_is_used_up_is_named_and_raised_the_next_run_goes_on() {
    let region = Region::new("quotas");
    let cases = [
        (
            "VcpuLimitExceeded",
            "RunInstances",
            "",
            "\"Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances\"",
        ),
        ("MaxSpotInstanceCountExceeded", "RunInstances", "--spot", "Z) Spot Instance Requests\""),
        ("SecurityGroupLimitExceeded", "CreateSecurityGroup", "", "\"VPC security groups per Region\""),
        (
            "RulesPerSecurityGroupLimitExceeded",
            "AuthorizeSecurityGroupIngress",
            "--open 80,443",
            "\"Inbound or outbound rules per security group\"",
        ),
        ("KeyPairLimitExceeded", "ImportKeyPair", "", "the quota of key pairs in eu-central-1 is used up"),
        ("AddressLimitExceeded", "AllocateAddress", "--elastic-ip", "\"EC2-VPC Elastic IPs\""),
        // EC2 takes the launch, and ends it.
        ("Client.VolumeLimitExceeded", "RunInstances", "", "\"Storage for General Purpose SSD (gp3) volumes, in TiB\""),
        ("VolumeLimitExceeded", "ModifyVolume", "--volume-size 60", "\"Storage for General Purpose SSD (gp3) volumes"),
    ];
    for (code, action, flags, quota) in cases.into_iter().step_by(cases.len() / sample(cases.len(), 3)) {
        region.reset();
        let up = format!("ec2-up -q --wait running {flags} < web-1.json");
        if action == "ModifyVolume" {
            region.sh("ec2-up -q --wait running < web-1.json", "").ok();
        }
        region.cloud(&format!("fault error {code} --action {action}"));
        let ran = region.sh(&up, "");
        let error = ran.record()["error"].clone();
        assert_eq!((ran.status, error["kind"].as_str().unwrap()), (1, "limit"), "{code}: {error}");
        assert!(error["message"].as_str().unwrap().contains(code), "{code}: {error}");
        let hint = error["hint"].as_str().unwrap();
        assert!(hint.contains(quota) && hint.contains("eu-central-1"), "{code}: {error}");
        assert!(code.starts_with("KeyPair") || hint.contains("Service Quotas console (e") || hint.contains("(vpc, L-"));
        assert!(ran.stderr.contains("hint: the quota of "), "{}", ran.stderr);
        region.cloud("fault clear");
        let machine = region.sh(&up, "").ok().record();
        assert_eq!(region.sh("ec2-ls -q", "").ok().record()["instance"]["id"], machine["instance"]["id"], "{code}");
        assert_eq!(region.made("CreateSecurityGroup", "sg-").len(), 1, "{code}");
    }
}

#[test]
fn a_subnet_without_addresses_is_left_for_another() {
    let region = Region::new("addresses");
    region.cloud("fault error InsufficientFreeAddressesInSubnet --action RunInstances");
    let full = region.sh("ec2-up --wait running < web-1.json", "");
    assert_eq!((full.status, &full.record()["error"]["kind"]), (1, &"limit".into()));
    let subnets = full.stderr.matches("EC2 has no room for it").count();
    assert_eq!((subnets, region.count("RunInstances")), (3, 4), "{}", full.stderr);
    assert_eq!(full.record()["error"]["hint"], "take another --subnet");
}

#[test]
fn what_stops_a_launch_is_explained_and_nothing_is_left_running() {
    let region = Region::new("launches");
    let cases = [
        (
            "SecurityGroupsPerInterfaceLimitExceeded --action RunInstances",
            "limit",
            "\"Security groups per network interface\"",
        ),
        ("NetworkInterfaceLimitExceeded --action RunInstances", "limit", "\"Network interfaces per Region\""),
        ("TagLimitExceeded --action RunInstances", "limit", "more than 50 tags"),
        ("MaxIOPSLimitExceeded --action RunInstances", "limit", "a higher quota of eu-central-1 in the Service Quotas"),
        ("InsufficientAddressCapacity --action AllocateAddress", "limit", "no address to give at the moment"),
        ("Blocked --action RunInstances", "denied", "ask its Support"),
        ("Client.InternalError --action RunInstances", "denied", "the KMS key that encrypts volumes"),
        ("Server.InsufficientInstanceCapacity --action RunInstances", "limit", "run ec2-up again"),
        ("Client.Other --action RunInstances", "conflict", "run ec2-up again"),
    ];
    for (fault, kind, words) in cases.into_iter().step_by(cases.len() / sample(cases.len(), 3)) {
        region.cloud(&format!("fault error {fault}"));
        let ran = region.sh("ec2-up -q --wait running --elastic-ip < web-1.json", "");
        let error = ran.record()["error"].clone();
        assert_eq!((ran.status, error["kind"].as_str().unwrap()), (1, kind), "{fault}: {error}");
        assert!(error["hint"].as_str().unwrap().contains(words), "{fault}: {error}");
        region.cloud("fault clear");
        region.sh("ec2-down -q < web-1.json", "").ok();
    }
    assert_eq!(region.sh("ec2-ls -q; ec2-ls -q --orphans", "").ok().stdout, "");
}
