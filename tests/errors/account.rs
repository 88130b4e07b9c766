//! What an AWS account can hold against a machine.

use crate::region::{DOWN, Region, UP};
use crate::says;

/// A region, its tools louder than elsewhere.
fn region(test: &str) -> (Region, String) {
    let region = Region::new(test);
    let place = format!(
        "export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_EC2_METADATA_DISABLED=true \
         AWS_ENDPOINT_URL=http://127.0.0.1:{} AWS_REGION=eu-central-1; ",
        region.port
    );
    (region, place)
}

#[test]
fn wishes_that_nothing_can_fulfil_are_refused() {
    let (region, place) = region("errors-wishes");
    region.sh("(echo '#!/bin/sh'; head -c 20000 /dev/zero | tr '\\0' x) > large; echo '#!/bin/sh' > script", "").ok();
    let long = "x".repeat(200);
    // A region that the account has not opted in to says so to every call.
    region.cloud("fault error OptInRequired");
    for (command, hint) in [
        ("nixos-ami -n --release latest", "hint: enable the region for the account"),
        ("ec2-up < web-1.json", "hint: enable the region or the product for the account"),
    ] {
        says(&region.folder, &format!("{place}{command}"), "", 1, &["OptInRequired", hint]);
    }
    region.cloud("fault clear");
    for (command, words) in [
        (
            "ec2-up --volume-type st1 < web-1.json",
            &["not a type for a root volume: st1", "no machine boots from one"][..],
        ),
        (
            "ec2-up --volume-type new < web-1.json",
            &["not a type for a root volume: new", "there are gp3, gp2 and standard"],
        ),
        ("ec2-up --tag team < web-1.json", &["not a tag: \"team\"", "write KEY=VALUE"]),
        (&format!("ec2-up --tag {long}=x < web-1.json"), &["not a valid tag", "a key has 1 to 128 characters"]),
        (
            &format!("jq -c '.name = \"{}\"' web-1.json | ec2-up", ["a"; 126].join(".")),
            &["the name of the security group is too long: nixpipe-default-a.a", "take a shorter name"],
        ),
        ("ec2-up --user-data large < web-1.json", &["cannot use the user data large: it has more than"]),
        (
            "ec2-up --user-data script --host-key user-data < web-1.json",
            &["--host-key user-data leaves no room for --user-data", "say --host-key console"],
        ),
        (
            "ec2-up --security-group sg-1 --open 80 < web-1.json",
            &["a security group of your choice keeps its own rules"],
        ),
    ] {
        says(&region.folder, &format!("{place}{command}"), "", 1, words);
    }
    assert_eq!(region.changes(), [""; 0]);
}

#[test]
fn each_call_that_is_denied_says_what_it_was_for() {
    let (region, place) = region("errors-denied");
    let denied = |action: &str, command: &str, words: &str| {
        region.cloud(&format!("fault deny {action}"));
        let hint = format!("hint: allow the IAM action ec2:{action}");
        says(&region.folder, &format!("{place}: {action}; {command}"), "", 1, &[words, &hint]);
        region.cloud("fault clear");
    };
    for (action, words) in [
        ("DescribeInstances", "cannot look for machines"),
        ("DescribeImages", "cannot look for the image"),
        ("DescribeInstanceTypes", "cannot look at the instance type"),
        ("DescribeKeyPairs", "cannot look for key pairs"),
        ("ImportKeyPair", "cannot import the key pair"),
        ("DescribeSecurityGroups", "cannot look for security groups"),
    ] {
        denied(action, &format!("{UP} < web-1.json"), words);
    }
    denied("DescribeSubnets", &format!("{UP} --subnet subnet-1 < web-1.json"), "cannot look for subnets");
    denied("DescribeRegions", "ec2-ls --all-regions", "cannot list the regions");
    let up = UP.replace(" -q", "");
    region.sh(&format!("{up} < web-1.json > up.json"), "").ok();
    denied("DescribeVolumes", &format!("{UP} --volume-size 60 < web-1.json"), "cannot look at volumes");
    denied(
        "DescribeInstanceCreditSpecifications",
        &format!("{UP} --credits standard < web-1.json"),
        "cannot look at the CPU credits of i-",
    );
    denied(
        "ModifyInstanceCreditSpecification",
        &format!("{UP} --credits standard < web-1.json"),
        "cannot change the CPU credits of i-",
    );
    denied("DescribeNetworkInterfaces", &format!("{DOWN} --plan < up.json"), "cannot look for interfaces that use the");
    denied("DescribeAddresses", &format!("{DOWN} < up.json"), "cannot look for Elastic IPs");
    denied("ReleaseAddress", &format!("{DOWN} < up.json"), "cannot give the Elastic IP back");
}

#[test]
#[ignore = "long: scripts/test --all"]
fn a_machines_life_is_told_line_by_line_and_what_stands_in_its_way() {
    let (region, place) = region("errors-life");
    let says = |command: &str, status: i32, words: &[&str]| {
        says(&region.folder, &format!("{place}{command}"), "", status, words)
    };
    let (up, down) = (UP.replace(" -q", ""), DOWN.replace(" -q", ""));
    // Nobody answers.
    region.cloud("fault hang 100");
    says("ec2-ls --timeout 1s", 1, &["not listed in 1 s"]);
    says("ec2-down -n --all --timeout 1s", 1, &["not listed in 1 s", "hint: run it again, or wait longer"]);
    says(
        "ec2-down -n --name web-1 --timeout 1s",
        1,
        &["not done in 1 s: it was being found", "hint: run it again: it goes on"],
    );
    region.cloud("fault clear");
    says("ec2-ls", 0, &["no machines in eu-central-1, deployment default"]);
    says("ec2-ls --name web-1", 0, &["no machine web-1 in eu-central-1, deployment default"]);
    says("ec2-ls --orphans", 0, &["nothing is left over in eu-central-1, deployment default"]);
    says("ec2-ls --all-regions", 0, &["no machines in any region, deployment default"]);
    says(
        "ec2-down -n --name web-1",
        0,
        &["no machine of that name in eu-central-1, deployment default: nothing to do"],
    );

    // Up, and down again; another of the same name.
    region.cloud("fault capacity 1");
    says(&format!("{up} < web-1.json > up.json"), 0, &["EC2 has no room for it", "giving it the address"]);
    let id = region.sh("jq -r .instance.id up.json", "").ok().stdout;
    let id = id.trim();
    says(
        &format!("{up} --credits unlimited --volume-size 60 < up.json"),
        0,
        &["the larger volume is seen after a reboot"],
    );
    let other = "jq -c '.name = \"web-9\"' up.json | ec2-up --adopt";
    says(other, 1, &["belongs to another machine: its tag nixpipe:name is web-1", "hint: remove that tag first"]);
    says("ec2-up --plan < web-1.json > plan.json", 0, &["nothing to do"]);
    says("ec2-up --plan --volume-type gp2 < web-1.json > plan.json", 0, &["volume type", "gp3", "gp2"]);
    // Nobody answers at its address: there is no machine behind it. A busy computer takes longer to come to that.
    let step = "it was waiting for ssh to answer";
    let up_within = |limit| region.folder.sh(&format!("{place}ec2-up --timeout {limit}s < web-1.json"), "");
    let (limit, ran) = [2, 30]
        .into_iter()
        .map(|limit| (limit, up_within(limit)))
        .find(|(_, ran)| ran.stderr.contains(step))
        .expect(step);
    for words in [format!("not done in {limit} s: {step}").as_str(), "hint: run it again: it goes on"] {
        assert!(ran.status == 1 && ran.stderr.contains(words), "{}", ran.stderr);
    }
    says("jq -c 'del(.keyPair)' web-1.json | jq -c '.name = \"new\"' | ec2-up --plan > plan.json", 0, &["plan: "]);
    says(
        "jq -c '.name = \"web-2\"' up.json | ec2-down",
        1,
        &[id, "is the machine web-1 of the deployment default, not web-2", "hint: say its --deployment"],
    );
    region
        .sh("nixos-ami -q -n --release 25.11 --name web-2 | keygen -q | ec2-up -q --wait running > two.json", "")
        .ok();
    says("ec2-up --plan --elastic-ip < two.json > plan.json", 0, &["+ elastic-ip/web-2 (it has none)"]);
    let second = region.sh("jq -r .instance.id two.json", "").ok().stdout;
    let rename = |name: &str| {
        let tags = format!("[{{'Key': 'nixpipe:name', 'Value': '{name}'}}]");
        region.boto(&format!("ec2.create_tags(Resources=['{}'], Tags={tags})", second.trim()));
    };
    rename("web-1");
    says(&format!("{up} < web-1.json"), 1, &["2 machines are called web-1", "hint: terminate all but one"]);
    region.boto(&format!("ec2.delete_tags(Resources=['{}'], Tags=[{{'Key': 'nixpipe:name'}}])", second.trim()));
    says("ec2-ls", 0, &["has the deployment's tag but no nixpipe:name"]);
    region.cloud("fault deny CreateTags");
    let words = ["cannot take over i-", "hint: allow the IAM action ec2:CreateTags"];
    says("ec2-up --adopt --wait running < two.json", 1, &words);
    region.cloud("fault clear");
    rename("web-2");
    says(&format!("{down} < up.json"), 0, &["stays: other machines use it", "gave back the address"]);
    says(&format!("{down} < two.json"), 0, &["web-2: "]);
}

#[test]
#[ignore = "long: scripts/test --all"]
fn a_time_limit_names_the_step_that_it_cut() {
    let (region, place) = region("errors-limits");
    let hang = |action: &str, command: &str, step: &str| {
        region.cloud(&format!("fault hang 100 --action {action}"));
        // A busy computer takes longer to come to the call.
        let cut = |limit: &str| format!("{place}{command} --timeout {limit}");
        let mut ran = region.folder.sh(&cut("3s"), "");
        if !ran.stderr.contains(step) {
            ran = region.folder.sh(&cut("20s"), "");
        }
        for words in ["s: it was ", step, "hint: run it again: it goes on"] {
            assert!(ran.status == 1 && ran.stderr.contains(words), "{action}: {words}: {}", ran.stderr);
        }
        region.cloud("fault clear");
    };
    let (up, down) = (UP.replace(" -q", ""), DOWN.replace(" -q", ""));
    hang("RunInstances", &format!("{up} < web-1.json"), "being made");
    hang("AllocateAddress", &format!("{up} < web-1.json"), "being given an address");
    region.sh(&format!("{UP} < web-1.json > up.json"), "").ok();
    hang("ModifyVolume", &format!("{up} --volume-size 60 < web-1.json"), "being changed");
    hang("TerminateInstances", &format!("{down} < up.json"), "being terminated");
    hang("ReleaseAddress", &format!("{down} < up.json"), "losing its address");
    hang("DeleteSecurityGroup", &format!("{down} < up.json"), "losing its security group");
    hang("DeleteKeyPair", &format!("{down} < up.json"), "losing its key pair");
    region.sh(&format!("{DOWN} < up.json"), "").ok();
    region.cloud("set pending 600");
    let command = format!("{place}ec2-up --wait running --timeout 10s < web-1.json");
    says(&region.folder, &command, "", 1, &["it was waiting for it to run"]);
    region.cloud("fault hang 100");
    let command = format!("{place}ec2-ls --call-timeout 1s");
    says(&region.folder, &command, "", 1, &["no answer in time", "hint: run it again", "--call-timeout"]);
}

#[test]
#[ignore = "long: scripts/test --all"]
fn what_others_have_done_is_told_and_left_alone() {
    let (region, place) = region("errors-others");
    let says = |command: &str, status: i32, words: &[&str]| {
        says(&region.folder, &format!("{place}{command}"), "", status, words)
    };
    let (up, down) = (UP.replace(" -q", ""), DOWN.replace(" -q", ""));
    let aws = |call: &str| region.boto(&format!("print({call})"));
    says("nixos-ami -n --release latest --owner 123456789012", 1, &["no NixOS image in eu-central-1 of 123456789012"]);
    // Networks without addresses.
    let vpc = aws("ec2.describe_vpcs()['Vpcs'][0]['VpcId']");
    let subnet = aws(&format!("ec2.create_subnet(VpcId='{vpc}', CidrBlock='172.31.240.0/24')['Subnet']['SubnetId']"));
    says(
        &format!("ec2-up --subnet {subnet} --ipv6 < web-1.json"),
        1,
        &["has no IPv6 block", "name a --subnet that has one"],
    );
    // Key pairs and groups of others stay.
    let name = region.sh("jq -r .keyPair.name web-1.json", "").ok().stdout;
    let key = region.sh("jq -r .keyPair.publicKey web-1.json", "").ok().stdout;
    aws(&format!("ec2.import_key_pair(KeyName='{}', PublicKeyMaterial=b'{}')", name.trim(), key.trim()));
    region.sh(&format!("{UP} < web-1.json > up.json"), "").ok();
    says(&format!("{down} < up.json"), 0, &["stays: it was not made by ec2-up"]);
    aws("ec2.create_security_group(GroupName='nixpipe-default-web-1', Description='x')");
    says("ec2-down -n --name web-1", 0, &["was not made by ec2-up: it stays"]);
    aws("ec2.delete_security_group(GroupName='nixpipe-default-web-1')");
    // Stopped behind our back.
    region.sh(&format!("{UP} < web-1.json > up.json"), "").ok();
    let id = region.sh("jq -r .instance.id up.json", "").ok().stdout;
    region.cloud("set stopping 600");
    aws(&format!("ec2.stop_instances(InstanceIds=['{}'])", id.trim()));
    let wait = "for n in {1..3000}; do grep -q stopping said && break; sleep 0.1; done; kill $!; cat said >&2";
    says(&format!("{up} < web-1.json 2> said & {wait}"), 0, &["is stopping: waiting, then starting it"]);
    region.sh(&format!("{DOWN} -n --name web-1"), "").ok();
    // A host key of ours that cannot be one.
    for (make, words) in [
        ("touch default-web-1.host-key; chmod 644 default-web-1.host-key", "can be read by others"),
        ("rm default-web-1.host-key; umask 077; echo x > default-web-1.host-key", "cannot use the host key"),
        ("rm default-web-1.host-key; mkdir default-web-1.host-key", "cannot read the host key"),
        ("rmdir default-web-1.host-key; ln -s nowhere default-web-1.host-key", "is there, and no file"),
    ] {
        region.sh(make, "").ok();
        says("ec2-up --host-key user-data --wait running < web-1.json", 1, &[words, "default-web-1.host-key"]);
    }
    says(
        "jq -c '.keyPair.privateKeyFile = \"/nowhere/key\"' web-1.json | ec2-up --host-key user-data --wait running",
        1,
        &["cannot write the host key /nowhere/default-web-1.host-key", "hint: it is kept beside the private key"],
    );
    // An image that has gone.
    aws("ec2.deregister_image(ImageId='ami-0eed77c38432886d2')");
    let words = ["does not exist any more in eu-central-1", "hint: releases that live: 2"];
    says("nixos-ami -n --release 20.09 --verify", 1, &words);
    if tests::sample(1, 0) == 0 {
        return;
    }
    // These wait for many tries.
    says(
        "AWS_ENDPOINT_URL=http://127.0.0.1:9 nixos-ami -n --release latest",
        1,
        &["hint: run it again; if it stays so: is eu-central-1"],
    );
    region.cloud("fault throttle 1000");
    says("nixos-ami -n --release latest", 1, &["asked too much at once"]);
}
