//! ec2-up: finds each machine, makes what is missing, waits until ssh answers with a proven key.

use crate::args::AccountArgs;
use crate::compare::{self, Mend, Wanted};
use crate::host_key::{self, HostKeySource, Trust};
use crate::launch::Plan as Launch;
use crate::plan::Plan;
use crate::region::{Region, Regions};
use crate::wish::{Wish, WishArgs};
use crate::{group, image, instance, key_pair, stream, tags};
use anyhow::Result;
use aws_sdk_ec2::types::Instance;
use clap::ValueEnum;
use machine_record::{Ami, Failure, Job, KeyPair, Kind, PlanEntry, Record, Ssh, StreamArgs, Tool, log};
use serde_json::json;
use std::cell::Cell;
use std::process::ExitCode;
use std::rc::Rc;

const TOOL: Tool = Tool { name: "ec2-up", starts: false, names: true, jobs: 64 };

/// The flags of ec2-up.
#[derive(clap::Args, Clone, Debug)]
pub struct UpArgs {
    #[command(flatten)]
    pub wish: WishArgs,

    /// Where trust in the machine's ssh host key comes from
    #[arg(long, value_name = "SOURCE", value_enum, default_value_t = HostKeySource::Console)]
    pub host_key: HostKeySource,

    /// What to wait for
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = Wait::Ssh)]
    pub wait: Wait,

    #[command(flatten)]
    pub account: AccountArgs,

    #[command(flatten)]
    pub stream: StreamArgs,
}

/// What a machine is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Wait {
    /// Until ssh answers with the right key
    Ssh,
    /// Until EC2 says that it runs
    Running,
    /// Not at all
    None,
}

struct Context {
    args: UpArgs,
    regions: Regions,
    plan: Plan,
}

/// Runs the tool.
pub fn run(args: UpArgs) -> ExitCode {
    let (stream, planned) = (args.stream.clone(), args.stream.plan);
    let context = Context { regions: Regions::new(&args.account), args, plan: Plan::default() };
    stream::run(TOOL, &stream, context, one, async |context| {
        if planned {
            context.plan.summary();
        }
        Ok(())
    })
}

async fn one(context: Rc<Context>, mut job: Job) {
    // What the machine is at when its time is up.
    let step = Cell::new("finding it");
    let limit = context.args.account.timeout;
    let result = match tokio::time::timeout(limit, context.machine(&mut job.record, &step)).await {
        Ok(result) => result,
        Err(_) => Err(Failure::new(Kind::Timeout, format!("not done in {} s: it was {}", limit.as_secs(), step.get()))
            .hint("run it again: it goes on where it was; or wait longer with --timeout")
            .into()),
    };
    job.finish(result);
}

impl Context {
    async fn machine(&self, record: &mut Record, step: &Cell<&'static str>) -> Result<()> {
        let name = record.name();
        let wish = Wish::of(record, &self.args.wish)?;
        let region = self.regions.of(&self.args.account.region_of(record).await?).await?;
        let found = instance::find(&region, &name).await?;
        if self.args.stream.plan {
            return self.look(record, &region, &wish, found.as_deref()).await;
        }
        if record.text("region").is_none() {
            record.set("region", &region.name)?;
        }
        let created = found.is_none();
        let (started, group) = match found {
            None => {
                step.set("being made");
                let ami: Ami = record.require()?;
                let pair: KeyPair = record.require()?;
                let (image, vpc) = self.check(&region, &wish, &ami).await?;
                let launch = Launch { machine: &name, wish: &wish, image: &image, key_pair: &pair, vpc: &vpc };
                log::event(&name, &format!("starting a {} from {} in {}", image.instance_type, image.id, region.name));
                (Rc::new(launch.launch(&region).await?), None)
            }
            Some(found) => {
                record.put(&instance::section(&found, None, false))?;
                step.set("being changed");
                self.keep(record, &region, &wish, &found).await?
            }
        };
        let id = started.instance_id().unwrap_or_default().to_string();
        if created {
            log::event(&name, &format!("{id} is {}", instance::state(&started)));
        }
        record.put(&instance::section(&started, group.as_deref(), created))?;
        if self.args.wait == Wait::None {
            return self.add_ssh(record, &started, None);
        }
        step.set("waiting for it to run");
        let running = match instance::state(&started) {
            "running" if !created => started,
            _ => instance::wait(&region, &id, "running").await?,
        };
        record.put(&instance::section(&running, group.as_deref(), created))?;
        if self.args.wait == Wait::Running {
            return self.add_ssh(record, &running, None);
        }
        step.set("waiting for ssh and its host key");
        let host = instance::host(&running).ok_or_else(|| {
            Failure::new(Kind::Unreachable, format!("{id} has no address")).hint("take a --subnet that gives addresses")
        })?;
        let known = host_key::tagged(&running);
        let key = host_key::learn(&region, &running, host, Trust { source: self.args.host_key, known, machine: &name })
            .await?;
        log::event(&name, &format!("{id} is up at {host}"));
        self.add_ssh(record, &running, Some(key))
    }

    /// Checks before anything is made.
    async fn check(&self, region: &Region, wish: &Wish, ami: &Ami) -> Result<(image::Checked, String), Failure> {
        let image = image::check(region, ami, wish).await?;
        let vpc = region.vpc(wish.subnet.as_deref()).await?;
        Ok((image, vpc))
    }

    /// Makes what a machine that exists lacks, and changes what differs.
    async fn keep(
        &self,
        record: &Record,
        region: &Region,
        wish: &Wish,
        found: &Rc<Instance>,
    ) -> Result<(Rc<Instance>, Option<String>)> {
        let name = record.name();
        let id = found.instance_id().unwrap_or_default();
        let pair: Option<KeyPair> = record.section()?;
        let ami: Option<Ami> = record.section()?;
        let wanted =
            Wanted { machine: &name, wish, ami: ami.as_ref().map(|ami| ami.id.as_str()), key_pair: pair.as_ref() };
        let differences = compare::differences(region, found, &wanted).await?;
        compare::mend(region, &name, id, differences).await?;
        if let Some(pair) = &pair {
            key_pair::ensure(region, &name, pair).await?;
        }
        let group = match found.vpc_id() {
            Some(vpc) => Some(group::ensure(region, &name, vpc, wish).await?),
            None => None,
        };
        let mut state = instance::state(found);
        if state == "stopping" {
            log::event(&name, &format!("{id} is stopping: waiting, then starting it"));
            instance::wait(region, id, "stopped").await?;
            state = "stopped";
        }
        if state == "stopped" {
            log::event(&name, &format!("starting {id}"));
            let started =
                region.aws.call(&name, "StartInstances", id, |client| client.start_instances().instance_ids(id).send());
            started.await.map_err(|error| error.failure(format!("cannot start {id}")))?;
        } else {
            log::event(&name, &format!("{id} is {state}: nothing to make"));
        }
        Ok((found.clone(), group))
    }

    /// How to log in; without a proven key the ones that were proven before.
    fn add_ssh(&self, record: &mut Record, instance: &Instance, key: Option<String>) -> Result<()> {
        let Some(host) = instance::host(instance) else { return Ok(()) };
        let host_keys = key.map_or_else(|| host_key::tagged(instance), |key| vec![key]);
        Ok(record.put(&Ssh { host: host.into(), port: 22, user: "root".into(), host_keys, jump: None })?)
    }

    /// Says what would be done.
    async fn look(&self, record: &mut Record, region: &Region, wish: &Wish, found: Option<&Instance>) -> Result<()> {
        let name = record.name();
        let entry = |action: &str, resource: String, reason: &str| PlanEntry::new(TOOL.name, action, resource, reason);
        let pair: Option<KeyPair> = record.section()?;
        match &pair {
            Some(pair) => match key_pair::find(region, &pair.name).await? {
                Some(known) => key_pair::compare(pair, &known)?,
                None => {
                    let resource = format!("key-pair/{}", pair.name);
                    self.plan.add(record, entry("create", resource, "EC2 does not have it"))?;
                }
            },
            None if found.is_none() => {
                self.plan
                    .add(record, entry("create", "key-pair/(known after apply)".into(), "keygen would make it"))?;
            }
            None => {}
        }
        let group_name = tags::group_name(&region.deployment, &name)?;
        let vpc = found.and_then(|found| found.vpc_id());
        match group::look(region, &name, vpc).await? {
            None => {
                let rules: Vec<String> = wish.ingress()?.iter().map(|rule| rule.to_string()).collect();
                let entry = entry("create", format!("security-group/{group_name}"), "it is not there");
                self.plan.add(record, entry.details(json!({ "ingress": rules })))?;
            }
            Some(known) => {
                let differences = group::Differences::of(wish, &known)?;
                if !differences.is_empty() {
                    let resource = format!("security-group/{group_name}");
                    self.plan.add(record, entry("update", resource, &differences.words()))?;
                }
            }
        }
        let resource = format!("instance/{name}");
        let Some(found) = found else {
            let ami: Ami = record.require()?;
            let (image, _) = self.check(region, wish, &ami).await?;
            let entry = entry("create", resource, "no machine has its tags");
            self.plan.add(record, entry.details(compare::new_machine(wish, &image)))?;
            return Ok(());
        };
        let ami: Option<Ami> = record.section()?;
        let ami = ami.as_ref().map(|ami| ami.id.as_str());
        let wanted = Wanted { machine: &name, wish, ami, key_pair: pair.as_ref() };
        for difference in compare::differences(region, found, &wanted).await? {
            let action = match difference.mend {
                Mend::Tolerate => {
                    log::event(&name, &format!("  {} (stays: a push updates it)", difference.words()));
                    continue;
                }
                Mend::Replace => "replace",
                _ => "update",
            };
            self.plan
                .add(record, entry(action, resource.clone(), &difference.words()).details(difference.details()))?;
        }
        if matches!(instance::state(found), "stopped" | "stopping") {
            self.plan.add(record, entry("start", resource, "it is stopped"))?;
        }
        record.put(&instance::section(found, None, false))?;
        self.add_ssh(record, found, None)
    }
}
