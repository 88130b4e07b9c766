//! Where in the network a machine is: subnets and groups of choice, IPv6, ports.

use crate::region::{DOWN, Region, UP};
use serde_json::Value;

/// A VPC of the user's own with a subnet and a security group; prints their ids as JSON.
const OWN_NETWORK: &str = "
import json
vpc = ec2.create_vpc(CidrBlock='10.9.0.0/16')['Vpc']['VpcId']
subnet = ec2.create_subnet(VpcId=vpc, CidrBlock='10.9.1.0/24')['Subnet']['SubnetId']
group = ec2.create_security_group(GroupName='web', Description='x', VpcId=vpc)['GroupId']
default = ec2.create_security_group(GroupName='web', Description='x')['GroupId']
print(json.dumps({'vpc': vpc, 'subnet': subnet, 'group': group, 'default': default}))";

fn own_network(region: &Region) -> impl Fn(&str) -> String + use<> {
    let ids: Value = serde_json::from_str(&region.boto(OWN_NETWORK)).unwrap();
    move |what| ids[what].as_str().unwrap().to_string()
}

/// The ids of the groups that a machine is in.
fn groups_of(region: &Region, id: &str) -> String {
    region.boto(&format!(
        "i = ec2.describe_instances(InstanceIds=['{id}'])['Reservations'][0]['Instances'][0]
print(' '.join(sorted(g['GroupId'] for g in i['SecurityGroups'])))"
    ))
}

#[test]
#[ignore = "long: scripts/test --all"]
fn a_subnet_of_choice_has_the_machine_and_its_group() {
    let region = Region::new("subnet");
    let network = own_network(&region);
    let up = format!("ec2-up -q --wait running --subnet {} < web-1.json", network("subnet"));
    let machine = region.sh(&format!("{up} | tee up.json"), "").ok().record();
    // It gives no public address: ssh goes to the private one.
    assert_eq!(machine["instance"]["publicIp"], Value::Null);
    assert_eq!(machine["ssh"]["host"], machine["instance"]["privateIp"]);
    assert!(machine["ssh"]["host"].as_str().unwrap().starts_with("10.9.1."), "{machine}");
    let again = region.sh(&up, "").ok().record();
    assert_eq!((&again["instance"]["id"], &again["instance"]["created"]), (&machine["instance"]["id"], &false.into()));
    let group = machine["instance"]["securityGroupId"].as_str().unwrap();
    let vpc = region
        .boto(&format!("print(ec2.describe_security_groups(GroupIds=['{group}'])['SecurityGroups'][0]['VpcId'])"));
    assert_eq!(vpc, network("vpc"));

    // Elsewhere is another machine, and the group that it leaves behind goes with it.
    let moved = region.sh(&up.replace(&network("subnet"), "subnet-12345678"), "").record();
    assert_eq!(moved["error"]["kind"], "conflict", "{moved}");
    let default = region
        .boto("print(ec2.describe_subnets(Filters=[{'Name': 'default-for-az', 'Values': ['true']}])['Subnets'][0]['SubnetId'])");
    let moved = region.sh(
        &format!("{} --replace < web-1.json", up.replace(&network("subnet"), &default).replace("< web-1.json", "")),
        "",
    );
    assert_ne!(moved.ok().record()["instance"]["id"], machine["instance"]["id"]);
    region.sh(&format!("{DOWN} < up.json"), "").ok();
    assert_eq!(region.boto("print(len(ec2.describe_security_groups(Filters=[{'Name': 'tag-key', 'Values': ['nixpipe:name']}])['SecurityGroups']))"), "0");
}

#[test]
fn a_group_of_choice_is_used_as_it_is_and_stays() {
    let region = Region::new("group");
    let network = own_network(&region);
    let up = format!("ec2-up -q --wait running --security-group {} < web-1.json", network("default"));
    let machine = region.sh(&format!("{up} | tee up.json"), "").ok().record();
    let id = machine["instance"]["id"].as_str().unwrap();
    assert_eq!(machine["instance"]["securityGroupId"], network("default"));
    assert_eq!(region.made("CreateSecurityGroup", "sg-").len(), 2, "the user's two, and none of ours");
    for flags in ["", "--security-group"] {
        let again = if flags.is_empty() { "ec2-up -q --wait running < web-1.json".into() } else { up.clone() };
        let before = region.changes().len();
        assert_eq!(region.sh(&again, "").ok().record()["instance"]["id"], id);
        assert_eq!(region.changes().len(), before, "{flags}");
    }
    // Rules are changed in a group of ours only.
    let refused = region.sh("ec2-up -q --open 80 < web-1.json", "").record();
    assert_eq!(refused["error"]["kind"], "conflict", "{refused}");
    assert!(refused["error"]["message"].as_str().unwrap().contains(&network("default")), "{refused}");
    let planned = region.sh("ec2-up -q --plan --open 80 < web-1.json", "").record();
    assert_eq!(planned["error"]["kind"], "conflict", "{planned}");
    region.sh(&format!("{DOWN} < up.json"), "").ok();
    assert_eq!(region.count("DeleteSecurityGroup"), 0);

    // One of another VPC is refused before anything is made.
    let other = format!("ec2-up -q --security-group {} < web-1.json", network("group"));
    let refused = region.sh(&other, "").record();
    assert_eq!(refused["error"]["kind"], "input", "{refused}");
    assert!(refused["error"]["message"].as_str().unwrap().contains(&network("vpc")), "{refused}");

    // From a group of its own into one of choice, while it runs.
    let machine = region.sh("ec2-up -q --wait running < web-1.json", "").ok().record();
    let id = machine["instance"]["id"].as_str().unwrap();
    let plan = region.sh(&up.replace("ec2-up", "ec2-up --plan"), "").ok().record()["plan"].clone();
    let actions: Vec<_> = plan.as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["delete", "update"], "{plan}");
    region.sh(&up, "").ok();
    assert_eq!(groups_of(&region, id), network("default"));
    region.sh(&format!("{DOWN} --name web-1 -n"), "").ok();
    assert_eq!(region.sh("ec2-ls -q; ec2-ls -q --orphans", "").ok().stdout, "");
}

#[test]
fn an_account_without_a_default_vpc_is_told_to_name_a_subnet() {
    let region = Region::new("no-vpc");
    region.boto(
        "[vpc] = ec2.describe_vpcs(Filters=[{'Name': 'is-default', 'Values': ['true']}])['Vpcs']
for subnet in ec2.describe_subnets(Filters=[{'Name': 'vpc-id', 'Values': [vpc['VpcId']]}])['Subnets']:
    ec2.delete_subnet(SubnetId=subnet['SubnetId'])
ec2.delete_vpc(VpcId=vpc['VpcId'])",
    );
    region.cloud("raw POST clear-log");
    for plan in ["", "--plan"] {
        let error = region.sh(&format!("ec2-up -q {plan} < web-1.json"), "").record()["error"].clone();
        assert!(error["message"].as_str().unwrap().contains("no default VPC in eu-central-1"), "{error}");
        assert!(error["hint"].as_str().unwrap().contains("--subnet"), "{error}");
    }
    assert_eq!(region.changes(), [""; 0]);
    let subnet = region.boto(
        "vpc = ec2.create_vpc(CidrBlock='10.9.0.0/16')['Vpc']['VpcId']
print(ec2.create_subnet(VpcId=vpc, CidrBlock='10.9.1.0/24')['Subnet']['SubnetId'])",
    );
    region.sh(&format!("ec2-up -q --wait running --subnet {subnet} < web-1.json"), "").ok();
}

#[test]
#[ignore = "long: scripts/test --all"]
fn ipv6_is_given_where_the_subnet_has_it() {
    let region = Region::new("ipv6");
    let subnet = region.boto(
        "vpc = ec2.create_vpc(CidrBlock='10.9.0.0/16', AmazonProvidedIpv6CidrBlock=True)['Vpc']['VpcId']
block = ec2.describe_vpcs(VpcIds=[vpc])['Vpcs'][0]['Ipv6CidrBlockAssociationSet'][0]['Ipv6CidrBlock']
subnet = ec2.create_subnet(VpcId=vpc, CidrBlock='10.9.1.0/24', Ipv6CidrBlock=block.replace('/56', '/64'))
print(subnet['Subnet']['SubnetId'])",
    );
    let up = format!("ec2-up -q --wait running --ipv6 --subnet {subnet} < web-1.json");
    let machine = region.sh(&format!("{up} | tee up.json"), "").ok().record();
    let address = machine["instance"]["ipv6"].as_str().unwrap();
    assert!(address.parse::<std::net::Ipv6Addr>().is_ok(), "{machine}");
    assert_eq!(machine["ssh"]["host"], address, "the subnet gives no public IPv4 address");
    let group = machine["instance"]["securityGroupId"].as_str().unwrap();
    let rules = region.boto(&format!(
        "[g] = ec2.describe_security_groups(GroupIds=['{group}'])['SecurityGroups']
print([r['CidrIpv6'] for p in g['IpPermissions'] for r in p['Ipv6Ranges']])"
    ));
    assert_eq!(rules, "['::/0']");
    let before = region.changes().len();
    assert_eq!(region.sh(&up, "").ok().record()["instance"], {
        let mut same = machine["instance"].clone();
        same["created"] = false.into();
        same
    });
    assert_eq!(region.changes().len(), before);
    assert_eq!(region.sh("ec2-ls -q", "").ok().record()["instance"]["ipv6"], address);
    region.sh(&format!("{DOWN} < up.json"), "").ok();
    assert_eq!(region.sh("ec2-ls -q; ec2-ls -q --orphans", "").ok().stdout, "");
}

#[test]
fn ports_open_as_they_are_written_and_close_again() {
    let region = Region::new("ports");
    let rules = || {
        region.boto(
            "[g] = ec2.describe_security_groups(Filters=[{'Name': 'group-name', 'Values': ['nixpipe-default-web-1']}])['SecurityGroups']
for line in sorted(f\"{p['FromPort']}-{p['ToPort']}/{p['IpProtocol']} {cidr}\" for p in g['IpPermissions']
        for cidr in [r['CidrIp'] for r in p['IpRanges']] + [r['CidrIpv6'] for r in p['Ipv6Ranges']]):
    print(line)",
        )
    };
    let up = |flags: &str| region.sh(&format!("{UP} {flags} < web-1.json"), "").ok();
    up("--open 443,53/udp,8000-8100:10.1.2.3/8 --open 60000-61000/udp:2001:db8::1/32 --ssh-from 192.0.2.7");
    let open = "22-22/tcp 192.0.2.7/32\n443-443/tcp 0.0.0.0/0\n53-53/udp 0.0.0.0/0\n60000-61000/udp 2001:db8::/32\n\
                8000-8100/tcp 10.0.0.0/8";
    assert_eq!(rules(), open);
    let before = region.changes().len();
    up("--open 53/udp,443,8000-8100:10.0.0.0/8,60000-61000/udp:2001:db8::/32 --ssh-from 192.0.2.7/32");
    up("");
    assert_eq!(region.changes().len(), before, "the same in other words, and no word, change nothing");
    up("--open 443");
    assert_eq!(rules(), "22-22/tcp 192.0.2.7/32\n443-443/tcp 0.0.0.0/0");
    // The record speaks for its machine.
    let member = "jq -c '.wish = {open: [], sshFrom: [\"10.0.0.0/8\"]}' web-1.json";
    region.sh(&format!("{member} | {UP} --open 80"), "").ok();
    assert_eq!(rules(), "22-22/tcp 10.0.0.0/8");
}

#[test]
fn what_a_machine_has_left_behind_goes_with_the_next_run() {
    let region = Region::new("left");
    let network = own_network(&region);
    let ours = "print(len(ec2.describe_security_groups(Filters=[{'Name': 'tag-key', 'Values': ['nixpipe:name']}])['SecurityGroups']))";
    let machine = region.sh("ec2-up -q --wait running --elastic-ip < web-1.json", "").ok().record();
    // An address that is in use stays, though no word speaks of it.
    region.sh("ec2-up -q --wait running < web-1.json", "").ok();
    assert_eq!(region.count("ReleaseAddress"), 0);
    region.boto(
        "for a in ec2.describe_addresses()['Addresses']: ec2.disassociate_address(AssociationId=a['AssociationId'])",
    );
    let before = region.changes().len();
    let wish = format!("--security-group {}", network("default"));
    let plan = region.sh(&format!("ec2-up -q --plan {wish} < web-1.json"), "").ok().record()["plan"].clone();
    let gone: Vec<_> = plan.as_array().unwrap().iter().filter(|entry| entry["action"] == "delete").collect();
    assert_eq!(gone.len(), 2, "{plan}");
    let group = machine["instance"]["securityGroupId"].as_str().unwrap();
    assert_eq!(gone[0]["resource"], format!("security-group/{group}"));
    assert!(gone[1]["resource"].as_str().unwrap().starts_with("elastic-ip/"), "{plan}");
    assert_eq!(region.changes().len(), before);
    region.sh(&format!("ec2-up -q --wait running {wish} < web-1.json"), "").ok();
    assert_eq!((region.count("ReleaseAddress"), region.boto(ours).as_str()), (1, "0"));
    // The group of the VPC that it moves away from.
    let default = region
        .boto("print(ec2.describe_subnets(Filters=[{'Name': 'default-for-az', 'Values': ['true']}])['Subnets'][0]['SubnetId'])");
    for subnet in [network("subnet"), default] {
        region.sh(&format!("ec2-up -q --wait running --replace --subnet {subnet} < web-1.json"), "").ok();
        assert_eq!(region.boto(ours), "1", "{subnet}");
    }
    region.sh(&format!("{DOWN} -n --name web-1"), "").ok();
    assert_eq!(region.sh("ec2-ls -q; ec2-ls -q --orphans", "").ok().stdout, "");
}
