//! Checks before paying: that the image lives, and fits the instance type and the volume.

use crate::instance_type::{self, Needs};
use crate::region::{Region, filter};
use crate::wish::{Imds, Wish};
use aws_sdk_ec2::types::{Image, ImdsSupportValues};
use machine_record::{Ami, Failure, Kind, Record, Section};
use std::collections::BTreeSet;
use std::rc::Rc;

/// The account that publishes NixOS images today (github.com/NixOS/amis).
const NIXOS: &str = "427812963091";

/// The account that did until 23.05 (NixOS/nixpkgs issue 285881).
const NIXOS_LEGACY: &str = "080433136561";

/// An image as a record names it; people type no more than its id.
#[derive(serde::Deserialize)]
pub struct Named {
    pub id: String,
    pub release: Option<String>,
    pub source: Option<String>,
}

/// The image that the record names, if it does.
pub fn named(record: &Record) -> Result<Option<Named>, Failure> {
    record.read(Ami::NAME)
}

/// The image that the record must name.
pub fn required(record: &Record) -> Result<Named, Failure> {
    match named(record)? {
        Some(named) => Ok(named),
        None => Err(Failure::new(Kind::Input, "the record has no `ami`").hint("run nixos-ami first")),
    }
}

/// What a new machine needs to know of its image.
pub struct Checked {
    pub id: String,
    pub root_device: String,
    pub instance_type: String,
    pub imds: Imds,
}

/// Asks EC2 for the image and the instance type, and checks that they fit each other and the wish.
pub async fn check(region: &Region, ami: &Named, wish: &Wish) -> Result<Checked, Failure> {
    let image = match find(region, &ami.id).await? {
        Some(image) => image,
        None => return Err(gone(region, ami).await),
    };
    let needs = Needs::of_image(&image);
    let instance_type = wish.machine_type(needs.architecture).to_string();
    instance_type::check(region, &instance_type, &needs, wish).await?;
    let root_device = root_device(&image, &ami.id)?;
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

fn root_device<'a>(image: &'a Image, id: &str) -> Result<&'a str, Failure> {
    image.root_device_name().ok_or_else(|| {
        Failure::new(Kind::Input, format!("{id} has no root volume on EBS")).hint("take an image of type hvm-ebs")
    })
}

/// Images of old releases fetch the ssh key without a token: they would never get it if one were required.
fn imds(image: &Image, ami: &Named) -> Imds {
    let v2 = image.imds_support() == Some(&ImdsSupportValues::V20);
    let old = ami.source.as_deref() == Some("table") || image.owner_id() == Some(NIXOS_LEGACY);
    if old && !v2 { Imds::Optional } else { Imds::Required }
}

async fn find(region: &Region, id: &str) -> Result<Option<Rc<Image>>, Failure> {
    let ask = || async {
        let found = region.aws.call("", "DescribeImages", id, |client| {
            // By a filter: an unknown id among the parameters is an error. Deprecated images live, too.
            let call = client.describe_images().include_deprecated(true).filters(filter("image-id", [id.to_string()]));
            let call = call.filters(filter("state", ["available".to_string()]));
            call.into_paginator().items().send().collect::<Result<Vec<_>, _>>()
        });
        let found = found.await.map_err(|error| error.failure(format!("cannot look for the image {id}")))?;
        Ok(found.into_iter().next().map(Rc::new))
    };
    region.images.of(id.to_string(), ask).await
}

/// NixOS deletes its images about 90 days after they were last the newest: names releases that have one.
async fn gone(region: &Region, ami: &Named) -> Failure {
    let failure = Failure::new(
        Kind::NotFound,
        format!("the image {}{} does not exist any more in {}", ami.id, release_of(ami), region.name),
    );
    let found = region.aws.call("", "DescribeImages", "nixos/*", |client| {
        let call = client.describe_images().owners(NIXOS).filters(filter("name", ["nixos/*".to_string()]));
        call.into_paginator().page_size(1000).items().send().collect::<Result<Vec<_>, _>>()
    });
    failure.hint(alive(&found.await.unwrap_or_default()))
}

/// Names the releases of these images.
fn alive(images: &[Image]) -> String {
    let releases: BTreeSet<&str> = images.iter().filter_map(|image| release(image.name()?)).collect();
    if releases.is_empty() {
        return "take a newer release".into();
    }
    let releases = releases.into_iter().collect::<Vec<_>>().join(", ");
    format!("releases that have an image there: {releases}; run nixos-ami again with --source ec2")
}

fn release_of(ami: &Named) -> String {
    ami.release.as_ref().map(|release| format!(" (NixOS {release})")).unwrap_or_default()
}

/// The release in a name such as `nixos/25.11.1240.2fad6eac6077-x86_64-linux`; pre-releases have none.
fn release(name: &str) -> Option<&str> {
    let label = name.strip_prefix("nixos/")?;
    let release = label.get(..5)?;
    let digits = |range| label.get(range).is_some_and(|text: &str| text.bytes().all(|byte| byte.is_ascii_digit()));
    (digits(0..2) && digits(3..5) && release.as_bytes().get(2) == Some(&b'.') && label.get(5..6) == Some("."))
        .then_some(release)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_from_names_and_pre_releases_are_not() {
        assert_eq!(release("nixos/25.11.1240.2fad6eac6077-x86_64-linux"), Some("25.11"));
        assert_eq!(release("nixos/26.11pre903221.c8cd81426f45-x86_64-linux"), None);
        assert_eq!(release("nixos/26.11beta41.4b8a-x86_64-linux"), None);
        assert_eq!(release("other/25.11.1.2-x86_64-linux"), None);
    }

    #[test]
    fn what_an_image_lacks_is_said_with_what_to_take_instead() {
        let failure = root_device(&Image::builder().build(), "ami-1").unwrap_err();
        assert_eq!(failure.message, "ami-1 has no root volume on EBS");
        assert_eq!(failure.hint.as_deref(), Some("take an image of type hvm-ebs"));
        assert_eq!(root_device(&Image::builder().root_device_name("/dev/xvda").build(), "ami-1").unwrap(), "/dev/xvda");
        assert_eq!(alive(&[]), "take a newer release");
        let image = |name: &str| Image::builder().name(name).build();
        let images = ["nixos/26.05.1.a-x86_64-linux", "nixos/25.11.1.a-x86_64-linux", "nixos/25.11.2.b-x86_64-linux"];
        let said = alive(&images.map(image));
        assert_eq!(said, "releases that have an image there: 25.11, 26.05; run nixos-ami again with --source ec2");
    }

    #[test]
    fn tokens_are_optional_for_old_images_only() {
        let ami = |source: &str| Named { id: "ami-1".into(), release: None, source: Some(source.into()) };
        let plain = Image::builder().build();
        assert_eq!(imds(&plain, &ami("table")), Imds::Optional);
        assert_eq!(imds(&plain, &ami("ec2")), Imds::Required);
        assert_eq!(imds(&Image::builder().owner_id(NIXOS_LEGACY).build(), &ami("ec2")), Imds::Optional);
        assert_eq!(imds(&Image::builder().imds_support(ImdsSupportValues::V20).build(), &ami("table")), Imds::Required);
    }
}
