//! Who else uses a security group: EC2 deletes none that is in use.

use crate::aws::Aws;
use crate::region::{Region, filter, instances, security_groups};
use crate::{group, tags};
use aws_sdk_ec2::types::{NetworkInterface, SecurityGroup};
use machine_record::{Failure, log};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// Who uses one of the groups: machines in it, interfaces of something else than a machine, and groups with a rule that
/// names it. Each after the group's id.
///
/// Of all deployments and of no deployment; machines that are being terminated do not count.
pub async fn find(aws: &Aws, groups: Vec<String>) -> Result<Vec<(String, String)>, Failure> {
    let mut users = Vec::new();
    let mut add = |group: Option<&str>, user: &str| {
        if let Some(group) = group
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
        machine.security_groups().iter().for_each(|of| add(of.group_id(), machine.instance_id().unwrap_or_default()));
    }
    for interface in interfaces(aws, &groups).await? {
        let machine = interface.attachment().and_then(|attachment| attachment.instance_id());
        let user = machine.map_or_else(|| shown(&interface), String::from);
        interface.groups().iter().for_each(|of| add(of.group_id(), &user));
    }
    for by in ["ip-permission.group-id", "egress.ip-permission.group-id"] {
        for user in security_groups(aws, &[filter(by, groups.clone())]).await? {
            named(&user).for_each(|group| add(Some(group), user.group_id().unwrap_or_default()));
        }
    }
    Ok(users)
}

/// Network interfaces in one of the groups that are no machine's first, whose groups are the machine's own: further ones,
/// and those of a load balancer or a database.
async fn interfaces(aws: &Aws, groups: &[String]) -> Result<Vec<NetworkInterface>, Failure> {
    let what = groups.join(",");
    let found = aws.call("", "DescribeNetworkInterfaces", &what, |client| {
        let call = client.describe_network_interfaces().filters(filter("group-id", groups.to_vec()));
        call.into_paginator().page_size(1000).items().send().collect::<Result<Vec<_>, _>>()
    });
    let found = found.await.map_err(|error| error.failure("cannot look for interfaces that use the security group"))?;
    let foreign = |interface: &NetworkInterface| {
        // That of a terminated machine of ours stays for a while; EC2 takes it away by itself.
        let ours = tags::value(interface.tag_set(), tags::DEPLOYMENT).is_some();
        match interface.attachment().filter(|attachment| attachment.instance_id().is_some()) {
            Some(attachment) => attachment.device_index() != Some(0),
            None => !ours,
        }
    };
    Ok(found.into_iter().filter(foreign).collect())
}

/// An interface with what its owner says of it.
fn shown(interface: &NetworkInterface) -> String {
    let id = interface.network_interface_id().unwrap_or_default();
    let owner = interface.attachment().and_then(|attachment| attachment.instance_owner_id());
    match interface.description().filter(|text| !text.is_empty()).or(owner) {
        Some(what) => format!("{id} ({what})"),
        None => id.into(),
    }
}

/// The groups that a group's rules name.
fn named(group: &SecurityGroup) -> impl Iterator<Item = &str> {
    let rules = group.ip_permissions().iter().chain(group.ip_permissions_egress());
    rules.flat_map(|rule| rule.user_id_group_pairs()).filter_map(|pair| pair.group_id())
}

/// Who uses the group, without the machines, their interfaces and the groups that go, which EC2 may still list.
pub async fn others(region: &Region, group: &str, gone: &[String]) -> Result<BTreeSet<String>, Failure> {
    let users = region.users_of_group.of(group, Duration::from_millis(20)).await?;
    let goes = |user: &String| gone.iter().any(|gone| user.split(' ').next() == Some(gone));
    Ok(users.into_iter().filter(|user| !goes(user)).collect())
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
        if !kept.contains(&id) && others(region, id, gone).await?.is_empty() {
            left.push(group);
        }
    }
    Ok(left)
}

/// Deletes what is left of a machine's own groups; what EC2 still sees in use waits for the next run.
pub async fn tidy(region: &Region, machine: &str, kept: &[&str]) -> Result<(), Failure> {
    for group in left(region, machine, kept, &[]).await? {
        if !group::delete(region, machine, &group).await? {
            let (id, name) = (group.group_id().unwrap_or_default(), group.group_name().unwrap_or_default());
            log::event(machine, &format!("the security group {name} ({id}) is left: run it again to delete it"));
        }
    }
    Ok(())
}
