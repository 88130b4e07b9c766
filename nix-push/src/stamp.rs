//! When a file was changed, as far as that is certain.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How far a file's times may lag behind the clock: two of the kernel's slowest ticks (10 ms).
pub const LAG: i64 = 20_000_000;

/// File systems whose times are those of this kernel's clock (statfs(2)): ext, XFS, Btrfs, tmpfs,
/// overlayfs, F2FS, ZFS, bcachefs.
const LOCAL: [u64; 8] =
    [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0xf2f5_2010, 0x2fc1_2fc1, 0xca45_1a4e];

/// What changes when a file does: device, inode, mode, size, and both times in nanoseconds.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Stamp(u64, u64, u32, u64, i64, i64);

impl Stamp {
    pub fn of(meta: &Metadata) -> Stamp {
        let (changed, modified) = (changed(meta), nanoseconds(meta.mtime(), meta.mtime_nsec()));
        Stamp(meta.dev(), meta.ino(), meta.mode(), meta.size(), modified, changed)
    }
}

fn nanoseconds(seconds: i64, rest: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

/// When it was changed last: nanoseconds since 1970.
pub fn changed(meta: &Metadata) -> i64 {
    nanoseconds(meta.ctime(), meta.ctime_nsec())
}

/// The time of day, and the moment at which it was asked for.
pub fn now() -> (i64, Instant) {
    loop {
        let (before, time) = (Instant::now(), SystemTime::now());
        // A pause between the two would look like a clock that somebody set.
        if before.elapsed() < Duration::from_millis(1) {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            return (nanoseconds(since.as_secs() as i64, i64::from(since.subsec_nanos())), before);
        }
    }
}

/// Whether the times of its file system are of this computer's clock.
pub fn local(path: &Path) -> Result<bool> {
    Ok(LOCAL.contains(&(rustix::fs::statfs(path)?.f_type as u32).into()))
}
