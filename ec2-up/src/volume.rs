//! The root volume of a machine that exists: EBS makes one change of it at a time, and the next hours later.

use crate::region::{Region, filter};
use aws_sdk_ec2::types::VolumeModificationState;
use machine_record::{Failure, log};

/// What a volume is to become; `None` stays as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub id: String,
    /// In GiB
    pub size: Option<u32>,
    /// As in gp3
    pub kind: Option<String>,
}

impl Change {
    /// Begins the change, unless just that goes on already.
    ///
    /// # Errors
    /// Kind `limit` where EBS does not take another change yet.
    pub async fn make(&self, region: &Region, machine: &str) -> Result<(), Failure> {
        if self.goes_on(region, machine).await? {
            log::event(machine, &format!("{} is being changed already", self.id));
            return Ok(());
        }
        let size = self.size.and_then(|size| i32::try_from(size).ok());
        let made = region.aws.call(machine, "ModifyVolume", &self.id, |client| {
            let call = client.modify_volume().volume_id(&self.id).set_size(size);
            call.set_volume_type(self.kind.as_deref().map(Into::into)).send()
        });
        match made.await {
            // The answer to our own first try was lost, or another change goes on.
            Err(error) if error.is(&["IncorrectModificationState"]) && self.goes_on(region, machine).await? => {}
            Err(error) => return Err(error.failure("cannot change the root volume")),
            Ok(_) => {}
        }
        if self.size.is_some() {
            log::event(machine, "the larger volume is seen after a reboot, or after growpart and resize2fs");
        }
        Ok(())
    }

    /// Whether the last change of the volume has just this target, and has not ended.
    async fn goes_on(&self, region: &Region, machine: &str) -> Result<bool, Failure> {
        let asked = region.aws.call(machine, "DescribeVolumesModifications", &self.id, |client| {
            // By a filter: a volume that was never changed would be an error.
            let call = client.describe_volumes_modifications().filters(filter("volume-id", [self.id.clone()]));
            call.into_paginator().items().send().collect::<Result<Vec<_>, _>>()
        });
        let asked = asked.await.map_err(|error| error.failure("cannot look at the changes of the root volume"))?;
        let last = asked.last();
        Ok(last.is_some_and(|last| {
            use VolumeModificationState::{Completed, Failed};
            !matches!(last.modification_state(), Some(Completed | Failed))
                && self
                    .size
                    .is_none_or(|size| last.target_size().is_some_and(|target| i64::from(target) == i64::from(size)))
                && self.kind.as_deref().is_none_or(|kind| last.target_volume_type().is_some_and(|t| t.as_str() == kind))
        }))
    }
}
