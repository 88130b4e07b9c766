//! RunInstances, once only: two runs at once meet in one instance by its client token.

use crate::call_error::CallError;
use crate::image::Checked;
use crate::region::Region;
use crate::wish::{Imds, Wish};
use crate::{group, instance, key_pair, quota, subnet, tags};
use aws_sdk_ec2::types::{
    BlockDeviceMapping, CreditSpecificationRequest, EbsBlockDevice, HttpTokensState, IamInstanceProfileSpecification,
    Instance, InstanceMarketOptionsRequest, InstanceMetadataEndpointState, InstanceMetadataOptionsRequest,
    InstanceMetadataProtocolState, MarketType, ResourceType, SpotInstanceType, SpotMarketOptions,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machine_record::{Failure, KeyPair, Kind, Record, log};
use sha2::{Digest, Sha256};
use std::time::Duration;

/// A token outlives its instance by a day: how many instances of one description a day may have.
const GENERATIONS: u32 = 1000;

/// How long a group or key pair that was just made may stay unknown.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long EC2 may take to hear from IAM of an instance profile that was just made.
const IAM: Duration = Duration::from_secs(60);

/// All that a new machine is made from.
pub struct Plan<'a> {
    pub machine: &'a str,
    pub wish: &'a Wish,
    pub image: &'a Checked,
    pub key_pair: &'a KeyPair,
    pub vpc: &'a str,
}

impl Plan<'_> {
    /// Makes the machine, or finds the one that another run is making at this moment.
    pub async fn launch(&self, region: &Region) -> Result<Instance, Failure> {
        let started = tokio::time::Instant::now();
        let mut subnets = subnet::first_choice(region, self.vpc, self.wish).await?;
        let mut next = 0;
        let mut unknown = None;
        loop {
            // Both are looked at again each time: a teardown of another machine may have taken the key pair.
            key_pair::ensure(region, self.machine, self.key_pair).await?;
            let groups = group::of_new(region, self.machine, self.vpc, self.wish).await?;
            let subnet = subnets.get(next).cloned().flatten();
            let error = match self.run(region, &groups, subnet.as_deref()).await {
                Ok(instance) => return Ok(instance),
                Err(error) => error,
            };
            if error.is(&["InvalidGroup.NotFound", "InvalidKeyPair.NotFound"]) && started.elapsed() < PATIENCE {
                key_pair::forget(region, self.key_pair);
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
            if error.is_unknown_profile() && unknown.get_or_insert_with(tokio::time::Instant::now).elapsed() < IAM {
                let pause = Duration::from_secs(4);
                log::event(self.machine, &format!("{error}: again in {} s, if it is a new one", pause.as_secs()));
                tokio::time::sleep(pause).await;
                continue;
            }
            if error.is_capacity() && self.wish.subnet.is_none() {
                if subnets == [None] {
                    subnets.extend(subnet::all(region, self.vpc).await?);
                }
                next += 1;
                if let Some(Some(subnet)) = subnets.get(next) {
                    log::event(self.machine, &format!("EC2 has no room for it ({error}): trying {subnet}"));
                    // Another run may have found room in the meantime, with another token.
                    if let Some(found) = instance::find(region, self.machine).await? {
                        return Ok((*found).clone());
                    }
                    continue;
                }
            }
            return Err(error.failure("cannot start an instance"));
        }
    }

    /// Asks EC2 whether it would make the machine at all, for one that is to take the place of another.
    ///
    /// # Errors
    /// It is not allowed, or there is no such instance profile. What else it says depends on what is there by then.
    pub async fn rehearse(&self, region: &Region, groups: &[String]) -> Result<(), Failure> {
        match self.call(region, groups, self.wish.subnet.as_deref(), None).await {
            Err(error) if error.kind == Kind::Denied || error.is_unknown_profile() => {
                Err(error.failure("cannot start an instance"))
            }
            _ => Ok(()),
        }
    }

    /// One instance, of the first generation that is not terminated.
    async fn run(&self, region: &Region, groups: &[String], subnet: Option<&str>) -> Result<Instance, CallError> {
        let mut generation = 0;
        loop {
            let token = self.token(region, groups, subnet, generation);
            generation += 1;
            let answer = self.call(region, groups, subnet, Some(&token)).await;
            let gone = match &answer {
                Ok(instance) => instance::is_gone(instance),
                Err(error) => error.is(&["IdempotentInstanceTerminated", "IdempotentParameterMismatch"]),
            };
            if !gone || generation == GENERATIONS {
                return answer;
            }
            log::detail(self.machine, "the client token is one of a terminated instance: taking the next");
        }
    }

    /// The same for two runs with the same wish, and for a second try after a lost answer.
    ///
    /// At most 64 characters (EC2 developer guide, "Ensuring idempotency"): a SHA-256 just fits.
    fn token(&self, region: &Region, groups: &[String], subnet: Option<&str>, generation: u32) -> String {
        let wish = self.wish;
        let parts = [
            &region.deployment,
            self.machine,
            &self.image.id,
            &self.image.instance_type,
            &self.key_pair.name,
            &groups.join(" "),
            subnet.unwrap_or_default(),
            &wish.size().to_string(),
            wish.volume(),
            &format!("{:?}", wish.tags),
            &format!("{} {} {:?}", wish.spot, wish.ipv6, self.image.imds),
            &format!("{:?} {:?} {:?}", wish.credits, wish.instance_profile, wish.user_data),
            &generation.to_string(),
        ];
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(part);
            hash.update([0]);
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Without a token EC2 only looks whether it would (`DryRun`).
    async fn call(
        &self,
        region: &Region,
        groups: &[String],
        subnet: Option<&str>,
        token: Option<&str>,
    ) -> Result<Instance, CallError> {
        let size = i32::try_from(self.wish.size()).unwrap_or(i32::MAX);
        let volume = EbsBlockDevice::builder().volume_size(size).volume_type(self.wish.volume().into());
        let root = BlockDeviceMapping::builder()
            .device_name(&self.image.root_device)
            .ebs(volume.encrypted(true).delete_on_termination(true).build())
            .build();
        let tokens = match self.image.imds {
            Imds::Required => HttpTokensState::Required,
            Imds::Optional => HttpTokensState::Optional,
        };
        // One hop: containers on the machine do not reach its credentials.
        let metadata = InstanceMetadataOptionsRequest::builder()
            .http_tokens(tokens)
            .http_put_response_hop_limit(1)
            .http_endpoint(InstanceMetadataEndpointState::Enabled)
            .set_http_protocol_ipv6(self.wish.ipv6.then_some(InstanceMetadataProtocolState::Enabled))
            .build();
        let market = self.wish.spot.then(|| {
            let options = SpotMarketOptions::builder().spot_instance_type(SpotInstanceType::OneTime).build();
            InstanceMarketOptionsRequest::builder().market_type(MarketType::Spot).spot_options(options).build()
        });
        let credits =
            self.wish.credits.map(|credits| CreditSpecificationRequest::builder().cpu_credits(credits.word()).build());
        let profile = self.wish.instance_profile.as_ref().map(|profile| {
            let named = IamInstanceProfileSpecification::builder();
            if profile.starts_with("arn:") { named.arn(profile) } else { named.name(profile) }.build()
        });
        let tags = tags::of_machine(&region.deployment, self.machine, &self.wish.tags);
        let tagged = [ResourceType::Instance, ResourceType::Volume, ResourceType::NetworkInterface];
        let tags: Vec<_> = tagged.into_iter().map(|resource| tags::specification(resource, &tags)).collect();
        let with = token.map_or("dry run".into(), |token| format!("token {token}"));
        let what = format!("{} {} {with}", self.image.instance_type, self.image.id);
        let made = region.aws.call(self.machine, "RunInstances", &what, |client| {
            let call = client.run_instances().min_count(1).max_count(1).set_client_token(token.map(String::from));
            let call = call.set_dry_run(token.is_none().then_some(true));
            let call = call.image_id(&self.image.id).instance_type(self.image.instance_type.as_str().into());
            let call = call.key_name(&self.key_pair.name).set_security_group_ids(Some(groups.to_vec()));
            let call = call.set_ipv6_address_count(self.wish.ipv6.then_some(1));
            let call = call.set_subnet_id(subnet.map(String::from)).block_device_mappings(root.clone());
            let call = call.metadata_options(metadata.clone()).set_instance_market_options(market.clone());
            let call = call.set_credit_specification(credits.clone()).set_iam_instance_profile(profile.clone());
            let call = call.set_user_data(self.wish.user_data.as_ref().map(|text| STANDARD.encode(text)));
            call.set_tag_specifications(Some(tags.clone())).send()
        });
        made.await?
            .instances
            .unwrap_or_default()
            .into_iter()
            .next()
            .ok_or_else(|| CallError::empty("RunInstances", &region.name))
    }
}

/// Waits until EC2 finds a new machine by its tags, as other runs do, or for as long as it may not.
pub async fn be_seen(region: &Region, machine: &str, id: &str) -> Result<(), Failure> {
    let started = tokio::time::Instant::now();
    while !instance::all(region, machine).await?.iter().any(|instance| instance.instance_id() == Some(id))
        && started.elapsed() < PATIENCE
    {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

/// Gives a new machine up for one that another run has made at the same time with another wish, and so
/// with another client token. Of the two runs one only comes to that.
///
/// # Errors
/// Kind `conflict` where it was given up.
pub async fn be_the_only_one(record: &mut Record, region: &Region, ours: &Instance) -> Result<(), Failure> {
    let name = record.name();
    let mut all = instance::all(region, &name).await?;
    all.retain(|instance| !instance::is_gone(instance));
    let age = |instance: &Instance| {
        (instance.launch_time().map(|time| time.secs()), instance.instance_id().map(String::from))
    };
    let Some(first) = all.iter().min_by_key(|instance| age(instance)).filter(|first| age(first) < age(ours)) else {
        return Ok(());
    };
    let id = ours.instance_id().unwrap_or_default();
    instance::terminate(region, &name, id).await?;
    record.put(&instance::section(first, false))?;
    let other = first.instance_id().unwrap_or_default();
    Err(Failure::new(
        Kind::Conflict,
        format!("another run has made {other} at the same time: {id} was terminated again"),
    )
    .hint("run it again: what differs from the wish will be shown"))
}

/// What a caller says when a launch has not become a machine.
pub fn ended(region: &str, instance: &Instance) -> Failure {
    let id = instance.instance_id().unwrap_or_default();
    let reason = instance.state_reason();
    let code = reason.and_then(|reason| reason.code()).unwrap_or_default();
    let text = reason.and_then(|reason| reason.message()).unwrap_or("EC2 gives no reason");
    // EC2 user guide, "Troubleshoot instance launch issues".
    let again = "run ec2-up again for a new one".to_string();
    let (kind, hint) = match code {
        "Server.InsufficientInstanceCapacity" | "Server.SpotInstanceTermination" => (Kind::Limit, again),
        "Client.InternalError" => (
            Kind::Denied,
            "may the caller use the KMS key that encrypts volumes, the account's default one for EBS?".into(),
        ),
        _ => match quota::hint(code.trim_start_matches("Client."), region) {
            Some(hint) => (Kind::Limit, hint),
            None => (Kind::Conflict, again),
        },
    };
    Failure::new(kind, format!("{id} was terminated: {text}")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_ec2::types::StateReason;

    #[test]
    fn an_instance_that_did_not_start_says_why_and_what_to_do() {
        let instance = |reason| Instance::builder().instance_id("i-1").set_state_reason(reason).build();
        let silent = ended("eu-central-1", &instance(None));
        assert_eq!((silent.kind, silent.message.as_str()), (Kind::Conflict, "i-1 was terminated: EC2 gives no reason"));
        assert_eq!(silent.hint.as_deref(), Some("run ec2-up again for a new one"));
        let full = StateReason::builder().code("Server.InsufficientInstanceCapacity").message("no room").build();
        let full = ended("eu-central-1", &instance(Some(full)));
        assert_eq!((full.kind, full.message.as_str()), (Kind::Limit, "i-1 was terminated: no room"));
    }
}
