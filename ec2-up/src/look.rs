//! ec2-up --plan: what would be made, changed and replaced.

use crate::checks;
use crate::compare::{self, Difference, Mend, Wanted};
use crate::mend::Allowed;
use crate::plan::Plan;
use crate::region::Region;
use crate::rule_changes::RuleChanges;
use crate::up::{TOOL, UpArgs, add_ssh, way};
use crate::wish::Wish;
use crate::{address, adopt, group, group_users, image, instance, key_pair, tags};
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
    args: &UpArgs,
    found: Option<&Instance>,
) -> Result<()> {
    let (name, allowed) = (record.name(), args.allowed);
    let other = if allowed.adopt && found.is_none() { adopt::candidate(region, record).await? } else { None };
    if other.is_some() {
        plan.add(record, PlanEntry::new(TOOL.name, "update", format!("instance/{name}"), "it is taken over"))?;
    }
    let found = found.or(other.as_deref());
    let entry = |action: &str, resource: String, reason: &str| PlanEntry::new(TOOL.name, action, resource, reason);
    let pair: Option<KeyPair> = record.section()?;
    let ami = image::named(record)?;
    let ami = ami.as_ref().map(|ami| ami.id.as_str());
    let wanted = Wanted { machine: &name, wish, ami, key_pair: pair.as_ref() };
    let differences = match found {
        Some(found) => compare::differences(region, found, &wanted).await?,
        None => Vec::new(),
    };
    let kept = found.filter(|_| !allowed.replaces(&differences));
    // What the run would refuse is refused here.
    let ready = match kept {
        Some(kept) => {
            checks::kept(region, kept, &differences, wish).await?;
            None
        }
        None => Some(checks::new_machine(region, record, &image::required(record)?, wish, args.host_key).await?),
    };
    if found.is_some() && kept.is_none() {
        record.require::<KeyPair>()?;
    }
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
    let vpc = ready.as_ref().map(|ready| ready.vpc.as_str()).or(kept.and_then(|kept| kept.vpc_id()));
    look_at_group(plan, record, region, wish, allowed, kept, vpc).await?;
    // It is in those that it leaves until then.
    let gone: Vec<String> = found.and_then(|found| found.instance_id()).map(String::from).into_iter().collect();
    let own = match vpc {
        Some(vpc) => group::any(region, &name, vpc).await?,
        None => None,
    };
    let groups: Vec<&str> = match kept {
        _ if !wish.security_groups.is_empty() => wish.security_groups.iter().map(String::as_str).collect(),
        Some(kept) => kept.security_groups().iter().filter_map(|group| group.group_id()).collect(),
        None => own.iter().filter_map(|own| own.group_id()).collect(),
    };
    for group in group_users::left(region, &name, &groups, &gone).await? {
        let resource = format!("security-group/{}", group.group_id().unwrap_or_default());
        plan.add(record, entry("delete", resource, "the machine has left it"))?;
    }
    if !wish.elastic_ip {
        for address in address::idle(region, &name).await? {
            let resource = format!("elastic-ip/{}", address.public_ip().unwrap_or_default());
            plan.add(record, entry("delete", resource, "nothing has it"))?;
        }
    } else {
        look_at_address(plan, record, region, kept.and_then(|kept| kept.instance_id())).await?;
    }
    let resource = format!("instance/{name}");
    let Some(found) = found else {
        let entry = entry("create", resource, "no machine has its tags");
        let details = ready.map(|ready| compare::new_machine(wish, &ready.image)).unwrap_or_default();
        plan.add(record, entry.details(details))?;
        return Ok(instance::forget(record)?);
    };
    for difference in &differences {
        let action = match difference.mend {
            Mend::Replace if !allowed.replace => refused(&name, difference, "--replace"),
            Mend::Resize(_) if !allowed.stop_to_resize && kept.is_some() => {
                refused(&name, difference, "--stop-to-resize")
            }
            Mend::Tolerate => {
                log::event(&name, &format!("  {} (stays: a push updates it)", difference.words()));
                continue;
            }
            Mend::Replace => "replace",
            _ => "update",
        };
        plan.add(record, entry(action, resource.clone(), &difference.words()).details(difference.details()))?;
    }
    if kept.is_none() {
        return Ok(instance::forget(record)?);
    }
    record.put(&instance::section(found, false))?;
    if matches!(instance::state(found), "stopped" | "stopping") {
        plan.add(record, entry("start", resource, "it is stopped"))?;
        return Ok(instance::forget_address(record)?);
    }
    add_ssh(record, found, None, &way(record)?)
}

/// Says what would be done about the machine's Elastic IP; without an `id` the machine is a new one.
async fn look_at_address(plan: &Plan, record: &mut Record, region: &Region, id: Option<&str>) -> Result<()> {
    let name = record.name();
    let known = address::find(region, &name).await?;
    let entry = match known.first() {
        None => PlanEntry::new(TOOL.name, "create", format!("elastic-ip/{name}"), "it has none"),
        Some(_) if known.iter().any(|known| id.is_some() && known.instance_id() == id) => return Ok(()),
        Some(known) => {
            let resource = format!("elastic-ip/{}", known.public_ip().unwrap_or_default());
            PlanEntry::new(TOOL.name, "update", resource, "the machine does not have it")
        }
    };
    Ok(plan.add(record, entry)?)
}

/// Says what would be done about the machine's own security group.
async fn look_at_group(
    plan: &Plan,
    record: &mut Record,
    region: &Region,
    wish: &Wish,
    allowed: Allowed,
    kept: Option<&Instance>,
    vpc: Option<&str>,
) -> Result<()> {
    let name = record.name();
    let own = kept.map(|kept| group::own(region, &name, kept)).transpose()?.flatten();
    match kept {
        _ if !wish.security_groups.is_empty() => return Ok(()),
        Some(kept) if own.is_none() => return Ok(group::check_unowned(kept, wish)?),
        _ => {}
    }
    let resource = format!("security-group/{}", tags::group_name(&region.deployment, &name)?);
    let entry = |action: &str, reason: &str| PlanEntry::new(TOOL.name, action, resource.clone(), reason);
    let Some(vpc) = vpc else { return Ok(()) };
    let known = match group::any(region, &name, vpc).await? {
        Some(known) if allowed.adopt && group::is_nobodys(&known) => Some(known),
        _ => group::look(region, &name, vpc).await?,
    };
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
