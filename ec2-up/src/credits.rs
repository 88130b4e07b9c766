//! CPU credits of burstable machines: what one does when they are used up.

use crate::region::Region;
use crate::wish::Credits;
use aws_sdk_ec2::types::InstanceCreditSpecificationRequest;
use machine_record::Failure;

/// `standard` or `unlimited`, as EC2 has it.
pub async fn find(region: &Region, id: &str) -> Result<Option<String>, Failure> {
    let found = region.aws.call("", "DescribeInstanceCreditSpecifications", id, |client| {
        client.describe_instance_credit_specifications().instance_ids(id).send()
    });
    let found = found.await.map_err(|error| error.failure(format!("cannot look at the CPU credits of {id}")))?;
    Ok(found.instance_credit_specifications().first().and_then(|found| found.cpu_credits()).map(String::from))
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
    match done.unsuccessful_instance_credit_specifications().first().and_then(|refused| refused.error()) {
        None => Ok(()),
        Some(error) => {
            let why = error.message().unwrap_or("EC2 gives no reason");
            Err(Failure::new(machine_record::Kind::Conflict, format!("{failed}: {why}")))
        }
    }
}
