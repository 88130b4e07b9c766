//! The security group of a machine: one each, found by name and tags, its rules compared both ways.

use crate::region::Region;
use crate::rules::Rule;
use crate::wish::Wish;
use crate::{adopt, tags};
use aws_sdk_ec2::types::{IpPermission, ResourceType, SecurityGroup};
use machine_record::{Failure, Kind, log};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// How long a look-up may wait for other machines to share the call.
const SOON: Duration = Duration::from_millis(20);

/// How often to look again for what EC2 has but does not show yet, and how long to wait between.
const LOOKS: u32 = 60;
const PAUSE: Duration = Duration::from_secs(1);

/// What has to change about the rules of a group.
#[derive(Debug, Default, PartialEq)]
pub struct Differences {
    pub open: BTreeSet<Rule>,
    pub close: BTreeSet<Rule>,
    pub let_out: BTreeSet<Rule>,
    pub keep_in: BTreeSet<Rule>,
}

impl Differences {
    /// Compares the wish with a group; what the wish does not speak of stays as it is.
    pub fn of(wish: &Wish, group: &SecurityGroup) -> Result<Self, Failure> {
        let have = Rule::of(group.ip_permissions());
        let (ssh, other): (BTreeSet<Rule>, BTreeSet<Rule>) = have.iter().cloned().partition(Rule::is_ssh);
        let default = wish.ingress()?.into_iter().filter(Rule::is_ssh).collect();
        // A group without any way in for ssh was left half-made.
        let want_ssh = if wish.ssh.is_empty() && !ssh.is_empty() { ssh } else { default };
        let want_other = wish.open.clone().unwrap_or(other);
        let want: BTreeSet<Rule> = want_ssh.union(&want_other).cloned().collect();
        let out = Rule::of(group.ip_permissions_egress());
        let want_out = BTreeSet::from([Rule::everything()]);
        let mut keep_in: BTreeSet<Rule> = out.difference(&want_out).cloned().collect();
        keep_in.remove(&Rule::everything_ipv6());
        Ok(Differences {
            open: want.difference(&have).cloned().collect(),
            close: have.difference(&want).cloned().collect(),
            let_out: want_out.difference(&out).cloned().collect(),
            keep_in,
        })
    }

    pub fn is_empty(&self) -> bool {
        *self == Differences::default()
    }

    /// The changes in words.
    pub fn words(&self) -> String {
        let of =
            |verb: &str, rules: &BTreeSet<Rule>| rules.iter().map(|rule| format!("{verb} {rule}")).collect::<Vec<_>>();
        let all = [of("open", &self.open), of("close", &self.close), of("allow out", &self.let_out)];
        [all.concat(), of("forbid out", &self.keep_in)].concat().join(", ")
    }
}

/// Finds the group of a machine in a VPC.
///
/// # Errors
/// Kind `conflict` where a group of that name is not one of ours.
pub async fn look(region: &Region, machine: &str, vpc: Option<&str>) -> Result<Option<Rc<SecurityGroup>>, Failure> {
    let name = tags::group_name(&region.deployment, machine)?;
    let found = region.groups.of(&name, SOON).await?;
    let Some(group) = found.into_iter().find(|group| vpc.is_none() || group.vpc_id() == vpc) else {
        return Ok(None);
    };
    if is_ours(region, machine, &group) {
        return Ok(Some(group));
    }
    let id = group.group_id().unwrap_or_default();
    Err(Failure::new(Kind::Conflict, format!("the security group {name} ({id}) was not made by ec2-up"))
        .hint("rename or delete it, or take it over with --adopt"))
}

/// Tags a group of the machine's name, so that it is one of ours.
pub async fn adopt(region: &Region, machine: &str) -> Result<(), Failure> {
    let name = tags::group_name(&region.deployment, machine)?;
    for group in region.groups.of(&name, SOON).await? {
        if !is_ours(region, machine, &group) {
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

/// Makes the group if it is missing, its rules as wished, and gives its id.
pub async fn ensure(region: &Region, machine: &str, vpc: &str, wish: &Wish) -> Result<String, Failure> {
    let mut known = look(region, machine, Some(vpc)).await?;
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
        let differences = Differences::of(wish, &group)?;
        if differences.is_empty() || change(region, machine, &id, &differences).await? {
            return Ok(id);
        }
        // Another run is at work on the same rules.
        tokio::time::sleep(PAUSE).await;
        known = look(region, machine, Some(vpc)).await?;
    }
    Err(Failure::new(Kind::Conflict, format!("the security group of {machine} changes all the time"))
        .hint("is another ec2-up at work with other wishes?"))
}

async fn appears(region: &Region, machine: &str, vpc: &str) -> Result<Option<Rc<SecurityGroup>>, Failure> {
    for _ in 0..LOOKS {
        if let Some(group) = look(region, machine, Some(vpc)).await? {
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
    let rules = Differences { open: wish.ingress()?, ..Differences::default() };
    if change(region, machine, &id, &rules).await? { Ok(Some(id)) } else { Ok(None) }
}

/// Changes the rules, opening before closing; false if another run has changed them first.
async fn change(region: &Region, machine: &str, id: &str, differences: &Differences) -> Result<bool, Failure> {
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

/// Deletes a group of ours, waiting for EC2 to see that nothing uses it any more.
pub async fn delete(region: &Region, machine: &str, group: &SecurityGroup) -> Result<(), Failure> {
    let id = group.group_id().unwrap_or_default();
    loop {
        let deleted = region
            .aws
            .call(machine, "DeleteSecurityGroup", id, |client| client.delete_security_group().group_id(id).send());
        match deleted.await {
            Ok(_) => break,
            Err(error) if error.is(&["InvalidGroup.NotFound"]) => break,
            // The network interface of a terminated instance lingers. The machine's own time limit ends this.
            Err(error) if error.is(&["DependencyViolation", "InvalidGroup.InUse"]) => {
                tokio::time::sleep(PAUSE * 2).await
            }
            Err(error) => return Err(error.failure(format!("cannot delete the security group {id}"))),
        }
    }
    log::event(machine, &format!("deleted the security group {}", group.group_name().unwrap_or(id)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        wish: crate::wish::WishArgs,
    }

    fn words(flags: &[&str], ingress: &[&str]) -> String {
        let wish = Line::parse_from(std::iter::once(&"x").chain(flags)).wish;
        let wish = Wish::of(&machine_record::Record::default(), &wish).unwrap();
        let rules = ingress.iter().map(|rule| Rule::parse(rule).unwrap().permission()).collect();
        let group = SecurityGroup::builder()
            .set_ip_permissions(Some(rules))
            .ip_permissions_egress(Rule::everything().permission())
            .build();
        Differences::of(&wish, &group).unwrap().words()
    }

    #[test]
    fn a_group_as_wished_is_left_alone() {
        assert_eq!(words(&[], &["22"]), "");
        assert_eq!(words(&["--open", "80"], &["22", "80"]), "");
    }

    #[test]
    fn what_no_flag_speaks_of_stays() {
        assert_eq!(words(&[], &["22:10.0.0.0/8", "443"]), "");
        assert_eq!(
            words(&["--open", "80"], &["22:10.0.0.0/8", "443"]),
            "open 80/tcp:0.0.0.0/0, close 443/tcp:0.0.0.0/0"
        );
        assert_eq!(
            words(&["--ssh-from", "10.0.0.0/8"], &["22", "443"]),
            "open 22/tcp:10.0.0.0/8, close 22/tcp:0.0.0.0/0"
        );
    }

    #[test]
    fn a_group_that_was_left_half_made_is_completed() {
        assert_eq!(words(&[], &[]), "open 22/tcp:0.0.0.0/0");
    }
}
