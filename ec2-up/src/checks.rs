//! Checks before paying: all that can be known to stand in the way of a new machine, known before it is made, and before
//! another is taken away for it.

use crate::compare::{Difference, Mend};
use crate::host_key::HostKeySource;
use crate::image::{self, Checked, Named};
use crate::instance_type::{self, Needs};
use crate::region::Region;
use crate::wish::Wish;
use crate::{group, host_key_file, key_pair, subnet, tags};
use anyhow::Result;
use aws_sdk_ec2::types::Instance;
use machine_record::{Failure, KeyPair, Kind, Record};

/// What EC2 knows of the things that a new machine is made from.
pub struct Ready {
    pub image: Checked,
    /// The VPC that it goes to
    pub vpc: String,
}

/// Checks the name, image, instance type, volume, network, security groups of choice and the file of a host key; changes nothing.
pub async fn new_machine(
    region: &Region,
    record: &Record,
    ami: &Named,
    wish: &Wish,
    source: HostKeySource,
) -> Result<Ready> {
    tags::group_name(&region.deployment, &record.name())?;
    let image = image::check(region, ami, wish).await?;
    let vpc = region.vpc(wish.subnet.as_deref()).await?;
    subnet::first_choice(region, &vpc, wish).await?;
    group::check_chosen(region, &vpc, wish).await?;
    if source == HostKeySource::UserData {
        if wish.user_data.is_some() {
            let message = "--host-key user-data leaves no room for --user-data";
            return Err(Failure::new(Kind::Input, message).hint("say --host-key console").into());
        }
        host_key_file::read(&host_key_file::path(&region.deployment, &record.name(), record.section()?.as_ref()))?;
    }
    Ok(Ready { image, vpc })
}

/// Checks what a machine that stays is to become; changes nothing.
pub async fn kept(region: &Region, found: &Instance, differences: &[Difference], wish: &Wish) -> Result<(), Failure> {
    for difference in differences {
        if let Mend::Resize(kind) = &difference.mend {
            instance_type::check(region, kind, &Needs::of_instance(found), wish).await?;
        }
    }
    match found.vpc_id() {
        Some(vpc) => group::check_chosen(region, vpc, wish).await,
        None => Ok(()),
    }
}

/// Checks that nobody else has the names of what would be made: a launch finds that out by itself, but too late where
/// a machine goes for it.
pub async fn names(region: &Region, machine: &str, vpc: &str, pair: &KeyPair, wish: &Wish) -> Result<(), Failure> {
    if let Some(known) = key_pair::find(region, &pair.name).await? {
        key_pair::compare(pair, &known)?;
    }
    if wish.security_groups.is_empty() {
        group::look(region, machine, vpc).await?;
    }
    Ok(())
}
