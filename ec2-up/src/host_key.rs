//! The machine's host key, known before the first login.

use crate::console;
use crate::doing::Doing;
use crate::region::Region;
use crate::tags;
use aws_sdk_ec2::types::{Instance, Tag};
use clap::ValueEnum;
use machine_record::{Failure, Kind, log};
use machine_ssh::Jump;
use std::time::Duration;

/// Where trust in the host key comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HostKeySource {
    /// The fingerprints that the machine prints on its console
    Console,
    /// A key given to it through user data, which every process on the machine can read
    UserData,
    /// Whatever it shows first (trust on first use)
    Tofu,
}

/// The kinds of key to ask for, in turn, if the first that it shows is not on its console.
const KINDS: [&str; 3] = ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"];

/// The pause between two connections while sshd is not up.
const KNOCK: Duration = Duration::from_secs(1);

/// EC2 limits GetConsoleOutput more than most calls: pauses grow to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What makes a host key one that may be trusted.
pub struct Trust<'a> {
    pub source: HostKeySource,
    /// Keys or fingerprints that are known from an earlier run
    pub known: Vec<String>,
    pub machine: &'a str,
    /// The hosts on the way
    pub jump: Option<&'a Jump>,
    /// What is waited for, to be told if the time is up
    pub step: &'a Doing,
}

/// Keys known from an earlier run: the instance's tag.
pub fn tagged(instance: &Instance) -> Vec<String> {
    tags::value(instance.tags(), tags::HOST_KEY).into_iter().map(String::from).collect()
}

/// Waits until ssh answers, and gives the public key that it answers with, once that is proven.
///
/// The caller limits the time.
///
/// # Errors
/// Kind `host-key` where it is another key: that is never tried again.
pub async fn learn(region: &Region, instance: &Instance, host: &str, trust: Trust<'_>) -> Result<String, Failure> {
    let machine = trust.machine;
    let id = instance.instance_id().unwrap_or_default();
    log::event(machine, &format!("waiting for ssh at {host}"));
    trust.step.set("waiting for ssh to answer");
    let shown = answer(host, trust.jump).await?;
    if !trust.known.is_empty() {
        let key = prove((host, trust.jump), shown, &trust.known, "that it was known by").await?;
        if tagged(instance).is_empty() {
            remember(region, machine, id, &key).await?;
        }
        return Ok(key);
    }
    let key = match trust.source {
        HostKeySource::Tofu => {
            log::warning(machine, "its host key is taken on trust (--host-key tofu)");
            shown
        }
        HostKeySource::UserData => {
            return Err(Failure::new(Kind::HostKey, "no host key of the machine is known, and its file is missing")
                .hint("--host-key user-data gives a key to new machines only: say --host-key console"));
        }
        HostKeySource::Console => {
            log::event(machine, "waiting for the host key's fingerprint on the console");
            trust.step.set("waiting for a whole block of host key fingerprints on the console");
            let mut pause = Duration::from_secs(1);
            let printed = loop {
                let printed = console::fingerprints(region, machine, id).await?;
                if !printed.is_empty() {
                    break printed;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            };
            prove((host, trust.jump), shown, &printed, "that it has printed on its console").await?
        }
    };
    remember(region, machine, id, &key).await?;
    Ok(key)
}

/// Gives back the key that matches; asks for the machine's other keys before it says no.
async fn prove(at: (&str, Option<&Jump>), shown: String, known: &[String], which: &str) -> Result<String, Failure> {
    if matches(&shown, known) {
        return Ok(shown);
    }
    for kind in KINDS {
        if let Ok(other) = ask(at, kind).await
            && matches(&other, known)
        {
            return Ok(other);
        }
    }
    let fingerprint = machine_ssh::fingerprint(&shown)?;
    Err(Failure::new(Kind::HostKey, format!("{} shows {fingerprint}, none of the host keys {which}", at.0)).hint(
        "something else answers at that address, or the machine was given new keys: look at its console before you trust it",
    ))
}

fn matches(key: &str, known: &[String]) -> bool {
    let words = |line: &str| line.split_whitespace().take(2).map(String::from).collect::<Vec<_>>();
    let fingerprint = machine_ssh::fingerprint(key).ok();
    known.iter().any(|one| Some(one) == fingerprint.as_ref() || words(one) == words(key))
}

/// The first key that sshd shows, however long that takes.
///
/// # Errors
/// Kind `input`: on this side, so that no waiting helps.
async fn answer(host: &str, jump: Option<&Jump>) -> Result<String, Failure> {
    loop {
        match ask((host, jump), KINDS[0]).await.map_err(|error| Failure::of(&error)) {
            Ok(key) => return Ok(key),
            Err(failure) if failure.kind == Kind::Input => return Err(failure),
            Err(_) => {}
        }
        tokio::time::sleep(KNOCK).await;
    }
}

async fn ask((host, jump): (&str, Option<&Jump>), kind: &'static str) -> anyhow::Result<String> {
    let (host, jump) = (host.to_string(), jump.cloned());
    let asked = tokio::task::spawn_blocking(move || {
        machine_ssh::host_key(&host, 22, jump.as_ref(), &[kind], Duration::from_secs(5))
    });
    asked.await?
}

/// Writes the key into the instance's tag, for the runs that follow.
async fn remember(region: &Region, machine: &str, id: &str, key: &str) -> Result<(), Failure> {
    let tag = Tag::builder().key(tags::HOST_KEY).value(tags::host_key_value(key)?).build();
    let what = format!("{id} {}", tags::HOST_KEY);
    let tagged = region
        .aws
        .call(machine, "CreateTags", &what, |client| client.create_tags().resources(id).tags(tag.clone()).send());
    tagged.await.map(drop).map_err(|error| error.failure("cannot write the host key into the instance's tags"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_match_whole_or_by_fingerprint() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ6v7XN7uLqkTnJ4m0Zy7nO8b1sF3yQ4cF0yB2yG0aQf";
        let print = machine_ssh::fingerprint(key).unwrap();
        assert!(matches(key, &[format!("{key} root@host")]));
        assert!(matches(key, &["SHA256:other".into(), print]));
        assert!(!matches(key, &["SHA256:other".into()]));
        assert!(!matches(key, &[]));
    }
}
