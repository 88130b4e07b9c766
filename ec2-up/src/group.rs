//! The security groups of a machine: one of its own, found by name and tags, or those of the user's choice.

use crate::region::Region;
use crate::rule_changes::RuleChanges;
use crate::rules::Rule;
use crate::wish::Wish;
use crate::{adopt, tags};
use aws_sdk_ec2::types::{Instance, IpPermission, ResourceType, SecurityGroup};
use machine_record::{Failure, Kind, log};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// How long a look-up may wait for other machines to share the call.
const SOON: Duration = Duration::from_millis(20);

/// How often to look again for what EC2 has but does not show yet, and how long to wait between.
const LOOKS: u32 = 60;
const PAUSE: Duration = Duration::from_secs(1);

/// Finds the group of a machine in a VPC.
///
/// # Errors
/// Kind `conflict` where a group of that name is not one of ours.
pub async fn look(region: &Region, machine: &str, vpc: &str) -> Result<Option<Rc<SecurityGroup>>, Failure> {
    let Some(group) = any(region, machine, vpc).await? else { return Ok(None) };
    if is_ours(region, machine, &group) {
        return Ok(Some(group));
    }
    Err(others(&group))
}

/// Finds the group of the machine's name in a VPC, whoever made it.
pub async fn any(region: &Region, machine: &str, vpc: &str) -> Result<Option<Rc<SecurityGroup>>, Failure> {
    let found = region.groups.of(&tags::group_name(&region.deployment, machine)?, SOON).await?;
    Ok(found.into_iter().find(|group| group.vpc_id() == Some(vpc)))
}

/// The groups of a machine, in whichever VPC it has been; those of others are named and left out.
pub async fn ours(region: &Region, machine: &str) -> Result<Vec<Rc<SecurityGroup>>, Failure> {
    let mut found = region.groups.of(&tags::group_name(&region.deployment, machine)?, SOON).await?;
    found.retain(|group| {
        let ours = is_ours(region, machine, group);
        if !ours {
            log::event(machine, &format!("{}: it stays", others(group).message));
        }
        ours
    });
    Ok(found)
}

/// What a caller says of a group of the machine's name that is not the machine's.
fn others(group: &SecurityGroup) -> Failure {
    let (name, id) = (group.group_name().unwrap_or_default(), group.group_id().unwrap_or_default());
    match owner(group) {
        // As web-1 of `a` and 1 of `a-web`: both are called nixpipe-a-web-1.
        Some((other, deployment)) => {
            let message = format!("the security group {name} ({id}) is that of {other} of the deployment {deployment}");
            Failure::new(Kind::Conflict, message).hint("give the machine or the deployment another name")
        }
        None => Failure::new(Kind::Conflict, format!("the security group {name} ({id}) was not made by ec2-up"))
            .hint("rename or delete it, or take it over with --adopt"),
    }
}

/// The machine and the deployment that a group is of, if it is one of ours.
fn owner(group: &SecurityGroup) -> Option<(&str, &str)> {
    Some((tags::value(group.tags(), tags::NAME)?, tags::value(group.tags(), tags::DEPLOYMENT)?))
}

/// Whether a group is that of no machine of ours.
pub fn is_nobodys(group: &SecurityGroup) -> bool {
    owner(group).is_none()
}

/// Tags a group of the machine's name, so that it is one of ours.
///
/// # Errors
/// Kind `conflict` where it is that of another machine.
pub async fn adopt(region: &Region, machine: &str) -> Result<(), Failure> {
    let name = tags::group_name(&region.deployment, machine)?;
    for group in region.groups.of(&name, SOON).await? {
        if !is_ours(region, machine, &group) {
            if !is_nobodys(&group) {
                return Err(others(&group));
            }
            adopt::adopt(region, machine, group.group_id().unwrap_or_default()).await?;
        }
    }
    Ok(())
}

/// Whether a group carries the machine's tags.
pub fn is_ours(region: &Region, machine: &str, group: &SecurityGroup) -> bool {
    tags::value(group.tags(), tags::NAME) == Some(machine)
        && tags::value(group.tags(), tags::DEPLOYMENT) == Some(&region.deployment)
}

/// The group that bears the machine's name, if the machine is in it.
pub fn own(region: &Region, machine: &str, instance: &Instance) -> Result<Option<String>, Failure> {
    let own = tags::group_name(&region.deployment, machine)?;
    let group = instance.security_groups().iter().find(|group| group.group_name() == Some(&own));
    Ok(group.and_then(|group| group.group_id()).map(String::from))
}

/// The groups of a new machine: those of the user's choice, or one of its own.
pub async fn of_new(region: &Region, machine: &str, vpc: &str, wish: &Wish) -> Result<Vec<String>, Failure> {
    if wish.security_groups.is_empty() {
        return Ok(vec![ensure(region, machine, vpc, wish).await?]);
    }
    Ok(wish.security_groups.iter().cloned().collect())
}

/// Checks that the groups of the user's choice exist, in the machine's network.
pub async fn check_chosen(region: &Region, vpc: &str, wish: &Wish) -> Result<(), Failure> {
    for id in &wish.security_groups {
        let found = region.groups_by_id.of(id, SOON).await?;
        let group = found.first().ok_or_else(|| {
            Failure::new(Kind::NotFound, format!("no security group {id} in {}", region.name))
                .hint("name it by its id, sg-…")
        })?;
        if group.vpc_id() != Some(vpc) {
            let other = group.vpc_id().unwrap_or("no VPC");
            return Err(Failure::new(Kind::Input, format!("the security group {id} is one of {other}, not of {vpc}"))
                .hint("take one of the same VPC, or name a --subnet of the other"));
        }
    }
    Ok(())
}

/// Keeps the rules of a machine that exists as wished, unless its groups are of the user's choice.
pub async fn keep(region: &Region, machine: &str, instance: &Instance, wish: &Wish) -> Result<(), Failure> {
    let Some(vpc) = instance.vpc_id() else { return Ok(()) };
    if !wish.security_groups.is_empty() {
        return Ok(());
    }
    if own(region, machine, instance)?.is_some() {
        return ensure(region, machine, vpc, wish).await.map(drop);
    }
    check_unowned(instance, wish)
}

/// Rules are changed in the machine's own group only.
pub fn check_unowned(instance: &Instance, wish: &Wish) -> Result<(), Failure> {
    if wish.ssh.is_empty() && wish.open.is_none() {
        return Ok(());
    }
    let ids: Vec<&str> = instance.security_groups().iter().filter_map(|group| group.group_id()).collect();
    let id = instance.instance_id().unwrap_or_default();
    Err(Failure::new(Kind::Conflict, format!("{id} is not in a group of its own, but in {}", ids.join(", ")))
        .hint("change the rules there, and leave --open and --ssh-from out"))
}

/// Makes the group if it is missing, its rules as wished, and gives its id.
pub async fn ensure(region: &Region, machine: &str, vpc: &str, wish: &Wish) -> Result<String, Failure> {
    let mut known = look(region, machine, vpc).await?;
    if known.is_none() {
        match create(region, machine, vpc, wish).await? {
            Some(id) => return Ok(id),
            // Somebody was faster, or the answer to our own first try was lost.
            None => known = appears(region, machine, vpc).await?,
        }
    }
    for _ in 0..LOOKS {
        let Some(group) = known else { break };
        let id = group.group_id().unwrap_or_default().to_string();
        let differences = RuleChanges::of(wish, &group)?;
        if differences.is_empty() || change(region, machine, &id, &differences).await? {
            return Ok(id);
        }
        // Another run is at work on the same rules.
        tokio::time::sleep(PAUSE).await;
        known = look(region, machine, vpc).await?;
    }
    Err(Failure::new(Kind::Conflict, format!("the security group of {machine} changes all the time"))
        .hint("is another ec2-up at work with other wishes?"))
}

async fn appears(region: &Region, machine: &str, vpc: &str) -> Result<Option<Rc<SecurityGroup>>, Failure> {
    for _ in 0..LOOKS {
        if let Some(group) = look(region, machine, vpc).await? {
            return Ok(Some(group));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(Failure::new(
        Kind::Timeout,
        format!("EC2 says that the security group of {machine} exists, but does not show it"),
    )
    .hint("run it again in a minute"))
}

/// Makes the group with its rules; `None` if there is one by now.
async fn create(region: &Region, machine: &str, vpc: &str, wish: &Wish) -> Result<Option<String>, Failure> {
    let name = tags::group_name(&region.deployment, machine)?;
    log::event(machine, &format!("making the security group {name}"));
    let tags = tags::of_machine(&region.deployment, machine, &wish.tags);
    let tags = tags::specification(ResourceType::SecurityGroup, &tags);
    let made = region.aws.call(machine, "CreateSecurityGroup", &name, |client| {
        let call = client.create_security_group().group_name(&name).vpc_id(vpc);
        call.description("Made by nixpipe for one machine").tag_specifications(tags.clone()).send()
    });
    let id = match made.await {
        Ok(made) => made.group_id.unwrap_or_default(),
        Err(error) if error.is(&["InvalidGroup.Duplicate"]) => return Ok(None),
        Err(error) => return Err(error.failure(format!("cannot make the security group {name}"))),
    };
    // EC2 itself lets everything out of a new group.
    let rules = RuleChanges { open: wish.ingress()?, ..RuleChanges::default() };
    if change(region, machine, &id, &rules).await? { Ok(Some(id)) } else { Ok(None) }
}

/// Changes the rules, opening before closing; false if another run has changed them first.
async fn change(region: &Region, machine: &str, id: &str, differences: &RuleChanges) -> Result<bool, Failure> {
    for rule in differences.open.iter().filter(|rule| rule.is_ssh() && rule.is_open()) {
        log::event(machine, &format!("ssh is open to everybody ({rule}); --ssh-from CIDR narrows it"));
    }
    let permissions = |rules: &BTreeSet<Rule>| rules.iter().map(Rule::permission).collect::<Vec<_>>();
    for (action, rules) in [
        ("AuthorizeSecurityGroupIngress", &differences.open),
        ("AuthorizeSecurityGroupEgress", &differences.let_out),
        ("RevokeSecurityGroupIngress", &differences.close),
        ("RevokeSecurityGroupEgress", &differences.keep_in),
    ] {
        if !rules.is_empty() && !alter(region, machine, id, action, permissions(rules)).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn alter(
    region: &Region,
    machine: &str,
    id: &str,
    action: &'static str,
    rules: Vec<IpPermission>,
) -> Result<bool, Failure> {
    for look in 1.. {
        let rules = Some(rules.clone());
        let done = region.aws.call(machine, action, id, |client| {
            let (client, rules) = (client.clone(), rules.clone());
            let id = id.to_string();
            // Four calls of one shape, each with a type of its own.
            async move {
                match action {
                    "AuthorizeSecurityGroupIngress" => {
                        let call = client.authorize_security_group_ingress().group_id(id);
                        call.set_ip_permissions(rules).send().await.map(drop).map_err(same)
                    }
                    "AuthorizeSecurityGroupEgress" => {
                        let call = client.authorize_security_group_egress().group_id(id);
                        call.set_ip_permissions(rules).send().await.map(drop).map_err(same)
                    }
                    "RevokeSecurityGroupIngress" => {
                        let call = client.revoke_security_group_ingress().group_id(id);
                        call.set_ip_permissions(rules).send().await.map(drop).map_err(same)
                    }
                    _ => {
                        let call = client.revoke_security_group_egress().group_id(id);
                        call.set_ip_permissions(rules).send().await.map(drop).map_err(same)
                    }
                }
            }
        });
        match done.await {
            Ok(()) => return Ok(true),
            Err(error) if error.is(&["InvalidPermission.Duplicate", "InvalidPermission.NotFound"]) => return Ok(false),
            // A group that was just made may be unknown for a while.
            Err(error) if error.is(&["InvalidGroup.NotFound"]) && look < LOOKS => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(error.failure(format!("cannot change the rules of {id}"))),
        }
    }
    Ok(false)
}

/// Brings the errors of different calls to one type.
fn same<E: Into<aws_sdk_ec2::Error>>(
    error: aws_sdk_ec2::error::SdkError<E>,
) -> aws_sdk_ec2::error::SdkError<aws_sdk_ec2::Error> {
    error.map_service_error(Into::into)
}

/// Deletes a group of ours; false if EC2 sees a use of it: the interface of a terminated machine lingers.
pub async fn delete(region: &Region, machine: &str, group: &SecurityGroup) -> Result<bool, Failure> {
    let id = group.group_id().unwrap_or_default();
    let deleted = region
        .aws
        .call(machine, "DeleteSecurityGroup", id, |client| client.delete_security_group().group_id(id).send());
    match deleted.await {
        Err(error) if error.is_in_use() => return Ok(false),
        Err(error) if !error.is(&["InvalidGroup.NotFound"]) => {
            return Err(error.failure(format!("cannot delete the security group {id}")));
        }
        _ => {}
    }
    log::event(machine, &format!("deleted the security group {}", group.group_name().unwrap_or(id)));
    Ok(true)
}
