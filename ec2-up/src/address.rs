//! The Elastic IP of a machine: one each, found by tags, with an address that survives a stop.

use crate::region::Region;
use crate::tags;
use aws_sdk_ec2::types::{Address, DomainType, ResourceType};
use machine_record::{Failure, log};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// How often to look what came of an allocation whose answer was lost.
const TRIES: u32 = 4;

/// The addresses that carry the machine's tags.
pub async fn find(region: &Region, machine: &str) -> Result<Vec<Rc<Address>>, Failure> {
    region.addresses.of(machine, Duration::from_millis(20)).await
}

/// Gives the machine its address, and makes one if it has none; true if something changed.
pub async fn ensure(region: &Region, machine: &str, id: &str, own: &BTreeMap<String, String>) -> Result<bool, Failure> {
    let address = match find(region, machine).await?.into_iter().next() {
        Some(address) => address,
        None => allocate(region, machine, own).await?,
    };
    if address.instance_id() == Some(id) {
        return Ok(false);
    }
    let allocation = address.allocation_id().unwrap_or_default();
    log::event(machine, &format!("giving it the address {}", address.public_ip().unwrap_or(allocation)));
    let associated = region.aws.call(machine, "AssociateAddress", allocation, |client| {
        client.associate_address().allocation_id(allocation).instance_id(id).allow_reassociation(true).send()
    });
    associated.await.map(|_| true).map_err(|error| error.failure("cannot give it the Elastic IP"))
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

/// Gives the machine's addresses back, once the instance is terminated; true if there was one.
pub async fn release(region: &Region, machine: &str) -> Result<bool, Failure> {
    let found = find(region, machine).await?;
    for address in &found {
        let id = address.allocation_id().unwrap_or_default();
        let released =
            region.aws.call(machine, "ReleaseAddress", id, |client| client.release_address().allocation_id(id).send());
        match released.await {
            Err(error) if !error.is(&["InvalidAllocationID.NotFound", "InvalidAddressID.NotFound"]) => {
                return Err(error.failure("cannot give the Elastic IP back"));
            }
            _ => log::event(machine, &format!("gave back the address {}", address.public_ip().unwrap_or(id))),
        }
    }
    Ok(!found.is_empty())
}
