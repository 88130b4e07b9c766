//! ec2-up: finds each machine, makes what is missing, waits until ssh answers with a proven key.

use crate::args::AccountArgs;
use crate::checks::{self, Ready};
use crate::compare::{self, Difference, Wanted};
use crate::doing::Doing;
use crate::host_key::{self, HostKeySource, Trust};
use crate::launch::{self, Plan as Launch};
use crate::mend::Allowed;
use crate::plan::Plan;
use crate::region::{Region, Regions};
use crate::wish::{Wish, WishArgs};
use crate::{address, adopt, group, group_users, host_key_file, image, instance, key_pair, look, mend, stream};
use anyhow::Result;
use aws_sdk_ec2::types::Instance;
use clap::ValueEnum;
use machine_record::{Failure, Job, KeyPair, Record, Section, Ssh, StreamArgs, Tool, log};
use machine_ssh::Jump;
use std::process::ExitCode;
use std::rc::Rc;

pub const TOOL: Tool = Tool { name: "ec2-up", starts: false, names: true, takes_failed: false, jobs: 250 };

/// The flags of ec2-up.
#[derive(clap::Args, Clone, Debug)]
pub struct UpArgs {
    #[command(flatten)]
    pub wish: WishArgs,

    #[command(flatten)]
    pub allowed: Allowed,

    /// Where trust in the machine's ssh host key comes from
    #[arg(long, value_name = "SOURCE", value_enum, default_value_t = HostKeySource::Console, hide_short_help = true)]
    pub host_key: HostKeySource,

    /// What to wait for
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = Wait::Ssh, hide_short_help = true)]
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
    let step = Doing::new(&job.record.name(), "being found");
    let limit = context.args.account.timeout;
    let result = step.within(limit, context.machine(&mut job.record, &step)).await;
    context.plan.looked(&result);
    job.finish(result);
}

impl Context {
    async fn machine(&self, record: &mut Record, step: &Doing) -> Result<()> {
        let name = record.name();
        let way = way(record)?;
        let wish = Wish::of(record, &self.args.wish)?;
        let region = self.regions.of(&self.args.account.region_of(record).await?).await?;
        let _ = step.region.set(region.clone());
        let before = instance::named(record)?.map(|named| named.id);
        let mut found = instance::find(&region, &name).await?;
        if found.is_none() && !self.args.allowed.adopt {
            found = adopt::visible(&region, record).await?;
        }
        if self.args.stream.plan {
            return look::look(&self.plan, record, &region, &wish, &self.args, found.as_deref()).await;
        }
        if self.args.allowed.adopt {
            // What would then be refused is not taken over.
            if found.is_none()
                && let Some(other) = adopt::candidate(&region, record).await?
            {
                let differences = differences(record, &region, &wish, &other).await?;
                self.args.allowed.check(other.instance_id().unwrap_or_default(), &differences)?;
            }
            group::adopt(&region, &name).await?;
            if found.is_none() {
                found = adopt::adopt_instance(&region, record).await?;
            }
        }
        if record.text("region").is_none() {
            record.set("region", &region.name)?;
        }
        if let Some(kept) = found {
            step.set("being changed");
            found = self.keep(record, &region, &wish, kept).await?;
        }
        let created = found.is_none();
        if let Some(id) = before.filter(|id| found.as_ref().and_then(|found| found.instance_id()) != Some(id)) {
            if created && record.text("instance").is_some() {
                log::warning(&name, &instance::unknown(&id));
            }
            instance::forget(record)?;
        }
        let mut started = match found {
            Some(found) => found,
            None => {
                step.set("being made");
                self.make(record, &region, &wish).await?
            }
        };
        let id = started.instance_id().unwrap_or_default().to_string();
        record.put(&instance::section(&started, created))?;
        if wish.elastic_ip {
            step.set("being given an address");
            instance::wait(&region, &id, "running").await?;
            started = address::ensure(&region, &name, &id, &wish.tags).await?;
            record.put(&instance::section(&started, created))?;
        }
        if !wish.elastic_ip {
            address::tidy(&region, &name).await?;
        }
        let chosen = wish.security_groups.iter().map(String::as_str);
        let groups = started.security_groups().iter().filter_map(|group| group.group_id());
        let kept: Vec<&str> = if wish.security_groups.is_empty() { groups.collect() } else { chosen.collect() };
        group_users::tidy(&region, &name, &kept).await?;
        if self.args.wait == Wait::None {
            if created {
                launch::be_seen(&region, &name, &id).await?;
                launch::be_the_only_one(record, &region, &started).await?;
            }
            return add_ssh(record, &started, None, &way);
        }
        step.set("waiting for it to run");
        let running = match instance::state(&started) {
            "running" if !created || wish.elastic_ip => started,
            _ => instance::wait(&region, &id, "running").await?,
        };
        record.put(&instance::section(&running, created))?;
        if created {
            launch::be_the_only_one(record, &region, &running).await?;
        }
        if self.args.wait == Wait::Running {
            return add_ssh(record, &running, None, &way);
        }
        let host = instance::reached_at(&running)?;
        let mut known = host_key::tagged(&running);
        if known.is_empty() && self.args.host_key == HostKeySource::UserData {
            let path = host_key_file::path(&region.deployment, &name, record.section()?.as_ref());
            known.extend(host_key_file::read(&path)?.map(|key| host_key_file::public(&key)).transpose()?);
        }
        let trust = Trust { source: self.args.host_key, known, machine: &name, jump: way.as_ref(), step };
        let key = host_key::learn(&region, &running, host, trust).await?;
        log::event(&name, &format!("{id} is up at {host}"));
        add_ssh(record, &running, Some(key), &way)
    }

    /// All that a new machine is made from, checked, with the file of its host key.
    async fn ready(&self, record: &Record, region: &Region, wish: &Wish) -> Result<(Ready, KeyPair, Wish)> {
        let ami = image::required(record)?;
        let pair: KeyPair = record.require()?;
        let ready = checks::new_machine(region, record, &ami, wish, self.args.host_key).await?;
        let mut wish = wish.clone();
        if self.args.host_key == HostKeySource::UserData {
            // Before the machine, so that a second run sends the same request.
            let key = host_key_file::ensure(&host_key_file::path(&region.deployment, &record.name(), Some(&pair)))?;
            wish.user_data = Some(host_key_file::user_data(&key)?);
        }
        Ok((ready, pair, wish))
    }

    /// Makes a new machine.
    async fn make(&self, record: &Record, region: &Region, wish: &Wish) -> Result<Rc<Instance>> {
        let name = record.name();
        let (Ready { image, vpc }, pair, wish) = self.ready(record, region, wish).await?;
        let launch = Launch { machine: &name, wish: &wish, image: &image, key_pair: &pair, vpc: &vpc };
        log::event(&name, &format!("starting a {} from {} in {}", image.instance_type, image.id, region.name));
        let made = launch.launch(region).await?;
        log::event(&name, &format!("{} is {}", made.instance_id().unwrap_or_default(), instance::state(&made)));
        Ok(Rc::new(made))
    }

    /// Makes what a machine that exists lacks, and changes what differs; `None` if it had to go.
    async fn keep(
        &self,
        record: &mut Record,
        region: &Region,
        wish: &Wish,
        found: Rc<Instance>,
    ) -> Result<Option<Rc<Instance>>> {
        let name = record.name();
        let id = found.instance_id().unwrap_or_default();
        record.put(&instance::section(&found, false))?;
        let pair: Option<KeyPair> = record.section()?;
        let differences = differences(record, region, wish, &found).await?;
        self.args.allowed.check(id, &differences)?;
        if self.args.allowed.replaces(&differences) {
            // Nothing is taken away before it is known that the new one can be made.
            let (Ready { image, vpc }, pair, wish) = self.ready(record, region, wish).await?;
            checks::names(region, &name, &vpc, &pair, &wish).await?;
            key_pair::ensure(region, &name, &pair).await?;
            let groups = found.security_groups().iter().filter_map(|group| group.group_id().map(String::from));
            let groups: Vec<_> = groups.collect();
            let launch = Launch { machine: &name, wish: &wish, image: &image, key_pair: &pair, vpc: &vpc };
            launch.rehearse(region, &groups).await?;
            mend::remove(region, &name, id, &differences).await?;
            instance::forget(record)?;
            return Ok(None);
        }
        checks::kept(region, &found, &differences, wish).await?;
        if let Some(pair) = &pair {
            key_pair::ensure(region, &name, pair).await?;
        }
        group::keep(region, &name, &found, wish).await?;
        Ok(Some(mend::mend(region, &name, &found, &differences).await?))
    }
}

/// In what a machine is not as the record and the flags wish.
async fn differences(
    record: &Record,
    region: &Region,
    wish: &Wish,
    found: &Instance,
) -> Result<Vec<Difference>, Failure> {
    let (name, ami) = (record.name(), image::named(record)?);
    let pair: Option<KeyPair> = record.section()?;
    let ami = ami.as_ref().map(|ami| ami.id.as_str());
    compare::differences(region, found, &Wanted { machine: &name, wish, ami, key_pair: pair.as_ref() }).await
}

/// How to log in; without a proven key the ones that were proven before.
pub fn add_ssh(record: &mut Record, instance: &Instance, key: Option<String>, way: &Option<Jump>) -> Result<()> {
    let Some(host) = instance::host(instance) else { return Ok(()) };
    #[derive(serde::Deserialize)]
    struct Login {
        user: Option<String>,
        port: Option<u16>,
    }
    let login = record.read::<Login>(Ssh::NAME)?;
    if login.is_some_and(|old| old.user.is_some_and(|user| user != "root") || old.port.is_some_and(|port| port != 22)) {
        let text = "the record's ssh.user and ssh.port are not kept: what EC2 gives is root at port 22; write others behind ec2-up";
        log::warning(&record.name(), text);
    }
    let host_keys = key.map_or_else(|| host_key::tagged(instance), |key| vec![key]);
    Ok(record.put(&Ssh {
        host: host.into(),
        port: Some(22),
        user: Some("root".into()),
        host_keys,
        jump: way.as_ref().map(ToString::to_string),
    })?)
}

/// The hosts on the way, which only the user can know.
pub fn way(record: &Record) -> Result<Option<Jump>> {
    #[derive(serde::Deserialize)]
    struct Way {
        jump: Option<String>,
    }
    let way: Option<Way> = record.read("ssh")?;
    Ok(way.and_then(|way| way.jump).map(|jump| jump.parse()).transpose()?)
}
