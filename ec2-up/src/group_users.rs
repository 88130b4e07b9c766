//! Who else uses a security group: EC2 deletes none that is in use.

use crate::aws::Aws;
use crate::region::{Region, filter, instances, security_groups};
use aws_sdk_ec2::types::SecurityGroup;
use machine_record::Failure;
use std::collections::BTreeSet;
use std::time::Duration;

/// The machines in one of the groups, and the groups with a rule that names one: the id of each, after the group's.
///
/// Of all deployments and of no deployment; machines that are being terminated do not count.
pub async fn find(aws: &Aws, groups: Vec<String>) -> Result<Vec<(String, String)>, Failure> {
    let mut users = Vec::new();
    let mut add = |group: Option<&str>, user: Option<&str>| {
        if let (Some(group), Some(user)) = (group, user)
            && group != user
            && groups.iter().any(|one| one == group)
        {
            users.push((group.to_string(), user.to_string()));
        }
    };
    let states = ["pending", "running", "stopping", "stopped"].map(String::from);
    let machines = [filter("instance.group-id", groups.clone()), filter("instance-state-name", states)];
    let machines = instances(aws, &machines).await;
    for machine in machines.map_err(|error| error.failure("cannot look for machines that use the security group"))? {
        machine.security_groups().iter().for_each(|group| add(group.group_id(), machine.instance_id()));
    }
    for by in ["ip-permission.group-id", "egress.ip-permission.group-id"] {
        for user in security_groups(aws, &[filter(by, groups.clone())]).await? {
            named(&user).for_each(|group| add(Some(group), user.group_id()));
        }
    }
    Ok(users)
}

/// The groups that a group's rules name.
fn named(group: &SecurityGroup) -> impl Iterator<Item = &str> {
    let rules = group.ip_permissions().iter().chain(group.ip_permissions_egress());
    rules.flat_map(|rule| rule.user_id_group_pairs()).filter_map(|pair| pair.group_id())
}

/// Whether anybody uses the group but the machines and groups that go, which EC2 may still list.
pub async fn others(region: &Region, group: &str, gone: &[String]) -> Result<bool, Failure> {
    let users = region.users_of_group.of(group, Duration::from_millis(20)).await?;
    Ok(users.iter().any(|user| !gone.contains(user)))
}

/// Those of the groups that somebody uses, asked for together.
pub async fn used(region: &Region, groups: &[String]) -> Result<BTreeSet<String>, Failure> {
    let mut used = BTreeSet::new();
    for groups in groups.chunks(crate::batch::MOST) {
        used.extend(find(&region.aws, groups.to_vec()).await?.into_iter().map(|(group, _)| group));
    }
    Ok(used)
}
