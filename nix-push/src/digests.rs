//! What files hold and folders list, as digests.

use crate::stamp::{LAG, Stamp, changed, now};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Content(pub String, Stamp);

/// Digests of files that were read already, by path.
#[derive(Default)]
pub struct Digests(Mutex<HashMap<PathBuf, Content>>);

impl Content {
    /// Whether it is the same; `renewed` is set where only the stamp was another.
    pub fn check(&mut self, path: &str, meta: &Metadata, renewed: &mut bool) -> Result<bool> {
        let stamp = Stamp::of(meta);
        if self.1 == stamp {
            return Ok(true);
        }
        let (began, _) = now();
        let same = digest(Path::new(path), meta)? == self.0;
        // A change in the same tick would leave the stamp as it is.
        if same && changed(meta) < began - LAG {
            (self.1, *renewed) = (stamp, true);
        }
        Ok(same)
    }
}

impl Digests {
    /// What is at a path now.
    pub fn of(&self, path: &Path, meta: &Metadata) -> Result<Content> {
        let stamp = Stamp::of(meta);
        let known = || self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(content) = known().get(path).filter(|content| content.1 == stamp) {
            return Ok(content.clone());
        }
        let content = Content(digest(path, meta)?, stamp);
        let after = fs::symlink_metadata(path)?;
        ensure!(Stamp::of(&after) == stamp, "{} was changed just now", path.display());
        known().insert(path.into(), content.clone());
        Ok(content)
    }
}

/// The digest of a file and whether it is a program, or of a folder's names and their kinds.
fn digest(path: &Path, meta: &Metadata) -> Result<String> {
    let mut hash = Sha256::new();
    if meta.is_dir() {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            names.push(format!("{:?} {:?}\n", entry.file_name(), entry.file_type()?));
        }
        names.sort();
        names.iter().for_each(|name| hash.update(name));
    } else if meta.is_file() {
        hash.update(if meta.mode() & 0o100 == 0 { "file\n" } else { "program\n" });
        hash.update(fs::read(path).with_context(|| format!("cannot read {}", path.display()))?);
    } else {
        bail!("{} is neither a file nor a folder", path.display());
    }
    Ok(hex(hash))
}

/// A digest as text.
pub fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
