//! ec2-ls: the machines of a deployment as records, from what the account knows.

use crate::args::AccountArgs;
use crate::region::{Region, Regions, filter, instances, security_groups};
use crate::{host_key, instance, key_pair, tags};
use anyhow::{Context, Result};
use aws_sdk_ec2::types::Instance;
use machine_record::{Failure, KeyPair, Record, Ssh, StreamArgs, Tool, log};
use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

const TOOL: Tool = Tool { name: "ec2-ls", starts: true, names: false, jobs: 1 };

/// The flags of ec2-ls.
#[derive(clap::Args, Clone, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    pub account: AccountArgs,

    #[command(flatten)]
    pub stream: StreamArgs,
}

/// Runs the tool.
pub fn run(args: ListArgs) -> ExitCode {
    // It reads no records, whatever stdin is.
    let stream = StreamArgs { null_input: true, ..args.stream.clone() };
    machine_record::run(TOOL, &stream, |jobs| {
        let Some(seed) = jobs.take(1).and_then(|mut jobs| jobs.pop()) else { return Ok(()) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
        let found = tokio::task::LocalSet::new().block_on(&runtime, async {
            let region = Regions::new(&args.account).of(&args.account.default_region().await?).await?;
            machines(&region).await
        });
        let found: Result<Vec<Record>> = found.map_err(Into::into);
        match found {
            Ok(records) => {
                for record in records {
                    if args.stream.name.as_ref().is_none_or(|name| *name == record.name()) {
                        seed.another(record).finish(Ok(()));
                    }
                }
                seed.discard();
                Ok(())
            }
            Err(error) => {
                seed.discard();
                Err(error)
            }
        }
    })
}

/// A record for each machine that is not terminated, by name.
async fn machines(region: &Region) -> Result<Vec<Record>, Failure> {
    let states = ["pending", "running", "stopping", "stopped"].map(String::from);
    let filters = [
        filter(&format!("tag:{}", tags::DEPLOYMENT), [region.deployment.clone()]),
        filter("instance-state-name", states),
    ];
    let found = instances(&region.aws, &filters).await;
    let mut found = found.map_err(|error| error.failure("cannot list machines"))?;
    let key = |instance: &Instance| tags::value(instance.tags(), tags::NAME).unwrap_or_default().to_string();
    found.sort_by_key(key);
    let pairs = key_pairs(region, &found).await?;
    found.iter().map(|instance| record(region, instance, &pairs)).collect()
}

/// What the machines of a deployment are, and those of which only a security group is left.
pub async fn whole(region: &Region) -> Result<Vec<Record>, Failure> {
    let mut records = machines(region).await?;
    let mut names: BTreeSet<String> = records.iter().map(Record::name).collect();
    let ours = filter(&format!("tag:{}", tags::DEPLOYMENT), [region.deployment.clone()]);
    // Two machines of one name go together: their tags are the same.
    let mut seen = BTreeSet::new();
    records.retain(|record| seen.insert(record.name()));
    for group in security_groups(&region.aws, &[ours]).await? {
        if let Some(name) = tags::value(group.tags(), tags::NAME)
            && names.insert(name.to_string())
        {
            let mut record = Record::default();
            record.set("name", &name)?;
            record.set("region", &region.name)?;
            records.push(record);
        }
    }
    Ok(records)
}

async fn key_pairs(region: &Region, machines: &[Instance]) -> Result<BTreeMap<String, KeyPair>, Failure> {
    let names: BTreeSet<String> =
        machines.iter().filter_map(|instance| instance.key_name().map(String::from)).collect();
    let names: Vec<String> = names.into_iter().collect();
    let mut pairs = BTreeMap::new();
    for names in names.chunks(200) {
        for found in key_pair::find_all(region, "key-name", names.to_vec()).await? {
            let (Some(name), Some(public_key)) = (found.key_name(), found.public_key()) else { continue };
            let public_key = public_key.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
            let algorithm = if public_key.starts_with("ssh-rsa ") { "rsa" } else { "ed25519" };
            // Where the private key is, EC2 does not know: the ssh-agent is asked for it.
            let pair = KeyPair { name: name.into(), public_key, private_key_file: None, algorithm: algorithm.into() };
            pairs.insert(name.to_string(), pair);
        }
    }
    Ok(pairs)
}

fn record(region: &Region, found: &Instance, pairs: &BTreeMap<String, KeyPair>) -> Result<Record, Failure> {
    let mut record = Record::default();
    let id = found.instance_id().unwrap_or_default();
    match tags::value(found.tags(), tags::NAME) {
        Some(name) => record.set("name", &name)?,
        None => log::warning("", &format!("{id} has the deployment's tag but no {}", tags::NAME)),
    }
    record.set("region", &region.name)?;
    let system = match found.architecture().map(|architecture| architecture.as_str()) {
        Some("arm64") => "aarch64-linux",
        _ => "x86_64-linux",
    };
    record.set("system", &system)?;
    if let Some(pair) = found.key_name().and_then(|name| pairs.get(name)) {
        record.put(pair)?;
    }
    record.put(&instance::section(found, None, false))?;
    if let Some(host) = instance::host(found) {
        let host_keys = host_key::tagged(found);
        record.put(&Ssh { host: host.into(), port: 22, user: "root".into(), host_keys, jump: None })?;
    }
    Ok(record)
}
