//! ec2-ls: the machines of a deployment as records, from what the account knows.

use crate::args::AccountArgs;
use crate::region::{Region, Regions, filter, instances};
use crate::{console, host_key, instance, key_pair, leftovers, tags};
use anyhow::{Context, Result};
use aws_sdk_ec2::types::{Instance, KeyPairInfo};
use machine_record::{Failure, Instance as Section, KeyPair, Kind, Record, Ssh, StreamArgs, Tool, log};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

const TOOL: Tool = Tool { name: "ec2-ls", starts: true, names: false, takes_failed: false, jobs: 1 };

/// The flags of ec2-ls.
#[derive(clap::Args, Clone, Debug)]
pub struct ListArgs {
    /// List the machines of all regions that are enabled for the account
    #[arg(long, conflicts_with = "region")]
    pub all_regions: bool,

    /// List what ec2-up made and nobody uses, as records for ec2-down
    #[arg(long)]
    pub orphans: bool,

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
        let none = Cell::new(true);
        let give = |records: Vec<Record>| {
            for record in records {
                if args.stream.name.as_ref().is_none_or(|name| *name == record.name()) {
                    none.set(false);
                    seed.another(record).finish(Ok(()));
                }
            }
        };
        let listed = tokio::task::LocalSet::new().block_on(&runtime, everywhere(&args, give));
        seed.discard();
        let place = listed?;
        if none.get() {
            let what = match &args.stream.name {
                _ if args.orphans => "nothing is left over".into(),
                Some(name) => format!("no machine {name}"),
                None => "no machines".into(),
            };
            log::note(&format!("{what} in {place}, deployment {}", args.account.deployment));
        }
        Ok(())
    })
}

/// Gives the records of one region, or of each as it answers; and where that was.
///
/// # Errors
/// A region that fails keeps no other back. Of several failures all but the last are said here.
async fn everywhere(args: &ListArgs, give: impl Fn(Vec<Record>)) -> Result<String, Failure> {
    let limit = args.account.timeout;
    let end = tokio::time::Instant::now() + limit;
    let regions = Regions::new(&args.account);
    let found = tokio::time::timeout_at(end, names(args, &regions)).await;
    let mut missing: BTreeSet<String> = found.unwrap_or_else(|_| Err(late(limit)))?.into_iter().collect();
    let place = missing.first().filter(|_| !args.all_regions).map_or("any region".into(), String::clone);
    let mut tasks = tokio::task::JoinSet::new();
    for name in missing.clone() {
        let (region, args) = (regions.of(&name).await?, args.clone());
        tasks.spawn_local(async move {
            let _step = log::step("", &format!("listing {}", region.name));
            (name, if args.orphans { leftovers::find(&region, &BTreeSet::new()).await } else { known(&region).await })
        });
    }
    let mut failures = Vec::new();
    while let Ok(Some(done)) = tokio::time::timeout_at(end, tasks.join_next()).await {
        let (name, found) = done.map_err(|error| Failure::new(Kind::Internal, error.to_string()))?;
        missing.remove(&name);
        match found {
            Ok(records) => give(records),
            Err(failure) => failures.push((name, failure)),
        }
    }
    failures.extend(missing.into_iter().map(|name| (name, late(limit))));
    let mut failures = failures.into_iter().map(|(name, failure)| match args.all_regions {
        true => Failure { message: format!("{name}: {}", failure.message), ..failure },
        false => failure,
    });
    let last = failures.next_back();
    failures.for_each(|failure| log::failure("", &failure));
    last.map_or(Ok(place), Err)
}

/// The failure of a list that is not complete in time.
pub fn late(limit: Duration) -> Failure {
    Failure::new(Kind::Timeout, format!("not listed in {} s", limit.as_secs()))
        .hint("run it again, or wait longer with --timeout")
}

/// The regions to list.
async fn names(args: &ListArgs, regions: &Regions) -> Result<Vec<String>, Failure> {
    // Any region can tell of the others; the first that holds without configuration is EC2's oldest.
    let first = match args.account.default_region().await {
        Err(_) if args.all_regions => "us-east-1".to_string(),
        named => named?,
    };
    if !args.all_regions {
        return Ok(vec![first]);
    }
    let _step = log::step("", &format!("listing the regions that {first} knows"));
    let first = regions.of(&first).await?;
    let known = first.aws.call("", "DescribeRegions", "", |client| client.describe_regions().send()).await;
    let known = known.map_err(|error| error.failure("cannot list the regions"))?;
    Ok(known.regions().iter().filter_map(|region| region.region_name().map(String::from)).collect())
}

/// The machines of a region, with the host keys that their consoles show where no tag holds them.
async fn known(region: &Rc<Region>) -> Result<Vec<Record>, Failure> {
    let mut records = machines(region).await?;
    let mut tasks = Vec::new();
    for (index, record) in records.iter().enumerate() {
        let Some(ssh) = record.section::<Ssh>()?.filter(|ssh| ssh.host_keys.is_empty()) else { continue };
        let Some(instance) = record.section::<Section>()? else { continue };
        if instance.state.as_deref() != Some("running") {
            continue;
        }
        let (region, name) = (region.clone(), record.name());
        let ask = async move { console::fingerprints(&region, &name, &instance.id).await };
        tasks.push((index, ssh, tokio::task::spawn_local(ask)));
    }
    for (index, mut ssh, task) in tasks {
        match task.await.map_err(|error| Failure::new(Kind::Internal, error.to_string()))? {
            Ok(keys) => {
                ssh.host_keys = keys;
                records[index].put(&ssh)?;
            }
            // A console is more than a list needs: who may not read it has the machines all the same.
            Err(failure) => {
                let hint = failure.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
                log::warning(&records[index].name(), &format!("{}{hint}", failure.message));
            }
        }
    }
    Ok(records)
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

/// The machines of a deployment, and what is left of those that are gone.
pub async fn whole(region: &Region) -> Result<Vec<Record>, Failure> {
    let mut records = machines(region).await?;
    // Two machines of one name go together: their tags are the same.
    let mut seen = BTreeSet::new();
    records.retain(|record| record.text("name").is_none() || seen.insert(record.name()));
    // Those that live go with all that is theirs.
    records.extend(leftovers::find(region, &seen).await?);
    Ok(records)
}

async fn key_pairs(region: &Region, machines: &[Instance]) -> Result<BTreeMap<String, KeyPair>, Failure> {
    let names: BTreeSet<String> =
        machines.iter().filter_map(|instance| instance.key_name().map(String::from)).collect();
    let names: Vec<String> = names.into_iter().collect();
    let mut pairs = BTreeMap::new();
    for names in names.chunks(crate::batch::MOST) {
        for found in key_pair::find_all(&region.aws, "key-name", names.to_vec()).await? {
            if let Some(pair) = pair_section(&found) {
                pairs.insert(pair.name.clone(), pair);
            }
        }
    }
    Ok(pairs)
}

/// A key pair as a record's section.
pub fn pair_section(found: &KeyPairInfo) -> Option<KeyPair> {
    let public_key = found.public_key()?.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    let algorithm = if public_key.starts_with("ssh-rsa ") { "rsa" } else { "ed25519" };
    // Where the private key is, EC2 does not know: the ssh-agent is asked for it.
    Some(KeyPair { name: found.key_name()?.into(), public_key, private_key_file: None, algorithm: algorithm.into() })
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
    record.put(&instance::section(found, false))?;
    if let Some(host) = instance::host(found) {
        let host_keys = host_key::tagged(found);
        record.put(&Ssh { host: host.into(), port: Some(22), user: Some("root".into()), host_keys, jump: None })?;
    }
    Ok(record)
}
