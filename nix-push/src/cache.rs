//! Evaluations and locks of earlier runs, for as long as nothing that they depended on has changed.

use crate::digests::{Digests, hex};
use crate::evaluate::Evaluated;
use crate::inputs::Inputs;
use crate::lock::Lock;
use crate::nix_files;
use crate::once::Once;
use crate::recorder::Beginning;
use crate::used::{Facts, Used};
use anyhow::{Context, Result};
use machine_record::log;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fs::{self, DirBuilder, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

/// What is older is removed: an evaluation is done again once a month.
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The folder of `evaluations`, `locks` and `inputs`, and what this run knows of it.
///
/// `evaluations/KEY/USED.used` lists facts that evaluations of one expression looked at,
/// `evaluations/KEY/USED-SEEN.json` is one for machines of which they saw the same. What else it
/// depended on is `inputs/ID.json`: the same for many machines. `locks/KEY.json` is what a flake
/// reference names.
pub struct Cache {
    /// None where nothing is to be kept
    folder: Option<PathBuf>,
    digests: Digests,
    /// Inputs that were checked in this run: whether they are as they were
    checked: Once<String, bool>,
    pruned: AtomicBool,
}

/// An evaluation as it is kept.
#[derive(Deserialize, Serialize)]
pub struct Kept {
    pub evaluated: Evaluated,
    /// What Nix said to people: warnings and traces of the configuration
    pub said: Vec<String>,
    inputs: String,
}

/// The lock of a flake as it is kept.
#[derive(Deserialize, Serialize)]
pub struct KeptLock {
    pub lock: Lock,
    /// What Nix said to people
    pub said: Vec<String>,
    inputs: String,
}

/// Names an expression and all that Nix is started with.
pub struct Key(String);

impl Key {
    /// `expression` is without the facts of a machine, `arguments` are what nix-instantiate is told
    /// besides.
    pub fn new(expression: &str, arguments: &[&[String]]) -> Result<Key> {
        let mut hash = Sha256::new_with_prefix(concat!("nixpipe evaluation 5 ", env!("CARGO_PKG_VERSION"), "\0"));
        let folder = std::env::current_dir().context("the current folder is gone")?;
        for text in [expression, &format!("{arguments:?}"), &format!("{folder:?} {:?}", rustix::process::getuid())] {
            hash.update(text);
            hash.update([0]);
        }
        let mut variables: Vec<_> = std::env::vars_os().filter(|(name, _)| nix_files::reads(name)).collect();
        variables.sort();
        // Where HOME is another user's nothing is certain, nor is what was kept while it was not.
        let started = (nix_files::programs("nix-instantiate").pop(), nix_files::is_home_taken());
        hash.update(format!("{variables:?} {started:?}"));
        Ok(Key(hex(hash)))
    }
}

impl Cache {
    pub fn new(wanted: bool) -> Cache {
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
        let caches = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let caches = caches.or_else(home).filter(|path| path.is_absolute());
        Cache {
            folder: caches.map(|caches| caches.join("nixpipe")).filter(|_| wanted),
            digests: Digests::default(),
            checked: Once::default(),
            pruned: AtomicBool::new(false),
        }
    }

    /// Whether anything is kept.
    pub fn is_on(&self) -> bool {
        self.folder.is_some()
    }

    /// An evaluation that would come to the same today, and the facts that it looked at.
    pub fn find(&self, machine: &str, key: &Key, facts: &Facts) -> Option<(Kept, Used)> {
        let folder = self.folder.as_ref()?.join("evaluations").join(&key.0);
        for entry in fs::read_dir(&folder).ok()?.flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "used") {
                continue;
            }
            let Some(used) = read::<Used>(&path) else { continue };
            let Some(kept) = read::<Kept>(&evaluation(&folder, &used, facts)) else { continue };
            if self.holds(machine, &kept) {
                return Some((kept, used));
            }
        }
        None
    }

    fn holds(&self, machine: &str, kept: &Kept) -> bool {
        // Whether it is valid is asked when it is used.
        if fs::symlink_metadata(kept.evaluated.drv.as_str()).is_err() {
            log::detail(machine, "evaluating again: the derivation was collected as garbage");
            return false;
        }
        self.is_as_it_was(machine, "evaluating again", &kept.inputs)
    }

    /// Whether inputs are as they were, or else `what` is said to be done; whoever comes second
    /// waits for the first.
    fn is_as_it_was(&self, machine: &str, what: &str, inputs: &str) -> bool {
        let check = || {
            let checked = self.check(inputs);
            if let Err(error) = &checked {
                log::detail(machine, &format!("{what}: {error:#}"));
            }
            Ok(checked.is_ok())
        };
        self.checked.get(inputs.into(), check).unwrap_or(false)
    }

    fn check(&self, id: &str) -> Result<()> {
        let unknown = "it is not known what it depended on";
        let path = self.folder.as_ref().context(unknown)?.join("inputs").join(format!("{id}.json"));
        let mut inputs = read::<Inputs>(&path).context(unknown)?;
        if inputs.check()? {
            // Without this the files would be read each time.
            let _ = self.write(&path, &inputs);
        }
        Ok(())
    }

    /// Keeps an evaluation, if it is certain what it depended on: what it looked at, or nothing
    /// but `key` if that is none.
    pub fn keep(
        &self,
        machine: &str,
        key: &Key,
        used: &Used,
        facts: &Facts,
        evaluation: (&Evaluated, &[String]),
        looked_at: (Option<&[String]>, &Beginning),
    ) {
        let Some(folder) = &self.folder else { return };
        let (reads, beginning) = looked_at;
        let kept = Inputs::record(reads, &nix_files::reads_at_start(), beginning, &self.digests)
            .and_then(|inputs| self.write_evaluation(folder, key, used, facts, evaluation, &inputs));
        match kept {
            Ok(()) => self.prune(folder),
            Err(error) => log::detail(machine, &format!("the evaluation is not kept for the next run: {error:#}")),
        }
    }

    fn write_evaluation(
        &self,
        folder: &Path,
        key: &Key,
        used: &Used,
        facts: &Facts,
        (evaluated, said): (&Evaluated, &[String]),
        inputs: &Inputs,
    ) -> Result<()> {
        let id = self.write_inputs(folder, inputs)?;
        let folder = folder.join("evaluations").join(&key.0);
        let path = self::evaluation(&folder, used, facts);
        self.write(&path, &Kept { evaluated: evaluated.clone(), said: said.to_vec(), inputs: id })?;
        self.write(&folder.join(format!("{}.used", list(used))), used)
    }

    /// The lock that Nix would come to today.
    pub fn find_lock(&self, machine: &str, key: &Key) -> Option<KeptLock> {
        let kept = read::<KeptLock>(&self.folder.as_ref()?.join("locks").join(format!("{}.json", key.0)))?;
        self.is_as_it_was(machine, "asking Nix for the lock again", &kept.inputs).then_some(kept)
    }

    /// Keeps a lock, if it is certain what it depends on: what `reads` says, or why not.
    pub fn keep_lock(
        &self,
        machine: &str,
        key: &Key,
        (lock, said): (&Lock, &[String]),
        reads: Result<Vec<String>>,
        beginning: &Beginning,
    ) {
        let Some(folder) = &self.folder else { return };
        let keep = |reads: Vec<String>| {
            let reads = [reads, nix_files::reads_at_start()].concat();
            let inputs = self.write_inputs(folder, &Inputs::record(None, &reads, beginning, &self.digests)?)?;
            let kept = KeptLock { lock: lock.clone(), said: said.to_vec(), inputs };
            self.write(&folder.join("locks").join(format!("{}.json", key.0)), &kept)
        };
        match reads.and_then(keep) {
            Ok(()) => self.prune(folder),
            Err(error) => log::detail(machine, &format!("the lock is not kept for the next run: {error:#}")),
        }
    }

    /// Writes what something depended on, if it is not there, and gives its name.
    fn write_inputs(&self, folder: &Path, inputs: &Inputs) -> Result<String> {
        let id = inputs.digest();
        if !self.checked.get(id.clone(), || Ok(false))? {
            self.write(&folder.join("inputs").join(format!("{id}.json")), inputs)?;
            self.checked.set(id.clone(), true);
        }
        Ok(id)
    }

    /// Writes a file whole, readable for its owner alone.
    fn write(&self, path: &Path, value: &impl Serialize) -> Result<()> {
        let folder = path.parent().context("no folder")?;
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        // A process number is not enough where containers share the folder.
        let new = folder.join(format!(".{:016x}.new", RandomState::new().build_hasher().finish()));
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            file.write_all(&serde_json::to_vec(value)?)?;
            fs::rename(&new, path)
        };
        write().with_context(|| format!("cannot write {}", path.display())).inspect_err(|_| {
            // A disk that is full is not to be filled further.
            let _ = fs::remove_file(&new);
        })
    }

    /// Removes what is old, once in a run.
    fn prune(&self, folder: &Path) {
        if self.pruned.swap(true, Ordering::Relaxed) {
            return;
        }
        let Some(limit) = SystemTime::now().checked_sub(KEPT) else { return };
        for kind in ["evaluations", "locks", "inputs"] {
            prune(&folder.join(kind), limit);
        }
    }
}

fn prune(folder: &Path, limit: SystemTime) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            prune(&entry.path(), limit);
            // One that is not empty stays.
            let _ = fs::remove_dir(entry.path());
        } else if meta.modified().is_ok_and(|modified| modified < limit) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn evaluation(folder: &Path, used: &Used, facts: &Facts) -> PathBuf {
    folder.join(format!("{}-{}.json", list(used), facts.digest(used)))
}

fn list(used: &Used) -> String {
    hex(Sha256::new_with_prefix(used.join("\n")))
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}
