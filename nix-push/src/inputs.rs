//! What an evaluation depended on besides its expression: files, folders and environment variables.
//!
//! Nix tells what it looks at (`watch.nix`, and its own word for what it copies to the store). What
//! it tells is looked up here after it is done; if anything may have been otherwise when Nix looked,
//! or cannot be looked up, the answer is a reason to evaluate again next time.

use crate::digests::{Digests, hex};
use crate::places::{Places, without_up};
use crate::recorder::{Beginning, Recorder};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// How Nix says that it copied a path, between its name and the store path (`-vv`; src/libexpr/eval.cc,
/// copyPathToStore).
pub const COPIED: &str = "copied source '";
const COPIED_TO: &str = "' -> '";

/// The path that `watch.nix` copies, to hear whether this Nix says so.
const CANARY: &str = "-nixpipe-canary";

/// All that an evaluation looked at, as it was.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Inputs {
    /// Digests of variables; none of one that is not set
    variables: BTreeMap<String, Option<String>>,
    places: Places,
}

impl Inputs {
    /// Looks up what Nix said while it was watched, and what it reads `at_start`.
    ///
    /// # Errors
    /// Why it is not certain that this is all, or that Nix saw it so.
    pub fn record(
        said: Option<&[String]>,
        at_start: &[String],
        beginning: &Beginning,
        digests: &Digests,
    ) -> Result<Inputs> {
        let mut inputs = Inputs::default();
        let mut recorder = Recorder::new(beginning, digests);
        let mut canary = false;
        for line in said.unwrap_or_default().iter().chain(at_start).collect::<BTreeSet<_>>() {
            match line.strip_prefix(COPIED) {
                Some(copied) => {
                    let (from, to) = copied.rsplit_once(COPIED_TO).context("Nix copied something without a name")?;
                    if to.contains(CANARY) {
                        canary = true;
                    } else {
                        recorder.tree(Path::new(from))?;
                    }
                }
                None => inputs.look(&mut recorder, line)?,
            }
        }
        let told = |said: &[String]| canary && said.iter().any(|line| !line.starts_with(COPIED));
        ensure!(said.is_none_or(told), "this Nix does not tell what it looks at");
        inputs.places = recorder.finish()?;
        Ok(inputs)
    }

    fn look(&mut self, recorder: &mut Recorder, line: &str) -> Result<()> {
        let what: Vec<Value> = serde_json::from_str(line).context("cannot understand what Nix looked at")?;
        let what: Vec<&Value> = what.iter().collect();
        match what.as_slice() {
            [Value::String(what), Value::String(name)] => {
                if what == "variable" {
                    self.variables.insert(name.clone(), variable(name));
                    return Ok(());
                }
                let path = Path::new(name);
                let short = without_up(path);
                if short == path {
                    return look(recorder, what, path);
                }
                // Nix of another age takes `..` away before it looks: one of the two was read.
                let (read, other) = if recorder.is_there(path)? { (path, &*short) } else { (&*short, path) };
                look(recorder, what, read)?;
                look(recorder, if ["file", "folder"].contains(&what.as_str()) { "maybe" } else { what }, other)
            }
            [Value::String(what), Value::Array(entries), Value::String(name), found] if what == "search" => {
                search(recorder, entries, name, found.as_str().map(Path::new))
            }
            _ => bail!("cannot understand what Nix looked at: {line}"),
        }
    }

    /// Whether all is as it was; `true` if some digests got a new stamp.
    ///
    /// # Errors
    /// What has changed.
    pub fn check(&mut self) -> Result<bool> {
        for (name, digest) in &self.variables {
            ensure!(variable(name) == *digest, "the environment variable {name} has changed");
        }
        self.places.check()
    }

    /// The same for the same content.
    pub fn digest(&self) -> String {
        hex(Sha256::new_with_prefix(format!("{:?} {}", self.variables, self.places.digest())))
    }
}

fn look(recorder: &mut Recorder, what: &str, path: &Path) -> Result<()> {
    match what {
        "file" => recorder.file(path),
        "maybe" => recorder.maybe(path),
        "program" => recorder.program(path),
        "entry" => recorder.entry(path),
        "folder" => recorder.folder(path),
        "tree" => recorder.tree(path),
        "kind" => recorder.kind(path),
        "there" => recorder.existence(path, true),
        "absent" => recorder.existence(path, false),
        _ => bail!("nobody can tell what changes in {}", path.display()),
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| hex(Sha256::new_with_prefix(value.as_encoded_bytes())))
}

/// `<name>`: the first entry that has it (src/libexpr/parser.y, findFile). Those before did not. Nix `found` it so, or
/// in none.
fn search(recorder: &mut Recorder, entries: &[Value], name: &str, found: Option<&Path>) -> Result<()> {
    for entry in entries {
        let (Some(prefix), Some(path)) = (entry[0].as_str(), entry[1].as_str()) else {
            bail!("cannot understand an entry of Nix's search path: {entry}");
        };
        let rest = match name.strip_prefix(prefix) {
            _ if prefix.is_empty() => name,
            Some("") => "",
            Some(rest) if rest.starts_with('/') => &rest[1..],
            _ => continue,
        };
        ensure!(!path.contains(':'), "Nix's search path has {path}, which is no path");
        let path = std::path::absolute(path)?.join(rest);
        if recorder.is_there(&path)? {
            // Newer Nix follows links.
            let same = |found: &Path| found == without_up(&path) || path.canonicalize().is_ok_and(|real| real == found);
            ensure!(found.is_some_and(same), "Nix did not find <{name}> in {}", path.display());
            return Ok(());
        }
    }
    ensure!(found.is_none(), "<{name}> is not where Nix found it");
    Ok(())
}
