//! The key pair in EC2: known by its name, told apart by its material.

use crate::aws::Aws;
use crate::region::{Region, filter};
use crate::tags;
use aws_sdk_ec2::primitives::Blob;
use aws_sdk_ec2::types::{KeyPairInfo, ResourceType};
use machine_record::{Failure, KeyPair, Kind, log};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// How long a look-up may wait for other machines to share the call.
const SOON: Duration = Duration::from_millis(20);

/// How often a key pair that EC2 says is there is looked for, and the pause between.
const LOOKS: u32 = 60;
const PAUSE: Duration = Duration::from_secs(1);

/// Makes sure that EC2 has the key pair; true if this run imported it. Once for all machines that share it.
///
/// # Errors
/// Kind `input` where the record does not say which, `conflict` where EC2 has another one of that name.
pub async fn ensure(region: &Region, machine: &str, pair: &KeyPair) -> Result<bool, Failure> {
    if pair.name.is_empty() || pair.public_key.is_empty() {
        return Err(Failure::new(Kind::Input, "the record's `keyPair` has no name or no public key")
            .hint("keygen adds both, of a new key or of one that is there (--file)"));
    }
    let key = id(pair);
    let make = || async {
        if let Some(found) = find(region, &pair.name).await? {
            return compare(pair, &found).map(|()| false);
        }
        import(region, machine, pair).await
    };
    region.key_pairs.of(key, make).await
}

/// Forgets that it was there: EC2 has just said that it is not.
pub fn forget(region: &Region, pair: &KeyPair) {
    region.key_pairs.forget(&id(pair));
}

fn id(pair: &KeyPair) -> String {
    format!("{} {}", pair.name, pair.public_key)
}

async fn import(region: &Region, machine: &str, pair: &KeyPair) -> Result<bool, Failure> {
    log::event(machine, &format!("importing the key pair {}", pair.name));
    // Shared by machines: it has no name of one.
    let tags = BTreeMap::from([(tags::DEPLOYMENT.to_string(), region.deployment.clone())]);
    let tags = tags::specification(ResourceType::KeyPair, &tags);
    let imported = region.aws.call(machine, "ImportKeyPair", &pair.name, |client| {
        let call = client.import_key_pair().key_name(&pair.name).tag_specifications(tags.clone());
        call.public_key_material(Blob::new(pair.public_key.as_bytes())).send()
    });
    match imported.await {
        Ok(_) => Ok(true),
        // Somebody was faster, or the answer to our own first try was lost.
        Err(error) if error.is(&["InvalidKeyPair.Duplicate"]) => {
            for _ in 0..LOOKS {
                if let Some(found) = find(region, &pair.name).await? {
                    return compare(pair, &found).map(|()| false);
                }
                tokio::time::sleep(PAUSE).await;
            }
            Err(Failure::new(
                Kind::Timeout,
                format!("EC2 says that there is a key pair {}, but does not show it", pair.name),
            )
            .hint("run it again in a minute"))
        }
        Err(error) => Err(error.failure(format!("cannot import the key pair {}", pair.name))),
    }
}

/// The key pair of a name, with its public key.
pub async fn find(region: &Region, name: &str) -> Result<Option<Rc<KeyPairInfo>>, Failure> {
    Ok(region.pairs_by_name.of(name, SOON).await?.pop())
}

/// Key pairs by a filter.
pub async fn find_all(aws: &Aws, by: &str, values: Vec<String>) -> Result<Vec<KeyPairInfo>, Failure> {
    let what = format!("{by}={}", values.join(","));
    let found = aws.call("", "DescribeKeyPairs", &what, |client| {
        client.describe_key_pairs().include_public_key(true).filters(filter(by, values.clone())).send()
    });
    let found = found.await.map_err(|error| error.failure("cannot look for key pairs"))?;
    Ok(found.key_pairs.unwrap_or_default())
}

/// Fails if EC2 has another key under the name.
pub fn compare(pair: &KeyPair, found: &KeyPairInfo) -> Result<(), Failure> {
    // The comment is not part of the key.
    let key = |line: &str| line.split_whitespace().take(2).map(String::from).collect::<Vec<_>>();
    match found.public_key() {
        Some(public_key) if key(public_key) == key(&pair.public_key) => Ok(()),
        _ => Err(Failure::new(Kind::Conflict, format!("EC2 has another key under the name {}", pair.name))
            .hint("give keyPair another name, or delete that key pair in EC2")),
    }
}

/// Deletes a key pair that these tools made and no instance uses; true if it did.
///
/// `gone` are instances that are terminated though EC2 may still list them.
pub async fn release(region: &Region, machine: &str, name: &str, gone: &[String]) -> Result<bool, Failure> {
    let Some(found) = find(region, name).await? else { return Ok(false) };
    if tags::value(found.tags(), tags::DEPLOYMENT).is_none() {
        log::event(machine, &format!("the key pair {name} stays: it was not made by ec2-up"));
        return Ok(false);
    }
    if in_use(region, name, gone).await? {
        log::event(machine, &format!("the key pair {name} stays: other machines use it"));
        return Ok(false);
    }
    let deleted =
        region.aws.call(machine, "DeleteKeyPair", name, |client| client.delete_key_pair().key_name(name).send());
    match deleted.await {
        Err(error) if !error.is(&["InvalidKeyPair.NotFound"]) => {
            Err(error.failure(format!("cannot delete the key pair {name}")))
        }
        _ => {
            log::event(machine, &format!("deleted the key pair {name}"));
            Ok(true)
        }
    }
}

/// Whether an instance of the account, of any deployment, was started with the key pair.
pub async fn in_use(region: &Region, name: &str, gone: &[String]) -> Result<bool, Failure> {
    let users = region.users_of_pair.of(name, SOON).await?;
    Ok(users.iter().any(|user| !gone.iter().any(|id| Some(id.as_str()) == user.instance_id())))
}

/// Those of the names that an instance was started with, asked for together.
pub async fn used<'a>(region: &Region, names: impl Iterator<Item = &'a str>) -> Result<BTreeSet<String>, Failure> {
    let names: Vec<String> = names.map(String::from).collect();
    let mut used = BTreeSet::new();
    for names in names.chunks(crate::batch::MOST) {
        let users = crate::region::users_of_pairs(&region.aws, names.to_vec()).await?;
        used.extend(users.iter().filter_map(|user| user.key_name().map(String::from)));
    }
    Ok(used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_compared_without_their_comments() {
        let pair = KeyPair {
            name: "k".into(),
            public_key: "ssh-ed25519 AAAA".into(),
            private_key_file: None,
            algorithm: "ed25519".into(),
        };
        let found = |key: &str| KeyPairInfo::builder().public_key(key).build();
        assert!(compare(&pair, &found("ssh-ed25519 AAAA k\n")).is_ok());
        assert_eq!(compare(&pair, &found("ssh-ed25519 BBBB k")).unwrap_err().kind, Kind::Conflict);
        assert!(compare(&pair, &KeyPairInfo::builder().build()).is_err());
    }
}
