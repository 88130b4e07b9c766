//! From a derivation to a system in the local store.

use crate::daemon::ANSWERED;
use crate::evaluate::{Evaluated, Settings};
use crate::nix::{self, Outcome};
use crate::once::Once;
use crate::plan::{Work, dry_run};
use anyhow::{Context, Result};
use machine_record::{Failure, Kind, StorePath, WithHint, WithKind, log};
use std::collections::HashSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The builds of this run.
#[derive(Default)]
pub struct Builds {
    /// Equal systems of several machines are built once
    systems: Once<StorePath, Built>,
    /// Derivations that failed, each with the machine that it was built for: nothing that needs one can be built
    failed: Mutex<Vec<(String, String)>>,
}

type Built = Result<(), Failure>;

/// This Nix's settings, as it shows them; it is asked once.
pub type Config = Once<(), String>;

/// Builds the system here, or wherever this Nix sends its builds.
///
/// # Errors
/// Kind `build`; the last lines of the log have been shown.
pub fn build(machine: &str, settings: &Settings, evaluated: &Evaluated) -> Result<()> {
    let built = settings.builds.systems.get(evaluated.toplevel.clone(), || realise(machine, settings, evaluated))?;
    Ok(built?)
}

fn realise(machine: &str, settings: &Settings, evaluated: &Evaluated) -> Result<Built> {
    let Evaluated { drv, toplevel, about, .. } = evaluated;
    let options = [about.caches(), building(settings)].concat();
    let until = settings.build_timeout.map(|limit| Instant::now() + limit);
    let mut needs =
        Needs { builds: &settings.builds, machine, drv, options: &options, until, all: None, seen: 0, failed: None };
    if let Some(failure) = needs.failure(toplevel) {
        return Ok(Err(failure));
    }
    log::event(machine, &format!("building {toplevel}"));
    let _step = log::step(machine, "building");
    let mut arguments: Vec<String> = ["--realise", drv.as_str()].map(String::from).to_vec();
    if !log::is_verbose() {
        // Nix then shows the last lines of a failed build's log, instead of every line of all.
        arguments.push("--no-build-output".into());
    }
    arguments.extend(options.iter().cloned());
    // Another machine's build may fail while this one is at something else, or waits for the same.
    let useless = || needs.failure(toplevel).is_some();
    let outcome = nix::run_within(settings.build_timeout, machine, "nix-store", &arguments, useless)?;
    if !outcome.success
        && failed(&outcome.stderr).is_none()
        && let Some(failure) = needs.failure(toplevel)
    {
        return Ok(Err(failure));
    }
    if let (Some(limit), true) = (settings.build_timeout, outcome.late) {
        return Ok(Err(nix::late(&format!("building {toplevel}"), "--build-timeout", limit)));
    }
    if !outcome.success {
        settings.builds.note(machine, &outcome);
        outcome.show_error(machine);
        return Ok(Err(explain(drv, toplevel, &outcome, !building(settings).is_empty())));
    }
    if outcome.stdout.lines().any(|line| line.trim() == toplevel.as_str()) {
        return Ok(Ok(()));
    }
    Ok(Err(Failure::new(Kind::Build, format!("Nix built {}, not {toplevel}", outcome.stdout.trim()))
        .hint("run the pipe again, with --no-eval-cache")))
}

impl Builds {
    /// Keeps in mind what a build failed at, if it would fail again.
    fn note(&self, machine: &str, outcome: &Outcome) {
        if let Some(drv) = failed(&outcome.stderr)
            && outcome.said("failed with exit code")
            && !outcome.is_full()
        {
            self.failed().push((drv.into(), machine.into()));
        }
    }

    fn failed(&self) -> MutexGuard<'_, Vec<(String, String)>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A system that is built, and what of all that it needs has failed.
struct Needs<'a> {
    builds: &'a Builds,
    machine: &'a str,
    drv: &'a StorePath,
    options: &'a [String],
    /// When the build has to be done, if that is bounded
    until: Option<Instant>,
    /// The derivations that Nix would build for it, asked for once something has failed
    all: Option<HashSet<String>>,
    /// How many of those that failed were looked up
    seen: usize,
    failed: Option<(String, String)>,
}

impl Needs<'_> {
    /// Why it cannot be built, if that is known by now.
    fn failure(&mut self, toplevel: &StorePath) -> Option<Failure> {
        let new = self.builds.failed().get(self.seen..).unwrap_or_default().to_vec();
        if self.failed.is_none() && !new.is_empty() {
            self.seen += new.len();
            let all = self.all.get_or_insert_with(|| {
                // Nix looks in its caches for what it need not build.
                let left = self.until.map(|until| until.saturating_duration_since(Instant::now()));
                let left = left.unwrap_or(ANSWERED).min(ANSWERED);
                let question = dry_run(self.drv, self.options);
                let asked = nix::run_within(Some(left), self.machine, "nix-store", &question, || false);
                // Where Nix does not say, it is built as if nothing had failed.
                let said = asked.ok().filter(|asked| asked.success).map(|asked| Work::parse(&asked.stderr).build);
                said.unwrap_or_default().into_iter().collect()
            });
            self.failed = new.into_iter().find(|(drv, _)| all.contains(drv));
        }
        let (drv, machine) = self.failed.as_ref()?;
        let message = format!("cannot build {toplevel}: {drv} has failed for {machine}");
        Some(Failure::new(Kind::Build, message).hint(see(drv)))
    }
}

/// What to do about a derivation that fails.
fn see(drv: &str) -> String {
    format!("for the whole log, run: nix-store --read-log {drv}")
}

/// `options`: whether Nix was given some that a daemon takes of trusted users alone.
fn explain(drv: &StorePath, toplevel: &StorePath, outcome: &Outcome, options: bool) -> Failure {
    let nobody = outcome.error().contains("nable to start any build"); // newer: Unable
    // Why a builder is of no use was said long before.
    let unusable = outcome.stderr.iter().find(|line| nobody && line.starts_with("cannot build on '"));
    let error = unusable.cloned().unwrap_or_else(|| outcome.error());
    let failure = Failure::new(Kind::Build, format!("cannot build {toplevel}: {error}"));
    let said = |list: &[&str]| list.iter().any(|words| outcome.said(words));
    let other = said(&["is required to build", "required system or feature not available"]);
    // Nix 2.8 is silent where its daemon takes no options.
    let ignored = said(&["not a trusted user", "ignoring untrusted", "restricted setting"])
        || other && options && !rustix::process::getuid().is_root();
    if outcome.is_full() {
        failure.hint("make room in this computer's store, for example with nix-collect-garbage")
    } else if let Some(failed) = failed(&outcome.stderr) {
        failure.hint(see(failed))
    } else if ignored {
        failure.hint("the Nix daemon takes no options from a user that is not among the trusted-users of its nix.conf")
    } else if other {
        failure.hint("name a builder for that system with --builders, or build there: --build-on machine")
    } else if outcome.failed_with("'build-users-group' does not exist") {
        failure.hint("this Nix has no users to build as: make that group, or build as yourself with --option build-users-group ''")
    } else if nobody {
        failure.hint("see to the builders of nix.conf, name others with --builders, or build there: --build-on machine")
    } else {
        failure.hint(see(drv.as_str()))
    }
}

/// The options for building here.
pub fn building(settings: &Settings) -> Vec<String> {
    let builders = settings.builders.iter().flat_map(|builders| ["--option", "builders", builders].map(String::from));
    settings.options.iter().cloned().chain(builders).collect()
}

/// What to do where it cannot be kept.
const KEPT: &str = "--keep-result names a folder that you may write to";

/// Keeps the system from being collected here: a link in `folder`, of the machine's name.
///
/// # Errors
/// Kind `build` where the link cannot be made.
pub fn keep(machine: &str, toplevel: &StorePath, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make {}", folder.display()))
        .with_kind(Kind::Build)
        .with_hint(KEPT)?;
    let link = std::path::absolute(folder.join(machine)).with_kind(Kind::Build)?;
    let link = link.to_string_lossy().into_owned();
    let arguments = ["--realise", toplevel.as_str(), "--add-root", &link, "--indirect"].map(String::from);
    let outcome = nix::run(machine, "nix-store", &arguments, String::new())?;
    if outcome.success {
        return Ok(());
    }
    Err(Failure::new(Kind::Build, format!("cannot keep the result as {link}: {}", outcome.error())).hint(KEPT).into())
}

/// Whether this Nix, or a machine that it sends builds to, builds for `system`.
pub fn can_build(machine: &str, system: &str, settings: &Settings) -> Result<bool> {
    let config = settings.config.get((), || Ok(config(machine, settings)))?;
    Ok(builds(&config, system))
}

/// The settings as Nix shows them, none where it does not.
fn config(machine: &str, settings: &Settings) -> String {
    let show = |words: &[&str]| {
        let features = ["--extra-experimental-features", "nix-command"];
        let arguments = words.iter().chain(&features).map(|word| word.to_string()).chain(building(settings));
        let arguments: Vec<String> = arguments.collect();
        log::detail(machine, &format!("nix {}", arguments.join(" ")));
        // What it says of the command's name is nobody's concern.
        let shown = Command::new("nix").args(arguments).stdin(Stdio::null()).output().ok()?;
        shown.status.success().then(|| String::from_utf8_lossy(&shown.stdout).into_owned())
    };
    // Nix 2.20 renamed the command.
    show(&["show-config"]).or_else(|| show(&["config", "show"])).unwrap_or_default()
}

/// Whether a Nix of these settings builds for `system`, or has a builder that does.
fn builds(config: &str, system: &str) -> bool {
    let value = |name: &str| config.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
    let builders = value("builders").unwrap_or_default();
    let own = value("system").map_or_else(|| format!("{}-linux", std::env::consts::ARCH), String::from);
    let more = value("extra-platforms").unwrap_or_default();
    let here = value("max-jobs") != Some("0") && (own == system || more.split_whitespace().any(|word| word == system));
    here || serves(builders, system, &own)
}

/// Whether one of the builders takes `system`: the second word of each, with commas; one that says none takes `own`
/// (manual of Nix, "Remote Builds").
fn serves(builders: &str, system: &str, own: &str) -> bool {
    let of = |line: &str| line.split_whitespace().nth(1).filter(|word| *word != "-").unwrap_or(own).to_string();
    lines(builders, 3).iter().any(|line| of(line).split(',').any(|word| word == system))
}

/// The builders, one each, with those of the files that stand among them as `@FILE`; files name others so many deep.
fn lines(builders: &str, deep: usize) -> Vec<String> {
    let lines = builders.split(['\n', ';']).map(|line| line.split('#').next().unwrap_or_default().trim());
    let lines = lines.filter(|line| !line.is_empty()).map(|line| match line.strip_prefix('@') {
        Some(_) if deep == 0 => Vec::new(),
        Some(file) => self::lines(&std::fs::read_to_string(file.trim()).unwrap_or_default(), deep - 1),
        None => vec![line.to_string()],
    });
    lines.flatten().collect()
}

/// The derivation that failed first: those after it failed for want of it, which newer Nix says in
/// the same words, with the reason on the next line.
pub fn failed(stderr: &[String]) -> Option<&str> {
    let reasons = stderr.iter().skip(1).map(String::as_str).chain([""]);
    let fails = |line: &str, next: &str| {
        line.contains("error: builder for")
            || line.contains("error: Cannot build '") && next.contains("Reason: builder failed")
    };
    stderr.iter().zip(reasons).filter(|(line, next)| fails(line, next)).find_map(|(line, _)| line.split('\'').nth(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_nobody_builds_is_seen_in_the_words_of_each_nix() {
        let path = |name: &str| StorePath::new(format!("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-{name}")).unwrap();
        for error in [
            "error: unable to start any build; either increase '--max-jobs' or enable remote builds.",
            "error: Unable to start any build;",
        ] {
            let outcome = Outcome { stderr: vec![error.into()], ..Outcome::default() };
            let hint = explain(&path("a.drv"), &path("a"), &outcome, false).hint.unwrap();
            assert!(hint.starts_with("see to the builders"), "{hint}");
        }
    }

    #[test]
    fn a_nix_without_users_to_build_as_has_a_hint() {
        let path = |name: &str| StorePath::new(format!("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-{name}")).unwrap();
        let error = "error: the group 'nixbld' specified in 'build-users-group' does not exist";
        let outcome = Outcome { stderr: vec![error.into()], ..Outcome::default() };
        let hint = explain(&path("a.drv"), &path("a"), &outcome, false).hint.unwrap();
        let words = "this Nix has no users to build as: make that group, or build as yourself with --option build-users-group ''";
        assert_eq!(hint, words);
    }

    #[test]
    fn who_builds_is_known_by_the_settings() {
        let config = "builders = \nextra-platforms = i686-linux\nmax-jobs = 2\nsystem = aarch64-darwin\n";
        assert!(builds(config, "aarch64-darwin") && builds(config, "i686-linux") && !builds(config, "aarch64-linux"));
        let none = config.replace("= 2", "= 0");
        assert!(!builds(&none, "aarch64-darwin") && !builds(&none, "i686-linux"));
        assert!(builds(&none.replace("builders =", "builders = ssh://a i686-linux"), "i686-linux"));
        assert!(builds("", &format!("{}-linux", std::env::consts::ARCH)), "a Nix that shows none");
    }

    #[test]
    fn builders_are_known_by_their_systems() {
        let builders = "# aarch64-linux\nssh://a x86_64-linux,i686-linux - 4; ssh://b aarch64-linux";
        let serves = |builders: &str, system: &str| serves(builders, system, "x86_64-linux");
        assert!(serves(builders, "aarch64-linux") && serves(builders, "i686-linux"));
        assert!(!serves("ssh://a", "aarch64-linux") && !serves("# x aarch64-linux", "aarch64-linux"));
        assert!(serves("ssh://a", "x86_64-linux") && serves("ssh://a - /key", "x86_64-linux"));
        assert!(!serves("\n# x\n", "x86_64-linux"));
        // What Nix takes apart before it opens a file.
        let path = std::env::temp_dir().join(format!("nixpipe-builders-{}", std::process::id()));
        std::fs::write(&path, format!("ssh://c riscv64-linux # x\n@{}\n", path.display())).unwrap();
        let among = format!("@{} ; ssh://b aarch64-linux", path.display());
        assert!(serves(&among, "riscv64-linux") && serves(&among, "aarch64-linux") && !serves(&among, "x86_64-linux"));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn the_derivation_that_failed_is_named() {
        let stderr = [
            "building '/nix/store/x-a.drv'...",
            "error: builder for '/nix/store/x-a.drv' failed with exit code 1;",
            "error: 1 dependencies of derivation '/nix/store/x-b.drv' failed to build",
        ]
        .map(String::from);
        assert_eq!(failed(&stderr), Some("/nix/store/x-a.drv"));
        let newer = [
            "error: Cannot build '/nix/store/x-c.drv'.",
            "       Reason: 1 dependency failed.",
            "error: Cannot build '/nix/store/x-a.drv'.",
            "       Reason: builder failed with exit code 1.",
            "       Output paths:",
        ]
        .map(String::from);
        assert_eq!((failed(&newer), failed(&newer[..3])), (Some("/nix/store/x-a.drv"), None));
    }
}
