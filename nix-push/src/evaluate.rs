//! From a configuration to the derivation of its system, in one evaluation.

use crate::about::About;
use crate::build::Builds;
use crate::closure::Closures;
use crate::evaluators::Evaluators;
use crate::expression::Template;
pub use crate::expression::system;
use crate::facts;
use crate::nix::Outcome;
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

/// What the flags say about every evaluation and build, and what the machines of a run share.
pub struct Settings {
    /// `-I`
    pub nix_path: Vec<String>,
    /// `--arg` and `--argstr`, as Nix takes them
    pub arguments: Vec<String>,
    /// `--option`, as Nix takes it
    pub options: Vec<String>,
    /// `--builders`, for builds here
    pub builders: Option<String>,
    pub evaluators: Evaluators,
    pub shared: Shared,
    pub builds: Builds,
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
/// Kind `evaluation`, after Nix's own trace on stderr; kind `input` for what Nix cannot hold.
pub fn evaluate(settings: &Settings, source: &Source, record: &Record) -> Result<Evaluated> {
    let machine = record.name();
    let json = facts::json(record)?;
    let template = Template::new(source, record, !settings.arguments.is_empty())?;
    let run = |facts: Option<&Facts>| run(settings, source, &machine, &template, &json, facts);
    let evaluated = match Facts::new(&json) {
        None => run(None)?.0?,
        Some(facts) => match settings.shared.turn(template.text(), &facts) {
            Turn::Done(verdict) => {
                log::event(&machine, &format!("the evaluation of {} holds for this machine too", source.shown()));
                Evaluated { fresh: false, ..(*verdict)? }
            }
            Turn::Work(work) => {
                let (verdict, used) = run(Some(&facts))?;
                if let Some(used) = used {
                    work.done(used, &facts, verdict.clone());
                }
                verdict?
            }
        },
    };
    evaluated.about.warn(&machine, record);
    Ok(evaluated)
}

/// Has Nix evaluate it; tells what it looked at where that is certain.
fn run(
    settings: &Settings,
    source: &Source,
    machine: &str,
    template: &Template,
    json: &str,
    facts: Option<&Facts>,
) -> Result<(Verdict, Option<Used>)> {
    // Without --read-write-mode the derivation would be named but not written.
    let mut arguments: Vec<String> = ["--eval", "--strict", "--json", "--read-write-mode"].map(String::from).to_vec();
    if log::is_verbose() {
        arguments.push("--show-trace".into());
    }
    if matches!(source, Source::Flake { .. }) {
        arguments.extend(["--option", "extra-experimental-features", "nix-command flakes"].map(String::from));
    }
    arguments.extend(settings.nix_path.iter().flat_map(|path| ["-I".to_string(), path.clone()]));
    arguments.extend(settings.arguments.iter().chain(&settings.options).cloned());
    // On stdin: a record may be a megabyte, and an argument list is everybody's to read.
    arguments.push("-".into());
    let _step = log::step(machine, "evaluating");
    let outcome = settings.evaluators.run(machine, template.text(), &template.with(json), || {
        log::event(machine, &format!("evaluating {}", source.shown()));
        log::detail(machine, &format!("nix-instantiate {}", arguments.join(" ")));
        let mut command = Command::new("nix-instantiate");
        command.args(&arguments);
        Ok(command)
    })?;
    let used = used(&outcome.facts);
    if outcome.success {
        let understood = serde_json::from_str::<Evaluated>(&outcome.stdout).map_err(|error| {
            Failure::new(Kind::Evaluation, format!("cannot understand what nix-instantiate printed: {error}"))
        })?;
        return Ok((Ok(Evaluated { fresh: true, ..understood }), used));
    }
    if let Some(signal) = outcome.signal {
        return Err(Failure::new(Kind::Evaluation, format!("nix-instantiate was ended by signal {signal}"))
            .hint("if memory ran out, give --eval-jobs 1, or a smaller --eval-memory")
            .into());
    }
    let failure = explain(source, &outcome, facts);
    // What is wrong with this computer may pass, what is wrong with the configuration stays.
    let lasting = !outcome.error().contains("No space left on device");
    Ok((Err(failure), used.filter(|_| lasting)))
}

fn explain(source: &Source, outcome: &Outcome, facts: Option<&Facts>) -> Failure {
    let error = outcome.error();
    let failure = Failure::new(Kind::Evaluation, format!("cannot evaluate {}: {error}", source.shown()));
    let named = facts.and_then(|facts| facts.blamed(&outcome.stderr, &outcome.facts));
    if error.contains("Nix search path") && error.contains("nixpkgs") {
        failure.hint("Nix does not find <nixpkgs>: set NIX_PATH=nixpkgs=PATH, or say --nixpkgs PATH")
    } else if error.contains("'getFlake'") {
        failure.hint("this Nix is too old for flakes: 2.4 was the first with builtins.getFlake")
    } else if error.contains("No space left on device") {
        failure.hint("make room in this computer's store, for example with nix-collect-garbage")
    } else if error.contains("root file system") || error.contains("make the system bootable") {
        failure.hint("a machine on EC2 needs imports = [ <nixpkgs/nixos/modules/virtualisation/amazon-image.nix> ];")
    } else if error.contains("attribute 'machine' missing") || error.contains("required argument 'machine'") {
        failure.hint("`machine` reaches a system that is made with a nixpkgs of 21.11 or newer (extendModules)")
    } else if let Some(named) = named {
        failure.hint(named)
    } else if log::is_verbose() {
        failure
    } else {
        failure.hint("-v shows Nix's whole trace")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_nixpkgs_has_a_hint() {
        let error = "error: file 'nixpkgs/nixos/lib/eval-config.nix' was not found in the Nix search path (add it using $NIX_PATH or -I)";
        let outcome = Outcome { stderr: vec![error.into()], ..Outcome::default() };
        let failure = explain(&Source::Plain("/c".into()), &outcome, None);
        assert!(failure.hint.is_some_and(|hint| hint.contains("--nixpkgs")));
    }
}
