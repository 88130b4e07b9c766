//! Who else uses a security group: EC2 deletes none that is in use.

use crate::aws::Aws;
use crate::region::{Region, filter, instances, security_groups};
use crate::{group, tags};
use aws_sdk_ec2::types::SecurityGroup;
use machine_record::{Failure, log};
use std::collections::BTreeSet;
use std::rc::Rc;
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

/// The machine's own groups that it is not in any more, and nobody else: of a VPC where it was, or given up for
/// groups of choice.
pub async fn left(
    region: &Region,
    machine: &str,
    kept: &[&str],
    gone: &[String],
) -> Result<Vec<Rc<SecurityGroup>>, Failure> {
    let found = region.groups.of(&tags::group_name(&region.deployment, machine)?, Duration::from_millis(20)).await?;
    let mut left = Vec::new();
    for group in found.into_iter().filter(|found| group::is_ours(region, machine, found)) {
        let id = group.group_id().unwrap_or_default();
        if !kept.contains(&id) && !others(region, id, gone).await? {
            left.push(group);
        }
    }
    Ok(left)
}

/// Deletes what is left of a machine's own groups; what EC2 still sees in use waits for the next run.
pub async fn tidy(region: &Region, machine: &str, kept: &[&str]) -> Result<(), Failure> {
    for group in left(region, machine, kept, &[]).await? {
        let (id, name) = (group.group_id().unwrap_or_default(), group.group_name().unwrap_or_default());
        let deleted = region
            .aws
            .call(machine, "DeleteSecurityGroup", id, |client| client.delete_security_group().group_id(id).send());
        match deleted.await {
            Err(error) if error.is(&["DependencyViolation", "InvalidGroup.InUse"]) => {
                log::event(machine, &format!("the security group {name} ({id}) is left: run it again to delete it"));
            }
            Err(error) if !error.is(&["InvalidGroup.NotFound"]) => {
                return Err(error.failure(format!("cannot delete the security group {id}, which it has left")));
            }
            _ => log::event(machine, &format!("deleted the security group {name} ({id}), which it has left")),
        }
    }
    Ok(())
}
