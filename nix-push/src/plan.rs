//! What a push would do: what would be built, and what would be sent.

use crate::daemon::{ANSWERED, Daemon, Missing};
use crate::deliver;
use crate::evaluate::{Evaluated, Settings, evaluate};
use crate::evaluators::Wanted;
use crate::local::Local;
use crate::once::Once;
use crate::remote::Remote;
use crate::send::size;
use crate::source::Source;
use crate::{Args, TOOL, about, build, facts, intake, nix_files, push};
use anyhow::{Context, Result, bail};
use machine_record::{Failure, Instance, Kind, PlanEntry, Record, Section, StorePath, WithHint, log};
use machine_ssh::Address;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Evaluates, and says what is to be done; writes nothing but derivations in the local store, and in the record
/// which system it is.
pub fn plan(args: &Args, settings: &Settings, source: &Source, record: &mut Record) -> Result<()> {
    let machine = record.name();
    let (evaluated, toplevel) = match source {
        Source::Toplevel(toplevel) => (None, toplevel.clone()),
        _ => {
            let evaluated = match evaluate(settings, source, &facts::foreseen(record)?) {
                Ok(evaluated) => evaluated,
                Err(error) => match facts::unknown(&error.to_string()) {
                    Some(unknown) => return plan_unknown(record, &unknown),
                    None => return Err(error),
                },
            };
            let toplevel = evaluated.toplevel.clone();
            (Some(evaluated), toplevel)
        }
    };
    let toplevel = &toplevel;
    record.put(&push::begun(evaluated.as_ref(), toplevel))?;
    let resource = format!("closure/{}", toplevel.base_name());
    let there = push::lock(&settings.store, toplevel, evaluated.as_ref())?;
    let by_itself = match &evaluated {
        Some(evaluated) => push::builds_there(args, settings, record, evaluated, there)?,
        None => false,
    };
    if !there && !by_itself {
        let Some(evaluated) = &evaluated else {
            return Err(Failure::new(Kind::NotFound, format!("{toplevel} is not in the local store"))
                .hint(push::NOT_BUILT)
                .into());
        };
        let (reason, details) = settings.plans.of(&machine, settings, evaluated)?.told();
        log::event(&machine, &format!("+ {resource}: {reason}"));
        record.plan(&PlanEntry::new(TOOL.name, "build", &resource, reason).details(details))?;
        // A system that is not here may be there all the same.
        if known(args, record, toplevel, &[])?.is_some_and(|known| known.contains(toplevel)) {
            log::event(&machine, &format!("nothing to send: the machine has {toplevel}"));
            return Ok(());
        }
        log::event(&machine, "what is to be sent is known after that");
        return Ok(record.plan(&PlanEntry::new(TOOL.name, "send", &resource, "known after it is built"))?);
    }
    if !record.has_address() && record.text(Instance::NAME).is_some() {
        // One that is stopped keeps what it has, and cannot be asked.
        log::event(&machine, &format!("+ {resource}: what is missing there is known once the machine runs"));
        return Ok(record.plan(&PlanEntry::new(TOOL.name, "send", &resource, "known once the machine runs"))?);
    }
    // What is sent of a system that the machine builds are its derivations.
    let evaluated = evaluated.filter(|_| by_itself);
    let root = evaluated.as_ref().map_or(toplevel, |evaluated| &evaluated.drv);
    let Some((paths, bytes, all)) = missing(args, settings, record, root, toplevel)? else {
        log::event(&machine, &format!("nothing to send: the machine has {toplevel}"));
        return Ok(());
    };
    if let Some(evaluated) = &evaluated {
        about::warn_if_small(&machine, record);
        let (reason, details) = settings.plans.of(&machine, settings, evaluated)?.told();
        let reason = format!("on the machine; as seen from here, {reason}");
        log::event(&machine, &format!("+ {resource}: to be built {reason}"));
        record.plan(&PlanEntry::new(TOOL.name, "build", &resource, reason).details(details))?;
    }
    let what = if evaluated.is_some() { "derivations and sources" } else { "paths" };
    let reason = format!("{paths} of {all} {what} are missing: {}", size(bytes));
    log::event(&machine, &format!("+ {resource}: {reason}"));
    let details = json!({ "paths": paths, "bytes": bytes });
    Ok(record.plan(&PlanEntry::new(TOOL.name, "send", &resource, reason).details(details))?)
}

/// Adds to the plan a system that is not known yet.
fn plan_unknown(record: &mut Record, unknown: &str) -> Result<()> {
    log::event(&record.name(), &format!("would build and send a system: {unknown}"));
    for action in ["build", "send"] {
        record.plan(&PlanEntry::new(TOOL.name, action, "closure/(known after apply)", unknown))?;
    }
    Ok(())
}

/// How much of a closure the machine lacks, and of how many paths; none where it has the system.
fn missing(
    args: &Args,
    settings: &Settings,
    record: &Record,
    root: &StorePath,
    toplevel: &StorePath,
) -> Result<Option<(usize, u64, usize)>> {
    let closure = settings.closures.of(&settings.store, root, None)?;
    let all = closure.infos.len();
    let paths: Vec<&StorePath> = closure.infos.iter().map(|info| &info.path).collect();
    let Some(known) = known(args, record, toplevel, &paths)? else { return Ok(Some((all, closure.bytes(), all))) };
    let missing = deliver::lacking(&closure.infos.iter().collect::<Vec<_>>(), &known);
    let bytes = missing.iter().map(|info| info.nar_size).sum();
    Ok((!known.contains(toplevel)).then_some((missing.len(), bytes, all)))
}

/// What the machine has of a system and of other paths, as far as it is asked; none where it is one that an earlier
/// step would make.
fn known(
    args: &Args,
    record: &Record,
    toplevel: &StorePath,
    others: &[&StorePath],
) -> Result<Option<HashSet<StorePath>>> {
    if !record.has_address() {
        return Ok(None);
    }
    let remote = Remote::connect(&Address::of(record, &args.login)?, args.timeout, &OnceLock::new())?;
    if remote.facts.has.contains(toplevel) {
        return Ok(Some(HashSet::from([toplevel.clone()])));
    }
    let mut serve = remote.script.serve(&[])?;
    let asked: Vec<StorePath> = others.iter().copied().chain([toplevel]).cloned().collect();
    serve.ask_valid_paths(false, false, &asked)?;
    let answer = serve.greeted().and_then(|()| serve.valid_paths());
    let answer = intake::answer(answer, &mut serve.wire.pipe).context("cannot ask the machine what it has");
    answer.with_hint("does it run there? Try: ssh MACHINE nix-store --gc --print-roots").map(Some)
}

/// The plans of this run: Nix is asked once for what several machines get.
pub struct Plans {
    known: Once<StorePath, Work>,
    helper: Arc<Mutex<Helper>>,
    /// Whether this run plans
    planning: bool,
    begun: AtomicBool,
}

/// The process that is asked for all machines.
#[derive(Default)]
enum Helper {
    #[default]
    NotStarted,
    Running(Daemon<Local>),
    /// In this run, and why
    Useless(String),
}

impl Helper {
    /// Starts the process, if it has not been started.
    ///
    /// # Errors
    /// Why it is of no use.
    fn start(&mut self) -> Result<&mut Daemon<Local>> {
        if let Helper::NotStarted = self {
            *self = match Daemon::start() {
                Ok(daemon) => Helper::Running(daemon),
                Err(error) => Helper::Useless(format!("{error:#}")),
            };
        }
        match self {
            Helper::Running(daemon) => Ok(daemon),
            Helper::Useless(why) => bail!("{why}"),
            Helper::NotStarted => bail!("it was not started"),
        }
    }
}

impl Plans {
    pub fn new(planning: bool) -> Self {
        Plans { known: Once::default(), helper: Arc::default(), planning, begun: AtomicBool::new(false) }
    }

    /// What takes a while to begin is begun beside the first evaluation, which leaves processors to it: the process
    /// that is asked, and what is needed to keep evaluations.
    pub fn begin(&self, settings: &Settings) {
        if self.begun.swap(true, Ordering::Relaxed) {
            return;
        }
        // A process that is asked for all takes no options.
        let helper = (self.planning && build::building(settings).is_empty()).then(|| self.helper.clone());
        let keeps = settings.cache.is_on();
        std::thread::spawn(move || {
            if let Some(helper) = helper {
                // Why it fails is told to who asks it.
                let _ = helper.lock().unwrap_or_else(PoisonError::into_inner).start();
            }
            if keeps {
                nix_files::learn();
            }
        });
    }

    fn of(&self, machine: &str, settings: &Settings, evaluated: &Evaluated) -> Result<Work> {
        let options = [evaluated.about.caches(), build::building(settings)].concat();
        self.known.get(evaluated.drv.clone(), || {
            let _step = log::step(machine, "planning");
            // A process that is asked for all takes no options for one.
            if options.is_empty() {
                match self.ask(machine, &evaluated.drv) {
                    Ok(work) => return Ok(work),
                    Err(error) => log::detail(machine, &format!("asking nix-store instead of nix-daemon: {error:#}")),
                }
            }
            work(machine, settings, &evaluated.drv, options)
        })
    }

    fn ask(&self, machine: &str, drv: &StorePath) -> Result<Work> {
        let mut helper = self.helper.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = helper.start()?.ask(machine, drv);
        if let Err(error) = &missing {
            // One that fails is not asked again.
            *helper = Helper::Useless(format!("{error:#}"));
        }
        Ok(missing?.into())
    }
}

/// What stands between a derivation and its output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Work {
    pub build: Vec<String>,
    fetch: Vec<String>,
    /// Bytes of what is to be fetched, as it comes and as it is then, if Nix says so
    download: Option<u64>,
    unpacked: Option<u64>,
}

impl From<Missing> for Work {
    fn from(missing: Missing) -> Work {
        let list = |paths: Vec<StorePath>| paths.iter().map(StorePath::to_string).collect();
        let (download, unpacked) = (Some(missing.download), Some(missing.unpacked));
        Work { build: list(missing.build), fetch: list(missing.fetch), download, unpacked }
    }
}

/// What nix-store is asked with for [`Work`].
pub fn dry_run(drv: &StorePath, options: &[String]) -> Vec<String> {
    [&["--realise", "--dry-run", drv.as_str()].map(String::from)[..], options].concat()
}

fn work(machine: &str, settings: &Settings, drv: &StorePath, options: Vec<String>) -> Result<Work> {
    let arguments = dry_run(drv, &options);
    // Measured and bounded as evaluations are.
    let command = || {
        log::detail(machine, &format!("nix-store {}", arguments.join(" ")));
        let mut command = Command::new("nix-store");
        command.args(&arguments);
        (command, None)
    };
    let (outcome, _) = settings.evaluators.run(&Wanted::asking(machine, &command, ANSWERED))?;
    if !outcome.success {
        return Err(Failure::new(Kind::Build, format!("cannot plan {drv}: {}", outcome.error()))
            .hint(format!("nix-store --realise --dry-run {drv} tells more"))
            .into());
    }
    Ok(Work::parse(&outcome.stderr))
}

impl Work {
    /// In words and as data.
    fn told(self) -> (String, Value) {
        let Work { build, fetch, download, unpacked } = self;
        let (builds, fetches) = (log::count(build.len(), "derivation"), log::count(fetch.len(), "path"));
        let volume = match (download, unpacked) {
            (Some(download), Some(unpacked)) if !fetch.is_empty() => {
                format!(" ({} download, {} unpacked)", size(download), size(unpacked))
            }
            _ => String::new(),
        };
        let details = json!({ "build": build, "fetch": fetch, "downloadBytes": download, "unpackedBytes": unpacked });
        (format!("{builds} to build, {fetches} to fetch{volume}"), details)
    }

    /// Reads the lists that Nix prints: a headline, then an indented path each.
    pub fn parse(lines: &[String]) -> Self {
        let mut work = Work { download: Some(0), unpacked: Some(0), ..Work::default() };
        let mut fetching = false;
        for line in lines {
            match line.strip_prefix("  ") {
                Some(path) if fetching => work.fetch.push(path.trim().into()),
                Some(path) => work.build.push(path.trim().into()),
                None => {
                    fetching = line.contains("fetched");
                    if fetching {
                        (work.download, work.unpacked) = (volume(line, " download"), volume(line, " unpacked"));
                    }
                }
            }
        }
        work
    }
}

/// The bytes that Nix names before a word, such as `0.1 MiB download`.
fn volume(line: &str, word: &str) -> Option<u64> {
    let (number, unit) = line.split_once(word)?.0.rsplit(['(', ',']).next()?.trim().split_once(' ')?;
    let shift = ["B", "KiB", "MiB", "GiB", "TiB"].iter().position(|known| *known == unit)? * 10;
    Some((number.parse::<f64>().ok()? * (1_u64 << shift) as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nix_lists_are_understood() {
        let lines = [
            "warning: the group 'nixbld' does not exist",
            "these 2 derivations will be built:",
            "  /nix/store/x-a.drv",
            "  /nix/store/x-b.drv",
            "this path will be fetched (0.1 MiB download, 0.5 MiB unpacked):",
            "  /nix/store/x-c",
        ]
        .map(String::from);
        let work = Work::parse(&lines);
        assert_eq!((work.build.len(), work.fetch.len()), (2, 1));
        assert_eq!((work.download, work.unpacked), (Some((1 << 20) / 10), Some(1 << 19)));
        let (told, details) = work.told();
        assert_eq!(told, "2 derivations to build, 1 path to fetch (102.4 KiB download, 512.0 KiB unpacked)");
        assert_eq!(details["unpackedBytes"], 1 << 19);
        // Newer Nix takes the unit that fits.
        let newer = ["these 2 paths will be fetched (1.5 KiB download, 2.0 GiB unpacked):".to_string()];
        let work = Work::parse(&newer);
        assert_eq!((work.download, work.unpacked), (Some(1536), Some(2 << 30)));
    }
}
