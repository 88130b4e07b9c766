//! From a configuration to the derivation of its system, in one evaluation.

use crate::about::About;
use crate::build::{Builds, Config};
use crate::cache::{Cache, Key};
use crate::closure::Closures;
use crate::evaluators::{Evaluators, Wanted};
use crate::explain::explain;
use crate::expression::{Sight, Template};
use crate::facts;
use crate::leaks;
use crate::local::Store;
use crate::lock::{self, FEATURES, Locks};
use crate::nix::{self, Outcome};
use crate::nix_files;
use crate::plan::Plans;
use crate::recorder::Beginning;
use crate::remarks::remarks;
use crate::share::{Shared, Turn, Verdict};
use crate::sign::Signer;
use crate::source::Source;
use crate::spool::Spool;
use crate::used::{Facts, Used, used};
use crate::via::Via;
use anyhow::Result;
use machine_record::{Failure, Kind, Record, StorePath, log};
use serde::{Deserialize, Serialize};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// What the flags say about every evaluation and build, and what the machines of a run share.
pub struct Settings {
    /// `-I`
    pub nix_path: Vec<String>,
    /// `--arg` and `--argstr`: names and Nix expressions
    pub arguments: Vec<(String, String)>,
    /// `--option`, as Nix takes it
    pub options: Vec<String>,
    /// `--builders`, for builds here
    pub builders: Option<String>,
    /// `--eval-timeout` and `--build-timeout`: a configuration may take its time
    pub eval_timeout: Option<Duration>,
    pub build_timeout: Option<Duration>,
    pub evaluators: Evaluators,
    pub cache: Cache,
    pub locks: Locks,
    pub shared: Shared,
    pub builds: Builds,
    pub config: Config,
    pub plans: Plans,
    pub store: Store,
    pub closures: Closures,
    pub spool: Spool,
    /// `--sign-key`
    pub signer: Option<Result<Signer, Failure>>,
    /// `--via`
    pub via: Option<Via>,
}

impl Settings {
    /// The key to sign with, if there is to be one.
    pub fn signer(&self) -> Result<Option<&Signer>, Failure> {
        self.signer.as_ref().map(|signer| signer.as_ref().map_err(Failure::clone)).transpose()
    }
}

/// What Nix says where watching it may be the reason for an error: it is then asked again without,
/// as where it names a place in the watcher. (To watch, folders are listed that need not be readable
/// else or are not allowed by restrict-eval, and names are told that need not be UTF-8.)
const WATCHER: [&str; 3] = ["Permission denied", " is forbidden in restricted mode", "invalid UTF-8"];

/// The system that a configuration describes.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Evaluated {
    pub drv: StorePath,
    pub toplevel: StorePath,
    pub about: About,
    /// Whether Nix evaluated it for this machine
    #[serde(skip)]
    pub fresh: bool,
}

/// Evaluates the configuration; its derivation is then in the local store.
///
/// # Errors
/// Kind `evaluation`, after Nix's own trace on stderr; kind `timeout`; kind `input` for what Nix cannot hold.
pub fn evaluate(settings: &Settings, source: &Source, record: &Record) -> Result<Evaluated> {
    let machine = record.name();
    let job = Job {
        settings,
        source,
        record,
        machine: &machine,
        template: template(settings, source, record, &machine)?,
        json: facts::json(record)?,
    };
    let evaluated = match Facts::new(&job.json) {
        None => job.unwatched()?.evaluate(None, |_| {})?.shown(&machine).verdict?,
        Some(facts) => match settings.shared.turn(job.template.text(), &facts) {
            Turn::Failed(failure) => return Err(failure.into()),
            Turn::Done(verdict) => {
                log::event(&machine, &format!("the evaluation of {} holds for this machine too", source.shown()));
                Evaluated { fresh: false, ..(*verdict)? }
            }
            Turn::Work(work) => {
                let (verdict, used) = match job.find_or_evaluate(&facts, |looked_at| work.looks(looked_at)) {
                    Ok(came) => came,
                    Err(error) => {
                        work.failed(&Failure::of(&error));
                        return Err(error);
                    }
                };
                if let Some(used) = used {
                    work.done(&used, verdict.clone());
                }
                verdict?
            }
        },
    };
    evaluated.about.warn(&machine, record);
    Ok(evaluated)
}

/// The expression for one machine; with it, all that it depends on is known, if that can be.
fn template(settings: &Settings, source: &Source, record: &Record, machine: &str) -> Result<Template> {
    let lock = match source {
        Source::Flake { reference, .. } => {
            leaks::check(reference, record)?;
            let lock =
                || lock::lock(machine, source, reference, &settings.options, settings.eval_timeout, &settings.cache);
            Some(settings.locks.get(reference.clone(), lock)??)
        }
        _ => None,
    };
    Template::new(source, record, &settings.arguments, settings.cache.is_on(), lock.as_ref())
}

/// The evaluation of one machine.
struct Job<'a> {
    settings: &'a Settings,
    source: &'a Source,
    record: &'a Record,
    machine: &'a str,
    template: Template,
    json: String,
}

/// What Nix came to, and what it looked at.
struct Evaluation {
    verdict: Verdict,
    /// None where it is not certain
    used: Option<Used>,
    outcome: Outcome,
    beginning: Option<Arc<Beginning>>,
}

impl Evaluation {
    /// Whether it ended at what is known after apply: for a plan that is no error.
    fn is_unknown(&self) -> bool {
        self.verdict.is_err() && facts::unknown(&self.outcome.error()).is_some()
    }

    /// With `-q`, too, an error is shown with its trace.
    fn shown(self, machine: &str) -> Self {
        if self.verdict.is_err() && !self.is_unknown() {
            self.outcome.show_error(machine);
        }
        self
    }
}

impl Job<'_> {
    /// Takes an earlier evaluation that still holds, or has Nix evaluate it and tells what it looks at.
    fn find_or_evaluate(&self, facts: &Facts, looks: impl Fn(&[String])) -> Result<(Verdict, Option<Used>)> {
        let cache = &self.settings.cache;
        let key = if self.is_certain() {
            Some(Key::new(self.template.text(), &[self.settings.nix_path.as_slice(), &self.settings.options])?)
        } else {
            None
        };
        if let Some(key) = &key
            && let Some((kept, used)) = cache.find(self.machine, key, facts)
        {
            log::event(self.machine, &format!("nothing that {} depends on has changed", self.source.shown()));
            kept.said.iter().for_each(|line| nix::show(self.machine, line));
            return Ok((Ok(kept.evaluated), Some(used)));
        }
        let mut evaluation = self.evaluate(Some(facts), &looks)?;
        let mut certain = key.is_some();
        let outcome = &evaluation.outcome;
        let ours = match self.template.sight {
            Sight::Watched => {
                WATCHER.iter().any(|words| outcome.said(words)) || self.template.is_named(&outcome.stderr)
            }
            Sight::Pure => lock::UNUSABLE.iter().any(|words| outcome.failed_with(words)),
            Sight::Unknown => false,
        };
        let unknown = evaluation.is_unknown();
        if evaluation.verdict.is_err() && ours && !unknown {
            certain = false;
            evaluation = self.unwatched()?.evaluate(Some(facts), &looks)?;
        } else if !unknown {
            evaluation.outcome.show_held(self.machine);
        }
        let Evaluation { verdict, used, outcome, beginning } = evaluation.shown(self.machine);
        if let (Some(key), Some(used), Ok(evaluated), Some(beginning), true) =
            (&key, &used, &verdict, &beginning, certain)
        {
            let watched = self.template.sight == Sight::Watched;
            let looked_at = (watched.then_some(outcome.reads.as_slice()), &**beginning);
            cache.keep(self.machine, key, used, facts, (evaluated, &remarks(&outcome.stderr)), looked_at);
        }
        Ok((verdict, used))
    }

    /// Whether it is known what the evaluation depends on, for the next run to check.
    fn is_certain(&self) -> bool {
        let given = |name: &str| self.settings.options.iter().any(|option| option.ends_with(name));
        let pure = match self.template.sight {
            Sight::Watched => true,
            // Unless the user takes it back.
            Sight::Pure => !given("pure-eval"),
            Sight::Unknown => false,
        };
        pure && !nix_files::UNKNOWN.into_iter().any(given)
    }

    fn unwatched(&self) -> Result<Job<'_>> {
        let template = Template::new(self.source, self.record, &self.settings.arguments, false, None)?;
        Ok(Job { template, json: self.json.clone(), ..*self })
    }

    /// What nix-instantiate is given; the expression comes on stdin.
    fn arguments(&self) -> Vec<String> {
        // Without --read-write-mode the derivation would be named but not written.
        let mut arguments = ["--eval", "--strict", "--json", "--read-write-mode"].map(String::from).to_vec();
        if log::is_verbose() {
            arguments.push("--show-trace".into());
        }
        match self.template.sight {
            // Then Nix tells what it copies to the store.
            Sight::Watched => arguments.push("-vv".into()),
            Sight::Pure => arguments.extend(["--option", "pure-eval", "true"].map(String::from)),
            Sight::Unknown => {}
        }
        if matches!(self.source, Source::Flake { .. }) {
            arguments.extend(FEATURES.map(String::from));
        }
        arguments.extend(self.settings.nix_path.iter().flat_map(|path| ["-I".to_string(), path.clone()]));
        arguments.extend(self.settings.options.iter().cloned());
        // A record may be a megabyte, and an argument list is everybody's to read.
        arguments.push("-".into());
        arguments
    }

    /// Has Nix evaluate it; tells what it looked at where that is certain.
    fn evaluate(&self, facts: Option<&Facts>, looks: impl Fn(&[String])) -> Result<Evaluation> {
        let Job { settings, source, machine, template, json, .. } = self;
        let arguments = self.arguments();
        let _step = log::step(machine, "evaluating");
        let begins = || {
            log::event(machine, &format!("evaluating {}", source.shown()));
            settings.plans.begin(settings);
        };
        let command = || {
            log::detail(machine, &format!("nix-instantiate {}", arguments.join(" ")));
            let paths = nix_files::folders(&settings.nix_path).into_iter().chain(source.path());
            let beginning = Arc::new(Beginning::now(paths));
            let mut command = Command::new("nix-instantiate");
            command.args(&arguments);
            (command, Some(beginning))
        };
        let (outcome, beginning) = settings.evaluators.run(&Wanted {
            machine,
            template: template.text(),
            facts: json,
            hold: template.sight != Sight::Unknown,
            input: &|facts| template.with(facts),
            command: &command,
            begins: &begins,
            looks: &looks,
            limit: settings.eval_timeout,
        })?;
        let used = used(&outcome.facts);
        if outcome.success {
            let understood = serde_json::from_str::<Evaluated>(&outcome.stdout).map_err(|error| {
                Failure::new(Kind::Evaluation, format!("cannot understand what nix-instantiate printed: {error}"))
                    .hint(nix::TESTED_WITH)
            })?;
            return Ok(Evaluation { verdict: Ok(Evaluated { fresh: true, ..understood }), used, outcome, beginning });
        }
        if let Some(signal) = outcome.signal {
            return Err(Failure::new(Kind::Evaluation, format!("nix-instantiate was ended by signal {signal}"))
                .hint("if memory ran out, give --eval-jobs 1, or a smaller --eval-memory")
                .into());
        }
        let failure = explain(source, &outcome, facts);
        // What is wrong with this computer may pass, what is wrong with the configuration stays.
        let lasting = !outcome.is_full();
        Ok(Evaluation { verdict: Err(failure), used: used.filter(|_| lasting), outcome, beginning })
    }
}
