//! From a configuration to the derivation of its system, in one evaluation.

use crate::facts::{json, nix_string};
use crate::nix;
use crate::source::Source;
use anyhow::{Context, Result};
use machine_record::{Ami, Failure, Kind, Record, StorePath, log};
use serde::Deserialize;
use std::path::Path;
use std::sync::{Condvar, Mutex};

/// What the flags say about every evaluation.
#[derive(Default)]
pub struct Settings {
    /// `-I`
    pub nix_path: Vec<String>,
    /// `--arg` and `--argstr`, as Nix takes them
    pub arguments: Vec<String>,
    /// `--option`, as Nix takes it
    pub options: Vec<String>,
    /// How many run side by side; 0 for no bound
    pub turns: Turns,
}

/// The system that a configuration describes.
#[derive(Debug, Deserialize)]
pub struct Evaluated {
    pub drv: StorePath,
    pub toplevel: StorePath,
}

/// Evaluates the configuration; its derivation is then in the local store.
///
/// # Errors
/// Kind `evaluation`, after Nix's own trace on stderr; kind `input` for what Nix cannot hold.
pub fn evaluate(settings: &Settings, source: &Source, record: &Record) -> Result<Evaluated> {
    let machine = record.name();
    let expression = expression(source, record, !settings.arguments.is_empty())?;
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
    let _turn = settings.turns.take();
    log::event(&machine, &format!("evaluating {}", source.shown()));
    let outcome = nix::run(&machine, "nix-instantiate", &arguments, expression)?;
    if !outcome.success {
        return Err(explain(source, &outcome.error()).into());
    }
    serde_json::from_str(&outcome.stdout).context("cannot understand what nix-instantiate printed")
}

fn explain(source: &Source, error: &str) -> Failure {
    let failure = Failure::new(Kind::Evaluation, format!("cannot evaluate {}: {error}", source.shown()));
    if error.contains("Nix search path") && error.contains("nixpkgs") {
        failure.hint("Nix does not find <nixpkgs>: set NIX_PATH=nixpkgs=PATH, or say -I nixpkgs=PATH")
    } else if error.contains("attribute 'machine'") || error.contains("machine.") {
        failure.hint("`machine` is this machine's record, as it comes on stdin")
    } else if log::is_verbose() {
        failure
    } else {
        failure.hint("-v shows Nix's whole trace")
    }
}

/// The system that the machine is of: the record's own word, else its image's.
pub fn system(record: &Record) -> Result<Option<String>> {
    Ok(match record.string("system")? {
        Some(system) => Some(system),
        None => record.section::<Ami>()?.map(|ami| ami.system),
    })
}

/// The Nix expression that yields `drv` and `toplevel`. (A set with `outPath` would print as text.)
fn expression(source: &Source, record: &Record, arguments: bool) -> Result<String> {
    let machine = nix_string(&json(record)?);
    let system = match system(record)? {
        Some(system) => nix_string(&system),
        None => "builtins.currentSystem".into(),
    };
    // A path literal could not hold every file name.
    let path = |path: &Path| format!("(/. + {})", nix_string(&path.to_string_lossy()));
    let plain = |module: String| {
        format!("import <nixpkgs/nixos/lib/eval-config.nix> {{ inherit system specialArgs; modules = [ {module} ]; }}")
    };
    let nixos = match source {
        Source::Plain(file) => plain(path(file)),
        Source::Inline(text) => plain(format!("(\n{text}\n)")),
        Source::Hermetic(file) => format!("extend (call (import {}))", path(file)),
        Source::Flake { reference, name } => format!(
            "extend (builtins.getFlake {}).nixosConfigurations.{}",
            nix_string(reference),
            nix_string(name.as_ref().unwrap_or(&record.name())),
        ),
        Source::Toplevel(_) => return Err(Failure::new(Kind::Internal, "a built system needs no evaluation").into()),
    };
    let head = if arguments { "{ ... }@args: let" } else { "let args = { };" };
    Ok(format!(
        "{head}
machine = builtins.fromJSON {machine};
system = {system};
specialArgs = args // {{ inherit machine; }};
call = f: if builtins.isFunction f
  then f (builtins.intersectAttrs (builtins.functionArgs f) (specialArgs // {{ inherit system; }}))
  else f;
extend = nixos: if nixos ? extendModules then nixos.extendModules {{ inherit specialArgs; }} else nixos;
nixos = {nixos};
toplevel = nixos.config.system.build.toplevel;
in {{ drv = toplevel.drvPath; toplevel = toplevel.outPath; }}
"
    ))
}

/// Lets so many evaluations run at once as there are processors: each takes a core, and memory.
pub struct Turns {
    free: Mutex<usize>,
    changed: Condvar,
}

/// One evaluation's turn, given back when dropped.
struct Turn<'a>(&'a Turns);

impl Default for Turns {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Turns { free: Mutex::new(processors), changed: Condvar::new() }
    }
}

impl Turns {
    fn take(&self) -> Turn<'_> {
        let free = self.free.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let waited = self.changed.wait_while(free, |free| *free == 0);
        *waited.unwrap_or_else(|poisoned| poisoned.into_inner()) -= 1;
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) += 1;
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machine_record::Records;

    fn record(text: &str) -> Record {
        Records::new(text.as_bytes()).read().unwrap().unwrap()
    }

    #[test]
    fn the_record_reaches_nix_as_it_is() {
        let odd = record(r#"{"name":"a","x":"${builtins.abort \"no\"} \\ \" ''"}"#);
        let text = expression(&Source::Inline("{ }".into()), &odd, false).unwrap();
        let question = text.replace("{ drv = toplevel.drvPath; toplevel = toplevel.outPath; }", "machine.x");
        let outcome =
            nix::run("a", "nix-instantiate", &["--eval".into(), "--json".into(), "-".into()], question).unwrap();
        assert!(outcome.success, "{:?}", outcome.stderr);
        assert_eq!(outcome.stdout.trim(), r#""${builtins.abort \"no\"} \\ \" ''""#);
    }

    #[test]
    fn the_system_is_the_records_own_then_the_images() {
        let text = |record: Record| expression(&Source::Plain("/c".into()), &record, false).unwrap();
        assert!(text(record(r#"{"system":"aarch64-linux"}"#)).contains(r#"system = "aarch64-linux""#));
        assert!(text(record("{}")).contains("builtins.currentSystem"));
    }

    #[test]
    fn a_missing_nixpkgs_has_a_hint() {
        let error = "file 'nixpkgs/nixos/lib/eval-config.nix' was not found in the Nix search path (add it using $NIX_PATH or -I)";
        assert!(explain(&Source::Plain("/c".into()), error).hint.is_some());
    }
}
