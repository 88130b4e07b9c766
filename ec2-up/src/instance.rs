//! The instance: found by its tags, waited for, written into the record.

use crate::region::Region;
use crate::{launch, tags};
use aws_sdk_ec2::primitives::{DateTime, DateTimeFormat};
use aws_sdk_ec2::types::{Instance, InstanceStateName};
use machine_record::{Failure, Instance as Section, Kind, Record, Section as _};
use std::rc::Rc;
use std::time::{Duration, SystemTime};
use tokio::time::Instant as Moment;

/// How long a look-up may wait for other machines to share the call.
const SOON: Duration = Duration::from_millis(20);

/// Polls are half a second apart at first, then this.
const PAUSE: Duration = Duration::from_secs(3);

/// How long a new instance may stay unknown (EC2 developer guide, "Eventual consistency").
const UNSEEN: Duration = Duration::from_secs(120);

/// How long EC2 may show a state of before.
const STALE: Duration = Duration::from_secs(30);

/// An instance as a record names it; people type no more than its id.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Named {
    pub id: String,
    #[serde(default)]
    launch_time: Option<String>,
}

impl Named {
    /// Whether EC2 may not know it yet.
    pub fn may_be_unseen(&self) -> bool {
        let launched =
            self.launch_time.as_deref().and_then(|time| DateTime::from_str(time, DateTimeFormat::DateTime).ok());
        let launched = launched.and_then(|time| SystemTime::try_from(time).ok());
        launched.is_some_and(|time| time.elapsed().is_ok_and(|age| age < UNSEEN))
    }
}

/// The instance that the record names.
pub fn named(record: &Record) -> Result<Option<Named>, Failure> {
    record.read(Section::NAME)
}

/// Finds the machine by its tags; ones that are being terminated do not count.
///
/// # Errors
/// Kind `conflict` where there are several, naming them.
pub async fn find(region: &Region, machine: &str) -> Result<Option<Rc<Instance>>, Failure> {
    let mut found = all(region, machine).await?;
    found.retain(|instance| !is_gone(instance));
    if found.len() > 1 {
        let ids: Vec<_> = found.iter().filter_map(|instance| instance.instance_id()).collect();
        let message =
            format!("{} machines are called {machine} in {}: {}", ids.len(), region.deployment, ids.join(", "));
        return Err(
            Failure::new(Kind::Conflict, message).hint("terminate all but one, or give one another nixpipe:name tag")
        );
    }
    Ok(found.pop())
}

/// Whether it carries the machine's tags.
pub fn is_machine(region: &Region, machine: &str, found: &Instance) -> bool {
    let tag = |key| tags::value(found.tags(), key);
    tag(tags::NAME) == Some(machine) && tag(tags::DEPLOYMENT) == Some(&region.deployment)
}

/// Takes out of the record what is of an instance that is gone: another one runs another system, at another address.
pub fn forget(record: &mut Record) -> Result<(), Failure> {
    for member in [Section::NAME, "closure", "activation", "status", "generations"] {
        record.remove(member);
    }
    forget_address(record)
}

/// Takes out the address that a run would learn anew; the hosts on the way are the user's to know.
pub fn forget_address(record: &mut Record) -> Result<(), Failure> {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Way {
        jump: Option<serde_json::Value>,
    }
    let way = record.read::<Way>("ssh")?.filter(|way| way.jump.is_some());
    record.remove("ssh");
    way.map_or(Ok(()), |way| record.set("ssh", &way))
}

/// What to think of an instance of a record that is not there.
pub fn unknown(id: &str) -> String {
    format!("the record's {id} is not there: it was terminated, or is of another account")
}

/// What a caller says of an instance that is not the machine, whatever the record says.
pub fn not_this(region: &Region, machine: &str, other: &Instance) -> Failure {
    let tag = |key| tags::value(other.tags(), key).unwrap_or("none");
    let (id, name, deployment) = (other.instance_id().unwrap_or_default(), tag(tags::NAME), tag(tags::DEPLOYMENT));
    let what = format!("{id} is the machine {name} of the deployment {deployment}");
    Failure::new(Kind::Conflict, format!("{what}, not {machine} of {}", region.deployment))
}

/// All instances with the machine's tags, those that are shutting down too.
pub async fn all(region: &Region, machine: &str) -> Result<Vec<Rc<Instance>>, Failure> {
    region.by_name.of(machine, SOON).await
}

pub fn state(instance: &Instance) -> &str {
    instance.state().and_then(|state| state.name()).map_or("unknown", InstanceStateName::as_str)
}

pub fn is_gone(instance: &Instance) -> bool {
    matches!(state(instance), "shutting-down" | "terminated")
}

/// Waits until the instance is in a state.
///
/// The caller limits the time.
pub async fn wait(region: &Region, id: &str, wanted: &str) -> Result<Rc<Instance>, Failure> {
    let started = Moment::now();
    let mut pause = Duration::from_millis(500);
    loop {
        match region.by_id.of(id, pause).await?.pop() {
            Some(instance) if state(&instance) == wanted => return Ok(instance),
            Some(instance) if is_gone(&instance) => return Err(launch::ended(&region.name, &instance)),
            // What is seen may be from before a start; but a stop that somebody asked for never ends.
            Some(instance)
                if matches!((wanted, state(&instance)), ("running", "stopping" | "stopped"))
                    && started.elapsed() > STALE =>
            {
                return Err(Failure::new(Kind::Conflict, format!("{id} was stopped while it was waited for"))
                    .hint("run ec2-up again: it starts the machine"));
            }
            None if started.elapsed() > UNSEEN => {
                return Err(Failure::new(Kind::NotFound, format!("EC2 does not know {id} any more"))
                    .hint("run ec2-up again for a new one"));
            }
            _ => {}
        }
        pause = (pause * 2).min(PAUSE);
    }
}

/// Waits until all of the instances are terminated, or forgotten by EC2.
pub async fn wait_gone(region: &Region, ids: &[String]) -> Result<(), Failure> {
    for id in ids {
        let mut pause = Duration::from_millis(500);
        while let Some(instance) = region.by_id.of(id, pause).await?.pop() {
            if state(&instance) == "terminated" {
                break;
            }
            pause = (pause * 2).min(PAUSE);
        }
    }
    Ok(())
}

/// Terminates an instance; one that is gone is none.
pub async fn terminate(region: &Region, machine: &str, id: &str) -> Result<(), Failure> {
    let done = region
        .aws
        .call(machine, "TerminateInstances", id, |client| client.terminate_instances().instance_ids(id).send());
    match done.await {
        Err(error) if error.is(&["OperationNotPermitted"]) => Err(error
            .failure(format!("cannot terminate {id}"))
            .hint("it is protected: take the termination protection off first, if it may really go")),
        Err(error) if !error.is(&["InvalidInstanceID.NotFound"]) => {
            Err(error.failure(format!("cannot terminate {id}")))
        }
        _ => Ok(()),
    }
}

/// The record's section.
pub fn section(instance: &Instance, created: bool) -> Section {
    // EC2 says "" for an address that is not there.
    let text = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(String::from);
    let group = instance.security_groups().first().and_then(|group| group.group_id());
    Section {
        id: instance.instance_id().unwrap_or_default().into(),
        kind: instance.instance_type().map(|kind| kind.as_str().to_string()),
        state: instance.state().and_then(|state| state.name()).map(|name| name.as_str().to_string()),
        public_dns: text(instance.public_dns_name()),
        public_ip: text(instance.public_ip_address()),
        private_ip: text(instance.private_ip_address()),
        ipv6: ipv6(instance).map(String::from),
        availability_zone: text(instance.placement().and_then(|placement| placement.availability_zone())),
        security_group_id: text(group),
        launch_time: instance.launch_time().and_then(|time| time.fmt(DateTimeFormat::DateTime).ok()),
        created,
    }
}

/// Its IPv6 address, if it has one.
pub fn ipv6(instance: &Instance) -> Option<&str> {
    let of_interface = instance.network_interfaces().iter().flat_map(|interface| interface.ipv6_addresses()).next();
    let address = of_interface.and_then(|address| address.ipv6_address()).or(instance.ipv6_address());
    address.filter(|address| !address.is_empty())
}

/// Where ssh reaches it: the public address, the IPv6 address, or the private one where there is no other.
pub fn host(instance: &Instance) -> Option<&str> {
    let addresses = [instance.public_ip_address(), ipv6(instance), instance.private_ip_address()];
    addresses.into_iter().flatten().find(|address| !address.is_empty())
}

/// The same where it must have one.
pub fn reached_at(instance: &Instance) -> Result<&str, Failure> {
    host(instance).ok_or_else(|| {
        let id = instance.instance_id().unwrap_or_default();
        Failure::new(Kind::Unreachable, format!("{id} has no address")).hint("take a --subnet that gives addresses")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_ec2::types::{InstanceIpv6Address, InstanceNetworkInterface};

    #[test]
    fn ssh_goes_to_the_public_address_then_to_ipv6_then_to_the_private_one() {
        let private = Instance::builder().private_ip_address("10.0.0.1").public_ip_address("");
        assert_eq!(host(&private.clone().build()), Some("10.0.0.1"));
        let address = InstanceIpv6Address::builder().ipv6_address("2001:db8::1").build();
        let interface = InstanceNetworkInterface::builder().ipv6_addresses(address).build();
        let six = private.network_interfaces(interface);
        assert_eq!(host(&six.clone().build()), Some("2001:db8::1"));
        assert_eq!(section(&six.clone().build(), true).ipv6.as_deref(), Some("2001:db8::1"));
        assert_eq!(host(&six.public_ip_address("192.0.2.1").build()), Some("192.0.2.1"));
        assert_eq!(host(&Instance::builder().build()), None);
        let nowhere = reached_at(&Instance::builder().instance_id("i-1").build()).unwrap_err();
        assert_eq!(nowhere.message, "i-1 has no address");
        assert_eq!(nowhere.hint.as_deref(), Some("take a --subnet that gives addresses"));
    }
}
