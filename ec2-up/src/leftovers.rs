//! What nobody uses any more: as ec2-ls --orphans names it, and ec2-down removes it, without the machine of that name.

use crate::doing::Doing;
use crate::down::{Context, Held, entry};
use crate::region::{Region, filter, security_groups};
use crate::{address, group_users, key_pair, list, tags};
use anyhow::Result;
use aws_sdk_ec2::types::{Tag, Volume};
use machine_record::{Failure, Kind, Record, log};
use std::collections::{BTreeMap, BTreeSet};

/// The member of a record that names what is left: `kind/name`, as the resources of a plan.
pub const MEMBER: &str = "orphans";

/// A record for each machine of which something is left, living or gone, and for each unused key pair; without those of
/// the machines `but`.
pub async fn find(region: &Region, but: &BTreeSet<String>) -> Result<Vec<Record>, Failure> {
    let ours = filter(&format!("tag:{}", tags::DEPLOYMENT), [region.deployment.clone()]);
    let mut left: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut add = |tags: &[Tag], what: String| {
        if let Some(name) = tags::value(tags, tags::NAME).filter(|name| !but.contains(*name)) {
            left.entry(name.into()).or_default().push(what);
        }
    };
    let groups = security_groups(&region.aws, std::slice::from_ref(&ours)).await?;
    let ids: Vec<String> = groups.iter().filter_map(|group| group.group_id().map(String::from)).collect();
    let used = group_users::used(region, &ids).await?;
    for group in groups.iter().filter(|group| !group.group_id().is_some_and(|id| used.contains(id))) {
        add(group.tags(), format!("security-group/{}", group.group_name().unwrap_or_default()));
    }
    for address in address::by(region, &ours).await? {
        if address::user(region, &address, &[]).await?.is_none() {
            add(address.tags(), format!("elastic-ip/{}", address.public_ip().unwrap_or_default()));
        }
    }
    for volume in volumes(region).await? {
        add(volume.tags(), format!("volume/{}", volume.volume_id().unwrap_or_default()));
    }
    let mut records = Vec::new();
    for (name, what) in left {
        records.push(record(region, &name, &what)?);
    }
    let by = format!("tag:{}", tags::DEPLOYMENT);
    let pairs = key_pair::find_all(&region.aws, &by, vec![region.deployment.clone()]).await?;
    let used = key_pair::used(region, pairs.iter().filter_map(|pair| pair.key_name())).await?;
    for pair in pairs.iter().filter(|pair| !pair.key_name().is_some_and(|name| used.contains(name))) {
        // Key pairs belong to no one machine; a record has a name nevertheless.
        let id: String = pair.key_pair_id().unwrap_or_default().chars().filter(char::is_ascii_alphanumeric).collect();
        let what = format!("key-pair/{}", pair.key_name().unwrap_or_default());
        let mut record = record(region, &format!("orphan-{id}"), &[what])?;
        if let Some(pair) = list::pair_section(pair) {
            record.put(&pair)?;
        }
        records.push(record);
    }
    Ok(records)
}

/// What a caller says of something that is named and another deployment's.
fn not_of(region: &Region, what: &str) -> Failure {
    Failure::new(Kind::Conflict, format!("{what} is not of the deployment {}", region.deployment))
        .hint("say the --deployment that it was listed with")
}

fn record(region: &Region, name: &str, what: &[String]) -> Result<Record, Failure> {
    let mut record = Record::default();
    record.set("name", &name)?;
    record.set("region", &region.name)?;
    record.set(MEMBER, &what)?;
    Ok(record)
}

/// Volumes of machines of the deployment that no instance has: their machine was to leave them.
async fn volumes(region: &Region) -> Result<Vec<Volume>, Failure> {
    let ours = filter(&format!("tag:{}", tags::DEPLOYMENT), [region.deployment.clone()]);
    let filters = vec![ours, filter("status", ["available".to_string()])];
    let found = region.aws.call("", "DescribeVolumes", "available", |client| {
        let call = client.describe_volumes().set_filters(Some(filters.clone()));
        call.into_paginator().page_size(1000).items().send().collect::<Result<Vec<_>, _>>()
    });
    found.await.map_err(|error| error.failure("cannot look at volumes"))
}

impl Context {
    /// Removes what is left of a machine and nobody uses; a machine of that name, which may have been made since, stays.
    pub async fn leftovers(
        &self,
        record: &mut Record,
        region: &Region,
        name: &str,
        named: &[String],
        step: &Doing,
        keys: Held<'_>,
    ) -> Result<()> {
        let (volumes, rest): (Vec<&String>, _) = named.iter().partition(|named| named.starts_with("volume/"));
        for volume in volumes.iter().filter_map(|named| named.strip_prefix("volume/")) {
            let how = format!("aws ec2 delete-volume --volume-id {volume}");
            log::event(name, &format!("{volume} stays: only you know whether its data may go; then: {how}"));
        }
        let own = format!("security-group/{}", tags::group_name(&region.deployment, name)?);
        let others = |named: &&&String| named.starts_with("security-group/nixpipe-") && ***named != own;
        if let Some(other) = rest.iter().find(others) {
            return Err(not_of(region, other).into());
        }
        let is_named = |kind: &str, what: Option<&str>| {
            what.is_some_and(|what| named.iter().any(|named| *named == format!("{kind}/{what}")))
        };
        let mut groups = group_users::left(region, name, &[], &[]).await?;
        groups.retain(|group| is_named("security-group", group.group_name()));
        let mut addresses = address::idle(region, name).await?;
        addresses.retain(|address| is_named("elastic-ip", address.public_ip()));
        for ip in rest.iter().filter_map(|named| named.strip_prefix("elastic-ip/")) {
            if let Some(other) = address::deployment(region, ip).await?.filter(|other| *other != region.deployment) {
                return Err(not_of(region, &format!("elastic-ip/{ip} of the deployment {other}")).into());
            }
        }
        if self.args.stream.plan {
            for address in addresses {
                let resource = format!("elastic-ip/{}", address.public_ip().unwrap_or_default());
                self.plan.add(record, entry(resource, "nothing has it"))?;
            }
            for group in groups {
                let resource = format!("security-group/{}", group.group_name().unwrap_or_default());
                self.plan.add(record, entry(resource, "nobody uses it"))?;
            }
            return self.look_at_keys(record, region, keys).await;
        }
        step.set("losing what is left of it");
        let mut released = false;
        for address in addresses {
            released |= address::release_one(region, name, address, &[]).await?;
        }
        for group in &groups {
            released |= self.delete_group(region, name, group).await?;
        }
        released |= self.release_keys(region, name, keys).await?;
        if !released && !rest.is_empty() {
            let place = format!("in {} of {}", region.name, region.deployment);
            log::event(name, &format!("nothing is left of it {place} that nobody uses: nothing to do"));
        }
        if volumes.is_empty() {
            record.remove(MEMBER);
        } else {
            record.set(MEMBER, &volumes)?;
        }
        Ok(())
    }
}
