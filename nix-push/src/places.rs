//! Files and folders as an evaluation saw them, to tell later whether they are as they were.

use crate::digests::{Content, hex};
use crate::stamp::Stamp;
use anyhow::{Context, Result, ensure};
use machine_record::StorePath;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

pub const STORE: &str = "/nix/store";

/// As many links as the kernel follows (path_resolution(7)).
const LINKS: usize = 40;

/// What is at a path; of what it leads through, only the kind counts.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    Absent,
    Link(String),
    /// A folder; with the digest of its listing if that was looked at
    Folder(Option<Content>),
    /// A file; with the digest of what it holds if that was looked at
    File(Option<Content>),
    /// A path of the Nix store, a program, or what counts with its time: it is the same as long as its stamp is
    Stamped(Stamp),
}

/// Paths, and what was found at each.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Places(pub BTreeMap<String, Place>);

/// A path that was looked for.
pub enum Found {
    /// Nothing is at this part of it
    Nothing(PathBuf),
    Stored,
    There(PathBuf, Metadata),
}

impl Places {
    /// Follows a path to its end, and notes what it leads through. Folders that are noted are not looked at again:
    /// who records must check in the end that they are the same.
    pub fn lead(&mut self, path: &Path) -> Result<Found> {
        ensure!(path.is_absolute(), "{} is no absolute path", path.display());
        let mut rest: Vec<OsString> = steps(path).rev().collect();
        let (mut at, mut there) = (PathBuf::from("/"), None);
        let mut links = 0;
        loop {
            // A link may lead into a path of the store, and out of it.
            let stored = is_stored(&at);
            let Some(step) = rest.pop() else {
                let meta = there.map_or_else(|| fs::symlink_metadata(&at), Ok)?;
                return Ok(if stored { Found::Stored } else { Found::There(at, meta) });
            };
            there = None;
            if step == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&step);
            // What was found a moment ago need not be looked at again to go on.
            let known = next.to_str().and_then(|text| self.0.get(text));
            if !rest.is_empty() && matches!(known, Some(Place::Folder(_))) {
                at = next;
                continue;
            }
            let meta = match fs::symlink_metadata(&next) {
                Ok(meta) => meta,
                Err(error) if is_absence(&error) => {
                    if !stored {
                        self.note(&next, Place::Absent)?;
                    }
                    return Ok(Found::Nothing(next));
                }
                Err(error) => return Err(error).with_context(|| format!("cannot look at {}", next.display())),
            };
            if meta.is_symlink() {
                links += 1;
                ensure!(links <= LINKS, "{} leads through too many links", path.display());
                let target = fs::read_link(&next)?;
                if !stored {
                    self.note(&next, Place::Link(text(&target)?))?;
                }
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                rest.extend(steps(&target).rev());
            } else {
                if !stored && is_stored(&next) {
                    self.note(&next, Place::Stamped(Stamp::of(&meta)))?;
                } else if !stored {
                    self.note(&next, if meta.is_dir() { Place::Folder(None) } else { Place::File(None) })?;
                }
                (at, there) = (next, Some(meta));
            }
        }
    }

    /// Adds what was found; more is known where something was found before.
    pub fn note(&mut self, path: &Path, place: Place) -> Result<()> {
        let known = self.0.entry(text(path)?).or_insert_with(|| place.clone());
        match (&*known, place) {
            (Place::Folder(None), place @ Place::Folder(_)) | (Place::File(None), place @ Place::File(_)) => {
                *known = place;
            }
            (Place::Folder(_) | Place::Stamped(_), Place::Folder(None)) => {}
            (Place::File(_) | Place::Stamped(_), Place::File(None)) => {}
            (known, place) => ensure!(*known == place, "{} was changed just now", path.display()),
        }
        Ok(())
    }

    /// Whether all is as it was. Where a file was touched and holds the same, its stamp is renewed;
    /// `true` is then returned for that.
    ///
    /// # Errors
    /// What has changed.
    pub fn check(&mut self) -> Result<bool> {
        let mut renewed = false;
        for (path, place) in &mut self.0 {
            let found = fs::symlink_metadata(path);
            let same = match (&mut *place, found) {
                (Place::Absent, Err(error)) => is_absence(&error),
                (Place::Link(target), Ok(meta)) => meta.is_symlink() && text(&fs::read_link(path)?)? == *target,
                (Place::Folder(None), Ok(meta)) => meta.is_dir(),
                (Place::File(None), Ok(meta)) => meta.is_file(),
                (Place::Stamped(stamp), Ok(meta)) => Stamp::of(&meta) == *stamp,
                (Place::Folder(Some(content)), Ok(meta)) if meta.is_dir() => {
                    content.check(path, &meta, &mut renewed)?
                }
                (Place::File(Some(content)), Ok(meta)) if meta.is_file() => content.check(path, &meta, &mut renewed)?,
                _ => false,
            };
            ensure!(same, "{path} has changed");
        }
        Ok(renewed)
    }

    /// What was found, without the stamps: the same for the same content.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for (path, place) in &self.0 {
            let content = match place {
                Place::Folder(Some(content)) | Place::File(Some(content)) => content.0.clone(),
                Place::Folder(None) | Place::File(None) | Place::Absent => String::new(),
                Place::Link(target) => target.clone(),
                Place::Stamped(stamp) => format!("{stamp:?}"),
            };
            let kind = std::mem::discriminant(place);
            hash.update(format!("{path:?} {kind:?} {content:?}\n"));
        }
        hex(hash)
    }
}

/// Whether a path is at or below a path of the store.
pub fn is_stored(path: &Path) -> bool {
    let name = path.strip_prefix(STORE).ok().and_then(|below| below.components().next()?.as_os_str().to_str());
    name.is_some_and(|name| StorePath::new(format!("{STORE}/{name}")).is_ok())
}

pub fn is_absence(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

pub fn text(path: &Path) -> Result<String> {
    Ok(path.to_str().with_context(|| format!("{} is no UTF-8", path.display()))?.into())
}

/// A path without `..`, each taken away with the part before it, whatever that is.
pub fn without_up(path: &Path) -> PathBuf {
    let mut short = PathBuf::from("/");
    for step in steps(path) {
        if step == ".." {
            short.pop();
        } else {
            short.push(step);
        }
    }
    short
}

/// The parts of a path, and `..`.
fn steps(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    let steps = path.components().filter(|step| matches!(step, Component::Normal(_) | Component::ParentDir));
    steps.map(|step| step.as_os_str().to_owned())
}
