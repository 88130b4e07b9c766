//! Names and tags: how a machine and its parts are found again.

use aws_sdk_ec2::types::{ResourceType, Tag, TagSpecification};
use machine_record::{Failure, Kind};
use std::collections::BTreeMap;

/// The machine's name in its record
pub const NAME: &str = "nixpipe:name";
/// The deployment that it belongs to
pub const DEPLOYMENT: &str = "nixpipe:deployment";
/// The host key that the machine showed, checked: whole if it fits, else its fingerprint
pub const HOST_KEY: &str = "nixpipe:host-key";

/// A tag's value ends at 256 characters (EC2 user guide, "Tag restrictions").
const LONGEST: usize = 256;

/// The security group of a machine.
pub fn group_name(deployment: &str, name: &str) -> Result<String, Failure> {
    let group = format!("nixpipe-{deployment}-{name}");
    if group.len() > 255 {
        return Err(Failure::new(Kind::Input, format!("the name of the security group is too long: {group}"))
            .hint("take a shorter name for the machine"));
    }
    Ok(group)
}

/// The tags of a machine's parts: the user's and ours.
pub fn of_machine(deployment: &str, name: &str, own: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut tags = own.clone();
    tags.insert("Name".into(), name.into());
    tags.insert(NAME.into(), name.into());
    tags.insert(DEPLOYMENT.into(), deployment.into());
    tags
}

/// Nothing has more tags (EC2 user guide, "Tag restrictions"); four are ours.
const MOST: usize = 50 - 4;

/// Checks the tags that the user gives.
pub fn check(tags: &BTreeMap<String, String>) -> Result<(), Failure> {
    if tags.len() > MOST {
        return Err(Failure::new(Kind::Input, format!("{} tags are too many", tags.len()))
            .hint(format!("EC2 takes 50, four of them ec2-up's own: leave {} out", tags.len() - MOST)));
    }
    tags.iter().try_for_each(|(key, value)| check_one(key, value))
}

fn check_one(key: &str, value: &str) -> Result<(), Failure> {
    let reserved = key.to_lowercase().starts_with("aws:") || key.starts_with("nixpipe:") || key == "Name";
    if reserved {
        return Err(Failure::new(Kind::Input, format!("the tag {key} is not yours to set"))
            .hint("Name is the machine's name; aws: and nixpipe: are reserved"));
    }
    if key.is_empty() || key.chars().count() > 128 || value.chars().count() > LONGEST {
        return Err(Failure::new(Kind::Input, format!("not a valid tag: {key}={value}"))
            .hint("a key has 1 to 128 characters, a value up to 256"));
    }
    Ok(())
}

/// The host key as a tag's value.
pub fn host_key_value(public_key: &str) -> Result<String, Failure> {
    if public_key.len() <= LONGEST { Ok(public_key.into()) } else { machine_ssh::fingerprint(public_key) }
}

/// Tags in the SDK's form.
pub fn list(tags: &BTreeMap<String, String>) -> Vec<Tag> {
    tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect()
}

/// Tags for what a call makes: with it, not after it, so that nothing is ever there without them.
pub fn specification(resource: ResourceType, tags: &BTreeMap<String, String>) -> TagSpecification {
    TagSpecification::builder().resource_type(resource).set_tags(Some(list(tags))).build()
}

/// The value of a tag.
pub fn value<'a>(tags: &'a [Tag], key: &str) -> Option<&'a str> {
    tags.iter().find(|tag| tag.key() == Some(key))?.value()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ed25519_key_fits_into_a_tag_and_an_rsa_key_becomes_its_fingerprint() {
        let ed25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ6v7XN7uLqkTnJ4m0Zy7nO8b1sF3yQ4cF0yB2yG0aQf";
        assert_eq!(host_key_value(ed25519).unwrap(), ed25519);
        use base64::Engine;
        let blob = [b"\0\0\0\x07ssh-rsa".as_slice(), &[0; 268]].concat();
        let rsa = format!("ssh-rsa {}", base64::engine::general_purpose::STANDARD.encode(blob));
        assert!(host_key_value(&rsa).unwrap().starts_with("SHA256:"));
    }

    #[test]
    fn the_tools_own_tags_are_not_the_users() {
        assert!(check_one("team", "web").is_ok());
        for key in ["nixpipe:name", "aws:x", "Name", ""] {
            assert!(check_one(key, "x").is_err(), "{key}");
        }
    }

    #[test]
    fn there_is_room_for_the_tools_own_tags() {
        let tags = |count| (0..count).map(|number| (number.to_string(), String::new())).collect();
        assert!(check(&tags(46)).is_ok());
        assert!(check(&tags(47)).unwrap_err().hint.unwrap().ends_with("leave 1 out"));
    }

    #[test]
    fn a_group_is_named_after_deployment_and_machine() {
        assert_eq!(group_name("default", "web-1").unwrap(), "nixpipe-default-web-1");
        assert!(group_name("default", &"x".repeat(250)).is_err());
    }
}
