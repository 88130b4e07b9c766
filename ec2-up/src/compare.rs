//! Differences between the wish and the machine that runs, and how each can be mended (`mend`).

use crate::image::Checked;
use crate::region::Region;
use crate::volume::Change;
use crate::wish::{Credits, Imds, Wish};
use crate::{credits, instance, tags};
use aws_sdk_ec2::types::{HttpTokensState, Instance, Volume};
use machine_record::{Failure, KeyPair};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// One field in which the machine is not as wished.
#[derive(Debug)]
pub struct Difference {
    pub what: &'static str,
    pub have: String,
    pub want: String,
    pub mend: Mend,
}

/// How a difference goes away.
#[derive(Debug, PartialEq)]
pub enum Mend {
    /// With one call, while the machine runs
    Tags(BTreeMap<String, String>),
    Volume(Change),
    Imds(Imds),
    Credits(Credits),
    /// The security groups to be in
    Groups(Vec<String>),
    /// Only by a stop and a start: the type to become
    Resize(String),
    /// Only by a new machine
    Replace,
    /// Not at all: the image is only what the machine began with
    Tolerate,
}

impl Difference {
    /// The difference in words.
    pub fn words(&self) -> String {
        format!("{} is {}, wished {}", self.what, self.have, self.want)
    }

    pub fn details(&self) -> Value {
        json!({ "field": self.what, "have": self.have, "want": self.want })
    }
}

/// What is wished of a machine that exists, as far as it was said.
pub struct Wanted<'a> {
    pub machine: &'a str,
    pub wish: &'a Wish,
    pub ami: Option<&'a str>,
    pub key_pair: Option<&'a KeyPair>,
}

/// Compares field by field. What nobody has said is not compared.
pub async fn differences(
    region: &Region,
    instance: &Instance,
    wanted: &Wanted<'_>,
) -> Result<Vec<Difference>, Failure> {
    let mut found = of_instance(&region.deployment, instance, wanted);
    let wish = wanted.wish;
    if let Some(want) = wish.credits {
        let have = credits::find(region, instance.instance_id().unwrap_or_default()).await?;
        if have.as_deref() != Some(want.word()) {
            let have = have.unwrap_or_else(|| "unknown".into());
            found.push(Difference { what: "credits", have, want: want.word().into(), mend: Mend::Credits(want) });
        }
    }
    if wish.volume_size.is_some() || wish.volume_type.is_some() {
        let root = instance.root_device_name();
        let root = instance.block_device_mappings().iter().find(|mapping| mapping.device_name() == root);
        if let Some(id) = root.and_then(|mapping| mapping.ebs()?.volume_id())
            && let Some(volume) = region.volumes.of(id, Duration::from_millis(20)).await?.pop()
        {
            found.extend(of_volume(id, &volume, wish));
        }
    }
    Ok(found)
}

fn of_instance(deployment: &str, instance: &Instance, wanted: &Wanted) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut compare = |what, have: Option<&str>, want: Option<&str>, mend| {
        if let (Some(have), Some(want)) = (have, want)
            && have != want
        {
            found.push(Difference { what, have: have.into(), want: want.into(), mend });
        }
    };
    let wish = wanted.wish;
    let kind = instance.instance_type().map(|kind| kind.as_str());
    // EC2 does not stop a spot machine that was asked for once.
    let is_spot = instance.instance_lifecycle().is_some();
    let resize = match is_spot {
        true => Mend::Replace,
        false => Mend::Resize(wish.instance_type.clone().unwrap_or_default()),
    };
    compare("type", kind, wish.instance_type.as_deref(), resize);
    compare("image", instance.image_id(), wanted.ami, Mend::Tolerate);
    compare("subnet", instance.subnet_id(), wish.subnet.as_deref(), Mend::Replace);
    let key_pair = instance.key_name().unwrap_or("none");
    compare("key pair", Some(key_pair), wanted.key_pair.map(|pair| pair.name.as_str()), Mend::Replace);
    let market = if is_spot { "spot" } else { "on demand" };
    compare("market", Some(market), wish.spot.then_some("spot"), Mend::Replace);
    // EC2 tells the profile's ARN: arn:aws:iam::123456789012:instance-profile/name
    let profile = instance.iam_instance_profile().and_then(|profile| profile.arn()).unwrap_or("none");
    let want = wish.instance_profile.as_deref();
    let same = want.is_some_and(|want| want == profile || profile.ends_with(&format!("/{want}")));
    compare("instance profile", Some(profile), want.filter(|_| !same), Mend::Replace);
    if let Some(want) = wish.imds {
        let required = instance.metadata_options().and_then(|o| o.http_tokens()) == Some(&HttpTokensState::Required);
        let word = |required| if required { "required" } else { "optional" };
        compare("imds", Some(word(required)), Some(word(want == Imds::Required)), Mend::Imds(want));
    }
    let ipv6 = if instance::ipv6(instance).is_some() { "there" } else { "none" };
    compare("ipv6", Some(ipv6), wish.ipv6.then_some("there"), Mend::Replace);
    if !wish.security_groups.is_empty() {
        let have: BTreeSet<&str> = instance.security_groups().iter().filter_map(|group| group.group_id()).collect();
        let have: Vec<&str> = have.into_iter().collect();
        let want: Vec<String> = wish.security_groups.iter().cloned().collect();
        compare("security groups", Some(&have.join(",")), Some(&want.join(",")), Mend::Groups(want.clone()));
    }
    let tags = tags::of_machine(deployment, wanted.machine, &wish.tags);
    let missing: BTreeMap<String, String> =
        tags.into_iter().filter(|(key, value)| tags::value(instance.tags(), key) != Some(value)).collect();
    if !missing.is_empty() {
        let words = |value: &dyn Fn(&str, &str) -> String| {
            missing.iter().map(|(key, want)| format!("{key}={}", value(key, want))).collect::<Vec<_>>().join(",")
        };
        let have = words(&|key, _| tags::value(instance.tags(), key).unwrap_or_default().to_string());
        let want = words(&|_, want| want.to_string());
        found.push(Difference { what: "tags", have, want, mend: Mend::Tags(missing) });
    }
    found
}

fn of_volume(id: &str, volume: &Volume, wish: &Wish) -> Vec<Difference> {
    let mut found = Vec::new();
    // One change of size and type together: EBS makes one at a time, and the next hours later.
    let have = volume.size().and_then(|size| u32::try_from(size).ok()).unwrap_or(0);
    let kind = volume.volume_type().map_or("unknown", |kind| kind.as_str());
    let size = wish.volume_size.filter(|want| *want > have);
    let other = wish.volume_type.clone().filter(|want| want != kind);
    let change = || Mend::Volume(Change { id: id.into(), size, kind: other.clone() });
    if let Some(want) = wish.volume_size.filter(|want| *want != have) {
        // EBS volumes only ever grow.
        let mend = if want > have { change() } else { Mend::Replace };
        found.push(Difference { what: "volume size", have: format!("{have} GiB"), want: format!("{want} GiB"), mend });
    }
    if let Some(want) = &other {
        found.push(Difference { what: "volume type", have: kind.into(), want: want.clone(), mend: change() });
    }
    found
}

/// What a new machine would be, for a plan.
pub fn new_machine(wish: &Wish, image: &Checked) -> Value {
    json!({
        "image": image.id, "type": image.instance_type, "volumeSize": wish.size(), "volumeType": wish.volume(),
        "encrypted": true, "subnet": wish.subnet, "securityGroups": wish.security_groups, "ipv6": wish.ipv6, "spot": wish.spot, "tags": wish.tags,
        "instanceProfile": wish.instance_profile, "elasticIp": wish.elastic_ip,
        "imds": if image.imds == Imds::Required { "required" } else { "optional" },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_ec2::types::{InstanceType, VolumeType};
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        wish: crate::wish::WishArgs,
    }

    fn wish(flags: &[&str]) -> Wish {
        let wish = Line::parse_from(std::iter::once(&"x").chain(flags)).wish;
        Wish::of(&machine_record::Record::default(), &wish).unwrap()
    }

    fn running() -> Instance {
        let tags = tags::list(&tags::of_machine("default", "web-1", &BTreeMap::new()));
        Instance::builder().instance_type(InstanceType::T3Micro).image_id("ami-1").set_tags(Some(tags)).build()
    }

    fn found(flags: &[&str], ami: &str) -> Vec<(&'static str, Mend)> {
        let wish = wish(flags);
        let wanted = Wanted { machine: "web-1", wish: &wish, ami: Some(ami), key_pair: None };
        of_instance("default", &running(), &wanted).into_iter().map(|d| (d.what, d.mend)).collect()
    }

    #[test]
    fn a_machine_as_wished_has_no_differences() {
        assert!(found(&["--instance-type", "t3.micro"], "ami-1").is_empty());
        assert!(found(&[], "ami-1").is_empty());
    }

    #[test]
    fn a_changed_image_never_replaces_a_machine() {
        assert_eq!(found(&[], "ami-2"), [("image", Mend::Tolerate)]);
    }

    #[test]
    fn each_field_has_its_way_of_being_mended() {
        assert_eq!(found(&["--instance-type", "t3.small"], "ami-1"), [("type", Mend::Resize("t3.small".into()))]);
        assert_eq!(found(&["--spot"], "ami-1"), [("market", Mend::Replace)]);
        let tags = BTreeMap::from([("team".to_string(), "web".to_string())]);
        assert_eq!(found(&["--tag", "team=web"], "ami-1"), [("tags", Mend::Tags(tags))]);
        assert_eq!(found(&["--imds", "required"], "ami-1"), [("imds", Mend::Imds(Imds::Required))]);
        let groups = Mend::Groups(vec!["sg-1".into(), "sg-2".into()]);
        assert_eq!(found(&["--security-group", "sg-2,sg-1"], "ami-1"), [("security groups", groups)]);
        assert_eq!(found(&["--ipv6"], "ami-1"), [("ipv6", Mend::Replace)]);
    }

    #[test]
    fn a_volume_grows_in_place_and_does_not_shrink() {
        let volume = Volume::builder().size(50).volume_type(VolumeType::Gp3).build();
        let mends =
            |flags: &[&str]| of_volume("vol-1", &volume, &wish(flags)).into_iter().map(|d| d.mend).collect::<Vec<_>>();
        assert_eq!(mends(&["--volume-size", "50", "--volume-type", "gp3"]), []);
        let change =
            |size, kind: Option<&str>| Mend::Volume(Change { id: "vol-1".into(), size, kind: kind.map(String::from) });
        assert_eq!(mends(&["--volume-size", "60"]), [change(Some(60), None)]);
        let both = change(Some(60), Some("gp2"));
        assert_eq!(mends(&["--volume-size", "60", "--volume-type", "gp2"]), [both, change(Some(60), Some("gp2"))]);
        assert_eq!(mends(&["--volume-size", "40"]), [Mend::Replace]);
    }
}
