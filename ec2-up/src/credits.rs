//! CPU credits of burstable machines: what one does when they are used up.

use crate::aws::Aws;
use crate::region::Region;
use crate::wish::Credits;
use aws_sdk_ec2::types::{
    InstanceCreditSpecification, InstanceCreditSpecificationRequest, UnsuccessfulInstanceCreditSpecificationItem,
};
use machine_record::{Failure, Kind, log};
use std::time::Duration;

/// `standard` or `unlimited`, as EC2 has it.
pub async fn find(region: &Region, id: &str) -> Result<Option<String>, Failure> {
    region.credits.of(id, Duration::from_millis(20)).await?.pop().transpose()
}

/// The same of many instances, each after its id.
///
/// One of a type without credits is an error for all that are asked for with it: then each is asked for by itself.
pub async fn find_all(aws: &Aws, ids: Vec<String>) -> Result<Vec<(String, Result<String, Failure>)>, Failure> {
    let failed = match ask(aws, &ids).await {
        Ok(found) => return Ok(found.into_iter().map(|(id, credits)| (id, Ok(credits))).collect()),
        Err(failure) if ids.len() == 1 || !matches!(failure.kind, Kind::Input | Kind::NotFound | Kind::Conflict) => {
            return Err(failure);
        }
        Err(failure) => failure,
    };
    log::detail("", &failed.message);
    let mut all = Vec::new();
    for id in ids {
        match ask(aws, std::slice::from_ref(&id)).await {
            Ok(found) => all.extend(found.into_iter().map(|(id, credits)| (id, Ok(credits)))),
            Err(failure) => all.push((id, Err(failure))),
        }
    }
    Ok(all)
}

async fn ask(aws: &Aws, ids: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let what = ids.join(",");
    // By their ids: a filter finds only those that are not `standard`.
    let found = aws.call("", "DescribeInstanceCreditSpecifications", &what, |client| {
        client.describe_instance_credit_specifications().set_instance_ids(Some(ids.to_vec())).send()
    });
    let found = found.await.map_err(|error| error.failure(format!("cannot look at the CPU credits of {what}")))?;
    let one = |one: InstanceCreditSpecification| Some((one.instance_id?, one.cpu_credits?));
    Ok(found.instance_credit_specifications.unwrap_or_default().into_iter().filter_map(one).collect())
}

/// Changes it while the machine runs.
pub async fn set(region: &Region, machine: &str, id: &str, credits: Credits) -> Result<(), Failure> {
    let wish = InstanceCreditSpecificationRequest::builder().instance_id(id).cpu_credits(credits.word()).build();
    let set = region.aws.call(machine, "ModifyInstanceCreditSpecification", id, |client| {
        client.modify_instance_credit_specification().instance_credit_specifications(wish.clone()).send()
    });
    let failed = format!("cannot change the CPU credits of {id}");
    let done = set.await.map_err(|error| error.failure(&failed))?;
    // EC2 answers 200 and lists what it has refused.
    done.unsuccessful_instance_credit_specifications()
        .first()
        .map_or(Ok(()), |refused| Err(unchanged(&failed, refused)))
}

fn unchanged(failed: &str, refused: &UnsuccessfulInstanceCreditSpecificationItem) -> Failure {
    let why = refused.error().and_then(|error| error.message()).unwrap_or("EC2 gives no reason");
    Failure::new(Kind::Conflict, format!("{failed}: {why}"))
        .hint("take a type that has CPU credits, such as t3.micro, or leave --credits out")
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_ec2::types::UnsuccessfulInstanceCreditSpecificationItemError as ItemError;

    #[test]
    fn a_change_that_ec2_refuses_has_its_reason() {
        let refused = |error: Option<ItemError>| {
            unchanged("x", &UnsuccessfulInstanceCreditSpecificationItem::builder().set_error(error).build())
        };
        assert_eq!(refused(None).message, "x: EC2 gives no reason");
        let told = refused(Some(ItemError::builder().message("not supported by m5.large").build()));
        assert_eq!(told.message, "x: not supported by m5.large");
        let hint = "take a type that has CPU credits, such as t3.micro, or leave --credits out";
        assert_eq!(told.hint.as_deref(), Some(hint));
    }
}
