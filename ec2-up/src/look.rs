//! ec2-up --plan: what would be made, changed and replaced.

use crate::compare::{self, Difference, Mend, Wanted};
use crate::mend::Allowed;
use crate::plan::Plan;
use crate::region::Region;
use crate::up::{TOOL, add_ssh};
use crate::wish::Wish;
use crate::{address, group, image, instance, key_pair, tags};
use anyhow::Result;
use aws_sdk_ec2::types::Instance;
use machine_record::{Ami, KeyPair, PlanEntry, Record, log};
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
    let group_name = tags::group_name(&region.deployment, &name)?;
    let vpc = found.and_then(|found| found.vpc_id());
    match group::look(region, &name, vpc).await? {
        None => {
            let rules: Vec<String> = wish.ingress()?.iter().map(|rule| rule.to_string()).collect();
            let entry = entry("create", format!("security-group/{group_name}"), "it is not there");
            plan.add(record, entry.details(json!({ "ingress": rules })))?;
        }
        Some(known) => {
            let differences = group::Differences::of(wish, &known)?;
            if !differences.is_empty() {
                let resource = format!("security-group/{group_name}");
                plan.add(record, entry("update", resource, &differences.words()))?;
            }
        }
    }
    let resource = format!("instance/{name}");
    if wish.elastic_ip && address::find(region, &name).await?.is_empty() {
        plan.add(record, entry("create", format!("elastic-ip/{name}"), "it has none"))?;
    }
    let Some(found) = found else {
        let ami: Ami = record.require()?;
        let image = image::check(region, &ami, wish).await?;
        region.vpc(wish.subnet.as_deref()).await?;
        let entry = entry("create", resource, "no machine has its tags");
        plan.add(record, entry.details(compare::new_machine(wish, &image)))?;
        return Ok(());
    };
    let ami: Option<Ami> = record.section()?;
    let ami = ami.as_ref().map(|ami| ami.id.as_str());
    let wanted = Wanted { machine: &name, wish, ami, key_pair: pair.as_ref() };
    for difference in compare::differences(region, found, &wanted).await? {
        let action = match difference.mend {
            Mend::Replace if !allowed.replace => refused(&name, &difference, "--replace"),
            Mend::Resize(_) if !allowed.stop_to_resize => refused(&name, &difference, "--stop-to-resize"),
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
    add_ssh(record, found, None)
}

/// What is planned though it needs the user's word: the plan tells which.
fn refused(machine: &str, difference: &Difference, flag: &str) -> &'static str {
    log::event(machine, &format!("{} needs {flag}", difference.what));
    if difference.mend == Mend::Replace { "replace" } else { "update" }
}
