//! ec2-down: removes exactly what ec2-up made, in reverse order.

use crate::args::AccountArgs;
use crate::doing::Doing;
use crate::plan::Plan;
use crate::region::{Region, Regions};
use crate::{address, group, group_users, instance, key_pair, leftovers, list, stream, tags};
use anyhow::Result;
use aws_sdk_ec2::types::{Instance, SecurityGroup};
use machine_record::{Failure, Job, KeyPair, Kind, PlanEntry, Record, StreamArgs, Tool, log};
use std::cell::RefCell;
use std::collections::HashMap;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

const NAME: &str = "ec2-down";

/// The pause between two tries to delete a security group.
const PAUSE: Duration = Duration::from_secs(2);

/// The flags of ec2-down.
#[derive(clap::Args, Clone, Debug)]
pub struct DownArgs {
    /// Remove all machines of the deployment in the region
    #[arg(long)]
    pub all: bool,

    #[command(flatten)]
    pub account: AccountArgs,

    #[command(flatten)]
    pub stream: StreamArgs,
}

pub(crate) struct Context {
    pub args: DownArgs,
    regions: Regions,
    pub plan: Plan,
    /// How many machines in hand hold on to a key pair, by region and name
    holders: RefCell<HashMap<(String, String), usize>>,
    /// Instances that go, or would go: EC2 may still list them
    gone: RefCell<Vec<String>>,
    failure: RefCell<Option<Failure>>,
}

/// Runs the tool.
pub fn run(args: DownArgs) -> ExitCode {
    if args.all && args.stream.name.is_some() {
        log::error("say either --name or --all");
        return ExitCode::from(2);
    }
    // It never invents a machine to remove.
    let starts = args.all || args.stream.name.is_some();
    if !starts && !machine_record::has_input(&args.stream) {
        log::error("no machine is named: by --name, --all, or records on stdin");
        return ExitCode::from(2);
    }
    let tool = Tool { name: NAME, starts, names: false, takes_failed: true, jobs: 250 };
    let stream = args.stream.clone();
    let context = Context {
        regions: Regions::new(&args.account),
        plan: Plan::default(),
        holders: RefCell::default(),
        gone: RefCell::default(),
        failure: RefCell::default(),
        args,
    };
    let each = async move |context: Rc<Context>, job: Job| {
        if context.args.all { all(context, job).await } else { one(context, job).await }
    };
    stream::run(tool, &stream, context, each, async |context| {
        if context.args.stream.plan && context.failure.borrow().is_none() {
            context.plan.summary();
        }
        context.failure.take().map_or(Ok(()), |failure| Err(failure.into()))
    })
}

/// Removes each machine of the deployment; the record that came from the flags alone is none.
async fn all(context: Rc<Context>, seed: Job) {
    if seed.record != Record::default() {
        let failure = Failure::new(Kind::Input, "--all takes no records").hint("say -n, or leave --all out");
        return seed.finish(Err(failure.into()));
    }
    match listed(&context).await {
        Err(failure) => *context.failure.borrow_mut() = Some(failure),
        Ok((records, region)) => {
            if records.is_empty() {
                log::note(&format!("no machines in {}, deployment {}: nothing to do", region.name, region.deployment));
            }
            let mut tasks = tokio::task::JoinSet::new();
            for record in records {
                tasks.spawn_local(one(context.clone(), seed.another(record)));
            }
            while tasks.join_next().await.is_some() {}
        }
    }
    seed.discard();
}

/// The machines of the region, and what it is.
async fn listed(context: &Context) -> Result<(Vec<Record>, Rc<Region>), Failure> {
    let account = &context.args.account;
    let name = account.default_region().await?;
    let _step = log::step("", &format!("listing {name}"));
    let found = async {
        let region = context.regions.of(&name).await?;
        Ok((list::whole(&region).await?, region))
    };
    tokio::time::timeout(account.timeout, found).await.unwrap_or_else(|_| Err(list::late(account.timeout)))
}

async fn one(context: Rc<Context>, mut job: Job) {
    let step = Doing::new(&job.record.name(), "being found");
    let limit = context.args.account.timeout;
    let result = step.within(limit, context.machine(&mut job.record, &step)).await;
    context.plan.looked(&result);
    // What failed is gone, unless the machine is one from elsewhere.
    if result.is_ok() && !context.args.stream.plan && !job.record.has_address() {
        job.record.remove("error");
    }
    job.finish(result);
}

impl Context {
    async fn machine(&self, record: &mut Record, step: &Doing) -> Result<()> {
        let nameless = || Failure::new(Kind::Input, "the record has no `name`").hint("say --name machine");
        let name = record.string("name")?.ok_or_else(nameless)?;
        let region = self.regions.of(&self.args.account.region_of(record).await?).await?;
        let _ = step.region.set(region.clone());
        let pair: Option<KeyPair> = record.section()?;
        // Held from the start, so that of machines that go together the last one takes the key pair along.
        let mut keys = Held { context: self, region: &region.name, names: Vec::new() };
        keys.hold(pair.map(|pair| pair.name));
        // A machine that was made since from such a record goes as any other does.
        if instance::named(record)?.is_none()
            && let Some(named) = record.read::<Vec<String>>(leftovers::MEMBER)?
        {
            return self.leftovers(record, &region, &name, &named, step, keys).await;
        }
        let mut ids: Vec<String> = Vec::new();
        let mut released = false;
        // Again where EC2 shows an instance of the machine only after its group was to go.
        loop {
            let mut found = instance::all(&region, &name).await?;
            if ids.is_empty() {
                found.extend(self.unlisted(record, &region, &found).await?);
            }
            let mut going = Vec::new();
            for instance in &found {
                going.extend(instance.instance_id().map(String::from));
                keys.hold(instance.key_name().map(String::from));
            }
            ids.clone_from(&going);
            let interfaces = found.iter().flat_map(|instance| instance.network_interfaces());
            going.extend(interfaces.filter_map(|interface| interface.network_interface_id().map(String::from)));
            self.gone.borrow_mut().extend(going.iter().cloned());
            let groups = group::ours(&region, &name).await?;
            self.gone.borrow_mut().extend(groups.iter().filter_map(|group| group.group_id().map(String::from)));
            if self.args.stream.plan {
                return self.look(record, &region, &name, &ids, &groups, keys).await;
            }
            step.set("being terminated");
            for id in &ids {
                log::event(&name, &format!("terminating {id}"));
                instance::terminate(&region, &name, id).await?;
            }
            instance::wait_gone(&region, &ids).await?;
            step.set("losing its address");
            released |= address::release(&region, &name, &going).await?;
            step.set("losing its security group");
            let mut stay = false;
            for group in &groups {
                let deleted = self.delete_group(&region, &name, group).await?;
                released |= deleted;
                stay |= !deleted;
            }
            let known = |instance: &Rc<Instance>| ids.iter().any(|id| Some(id.as_str()) == instance.instance_id());
            if !stay || instance::all(&region, &name).await?.iter().all(known) {
                break;
            }
        }
        step.set("losing its key pair");
        released |= self.release_keys(&region, &name, keys).await?;
        let named = instance::named(record)?;
        if let (true, Some(named)) = (ids.is_empty(), &named) {
            log::warning(&name, &instance::unknown(&named.id));
        }
        let was_there = !ids.is_empty() || named.is_some();
        if ids.is_empty() && !released {
            log::event(
                &name,
                &format!("no machine of that name in {}, deployment {}: nothing to do", region.name, region.deployment),
            );
        } else {
            log::event(&name, "is down");
        }
        if was_there {
            instance::forget(record)?;
        }
        Ok(())
    }

    /// Whether nobody else uses a security group; else says who.
    pub async fn goes(&self, region: &Region, machine: &str, group: &SecurityGroup) -> Result<bool, Failure> {
        let gone = self.gone.borrow().clone();
        let users = group_users::others(region, group.group_id().unwrap_or_default(), &gone).await?;
        if users.is_empty() {
            return Ok(true);
        }
        let (name, users) = (group.group_name().unwrap_or_default(), Vec::from_iter(users).join(", "));
        log::event(machine, &format!("the security group {name} stays: it is used by {users}"));
        Ok(false)
    }

    /// Deletes a security group that nobody else uses, waiting for EC2 to see that; true if it did.
    ///
    /// The machine's own time limit ends this.
    pub async fn delete_group(&self, region: &Region, machine: &str, group: &SecurityGroup) -> Result<bool, Failure> {
        // Somebody may come to use it in the meantime.
        while self.goes(region, machine, group).await? {
            if group::delete(region, machine, group).await? {
                return Ok(true);
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(false)
    }

    /// Deletes the key pairs that nobody else holds; true if there was one.
    pub async fn release_keys(&self, region: &Region, machine: &str, keys: Held<'_>) -> Result<bool, Failure> {
        let mut released = false;
        for key in keys.let_go() {
            let gone = self.gone.borrow().clone();
            released |= key_pair::release(region, machine, &key, &gone).await?;
        }
        Ok(released)
    }

    /// The instance that the record names, where it is the machine and EC2 does not yet list it by its tags: they show late.
    ///
    /// # Errors
    /// Kind `conflict` where it does not carry the machine's tags: that one is not ours to remove.
    async fn unlisted(
        &self,
        record: &Record,
        region: &Region,
        listed: &[Rc<Instance>],
    ) -> Result<Option<Rc<Instance>>, Failure> {
        let Some(named) = instance::named(record)? else { return Ok(None) };
        if listed.iter().any(|instance| instance.instance_id() == Some(&named.id)) {
            return Ok(None);
        }
        loop {
            let found = region.by_id.of(&named.id, Duration::from_millis(20)).await?;
            if let Some(found) = found.into_iter().next() {
                return match instance::is_gone(&found) || instance::is_machine(region, &record.name(), &found) {
                    true => Ok(Some(found).filter(|found| !instance::is_gone(found))),
                    false => Err(instance::not_this(region, &record.name(), &found)
                        .hint("say its --deployment; what has no tags of ec2-up is never removed")),
                };
            }
            if !named.may_be_unseen() {
                return Ok(None);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Says what would be removed.
    async fn look(
        &self,
        record: &mut Record,
        region: &Region,
        name: &str,
        ids: &[String],
        groups: &[Rc<SecurityGroup>],
        keys: Held<'_>,
    ) -> Result<()> {
        for id in ids {
            self.plan.add(record, entry(format!("instance/{name}"), id))?;
        }
        for address in address::find(region, name).await? {
            if address::is_others(region, name, &address, ids).await? {
                continue;
            }
            let resource = format!("elastic-ip/{}", address.public_ip().unwrap_or_default());
            self.plan.add(record, entry(resource, address.allocation_id().unwrap_or_default()))?;
        }
        for group in groups {
            if !self.goes(region, name, group).await? {
                continue;
            }
            let resource = format!("security-group/{}", group.group_name().unwrap_or_default());
            self.plan.add(record, entry(resource, group.group_id().unwrap_or_default()))?;
        }
        self.look_at_keys(record, region, keys).await
    }

    /// Says which key pairs would be deleted.
    pub async fn look_at_keys(&self, record: &mut Record, region: &Region, keys: Held<'_>) -> Result<()> {
        for key in keys.let_go() {
            let found = key_pair::find(region, &key).await?;
            let ours = found.is_some_and(|found| tags::value(found.tags(), tags::DEPLOYMENT).is_some());
            let gone = self.gone.borrow().clone();
            if ours && !key_pair::in_use(region, &key, &gone).await? {
                self.plan.add(record, entry(format!("key-pair/{key}"), "no other machine uses it"))?;
            }
        }
        Ok(())
    }
}

pub(crate) fn entry(resource: String, reason: &str) -> PlanEntry {
    PlanEntry::new(NAME, "delete", resource, reason)
}

/// The key pairs that a machine in hand holds on to.
pub(crate) struct Held<'a> {
    context: &'a Context,
    region: &'a str,
    names: Vec<String>,
}

impl Held<'_> {
    fn hold(&mut self, name: Option<String>) {
        if let Some(name) = name.filter(|name| !self.names.contains(name)) {
            *self.context.holders.borrow_mut().entry((self.region.into(), name.clone())).or_default() += 1;
            self.names.push(name);
        }
    }

    /// Lets go of all, and gives those that nobody else in hand holds.
    fn let_go(mut self) -> Vec<String> {
        let names = std::mem::take(&mut self.names);
        names.into_iter().filter(|name| self.drop_one(name)).collect()
    }

    fn drop_one(&self, name: &str) -> bool {
        let mut holders = self.context.holders.borrow_mut();
        let Some(count) = holders.get_mut(&(self.region.to_string(), name.to_string())) else { return true };
        *count = count.saturating_sub(1);
        *count == 0
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        for name in &self.names {
            self.drop_one(name);
        }
    }
}
