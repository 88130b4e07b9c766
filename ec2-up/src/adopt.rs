//! Takes over what carries the name of a machine but not its tags; only where the user says so.

use crate::region::Region;
use crate::{instance, tags};
use aws_sdk_ec2::types::Instance;
use machine_record::{Failure, Kind, Record, log};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// Tags the instance that the record names, so that it is the machine from now on.
///
/// # Errors
/// Kind `conflict` where it belongs to another machine or deployment.
pub async fn adopt_instance(region: &Region, record: &Record) -> Result<Option<Rc<Instance>>, Failure> {
    let found = candidate(region, record).await?;
    if let Some(found) = &found {
        adopt(region, &record.name(), found.instance_id().unwrap_or_default()).await?;
    }
    Ok(found)
}

/// The instance that the record names, if it may be taken over.
///
/// # Errors
/// Kind `conflict` where it belongs to another machine or deployment.
pub async fn candidate(region: &Region, record: &Record) -> Result<Option<Rc<Instance>>, Failure> {
    let Some(found) = alive(region, record).await? else { return Ok(None) };
    let (name, id) = (record.name(), found.instance_id().unwrap_or_default());
    for (key, ours) in [(tags::NAME, name.as_str()), (tags::DEPLOYMENT, region.deployment.as_str())] {
        if let Some(other) = tags::value(found.tags(), key).filter(|other| *other != ours) {
            let message = format!("{id} belongs to another machine: its tag {key} is {other}");
            return Err(Failure::new(Kind::Conflict, message).hint("remove that tag first, if it really goes over"));
        }
    }
    Ok(Some(found))
}

/// The instance that the record names, which is the machine though its tags did not find it, as EC2 shows tags late.
///
/// # Errors
/// Kind `conflict` where it lives and is not the machine: another one would be made, and paid for, beside it.
pub async fn visible(region: &Region, record: &Record) -> Result<Option<Rc<Instance>>, Failure> {
    let Some(found) = alive(region, record).await? else { return Ok(None) };
    if instance::is_machine(region, &record.name(), &found) {
        return Ok(Some(found));
    }
    let its = match tags::value(found.tags(), tags::DEPLOYMENT).filter(|other| *other != region.deployment) {
        Some(other) => format!("say --deployment {other}"),
        None => "say --adopt to take it over".into(),
    };
    Err(instance::not_this(region, &record.name(), &found)
        .hint(format!("{its}; for another machine beside it take `instance` out of the record")))
}

/// The instance that the record names, if it lives.
async fn alive(region: &Region, record: &Record) -> Result<Option<Rc<Instance>>, Failure> {
    let Some(named) = instance::named(record)? else { return Ok(None) };
    let found = region.by_id.of(&named.id, Duration::from_millis(20)).await?.pop();
    Ok(found.filter(|found| !instance::is_gone(found)))
}

/// Gives something the machine's tags.
pub async fn adopt(region: &Region, machine: &str, id: &str) -> Result<(), Failure> {
    log::event(machine, &format!("taking over {id}"));
    let list = tags::list(&tags::of_machine(&region.deployment, machine, &BTreeMap::new()));
    let tagged = region.aws.call(machine, "CreateTags", id, |client| {
        client.create_tags().resources(id).set_tags(Some(list.clone())).send()
    });
    tagged.await.map(drop).map_err(|error| error.failure(format!("cannot take over {id}")))
}
