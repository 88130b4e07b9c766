//! From a derivation to a system in the local store.

use crate::evaluate::{Evaluated, Settings};
use crate::nix;
use anyhow::Result;
use machine_record::{Failure, Kind, log};

/// Builds the system here, or wherever this Nix sends its builds.
///
/// # Errors
/// Kind `build`; the last lines of the log have been shown.
pub fn build(machine: &str, settings: &Settings, evaluated: &Evaluated) -> Result<()> {
    let Evaluated { drv, toplevel } = evaluated;
    log::event(machine, &format!("building {toplevel}"));
    let mut arguments: Vec<String> = ["--realise", drv.as_str()].map(String::from).to_vec();
    if !log::is_verbose() {
        // Nix then shows the last lines of a failed build's log, instead of every line of all.
        arguments.push("--no-build-output".into());
    }
    arguments.extend(settings.options.iter().cloned());
    let outcome = nix::run(machine, "nix-store", &arguments, String::new())?;
    if !outcome.success {
        return Err(Failure::new(Kind::Build, format!("cannot build {toplevel}: {}", outcome.error()))
            .hint(format!(
                "for the whole log, run: nix-store --read-log {}",
                failed(&outcome.stderr).unwrap_or(drv.as_str())
            ))
            .into());
    }
    if outcome.stdout.lines().any(|line| line.trim() == toplevel.as_str()) {
        return Ok(());
    }
    Err(Failure::new(Kind::Build, format!("Nix built {}, not {toplevel}", outcome.stdout.trim())).into())
}

/// The derivation that failed first: those after it failed for want of it.
fn failed(stderr: &[String]) -> Option<&str> {
    stderr.iter().filter(|line| line.contains("error: builder for")).find_map(|line| line.split('\'').nth(1))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_derivation_that_failed_is_named() {
        let stderr = [
            "building '/nix/store/x-a.drv'...",
            "error: builder for '/nix/store/x-a.drv' failed with exit code 1;",
            "error: 1 dependencies of derivation '/nix/store/x-b.drv' failed to build",
        ]
        .map(String::from);
        assert_eq!(super::failed(&stderr), Some("/nix/store/x-a.drv"));
    }
}
