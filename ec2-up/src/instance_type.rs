//! The instance type: whether it exists, and fits the image and the wish.

use crate::region::Region;
use crate::wish::Wish;
use aws_sdk_ec2::types::{Image, Instance, InstanceTypeInfo};
use machine_record::{Failure, Kind};
use std::rc::Rc;

/// What an image, or a machine made from it, needs of an instance type.
#[derive(Default)]
pub struct Needs<'a> {
    /// The image's or the instance's id
    pub id: &'a str,
    /// `x86_64` or `arm64`
    pub architecture: &'a str,
    /// `hvm` or `paravirtual`
    pub virtualization: Option<&'a str>,
    /// `uefi`, `legacy-bios` or `uefi-preferred`
    pub boot_mode: Option<&'a str>,
}

impl<'a> Needs<'a> {
    pub fn of_image(image: &'a Image) -> Self {
        Needs {
            id: image.image_id().unwrap_or_default(),
            architecture: image.architecture().map_or("", |architecture| architecture.as_str()),
            virtualization: image.virtualization_type().map(|kind| kind.as_str()),
            boot_mode: image.boot_mode().map(|mode| mode.as_str()),
        }
    }

    pub fn of_instance(instance: &'a Instance) -> Self {
        Needs {
            id: instance.instance_id().unwrap_or_default(),
            architecture: instance.architecture().map_or("", |architecture| architecture.as_str()),
            virtualization: instance.virtualization_type().map(|kind| kind.as_str()),
            boot_mode: instance.boot_mode().map(|mode| mode.as_str()),
        }
    }
}

/// Asks EC2 for the type, and checks it. EC2 itself says so only after a volume has been made from the
/// snapshot or the machine was stopped, or as a machine that never boots.
pub async fn check(region: &Region, name: &str, needs: &Needs<'_>, wish: &Wish) -> Result<(), Failure> {
    fits(name, &*facts(region, name).await?, needs, wish)
}

async fn facts(region: &Region, name: &str) -> Result<Rc<InstanceTypeInfo>, Failure> {
    let ask = || async {
        let found = region.aws.call("", "DescribeInstanceTypes", name, |client| {
            client.describe_instance_types().instance_types(name.into()).send()
        });
        let unknown = || {
            Failure::new(Kind::Input, format!("no instance type {name} in {}", region.name))
                .hint("take one such as t3.micro, or t4g.micro for aarch64-linux")
        };
        match found.await {
            Ok(found) => found.instance_types.unwrap_or_default().into_iter().next().map(Rc::new).ok_or_else(unknown),
            Err(error) if error.is(&["InvalidInstanceType", "InvalidParameterValue"]) => Err(unknown()),
            Err(error) => Err(error.failure(format!("cannot look at the instance type {name}"))),
        }
    };
    region.types.of(name.to_string(), ask).await
}

fn fits(name: &str, facts: &InstanceTypeInfo, needs: &Needs<'_>, wish: &Wish) -> Result<(), Failure> {
    let id = needs.id;
    let refused =
        |why: String, hint: String| Err(Failure::new(Kind::Input, format!("{name} cannot run {id}: {why}")).hint(hint));
    let known: Vec<&str> = facts
        .processor_info()
        .map(|processor| processor.supported_architectures().iter().map(|a| a.as_str()).collect())
        .unwrap_or_default();
    if !known.is_empty() && !known.contains(&needs.architecture) {
        let like = if needs.architecture == "arm64" { "t4g.micro" } else { "t3.micro" };
        return refused(
            format!("it is for {}, the image for {}", known.join(" and "), needs.architecture),
            format!("take an --instance-type such as {like}, or another --system for nixos-ami"),
        );
    }
    let kinds: Vec<&str> = facts.supported_virtualization_types().iter().map(|kind| kind.as_str()).collect();
    if let Some(kind) = needs.virtualization.filter(|kind| !kinds.is_empty() && !kinds.contains(kind)) {
        let hint = "take an image of type hvm-ebs, or an --instance-type of that time, such as t1.micro".into();
        return refused(format!("it is for {} images, this one is {kind}", kinds.join(" and ")), hint);
    }
    let modes: Vec<&str> = facts.supported_boot_modes().iter().map(|mode| mode.as_str()).collect();
    if let Some(mode @ ("uefi" | "legacy-bios")) =
        needs.boot_mode.filter(|mode| !modes.is_empty() && !modes.contains(mode))
    {
        return refused(format!("the image boots by {mode}"), "take another --instance-type".into());
    }
    let wrong = |what: &str, hint: &str| Err(Failure::new(Kind::Input, format!("{name} has no {what}")).hint(hint));
    if wish.credits.is_some() && facts.burstable_performance_supported() == Some(false) {
        return wrong("CPU credits", "leave --credits out: it is for burstable types such as t3.micro");
    }
    if wish.ipv6 && facts.network_info().and_then(|network| network.ipv6_supported()) == Some(false) {
        return wrong("IPv6", "take another --instance-type, or leave --ipv6 out");
    }
    if wish.spot
        && !facts.supported_usage_classes().is_empty()
        && !facts.supported_usage_classes().iter().any(|class| class.as_str() == "spot")
    {
        return wrong("spot market", "take another --instance-type, or leave --spot out");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_ec2::types::{
        ArchitectureType, BootModeType, NetworkInfo, ProcessorInfo, UsageClassType, VirtualizationType,
    };
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        wish: crate::wish::WishArgs,
    }

    fn check(facts: InstanceTypeInfo, needs: Needs<'_>, flags: &[&str]) -> Result<(), Failure> {
        let wish = Line::parse_from(std::iter::once(&"x").chain(flags)).wish;
        let wish = Wish::of(&machine_record::Record::default(), &wish).unwrap();
        fits("x1.small", &facts, &needs, &wish)
    }

    #[test]
    fn an_arm_image_does_not_fit_an_intel_type() {
        let intel = ProcessorInfo::builder().supported_architectures(ArchitectureType::X8664).build();
        let facts = InstanceTypeInfo::builder().processor_info(intel).build();
        let failure = check(facts, Needs { architecture: "arm64", ..Needs::default() }, &[]).unwrap_err();
        assert_eq!(failure.kind, Kind::Input);
        assert!(failure.hint.unwrap().contains("t4g.micro"));
    }

    #[test]
    fn a_wish_that_the_type_cannot_fulfil_names_the_flag_to_leave_out() {
        let network = NetworkInfo::builder().ipv6_supported(false).build();
        let facts = InstanceTypeInfo::builder().network_info(network).supported_usage_classes(UsageClassType::OnDemand);
        for (flag, message, hint) in [
            ("--ipv6", "x1.small has no IPv6", "take another --instance-type, or leave --ipv6 out"),
            ("--spot", "x1.small has no spot market", "take another --instance-type, or leave --spot out"),
        ] {
            let failure = check(facts.clone().build(), Needs::default(), &[flag]).unwrap_err();
            assert_eq!((&*failure.message, failure.hint.as_deref()), (message, Some(hint)));
        }
    }

    #[test]
    fn an_uefi_image_needs_a_type_that_boots_so() {
        let old = || InstanceTypeInfo::builder().supported_boot_modes(BootModeType::LegacyBios).build();
        let failure = check(old(), Needs { boot_mode: Some("uefi"), ..Needs::default() }, &[]).unwrap_err();
        assert_eq!(failure.hint.as_deref(), Some("take another --instance-type"));
        assert!(check(old(), Needs { boot_mode: Some("uefi-preferred"), ..Needs::default() }, &[]).is_ok());
    }

    #[test]
    fn a_paravirtual_image_needs_a_type_of_its_time() {
        let new = InstanceTypeInfo::builder().supported_virtualization_types(VirtualizationType::Hvm).build();
        assert!(check(new, Needs { virtualization: Some("paravirtual"), ..Needs::default() }, &[]).is_err());
    }

    #[test]
    fn credits_are_for_burstable_types() {
        let facts = |burstable| InstanceTypeInfo::builder().burstable_performance_supported(burstable).build();
        assert!(check(facts(false), Needs::default(), &["--credits", "standard"]).is_err());
        assert!(check(facts(true), Needs::default(), &["--credits", "standard"]).is_ok());
        assert!(check(facts(false), Needs::default(), &[]).is_ok());
    }
}
