//! Why an evaluation failed, or the local store, and what to do about it.

use crate::nix::{self, Outcome};
use crate::source::Source;
use crate::used::Facts;
use machine_record::{Failure, Kind, log};

/// How Nix says that it may not do something.
const DENIED: [&str; 3] = ["Operation not permitted", "Permission denied", "Read-only file system"];

/// The failure of an evaluation, of which Nix left `outcome`, for a machine of these facts.
pub fn explain(source: &Source, outcome: &Outcome, facts: Option<&Facts>) -> Failure {
    let error = outcome.error();
    let failure = Failure::new(Kind::Evaluation, format!("cannot evaluate {}: {error}", source.shown()));
    let named = facts.and_then(|facts| facts.blamed(&error, &outcome.stderr, &outcome.facts));
    let is_flake = |start: &str| matches!(source, Source::Flake { reference, .. } if reference.starts_with(start));
    let is_encoded = matches!(source, Source::Flake { reference, .. } if reference.contains('%'));
    if let Some(file) = sought(&error) {
        let (entry, rest) = file.split_once('/').unwrap_or((file, ""));
        failure.hint(match (entry, rest) {
            // What is asked for without the configuration's doing.
            ("nixpkgs", "" | "nixos" | "nixos/lib/eval-config.nix") => {
                "Nix does not find <nixpkgs>: set NIX_PATH=nixpkgs=PATH, or say --nixpkgs PATH".into()
            }
            ("nixpkgs", _) => "is that its name, and is <nixpkgs> there (nix-instantiate --find-file nixpkgs)? --nixpkgs PATH names another".into(),
            _ => format!("name the place of <{entry}> with -I {entry}=PATH, or in NIX_PATH"),
        })
    } else if let Some(hint) = store_hint(outcome) {
        failure.hint(hint)
    } else if error.contains("requires lock file changes") {
        failure.hint("its inputs are not locked: run nix flake lock there, with --extra-experimental-features 'nix-command flakes'")
    } else if error.contains("has no nixosConfigurations") {
        failure.hint("the name after # says which it is, and else the machine's name: --flake REF#NAME, or `configuration` in the record")
    } else if error.contains("No such file") && is_flake("path:") && is_encoded {
        failure.hint("this Nix takes no flake from a folder of such a name: rename it, or make it a git repository")
    } else if error.contains("flake.nix': No such file") && is_flake("path:") {
        failure.hint("is that the folder of the flake.nix?")
    } else if error.contains("is not a valid URL") {
        failure.hint("a flake reference with a scheme is a URL, with %20 for a space; a folder is named without one")
    } else if error.contains("No such file") && is_flake("git+file:") {
        failure.hint("a flake sees only the files that git knows: git add those that are new")
    } else if error.contains("in pure eval") {
        failure.hint("flakes are evaluated as `nix build` does, without files and variables of this computer; --option pure-eval false lifts that")
    } else if error.contains("'getFlake'") {
        failure.hint("this Nix is too old for flakes: 2.4 was the first with builtins.getFlake")
    } else if matches!(source, Source::Hermetic(_)) && error.contains("without required argument") {
        failure.hint("it is given `machine`, `system` and what --arg and --argstr name; a NixOS configuration is named without --hermetic")
    } else if error.contains("root file system") || error.contains("make the system bootable") {
        failure.hint("a machine on EC2 needs imports = [ <nixpkgs/nixos/modules/virtualisation/amazon-image.nix> ];")
    } else if matches!(source, Source::Hermetic(_))
        && (error.contains("infinite recursion") || error.contains("attribute 'machine' missing"))
    {
        failure.hint("does it use `machine`? Make it a function that asks for that, and hands it on: { machine, ... }: … specialArgs = { inherit machine; };")
    } else if error.contains("attribute 'machine' missing") || error.contains("required argument 'machine'") {
        failure.hint("`machine` reaches a system that is made with a nixpkgs of 21.11 or newer (extendModules)")
    } else if let Some(version) = nix::old() {
        failure.hint(format!(
            "this computer's Nix is {version}, older than the 2.8 that nix-push is tested with: upgrade it"
        ))
    } else if let Some(named) = named {
        failure.hint(if log::is_verbose() { named } else { format!("{named}; -v shows Nix's whole trace") })
    } else if outcome.stderr.is_empty() {
        failure.hint("is the Nix on the PATH whole? Try: nix-instantiate --eval --expr 1")
    } else if log::is_verbose() {
        failure.hint("Nix's trace above says where")
    } else {
        failure.hint("-v shows Nix's whole trace")
    }
}

/// What Nix does not find in its search path, as the configuration names it between `<` and `>`.
fn sought(error: &str) -> Option<&str> {
    error.split_once("' was not found in the Nix search path")?.0.rsplit('\'').next()
}

/// The failure of a program that works on the local store, of which Nix left `outcome`.
pub fn explain_store(program: &str, outcome: &Outcome) -> Failure {
    let hint = store_hint(outcome).unwrap_or("is the local store whole? Try: nix-store --verify");
    Failure::new(Kind::Build, format!("{program} said: {}", outcome.error())).hint(hint)
}

/// What to do about a local store that Nix cannot use.
fn store_hint(outcome: &Outcome) -> Option<&'static str> {
    let error = outcome.error();
    if error.contains("cannot connect to socket") {
        Some("start Nix's daemon, for example with systemctl start nix-daemon.socket")
    } else if error.contains("'/nix/var/") && DENIED.iter().any(|words| error.contains(words)) {
        Some("this user may not write to the store: let Nix's daemon do it, with NIX_REMOTE=daemon")
    } else if outcome.is_full() {
        Some("make room in this computer's store, for example with nix-collect-garbage")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_computer_lacks_has_a_hint() {
        for (error, words) in [
            (
                "file 'nixpkgs/nixos/lib/eval-config.nix' was not found in the Nix search path (add it using $NIX_PATH or -I)",
                "--nixpkgs",
            ),
            (
                "file 'nixpkgs/nixos/amazon-imge.nix' was not found in the Nix search path (add it using $NIX_PATH or -I)",
                "is that its name, and is <nixpkgs> there",
            ),
            (
                "file 'nixpkgs-unstable' was not found in the Nix search path (add it using $NIX_PATH or -I)",
                "name the place of <nixpkgs-unstable> with -I nixpkgs-unstable=PATH, or in NIX_PATH",
            ),
            (
                "cannot connect to socket at '/nix/var/nix/daemon-socket/socket': No such file or directory",
                "start Nix's daemon, for example with systemctl start nix-daemon.socket",
            ),
            (
                "could not set permissions on '/nix/var/nix/profiles/per-user' to 755: Operation not permitted",
                "this user may not write to the store: let Nix's daemon do it, with NIX_REMOTE=daemon",
            ),
        ] {
            let outcome = Outcome { stderr: vec![format!("error: {error}")], ..Outcome::default() };
            let hint = explain(&Source::Plain("/c".into()), &outcome, None).hint.unwrap();
            assert!(hint.contains(words), "{error}: {hint}");
        }
    }
}
