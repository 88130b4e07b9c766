//! Flakes as Nix locks them: what a reference names today, by its hash.
//!
//! Nix evaluates what is locked without looking at anything else (`pure-eval`), and so it comes to
//! the same for as long as the lock, the expression and the facts that it uses are the same.

use crate::cache::{Cache, Key};
use crate::explain::explain;
use crate::facts::nix_string;
use crate::flake_files::Flake;
use crate::nix;
use crate::nix_files;
use crate::once::Once;
use crate::recorder::Beginning;
use crate::source::{Source, percent_encode};
use anyhow::{Context, Result};
use machine_record::{Failure, Kind, log};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::time::Duration;

/// The experimental features that flakes are made of.
pub const FEATURES: [&str; 3] = ["--option", "extra-experimental-features", "nix-command flakes"];

/// Nix says that it cannot evaluate this lock, though the flake may be good: a git tree with
/// changes, and the flake in a folder of it (Nix 2.8), or a tree that is fetched another way
/// the second time.
pub const UNUSABLE: [&str; 2] = ["has unsupported parameter 'dir'", "nixpipe: the lock names another tree"];

/// The locks of this run, by reference.
pub type Locks = Once<String, Result<Lock, Failure>>;

/// What a flake reference names.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Lock {
    /// A reference to this content and no other
    reference: String,
    nar_hash: String,
    /// What the flake finds in `self` besides, if it is a git tree with changes
    dirty: Option<Map<String, Value>>,
}

/// What `nix flake metadata --json` prints (manual of Nix, "nix flake metadata").
#[derive(Deserialize)]
struct Metadata {
    locked: Map<String, Value>,
    path: String,
    url: String,
}

/// What `reference` names: as in an earlier run if that is certain, else as Nix says. A flake of this
/// computer is copied to the store.
///
/// # Errors
/// Kind `evaluation` where Nix cannot lock it.
pub fn lock(
    machine: &str,
    source: &Source,
    reference: &str,
    options: &[String],
    limit: Option<Duration>,
    cache: &Cache,
) -> Result<Result<Lock, Failure>> {
    let flake = Flake::of(reference).filter(|_| cache.is_on());
    let key = flake.as_ref().map(|_| Key::new(&format!("the lock of {reference}"), &[options])).transpose()?;
    if let Some(kept) = key.as_ref().and_then(|key| cache.find_lock(machine, key)) {
        kept.said.iter().for_each(|line| nix::show(machine, line));
        return Ok(Ok(kept.lock));
    }
    let beginning = Beginning::now(flake.iter().flat_map(Flake::roots).chain(nix_files::folders(&[])));
    let words = ["flake", "metadata", "--json", "--no-update-lock-file"];
    let mut arguments: Vec<String> = words.iter().chain(&FEATURES).map(|word| word.to_string()).collect();
    arguments.extend(options.iter().cloned());
    arguments.push(reference.into());
    let _step = log::step(machine, "locking the flake");
    let outcome = nix::run_within(limit, machine, "nix", &arguments, || false)?;
    if let (Some(limit), true) = (limit, outcome.late) {
        return Ok(Err(nix::late(&format!("locking {reference}"), "--eval-timeout", limit)));
    }
    if !outcome.success {
        outcome.show_error(machine);
        return Ok(Err(explain(source, &outcome, None)));
    }
    let lock = Lock::said(&outcome.stdout);
    if let (Ok(Lock { dirty: None, .. }), Some(flake), true) = (&lock, Flake::of(reference), reference.contains('%'))
        && flake.has_changes()?
    {
        return Ok(Err(Failure::new(Kind::Input, format!("Nix sees no changes in {reference}, and there are some"))
            .hint("commit them, or rename the folder: this Nix looks for changes in none of such a name")));
    }
    if let (Ok(lock), Some(key), Some(flake)) = (&lock, &key, &flake) {
        // That it has changes is to be said each time; what this computer lacks may not be so then.
        let said: Vec<String> = outcome.stderr.into_iter().filter(|line| flake.is_named(line)).collect();
        cache.keep_lock(machine, key, (lock, &said), flake.reads(lock.copy()), &beginning);
    }
    Ok(lock)
}

impl Lock {
    /// Reads what `nix flake metadata --json` printed.
    fn said(json: &str) -> Result<Lock, Failure> {
        Lock::parse(json).map_err(|error| {
            Failure::new(Kind::Evaluation, format!("cannot understand nix flake metadata: {error:#}"))
                .hint(nix::TESTED_WITH)
        })
    }

    fn parse(json: &str) -> Result<Lock> {
        let Metadata { locked, path, url } = serde_json::from_str(json)?;
        let word = |name: &str| locked.get(name).and_then(Value::as_str);
        let nar_hash = word("narHash").context("no narHash")?.to_string();
        if locked.contains_key("rev") || url.contains("narHash=") {
            return Ok(Lock { reference: url, nar_hash, dirty: None });
        }
        // No reference names what is not committed, but the copy in the store has one.
        let mut reference = format!("path:{path}?narHash={}", percent_encode(&nar_hash));
        if let Some(time) = locked.get("lastModified").and_then(Value::as_u64) {
            reference += &format!("&lastModified={time}");
        }
        if let Some(folder) = word("dir") {
            reference += &format!("&dir={}", percent_encode(folder));
        }
        let mut dirty: Map<String, Value> =
            locked.iter().filter(|(name, _)| name.starts_with("dirty")).map(|(n, v)| (n.clone(), v.clone())).collect();
        if word("type") == Some("git") {
            let submodules = locked.get("submodules").and_then(Value::as_bool);
            dirty.insert("submodules".into(), submodules.unwrap_or_default().into());
        }
        Ok(Lock { reference, nar_hash, dirty: Some(dirty) })
    }

    /// The copy in the store that alone holds what it names.
    fn copy(&self) -> Option<&str> {
        self.dirty.as_ref()?;
        self.reference.strip_prefix("path:")?.split('?').next()
    }

    /// The flake as Nix makes it of the original reference.
    pub fn expression(&self) -> String {
        let (reference, hash) = (nix_string(&self.reference), nix_string(&self.nar_hash));
        let flake = format!(
            "(let flake = builtins.getFlake {reference}; in
              if flake.narHash == {hash} then flake else throw \"nixpipe: the lock names another tree\")"
        );
        let Some(dirty) = &self.dirty else { return flake };
        let dirty = nix_string(&Value::Object(dirty.clone()).to_string());
        // As call-flake.nix of Nix puts a flake together, with `self` as it is for a git tree.
        format!(
            "(let
               flake = {flake};
               dirty = builtins.fromJSON {dirty};
               sourceInfo = flake.sourceInfo // dirty;
               outputs = (import (flake.outPath + \"/flake.nix\")).outputs (flake.inputs // {{ self = result; }});
               result = builtins.intersectAttrs {{ _type = null; }} flake // outputs // sourceInfo
                 // {{ inherit (flake) inputs outPath; inherit outputs sourceInfo; }};
             in result)"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "sha256-HrpntvzZUvusrZHu6GfW7fFlv0SOfc4vHu77CQIQKhk=";
    const PATH: &str = "/nix/store/0qz6p6zwvy755389r56i8nvyvbbmz9qy-source";

    fn lock(locked: &str, url: &str) -> Lock {
        let json =
            format!(r#"{{"locked":{{"narHash":"{HASH}",{locked}}},"path":"{PATH}","url":"{url}","locks":{{}}}}"#);
        Lock::parse(&json).unwrap()
    }

    #[test]
    fn what_nix_locks_is_taken_as_it_is() {
        let url = "git+file:///f?ref=master&rev=fe57b2fa792221c50ec0d3d30d7f3d4feeaaf9ff";
        let rev = r#""type":"git","rev":"fe57b2fa792221c50ec0d3d30d7f3d4feeaaf9ff""#;
        assert_eq!(lock(rev, url), Lock { reference: url.into(), nar_hash: HASH.into(), dirty: None });
        let url = "path:/f?lastModified=7&narHash=sha256-HrpntvzZUvusrZHu6GfW7fFlv0SOfc4vHu77CQIQKhk%3D";
        assert_eq!(lock(r#""type":"path","path":"/f""#, url).reference, url);
    }

    #[test]
    fn a_git_tree_with_changes_is_its_copy_in_the_store() {
        let dirty = r#""type":"git","dirtyRev":"fe57b2f-dirty","lastModified":7,"dir":"a b","__final":true"#;
        let lock = lock(dirty, "git+file:///f?dir=a%20b");
        let query = "narHash=sha256-HrpntvzZUvusrZHu6GfW7fFlv0SOfc4vHu77CQIQKhk%3D&lastModified=7&dir=a%20b";
        assert_eq!(lock.reference, format!("path:{PATH}?{query}"));
        let expected = serde_json::json!({ "dirtyRev": "fe57b2f-dirty", "submodules": false });
        assert_eq!(Value::Object(lock.dirty.clone().unwrap()), expected);
    }

    #[test]
    fn what_is_not_locked_is_an_error() {
        let failure = Lock::said(r#"{"locked":{},"path":"/nix/store/x","url":"x"}"#).unwrap_err();
        let message = "cannot understand nix flake metadata: no narHash";
        assert_eq!((failure.kind, &*failure.message), (Kind::Evaluation, message));
        assert_eq!(failure.hint.as_deref(), Some(nix::TESTED_WITH));
        assert!(Lock::said("warning: x").is_err());
    }
}
