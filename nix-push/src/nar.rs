//! NAR: Nix's archive of one store path, written from the files of the store.
//!
//! The format is that of `nix-store --dump` (NixOS/nix `src/libutil/archive.cc`, and figure 5.2
//! of Dolstra's thesis): strings as in the serve protocol, entries sorted by name.

use anyhow::{Context, Result, anyhow, bail};
use std::ffi::OsString;
use std::fs::{self, File, FileType};
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Writes the NAR of `path` to `sink`, in pieces of at most `PIECE` bytes or so.
pub fn write(path: &Path, sink: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut nar = Nar { piece: Vec::with_capacity(PIECE), sink };
    let metadata = fs::symlink_metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    nar.string(b"nix-archive-1")?;
    nar.tree(path.into(), metadata.file_type())?;
    nar.flush()
}

/// Large enough to make calls rare, small enough for the processor's cache.
const PIECE: usize = 128 * 1024;

struct Nar<'a, S> {
    piece: Vec<u8>,
    sink: &'a mut S,
}

impl<S: FnMut(&[u8]) -> Result<()>> Nar<'_, S> {
    /// A node with all that is in it. Folders may be deeper within each other than a thread's stack.
    fn tree(&mut self, mut path: PathBuf, kind: FileType) -> Result<()> {
        let mut folders: Vec<Entries> = self.node(&path, kind)?.into_iter().collect();
        while let Some(folder) = folders.last_mut() {
            if let Some((name, kind)) = folder.next() {
                self.strings(&[b"entry", b"(", b"name", name.as_bytes(), b"node"])?;
                path.push(name);
                if let Some(folder) = self.node(&path, kind)? {
                    folders.push(folder);
                    continue;
                }
            } else {
                folders.pop();
                // The end of its node, then that of its entry, as of a file's.
                self.string(b")")?;
                if folders.is_empty() {
                    break;
                }
            }
            self.string(b")")?;
            path.pop();
        }
        Ok(())
    }

    /// A node, or the beginning of a folder and what is in it. `kind` is what its own folder says of it: to ask for that by
    /// its path again takes as long as to open it.
    fn node(&mut self, path: &Path, kind: FileType) -> Result<Option<Entries>> {
        let shown = || format!("cannot read {}", path.display());
        self.strings(&[b"(", b"type"])?;
        if kind.is_file() {
            let file = File::open(path).with_context(shown)?;
            let metadata = file.metadata().with_context(shown)?;
            self.strings(&[b"regular"])?;
            // Nix looks at the owner's bit alone.
            if metadata.permissions().mode() & 0o100 != 0 {
                self.strings(&[b"executable", b""])?;
            }
            self.string(b"contents")?;
            self.contents(file, metadata.len()).with_context(shown)?;
        } else if kind.is_dir() {
            self.string(b"directory")?;
            return Ok(Some(entries(path).with_context(shown)?));
        } else if kind.is_symlink() {
            let target = fs::read_link(path).with_context(shown)?;
            self.strings(&[b"symlink", b"target", target.as_os_str().as_bytes()])?;
        } else {
            bail!("cannot read {}: neither a file, nor a folder, nor a link", path.display());
        }
        self.string(b")")?;
        Ok(None)
    }

    fn contents(&mut self, mut file: File, size: u64) -> Result<()> {
        self.bytes(&size.to_le_bytes())?;
        let mut left = size;
        while left > 0 {
            if self.piece.len() >= PIECE {
                self.flush()?;
            }
            let start = self.piece.len();
            let count = left.min((PIECE - start) as u64) as usize;
            self.piece.resize(start + count, 0);
            file.read_exact(&mut self.piece[start..]).map_err(|error| match error.kind() {
                ErrorKind::UnexpectedEof => anyhow!("it became shorter while it was read"),
                _ => error.into(),
            })?;
            left -= count as u64;
        }
        self.bytes(&[0; 8][..padding(size)])
    }

    fn strings(&mut self, texts: &[&[u8]]) -> Result<()> {
        texts.iter().try_for_each(|text| self.string(text))
    }

    fn string(&mut self, text: &[u8]) -> Result<()> {
        self.bytes(&(text.len() as u64).to_le_bytes())?;
        self.bytes(text)?;
        self.bytes(&[0; 8][..padding(text.len() as u64)])
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        if self.piece.len() + bytes.len() > PIECE {
            self.flush()?;
        }
        self.piece.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        (self.sink)(&self.piece)?;
        self.piece.clear();
        Ok(())
    }
}

/// What is in a folder, by name.
type Entries = std::vec::IntoIter<(OsString, FileType)>;

fn entries(path: &Path) -> std::io::Result<Entries> {
    let entry =
        |entry: std::io::Result<fs::DirEntry>| entry.and_then(|entry| Ok((entry.file_name(), entry.file_type()?)));
    let mut entries = fs::read_dir(path)?.map(entry).collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_unstable_by(|(one, _), (two, _)| one.cmp(two));
    Ok(entries.into_iter())
}

fn padding(length: u64) -> usize {
    (length.next_multiple_of(8) - length) as usize
}

/// A file with 4 bytes below as many folders as a path has room for; only `rm` can remove them.
#[cfg(test)]
pub fn deep(root: &Path) -> PathBuf {
    let mut path = root.to_path_buf();
    while path.as_os_str().len() < 4000 {
        fs::create_dir(&path).unwrap();
        path.push("a");
    }
    fs::write(&path, "deep").unwrap();
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::process::Command;

    fn nar(path: &Path) -> Vec<u8> {
        let mut all = Vec::new();
        write(path, &mut |piece| {
            assert!(piece.len() <= PIECE);
            all.extend_from_slice(piece);
            Ok(())
        })
        .unwrap();
        all
    }

    #[test]
    fn what_nix_could_not_pack_is_told() {
        let said = |path: &str| write(Path::new(path), &mut |_| Ok(())).unwrap_err();
        assert_eq!(said("/dev/null").to_string(), "cannot read /dev/null: neither a file, nor a folder, nor a link");
        // The kernel announces a page and has a line.
        let short = said("/sys/kernel/uevent_seqnum");
        assert_eq!(short.root_cause().to_string(), "it became shorter while it was read");
    }

    #[test]
    fn odd_files_are_written_as_nix_writes_them() {
        let root = std::env::temp_dir().join(format!("nar-test-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let tree = root.join("tree");
        fs::create_dir_all(tree.join("deep/er/still")).unwrap();
        fs::create_dir(tree.join("empty folder")).unwrap();
        for (name, size) in [("empty", 0), ("seven", 7), ("eight", 8), ("B", 1), ("b", 1), ("ä\u{1F600}", 9)] {
            fs::write(tree.join(name), vec![b'x'; size]).unwrap();
        }
        for size in [PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5] {
            fs::write(tree.join(format!("deep/er/{size}")), vec![7; size]).unwrap();
        }
        fs::write(tree.join(std::ffi::OsStr::from_bytes(b"not \xff UTF-8\n")), "").unwrap();
        fs::write(tree.join("run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(tree.join("run"), fs::Permissions::from_mode(0o555)).unwrap();
        fs::write(tree.join("group"), "only the group may run it").unwrap();
        fs::set_permissions(tree.join("group"), fs::Permissions::from_mode(0o454)).unwrap();
        symlink("nowhere/at all", tree.join("dangling")).unwrap();
        symlink("deep", tree.join("link to a folder")).unwrap();
        for path in [tree.clone(), tree.join("empty"), tree.join("run"), tree.join("dangling")] {
            let Ok(dump) = Command::new("nix-store").arg("--dump").arg(&path).output() else {
                panic!("this test needs nix-store");
            };
            assert!(dump.status.success());
            assert!(nar(&path) == dump.stdout, "{}", path.display());
        }
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn folders_may_be_as_deep_as_a_path_is_long() {
        let root = std::env::temp_dir().join(format!("nar-deep-{}", std::process::id()));
        deep(&root);
        let dump = Command::new("nix-store").arg("--dump").arg(&root).output().unwrap();
        assert!(dump.status.success());
        assert!(nar(&root) == dump.stdout);
        assert!(Command::new("rm").arg("-r").arg(&root).status().unwrap().success());
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let error = write(Path::new("/dev/null"), &mut |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("/dev/null"), "{error}");
        assert!(write(Path::new("/nix/no such"), &mut |_| Ok(())).is_err());
    }
}
