//! Checks before paying: that the image lives, and fits the instance type and the volume.

use crate::region::{Region, filter};
use crate::wish::{Imds, Wish};
use aws_sdk_ec2::types::{Image, ImdsSupportValues, InstanceTypeInfo};
use machine_record::{Ami, Failure, Kind};
use std::collections::BTreeSet;
use std::rc::Rc;

/// The account that publishes NixOS images today (github.com/NixOS/amis).
const NIXOS: &str = "427812963091";

/// The account that did until 23.05 (NixOS/nixpkgs issue 285881).
const NIXOS_LEGACY: &str = "080433136561";

/// What a new machine needs to know of its image.
pub struct Checked {
    pub id: String,
    pub root_device: String,
    pub instance_type: String,
    pub imds: Imds,
}

/// Asks EC2 for the image and the instance type, and checks that they fit each other and the wish.
pub async fn check(region: &Region, ami: &Ami, wish: &Wish) -> Result<Checked, Failure> {
    let image = match find(region, &ami.id).await? {
        Some(image) => image,
        None => return Err(gone(region, ami).await),
    };
    let architecture = image.architecture().map_or("", |architecture| architecture.as_str());
    let instance_type = wish.machine_type(architecture).to_string();
    let facts = type_facts(region, &instance_type).await?;
    fits(&ami.id, &image, &instance_type, &facts)?;
    let root_device = image.root_device_name().ok_or_else(|| {
        Failure::new(Kind::Input, format!("{} has no root volume on EBS", ami.id)).hint("take an image of type hvm-ebs")
    })?;
    let snapshot = image.block_device_mappings().iter().find(|mapping| mapping.device_name() == Some(root_device));
    let least = snapshot.and_then(|mapping| mapping.ebs()?.volume_size()).unwrap_or(1);
    if i64::from(wish.size()) < i64::from(least) {
        return Err(Failure::new(
            Kind::Input,
            format!("a volume of {} GiB is too small for {}, which has {least} GiB", wish.size(), ami.id),
        )
        .hint(format!("say --volume-size {least} or more")));
    }
    let imds = wish.imds.unwrap_or_else(|| imds(&image, ami));
    Ok(Checked { id: ami.id.clone(), root_device: root_device.into(), instance_type, imds })
}

/// Images of old releases fetch the ssh key without a token: they would never get it if one were required.
fn imds(image: &Image, ami: &Ami) -> Imds {
    let v2 = image.imds_support() == Some(&ImdsSupportValues::V20);
    let old = ami.source == "table" || image.owner_id() == Some(NIXOS_LEGACY);
    if old && !v2 { Imds::Optional } else { Imds::Required }
}

async fn find(region: &Region, id: &str) -> Result<Option<Rc<Image>>, Failure> {
    let ask = || async {
        let found = region.aws.call("", "DescribeImages", id, |client| {
            // By a filter: an unknown id among the parameters is an error. Deprecated images live, too.
            let call = client.describe_images().include_deprecated(true).filters(filter("image-id", [id.to_string()]));
            call.filters(filter("state", ["available".to_string()])).send()
        });
        let found = found.await.map_err(|error| error.failure(format!("cannot look for the image {id}")))?;
        Ok(found.images.unwrap_or_default().into_iter().next().map(Rc::new))
    };
    region.images.of(id.to_string(), ask).await
}

/// NixOS deletes its images about 90 days after they were last the newest: names releases that have one.
async fn gone(region: &Region, ami: &Ami) -> Failure {
    let failure = Failure::new(
        Kind::NotFound,
        format!("the image {} (NixOS {}) does not exist any more in {}", ami.id, ami.release, region.name),
    );
    let found = region.aws.call("", "DescribeImages", "nixos/*", |client| {
        let call = client.describe_images().owners(NIXOS).filters(filter("name", ["nixos/*".to_string()]));
        call.into_paginator().page_size(1000).items().send().collect::<Result<Vec<_>, _>>()
    });
    let images = found.await.unwrap_or_default();
    let releases: BTreeSet<&str> = images.iter().filter_map(|image| release(image.name()?)).collect();
    if releases.is_empty() {
        return failure.hint("take a newer release");
    }
    let releases: Vec<&str> = releases.into_iter().collect();
    failure.hint(format!(
        "releases that have an image there: {}; run nixos-ami again with --source ec2",
        releases.join(", ")
    ))
}

/// The release in a name such as `nixos/25.11.1240.2fad6eac6077-x86_64-linux`; pre-releases have none.
fn release(name: &str) -> Option<&str> {
    let label = name.strip_prefix("nixos/")?;
    let release = label.get(..5)?;
    let digits = |range| label.get(range).is_some_and(|text: &str| text.bytes().all(|byte| byte.is_ascii_digit()));
    (digits(0..2) && digits(3..5) && release.as_bytes().get(2) == Some(&b'.') && label.get(5..6) == Some("."))
        .then_some(release)
}

async fn type_facts(region: &Region, name: &str) -> Result<Rc<InstanceTypeInfo>, Failure> {
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

/// EC2 itself says so only after a volume has been made from the snapshot, or as a machine that never boots.
fn fits(id: &str, image: &Image, name: &str, facts: &InstanceTypeInfo) -> Result<(), Failure> {
    let image_has = image.architecture().map_or("", |architecture| architecture.as_str());
    let known: Vec<&str> = facts
        .processor_info()
        .map(|processor| processor.supported_architectures().iter().map(|a| a.as_str()).collect())
        .unwrap_or_default();
    if !known.is_empty() && !known.contains(&image_has) {
        let message = format!("{name} cannot run {id}: it is for {}, the image for {image_has}", known.join(" and "));
        let hint = if image_has == "arm64" { "t4g.micro" } else { "t3.micro" };
        return Err(Failure::new(Kind::Input, message)
            .hint(format!("take an --instance-type such as {hint}, or another --system for nixos-ami")));
    }
    let modes: Vec<&str> = facts.supported_boot_modes().iter().map(|mode| mode.as_str()).collect();
    match image.boot_mode().map(|mode| mode.as_str()) {
        Some(mode @ ("uefi" | "legacy-bios")) if !modes.is_empty() && !modes.contains(&mode) => {
            Err(Failure::new(Kind::Input, format!("{name} cannot boot {id}: the image boots by {mode}"))
                .hint("take another --instance-type"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_ec2::types::{ArchitectureType, ArchitectureValues, BootModeType, BootModeValues, ProcessorInfo};

    #[test]
    fn releases_are_read_from_names_and_pre_releases_are_not() {
        assert_eq!(release("nixos/25.11.1240.2fad6eac6077-x86_64-linux"), Some("25.11"));
        assert_eq!(release("nixos/26.11pre903221.c8cd81426f45-x86_64-linux"), None);
        assert_eq!(release("nixos/26.11beta41.4b8a-x86_64-linux"), None);
        assert_eq!(release("other/25.11.1.2-x86_64-linux"), None);
    }

    #[test]
    fn an_arm_image_does_not_fit_an_intel_type() {
        let image = Image::builder().architecture(ArchitectureValues::Arm64).build();
        let intel = ProcessorInfo::builder().supported_architectures(ArchitectureType::X8664).build();
        let facts = InstanceTypeInfo::builder().processor_info(intel).build();
        let failure = fits("ami-1", &image, "t3.micro", &facts).unwrap_err();
        assert_eq!(failure.kind, Kind::Input);
        assert!(failure.hint.unwrap().contains("t4g.micro"));
    }

    #[test]
    fn an_uefi_image_needs_a_type_that_boots_so() {
        let image = Image::builder().boot_mode(BootModeValues::Uefi).build();
        let old = InstanceTypeInfo::builder().supported_boot_modes(BootModeType::LegacyBios).build();
        assert!(fits("ami-1", &image, "t2.micro", &old).is_err());
        let preferred = Image::builder().boot_mode(BootModeValues::UefiPreferred).build();
        assert!(fits("ami-1", &preferred, "t2.micro", &old).is_ok());
    }

    #[test]
    fn tokens_are_optional_for_old_images_only() {
        let ami = |source: &str| Ami {
            id: "ami-1".into(),
            name: None,
            release: "20.09".into(),
            region: "eu-central-1".into(),
            system: "x86_64-linux".into(),
            kind: "hvm-ebs".into(),
            creation_date: None,
            deprecation_time: None,
            source: source.into(),
            boot_mode: None,
        };
        let plain = Image::builder().build();
        assert_eq!(imds(&plain, &ami("table")), Imds::Optional);
        assert_eq!(imds(&plain, &ami("ec2")), Imds::Required);
        assert_eq!(imds(&Image::builder().owner_id(NIXOS_LEGACY).build(), &ami("ec2")), Imds::Optional);
        assert_eq!(imds(&Image::builder().imds_support(ImdsSupportValues::V20).build(), &ami("table")), Imds::Required);
    }
}
