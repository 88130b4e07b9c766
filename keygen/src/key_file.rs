//! Private key files: 0600 from the first byte, whole or absent, never overwritten.

use crate::key::{self, Key, NewKey};
use anyhow::{Context, Result};
use machine_record::{Failure, Kind, WithHint, WithKind};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open, unlink};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What to do about a file that is no use.
const ELSEWHERE: &str = "name another file with --file";

/// The longest private key that is read, in bytes: RSA of 16384 bits takes 13 KB.
const LONGEST: u64 = 64 * 1024;

/// Reads the key of a file; `None` if there is no such file.
///
/// # Errors
/// Kind `input`: not a regular file, readable by others, not a usable private key.
pub fn read(path: &Path) -> Result<Option<Key>> {
    let shown = path.display();
    // NONBLOCK: a FIFO of that name would otherwise hold us up for ever.
    let file: File = match open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => file.into(),
        Err(rustix::io::Errno::NOENT) if path.symlink_metadata().is_ok() => {
            return Err(Failure::new(Kind::Input, format!("{shown} is a link to a file that does not exist"))
                .hint("remove the link, or name another file with --file")
                .into());
        }
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => {
            let error = std::io::Error::from(error);
            return Err(error)
                .with_context(|| format!("cannot read {shown}"))
                .with_kind(Kind::Input)
                .with_hint(ELSEWHERE);
        }
    };
    let meta = file.metadata().with_context(|| format!("cannot read {shown}"))?;
    if !meta.is_file() {
        return Err(Failure::new(Kind::Input, format!("{shown} is not a file")).hint(ELSEWHERE).into());
    }
    if meta.mode() & 0o077 != 0 {
        let mode = meta.mode() & 0o777;
        return Err(Failure::new(Kind::Input, format!("{shown} can be read by others: its mode is {mode:04o}"))
            .hint(format!("chmod 600 {shown}"))
            .into());
    }
    let mut text = String::new();
    file.take(LONGEST)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot use {shown}: not a private key"))
        .with_kind(Kind::Input)
        .with_hint(ELSEWHERE)?;
    key::read(&text).map(Some).with_context(|| format!("cannot use {shown}")).with_hint(ELSEWHERE)
}

/// Makes a key file that does not exist yet; true if it is ours, false if another was faster and
/// its key is to be used.
///
/// # Errors
/// Kind `input` where the file cannot be written.
pub fn create(path: &Path, make: impl FnOnce() -> Result<NewKey>) -> Result<(Key, bool)> {
    let new = make()?;
    let made = write_exclusively(path, new.text.as_bytes()).map_err(|error| {
        let failure = Failure::new(Kind::Input, format!("cannot write {}: {error}", path.display()));
        match path.parent().filter(|_| error.kind() == std::io::ErrorKind::NotFound) {
            Some(folder) => failure.hint(format!("mkdir -p {}", folder.display())),
            None => failure.hint(ELSEWHERE),
        }
    })?;
    if made {
        return Ok((new.key, true));
    }
    let other = read(path)?;
    let gone = || {
        Failure::new(Kind::Conflict, format!("{} came and went while it was made", path.display()))
            .hint("somebody takes it away: run it again")
    };
    Ok((other.ok_or_else(gone)?, false))
}

/// Gives a file its name only when it is whole and on disk; false if the name is taken.
fn write_exclusively(path: &Path, bytes: &[u8]) -> std::io::Result<bool> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mode = Mode::RUSR | Mode::WUSR;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    // A file without a name goes by itself if we are killed. Not every file system has them
    // (open(2), O_TMPFILE): there a name of its own serves.
    let (file, temporary) = match open(folder, flags | OFlags::TMPFILE, mode) {
        Ok(file) => (file, None),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {
            let name = folder.join(format!(".keygen-{}-{:?}", std::process::id(), std::thread::current().id()));
            (open(&name, flags | OFlags::CREATE | OFlags::EXCL, mode)?, Some(Temporary(name)))
        }
        Err(error) => return Err(error.into()),
    };
    let mut file: File = file.into();
    file.write_all(bytes)?;
    file.sync_all()?;
    let linked = match &temporary {
        None => {
            let open_file = format!("/proc/self/fd/{}", file.as_raw_fd());
            linkat(CWD, open_file, CWD, path, AtFlags::SYMLINK_FOLLOW)
        }
        Some(Temporary(name)) => linkat(CWD, name, CWD, path, AtFlags::empty()),
    };
    match linked {
        Ok(()) => {
            File::open(folder)?.sync_all()?;
            Ok(true)
        }
        Err(rustix::io::Errno::EXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A name that goes when it is no longer needed.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = unlink(&self.0);
    }
}
