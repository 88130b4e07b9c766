//! Reads paths of the local store and checks them against what the store knows of them.

use crate::hash::NarHash;
use crate::local::{self, LocalStore};
use crate::nar;
use crate::serve::PathInfo;
use anyhow::{Context, Result};
use machine_record::{Failure, Kind, log};
use sha2::{Digest, Sha256};
use std::fs;

/// Reads NARs; for one thread.
#[derive(Default)]
pub struct Reader {
    /// Opened where the files of a path are not at its place: in a store below another root, or elsewhere
    store: Option<LocalStore>,
}

impl Reader {
    /// Gives out the NAR of a path in pieces. The last piece comes after the check: nobody can
    /// take a damaged path for whole.
    ///
    /// # Errors
    /// Kind `copy` where the path is damaged or not there.
    pub fn read(&mut self, info: &PathInfo, sink: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        log::detail("", &format!("reading {}", info.path));
        let mut hasher = Sha256::new();
        let mut size = 0;
        let (mut last, mut taken) = (Vec::new(), true);
        let mut check = |piece: &[u8]| {
            hasher.update(piece);
            size += piece.len() as u64;
            // Whoever counts on the size must not be given more.
            if size > info.nar_size {
                return Err(damaged(info).into());
            }
            sink(&last).inspect_err(|_| taken = false)?;
            last.clear();
            last.extend_from_slice(piece);
            Ok(())
        };
        if !local::is_elsewhere() && fs::symlink_metadata(info.path.as_ref() as &std::path::Path).is_ok() {
            nar::write(info.path.as_ref(), &mut check)
        } else {
            let dumped = self.store()?.dump(&info.path, &mut check);
            dumped.map_err(|error| {
                // The next path would be given the rest of this one.
                self.store = None;
                if taken { error.context(damaged(info)) } else { error }
            })
        }
        .with_context(|| format!("cannot send {}", info.path))?;
        if size != info.nar_size || NarHash::of(hasher) != info.nar_hash {
            return Err(damaged(info).into());
        }
        sink(&last)
    }

    fn store(&mut self) -> Result<&mut LocalStore> {
        match self.store {
            Some(ref mut store) => Ok(store),
            None => Ok(self.store.insert(local::open()?)),
        }
    }
}

fn damaged(info: &PathInfo) -> Failure {
    Failure::new(Kind::Copy, format!("{} is damaged in the local store", info.path))
        .hint(format!("repair it with: nix-store --repair-path {}", info.path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_gone_from_the_store_is_damaged() {
        let info = PathInfo::example("00bgd045z0d4icpbc2yyz4gx48ak44la-nowhere", 1);
        let failure = Failure::of(&Reader::default().read(&info, &mut |_| Ok(())).unwrap_err());
        let what = format!("cannot send {0}: {0} is damaged in the local store", info.path);
        assert!(failure.message.starts_with(&what), "{}", failure.message);
        assert_eq!(failure.hint, Some(format!("repair it with: nix-store --repair-path {}", info.path)));
    }
}
