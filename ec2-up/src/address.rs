//! The Elastic IP of a machine: one each, found by tags, with an address that survives a stop.

use crate::region::{Region, filter};
use crate::{instance, tags};
use aws_sdk_ec2::types::{Address, DomainType, Filter, Instance, ResourceType};
use machine_record::{Failure, Kind, log};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// How often to look what came of an allocation whose answer was lost.
const TRIES: u32 = 4;

/// The pause before EC2 is asked again to take an address back.
const PAUSE: Duration = Duration::from_secs(2);

/// What EC2 says of an address that was given back.
const GONE: &[&str] = &["InvalidAllocationID.NotFound", "InvalidAddressID.NotFound"];

/// The addresses that carry the machine's tags.
pub async fn find(region: &Region, machine: &str) -> Result<Vec<Rc<Address>>, Failure> {
    region.addresses.of(machine, Duration::from_millis(20)).await
}

/// Gives the machine its address, makes one if it has none, and waits until EC2 shows it.
pub async fn ensure(
    region: &Region,
    machine: &str,
    id: &str,
    own: &BTreeMap<String, String>,
) -> Result<Rc<Instance>, Failure> {
    // Runs at the same time may each make one and give the other's back: it ends when the machine has one of them.
    let mut known = find(region, machine).await?;
    loop {
        if known.is_empty() {
            let made = allocate(region, machine, own).await?;
            known = find(region, machine).await?;
            if !known.iter().any(|known| known.allocation_id() == made.allocation_id()) {
                known.push(made);
            }
        }
        let address = keep_one(region, machine, id, known).await?;
        if address.instance_id() != Some(id) {
            associate(region, machine, id, &address).await?;
        }
        // What is shown may be from before; the caller limits the time.
        let instance = instance::wait(region, id, "running").await?;
        // Another run may have made one that EC2 did not show before, and this one has taken its place.
        known = find(region, machine).await?;
        let left = known.iter().any(|other| other.allocation_id() != address.allocation_id() && is_idle(other));
        if instance.public_ip_address() == address.public_ip() && !left {
            return Ok(instance);
        }
    }
}

/// Gives the machine an address; one that another run has given back is none.
async fn associate(region: &Region, machine: &str, id: &str, address: &Address) -> Result<(), Failure> {
    let allocation = address.allocation_id().unwrap_or_default();
    log::event(machine, &format!("giving it the address {}", address.public_ip().unwrap_or(allocation)));
    let associated = region.aws.call(machine, "AssociateAddress", allocation, |client| {
        client.associate_address().allocation_id(allocation).instance_id(id).allow_reassociation(true).send()
    });
    match associated.await {
        Err(error) if !error.is(GONE) => Err(error.failure("cannot give it the Elastic IP")),
        _ => Ok(()),
    }
}

/// Gives all but one back: the one that the machine has, else the one that every run would choose.
async fn keep_one(
    region: &Region,
    machine: &str,
    id: &str,
    mut known: Vec<Rc<Address>>,
) -> Result<Rc<Address>, Failure> {
    known.sort_by(|a, b| {
        let has = |address: &Address| address.instance_id() == Some(id);
        has(b).cmp(&has(a)).then(a.allocation_id().cmp(&b.allocation_id()))
    });
    for other in known.iter().skip(1).filter(|other| is_idle(other)) {
        // Another run may have put it to use since: it is looked at again in the next round or run.
        give_back(region, machine, other).await?;
    }
    known.into_iter().next().ok_or_else(|| Failure::new(Kind::Internal, "the Elastic IP is gone"))
}

fn is_idle(address: &Address) -> bool {
    address.association_id().is_none_or(str::is_empty)
}

/// AllocateAddress has no client token: after a lost answer the tags tell whether it took place.
async fn allocate(region: &Region, machine: &str, own: &BTreeMap<String, String>) -> Result<Rc<Address>, Failure> {
    let tags = tags::specification(ResourceType::ElasticIp, &tags::of_machine(&region.deployment, machine, own));
    let mut tries = 0;
    loop {
        let made = region.aws.call_once(machine, "AllocateAddress", machine, |client| {
            client.allocate_address().domain(DomainType::Vpc).tag_specifications(tags.clone()).send()
        });
        tries += 1;
        match made.await {
            Ok(made) => {
                let address = Address::builder().set_allocation_id(made.allocation_id);
                return Ok(Rc::new(address.set_public_ip(made.public_ip).build()));
            }
            Err(error) if error.is_transient() && tries < TRIES => {
                if let Some(found) = find(region, machine).await?.into_iter().next() {
                    return Ok(found);
                }
            }
            Err(error) => return Err(error.failure("cannot allocate an Elastic IP")),
        }
    }
}

/// The machine's addresses that nothing has: each is paid for all the same.
pub async fn idle(region: &Region, machine: &str) -> Result<Vec<Rc<Address>>, Failure> {
    let mut idle = Vec::new();
    for address in find(region, machine).await? {
        if user(region, &address, &[]).await?.is_none() {
            idle.push(address);
        }
    }
    Ok(idle)
}

/// Gives back those that nothing has.
pub async fn tidy(region: &Region, machine: &str) -> Result<(), Failure> {
    for address in idle(region, machine).await? {
        // Another run may have put it to use since.
        give_back(region, machine, &address).await?;
    }
    Ok(())
}

/// Gives the machine's addresses back, once the instances `gone` are terminated; true if there was one.
///
/// The caller limits the time.
pub async fn release(region: &Region, machine: &str, gone: &[String]) -> Result<bool, Failure> {
    let mut released = false;
    for address in find(region, machine).await? {
        released |= release_one(region, machine, address, gone).await?;
    }
    Ok(released)
}

/// The same for one address; true if it was given back.
pub async fn release_one(region: &Region, machine: &str, found: Rc<Address>, gone: &[String]) -> Result<bool, Failure> {
    let mut address = Some(found);
    while let Some(now) = address
        && !is_others(region, machine, &now, gone).await?
    {
        if give_back(region, machine, &now).await? {
            return Ok(true);
        }
        // EC2 takes it from a terminated machine a little later, and somebody may give it to another one.
        tokio::time::sleep(PAUSE).await;
        let known = find(region, machine).await?;
        address = known.into_iter().find(|known| known.allocation_id() == now.allocation_id());
    }
    Ok(false)
}

/// Whether somebody has given the address to something else than a machine that goes; says so.
pub async fn is_others(region: &Region, machine: &str, address: &Address, gone: &[String]) -> Result<bool, Failure> {
    let user = user(region, address, gone).await?;
    if let Some(user) = user {
        let ip = address.public_ip().unwrap_or_default();
        log::event(machine, &format!("the Elastic IP {ip} stays: it is used by {user}"));
    }
    Ok(user.is_some())
}

/// What has the address, but for instances and interfaces that go: another instance, or an interface of something else.
pub async fn user<'a>(region: &Region, address: &'a Address, gone: &[String]) -> Result<Option<&'a str>, Failure> {
    let some = |id: &&str| !id.is_empty();
    let goes = |id: &&str| gone.iter().any(|gone| gone == id);
    let Some(id) = address.instance_id().filter(some) else {
        return Ok(address.network_interface_id().filter(some).filter(|id| !goes(id)));
    };
    if goes(&id) {
        return Ok(None);
    }
    // EC2 may show an instance of before, which it lists for an hour; one that it does not list may be quite new.
    let found = region.by_id.of(id, Duration::from_millis(20)).await?;
    let is_gone = !found.is_empty() && found.iter().all(|found| instance::is_gone(found));
    Ok((!is_gone).then_some(id))
}

/// The deployment that an address is tagged with, whatever it is.
pub async fn deployment(region: &Region, ip: &str) -> Result<Option<String>, Failure> {
    let found = by(region, &filter("public-ip", [ip.to_string()])).await?;
    Ok(found.first().and_then(|address| tags::value(address.tags(), tags::DEPLOYMENT)).map(String::from))
}

/// Addresses by a filter, whosever they are.
pub async fn by(region: &Region, filter: &Filter) -> Result<Vec<Address>, Failure> {
    let found = region
        .aws
        .call("", "DescribeAddresses", "", |client| client.describe_addresses().filters(filter.clone()).send());
    let found = found.await.map_err(|error| error.failure("cannot look for Elastic IPs"))?;
    Ok(found.addresses.unwrap_or_default())
}

/// False where EC2 sees it in use.
async fn give_back(region: &Region, machine: &str, address: &Address) -> Result<bool, Failure> {
    let id = address.allocation_id().unwrap_or_default();
    let released =
        region.aws.call(machine, "ReleaseAddress", id, |client| client.release_address().allocation_id(id).send());
    match released.await {
        Err(error) if error.is_in_use() => Ok(false),
        Err(error) if !error.is(GONE) => Err(error.failure("cannot give the Elastic IP back")),
        _ => {
            log::event(machine, &format!("gave back the address {}", address.public_ip().unwrap_or(id)));
            Ok(true)
        }
    }
}
