//! ec2-up --plan: what would be made, changed and replaced.

use crate::compare::{self, Difference, Mend, Wanted};
use crate::mend::Allowed;
use crate::plan::Plan;
use crate::region::Region;
use crate::rule_changes::RuleChanges;
use crate::up::{TOOL, add_ssh, way};
use crate::wish::Wish;
use crate::{address, adopt, group, image, instance, key_pair, subnet, tags};
use anyhow::Result;
use aws_sdk_ec2::types::Instance;
use machine_record::{KeyPair, PlanEntry, Record, log};
use serde_json::json;

/// Says what would be done.
pub async fn look(
    plan: &Plan,
    record: &mut Record,
    region: &Region,
    wish: &Wish,
    allowed: Allowed,
    found: Option<&Instance>,
) -> Result<()> {
    let name = record.name();
    let other = if allowed.adopt && found.is_none() { adopt::candidate(region, record).await? } else { None };
    if other.is_some() {
        plan.add(record, PlanEntry::new(TOOL.name, "update", format!("instance/{name}"), "it is taken over"))?;
    }
    let found = found.or(other.as_deref());
    let entry = |action: &str, resource: String, reason: &str| PlanEntry::new(TOOL.name, action, resource, reason);
    let pair: Option<KeyPair> = record.section()?;
    match &pair {
        Some(pair) => match key_pair::find(region, &pair.name).await? {
            Some(known) => key_pair::compare(pair, &known)?,
            None => {
                let resource = format!("key-pair/{}", pair.name);
                plan.add(record, entry("create", resource, "EC2 does not have it"))?;
            }
        },
        None if found.is_none() => {
            plan.add(record, entry("create", "key-pair/(known after apply)".into(), "keygen would make it"))?;
        }
        None => {}
    }
    look_at_group(plan, record, region, wish, allowed, found).await?;
    let resource = format!("instance/{name}");
    if wish.elastic_ip && address::find(region, &name).await?.is_empty() {
        plan.add(record, entry("create", format!("elastic-ip/{name}"), "it has none"))?;
    }
    let Some(found) = found else {
        let ami = image::required(record)?;
        let image = image::check(region, &ami, wish).await?;
        let vpc = region.vpc(wish.subnet.as_deref()).await?;
        subnet::first_choice(region, &vpc, wish).await?;
        group::check_chosen(region, &vpc, wish).await?;
        let entry = entry("create", resource, "no machine has its tags");
        plan.add(record, entry.details(compare::new_machine(wish, &image)))?;
        return Ok(());
    };
    let ami = image::named(record)?;
    let ami = ami.as_ref().map(|ami| ami.id.as_str());
    let wanted = Wanted { machine: &name, wish, ami, key_pair: pair.as_ref() };
    let differences = compare::differences(region, found, &wanted).await?;
    let anew = allowed.replaces(&differences);
    for difference in &differences {
        let action = match difference.mend {
            Mend::Replace if !allowed.replace => refused(&name, difference, "--replace"),
            Mend::Resize(_) if !allowed.stop_to_resize && !anew => refused(&name, difference, "--stop-to-resize"),
            Mend::Tolerate => {
                log::event(&name, &format!("  {} (stays: a push updates it)", difference.words()));
                continue;
            }
            Mend::Replace => "replace",
            _ => "update",
        };
        plan.add(record, entry(action, resource.clone(), &difference.words()).details(difference.details()))?;
    }
    if matches!(instance::state(found), "stopped" | "stopping") {
        plan.add(record, entry("start", resource, "it is stopped"))?;
    }
    record.put(&instance::section(found, false))?;
    add_ssh(record, found, None, &way(record)?)
}

/// Says what would be done about the machine's own security group.
async fn look_at_group(
    plan: &Plan,
    record: &mut Record,
    region: &Region,
    wish: &Wish,
    allowed: Allowed,
    found: Option<&Instance>,
) -> Result<()> {
    let name = record.name();
    let own = found.map(|found| group::own(region, &name, found)).transpose()?.flatten();
    match found {
        _ if !wish.security_groups.is_empty() => return Ok(()),
        Some(found) if own.is_none() => return Ok(group::check_unowned(found, wish)?),
        _ => {}
    }
    let resource = format!("security-group/{}", tags::group_name(&region.deployment, &name)?);
    let entry = |action: &str, reason: &str| PlanEntry::new(TOOL.name, action, resource.clone(), reason);
    let vpc = match found.and_then(|found| found.vpc_id()) {
        Some(vpc) => vpc.to_string(),
        None => region.vpc(wish.subnet.as_deref()).await?,
    };
    let known =
        if allowed.adopt { group::any(region, &name, &vpc).await? } else { group::look(region, &name, &vpc).await? };
    if known.as_ref().is_some_and(|known| !group::is_ours(region, &name, known)) {
        plan.add(record, entry("update", "it is taken over"))?;
    }
    let Some(known) = known else {
        let rules: Vec<String> = wish.ingress()?.iter().map(|rule| rule.to_string()).collect();
        let entry = entry("create", "it is not there").details(json!({ "ingress": rules }));
        return Ok(plan.add(record, entry)?);
    };
    let changes = RuleChanges::of(wish, &known)?;
    if !changes.is_empty() {
        plan.add(record, entry("update", &changes.words()))?;
    }
    Ok(())
}

/// What is planned though it needs the user's word: the plan tells which.
fn refused(machine: &str, difference: &Difference, flag: &str) -> &'static str {
    log::event(machine, &format!("{} needs {flag}", difference.what));
    if difference.mend == Mend::Replace { "replace" } else { "update" }
}
