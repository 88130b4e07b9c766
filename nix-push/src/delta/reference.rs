//! What blocks are compared with: the files of older versions, behind each other.
//!
//! Files, and not their NARs: the machine has those only by way of `nix-store`, which takes half as long to
//! write them into a pipe as to import them again.

use crate::serve::PathInfo;
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Files as a whole, or a part of a single one.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reference {
    files: Vec<(PathBuf, u64)>,
    /// Where the part begins
    part: Option<u64>,
    /// Bytes
    pub size: u64,
}

impl Reference {
    /// The names of its files, as `xargs -0` takes them.
    pub fn names(&self) -> Vec<u8> {
        self.files.iter().flat_map(|(file, _)| [file.as_os_str().as_bytes(), b"\0"].concat()).collect()
    }

    /// Where it begins in its file, if it is a part.
    pub fn start(&self) -> Option<u64> {
        self.part
    }

    /// Its bytes. What is wrong in them is wrong in the reference alone: the difference makes up for
    /// it, or the machine sees that its own is another.
    pub fn read(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(self.size as usize);
        for (path, size) in &self.files {
            let shown = || format!("cannot read {}", path.display());
            let file = File::open(path).with_context(shown)?;
            match self.part {
                None => file.take(*size).read_to_end(&mut bytes).map(drop),
                Some(start) => {
                    bytes.resize(self.size as usize, 0);
                    file.read_exact_at(&mut bytes, start)
                }
            }
            .with_context(shown)?;
        }
        Ok(bytes)
    }
}

/// The files of older versions with their sizes in bytes, in order.
pub fn files(old: &[&PathInfo]) -> Result<Vec<(PathBuf, u64)>> {
    let mut files = Vec::new();
    for info in old {
        list(info.path.as_ref(), &mut files)?;
    }
    Ok(files)
}

/// Files as references of at most `most` bytes each, which are at least 1.
pub fn cut(files: Vec<(PathBuf, u64)>, most: u64) -> Vec<Reference> {
    let mut all = Vec::new();
    let mut whole = Reference::default();
    let mut end = |whole: &mut Reference| {
        let whole = std::mem::take(whole);
        if whole.size > 0 {
            all.push(whole)
        }
    };
    for (file, size) in files {
        if whole.size + size > most {
            end(&mut whole);
        }
        if size <= most {
            whole.files.push((file, size));
            whole.size += size;
            continue;
        }
        let count = size.div_ceil(most);
        for at in 0..count {
            let (start, next) = (size * at / count, size * (at + 1) / count);
            end(&mut Reference { files: vec![(file.clone(), size)], part: Some(start), size: next - start });
        }
    }
    end(&mut whole);
    all
}

/// Files with their sizes, those of a folder by name, as in a NAR. Folders may be deeper within each other than a
/// thread's stack.
fn list(path: &Path, files: &mut Vec<(PathBuf, u64)>) -> Result<()> {
    let shown = || format!("cannot read {}", path.display());
    let metadata = fs::symlink_metadata(path).with_context(shown)?;
    let mut left: Vec<_> = Entry::of(path.into(), &metadata).into_iter().collect();
    // The last is the next.
    while let Some(entry) = left.pop() {
        match entry {
            Entry::File(path, size) => files.push((path, size)),
            Entry::Folder(path) => {
                let mut inner = entries(&path).with_context(shown)?;
                inner.sort_unstable_by(|(one, _), (two, _)| two.cmp(one));
                left.extend(inner.into_iter().map(|(_, entry)| entry));
            }
        }
    }
    Ok(())
}

enum Entry {
    File(PathBuf, u64),
    Folder(PathBuf),
}

impl Entry {
    /// What may have something to compare with.
    fn of(path: PathBuf, metadata: &fs::Metadata) -> Option<Entry> {
        let size = metadata.len();
        match metadata {
            metadata if metadata.is_dir() => Some(Entry::Folder(path)),
            metadata if metadata.is_file() && size > 0 => Some(Entry::File(path, size)),
            _ => None,
        }
    }
}

/// What is in a folder, with the names; it is closed by then.
fn entries(folder: &Path) -> std::io::Result<Vec<(OsString, Entry)>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // Of links a folder may be full: they are not asked for.
        if entry.file_type()?.is_symlink() {
            continue;
        }
        entries.extend(Entry::of(entry.path(), &entry.metadata()?).map(|found| (entry.file_name(), found)));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_taken_whole_or_one_in_parts_and_all_in_the_order_of_a_nar() {
        let folder = std::env::temp_dir()
            .join(format!("reference-test-{}-00bgd045z0d4icpbc2yyz4gx48ak44la", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("b")).unwrap();
        let bytes = |count: usize, seed: usize| (0..count).map(|at| (at * 7 + seed) as u8).collect::<Vec<_>>();
        let files = [("a", 10), ("b/large", 95), ("b/x\ny", 20), ("c", 0), ("d", 20), ("e", 1)];
        let mut all = Vec::new();
        for (seed, (name, size)) in files.into_iter().enumerate() {
            fs::write(folder.join(name), bytes(size, seed)).unwrap();
            all.extend(bytes(size, seed));
        }
        std::os::unix::fs::symlink("nowhere", folder.join("f")).unwrap();
        let mut listed = Vec::new();
        list(&folder, &mut listed).unwrap();
        let cut = cut(listed, 40);
        let got: Vec<_> = cut.iter().map(|reference| reference.read().unwrap()).collect();
        assert_eq!(got.concat(), all);
        assert_eq!(got.iter().map(Vec::len).collect::<Vec<_>>(), [10, 31, 32, 32, 40, 1]);
        assert!(cut.iter().zip(&got).all(|(reference, bytes)| reference.size == bytes.len() as u64));
        assert_eq!(
            cut.iter().map(Reference::start).collect::<Vec<_>>(),
            [None, Some(0), Some(31), Some(63), None, None]
        );
        let names = format!("{0}/b/x\ny\0{0}/d\0", folder.display());
        assert_eq!(String::from_utf8(cut[4].names()).unwrap(), names);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn folders_may_be_as_deep_as_a_path_is_long() {
        let root = std::env::temp_dir().join(format!("reference-deep-{}", std::process::id()));
        let file = crate::nar::deep(&root);
        let mut listed = Vec::new();
        list(&root, &mut listed).unwrap();
        assert_eq!(listed, [(file, 4)]);
        assert!(std::process::Command::new("rm").arg("-r").arg(&root).status().unwrap().success());
    }
}
