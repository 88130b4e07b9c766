//! What nobody uses any more is listed and removed, and what somebody uses stays, whoever it is.

use crate::region::{DOWN, Region};
use serde_json::{Value, json};

/// The machine of web-1.json, and the ids of its group and instance.
fn machine(region: &Region, flags: &str) -> (String, String) {
    let up = region.sh(&format!("ec2-up -q --wait running {flags} < web-1.json | tee up.json"), "").ok().record();
    let of = |what: &str| up["instance"][what].as_str().unwrap().to_string();
    (of("id"), of("securityGroupId"))
}

fn orphans(region: &Region) -> Vec<Value> {
    region.sh("ec2-ls -q --orphans", "").ok().records()
}

#[test]
#[ignore = "long: scripts/test --all"]
fn what_a_living_machine_has_left_is_listed_and_goes_without_the_machine() {
    let region = Region::new("living");
    let (id, group) = machine(&region, "--elastic-ip");
    assert!(orphans(&region).is_empty());
    let left = region.boto(&format!(
        "other = ec2.create_security_group(GroupName='other', Description='x')['GroupId']
ec2.modify_instance_attribute(InstanceId='{id}', Groups=[other])
[a] = ec2.describe_addresses()['Addresses']
ec2.disassociate_address(AssociationId=a['AssociationId'])
[v] = ec2.describe_volumes()['Volumes']
zone, tags = v['AvailabilityZone'], v['Tags']
spare = ec2.create_volume(AvailabilityZone=zone, Size=1, TagSpecifications=[{{'ResourceType': 'volume', 'Tags': tags}}])
print(a['PublicIp'], spare['VolumeId'])"
    ));
    let (address, volume) = left.split_once(' ').unwrap();
    let all =
        json!(["security-group/nixpipe-default-web-1", format!("elastic-ip/{address}"), format!("volume/{volume}")]);
    let found = orphans(&region);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((&found[0]["name"], &found[0]["orphans"], found[0].get("instance")), (&"web-1".into(), &all, None));

    let before = region.changes().len();
    let plan = region.sh("ec2-ls -q --orphans | ec2-down --plan", "").ok();
    assert!(plan.stderr.contains("plan: 0 to add, 0 to change, 2 to destroy"), "{}", plan.stderr);
    // All that is a machine's goes with it, and is named once.
    let everything = region.sh("ec2-down -n --all --plan", "").ok();
    assert!(everything.stderr.contains("plan: 0 to add, 0 to change, 4 to destroy"), "{}", everything.stderr);
    assert_eq!(everything.records().len(), 1);
    assert_eq!(region.changes().len(), before);

    let down = region.sh("ec2-ls -q --orphans | ec2-down", "").ok();
    assert!(down.stderr.contains(&format!("aws ec2 delete-volume --volume-id {volume}")), "{}", down.stderr);
    assert_eq!(down.record()["orphans"], json!([format!("volume/{volume}")]), "what stays is still named");
    let changes = region.changes();
    let mut changes: Vec<&str> = changes[before..].iter().map(String::as_str).collect();
    changes.sort_unstable();
    assert_eq!(changes, ["DeleteSecurityGroup", "ReleaseAddress"], "{group}");
    assert_eq!(region.sh("ec2-ls -q", "").ok().record()["instance"]["state"], "running");
    assert_eq!(orphans(&region)[0]["orphans"], json!([format!("volume/{volume}")]), "data is nobody's but the user's");
}

#[test]
fn a_machine_that_was_made_since_the_list_stays() {
    let region = Region::new("since");
    let (id, group) = machine(&region, "");
    region.boto(&format!(
        "ec2.terminate_instances(InstanceIds=['{id}'])
ec2.get_waiter('instance_terminated').wait(InstanceIds=['{id}'], WaiterConfig={{'Delay': 1}})"
    ));
    region.sh("ec2-ls -q --orphans > orphans.json", "").ok();
    let (new, same) = machine(&region, "");
    assert_eq!(same, group);
    region.sh(&format!("{DOWN} < orphans.json"), "").ok();
    let listed = region.sh("ec2-ls -q", "").ok().record();
    assert_eq!((&listed["instance"]["id"], &listed["instance"]["state"]), (&new.into(), &"running".into()));
    assert_eq!(region.count("DeleteSecurityGroup"), 0);
}

#[test]
#[ignore = "long: scripts/test --all"]
fn what_another_deployment_has_left_is_not_taken_for_ones_own() {
    let region = Region::new("whose");
    machine(&region, "--deployment staging --elastic-ip");
    machine(&region, "--elastic-ip");
    region.boto(
        "for r in ec2.describe_instances()['Reservations']:
    ec2.terminate_instances(InstanceIds=[r['Instances'][0]['InstanceId']])
    ec2.get_waiter('instance_terminated').wait(InstanceIds=[r['Instances'][0]['InstanceId']], WaiterConfig={'Delay': 1})",
    );
    let list = "ec2-ls -q --orphans --deployment staging";
    for only in ["", "| jq -c '.orphans |= map(select(startswith(\"elastic\")))'"] {
        let ran = region.sh(&format!("{list} {only} | ec2-down"), "");
        assert_eq!(ran.records()[0]["error"]["kind"], "conflict", "{}", ran.stderr);
        assert!(ran.stderr.contains("is not of the deployment default"), "{}", ran.stderr);
    }
    assert_eq!((region.count("ReleaseAddress"), region.count("DeleteSecurityGroup")), (0, 0));
    // Only what is named goes.
    region.sh("ec2-ls -q --orphans | jq -c '.orphans |= map(select(startswith(\"elastic\")))' | ec2-down", "").ok();
    assert_eq!((region.count("ReleaseAddress"), region.count("DeleteSecurityGroup")), (1, 0));
    for deployment in ["default", "staging"] {
        let list = format!("ec2-ls -q --orphans --deployment {deployment}");
        region
            .sh(
                &format!("{list} > left.json; for i in 1 2; do ec2-down --deployment {deployment} < left.json; done"),
                "",
            )
            .ok();
        assert_eq!(region.sh(&list, "").ok().stdout, "");
    }
}

#[test]
#[ignore = "long: scripts/test --all"]
fn a_group_that_something_else_than_a_machine_uses_stays_at_once() {
    let region = Region::new("interface");
    let (_, group) = machine(&region, "");
    let interface = region.boto(&format!(
        "[subnet] = ec2.describe_subnets(Filters=[{{'Name': 'availability-zone', 'Values': ['eu-central-1a']}}])['Subnets']
made = ec2.create_network_interface(SubnetId=subnet['SubnetId'], Groups=['{group}'], Description='RDSNetworkInterface')
print(made['NetworkInterface']['NetworkInterfaceId'])"
    ));
    let stays =
        format!("the security group nixpipe-default-web-1 stays: it is used by {interface} (RDSNetworkInterface)\n");
    let plan = region.sh("ec2-down --plan < up.json", "").ok();
    assert!(plan.stderr.contains(&stays), "{}", plan.stderr);
    assert!(!plan.record()["plan"].to_string().contains("security-group"), "{}", plan.record());
    // Never tried, so never waited for.
    let down = region.sh("ec2-down --timeout 1h < up.json", "").ok();
    assert!(down.stderr.contains(&stays), "{}", down.stderr);
    assert_eq!((region.count("DeleteSecurityGroup"), down.record().get("instance")), (0, None));
    assert!(orphans(&region).is_empty(), "it has a user");
    region.boto(&format!("ec2.delete_network_interface(NetworkInterfaceId='{interface}')"));
    assert_eq!(orphans(&region)[0]["orphans"], json!(["security-group/nixpipe-default-web-1"]));
    region.sh("ec2-ls -q --orphans | ec2-down -q", "").ok();
    assert_eq!(region.sh("ec2-ls -q; ec2-ls -q --orphans", "").ok().stdout, "");
}

#[test]
#[ignore = "long: scripts/test --all"]
fn an_address_that_somebody_gave_to_another_machine_stays() {
    let region = Region::new("given");
    machine(&region, "--elastic-ip");
    let ami = region.sh("jq -r .ami.id web-1.json", "").ok().stdout;
    let other = region.boto(&format!(
        "import time
run = ec2.run_instances(ImageId='{}', InstanceType='t3.micro', MinCount=1, MaxCount=1)['Instances'][0]['InstanceId']
ec2.get_waiter('instance_running').wait(InstanceIds=[run], WaiterConfig={{'Delay': 1}})
[a] = ec2.describe_addresses()['Addresses']
ec2.associate_address(AllocationId=a['AllocationId'], InstanceId=run, AllowReassociation=True)
print(run)",
        ami.trim()
    ));
    for command in ["ec2-down --plan < up.json", "ec2-down < up.json"] {
        let ran = region.sh(command, "").ok();
        let stays = format!("stays: it is used by {other}\n");
        assert!(ran.stderr.contains("the Elastic IP ") && ran.stderr.contains(&stays), "{command}: {}", ran.stderr);
    }
    assert_eq!((region.count("ReleaseAddress"), orphans(&region).len()), (0, 0));
    region.boto(&format!(
        "ec2.terminate_instances(InstanceIds=['{other}'])
ec2.get_waiter('instance_terminated').wait(InstanceIds=['{other}'], WaiterConfig={{'Delay': 1}})"
    ));
    region.sh(&format!("{DOWN} -n --name web-1"), "").ok();
    assert_eq!((region.count("ReleaseAddress"), orphans(&region).len()), (1, 0));
}

#[test]
fn what_a_machine_has_that_is_still_shutting_down_is_waited_for() {
    let region = Region::new("shutting");
    let (id, _) = machine(&region, "--elastic-ip");
    region.cloud("set shutting_down 3");
    // As a teardown leaves it that was cut short.
    region.boto(&format!("ec2.terminate_instances(InstanceIds=['{id}'])"));
    region.sh("ec2-down -q -n --all", "").ok();
    assert_eq!(region.boto("print(len(ec2.describe_addresses()['Addresses']))"), "0", "it would be paid for");
    assert!(orphans(&region).is_empty());
    let again = region.sh("echo '{\"name\":\"web-1\",\"orphans\":[\"elastic-ip/1.2.3.4\"]}' | ec2-down", "").ok();
    assert!(again.stderr.contains("nothing to do"), "{}", again.stderr);
}

#[test]
fn a_machine_made_from_a_record_of_leftovers_goes_as_any_other() {
    let region = Region::new("remade");
    machine(&region, "");
    region.sh("jq -c '.orphans = [\"security-group/nixpipe-default-web-1\"]' up.json | ec2-down -q", "").ok();
    assert_eq!(region.sh("ec2-ls -q; ec2-ls -q --orphans", "").ok().stdout, "");
}

#[test]
fn a_group_on_a_further_interface_of_a_machine_stays_at_once() {
    let region = Region::new("further");
    let (_, group) = machine(&region, "");
    let ami = region.sh("jq -r .ami.id web-1.json", "").ok().stdout;
    let bastion = region.boto(&format!(
        "run = ec2.run_instances(ImageId='{}', InstanceType='t3.micro', MinCount=1, MaxCount=1)['Instances'][0]
eth1 = ec2.create_network_interface(SubnetId=run['SubnetId'], Groups=['{group}'])['NetworkInterface']['NetworkInterfaceId']
ec2.attach_network_interface(NetworkInterfaceId=eth1, InstanceId=run['InstanceId'], DeviceIndex=1)
print(run['InstanceId'])",
        ami.trim()
    ));
    let down = region.sh("ec2-down --timeout 1h < up.json", "").ok();
    assert!(down.stderr.contains(&format!("stays: it is used by {bastion}\n")), "{}", down.stderr);
    assert_eq!(region.count("DeleteSecurityGroup"), 0);
}
