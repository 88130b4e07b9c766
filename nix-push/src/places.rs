//! Files and folders as an evaluation saw them, to tell later whether they are as they were.

use anyhow::{Context, Result, bail, ensure};
use machine_record::StorePath;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How far a file's times may lag behind the clock: two of the kernel's slowest ticks (10 ms).
const LAG: i64 = 20_000_000;

const STORE: &str = "/nix/store";

/// As many links as the kernel follows (path_resolution(7)).
const LINKS: usize = 40;

/// File systems whose times are those of this kernel's clock (statfs(2)): ext, XFS, Btrfs, tmpfs,
/// overlayfs, F2FS, ZFS, bcachefs.
const LOCAL: [u64; 8] =
    [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0xf2f5_2010, 0x2fc1_2fc1, 0xca45_1a4e];

/// What is at a path; of what it leads through, only the kind counts.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Place {
    Absent,
    Link(String),
    /// A folder; with the digest of its listing if that was looked at
    Folder(Option<Content>),
    /// A file; with the digest of what it holds if that was looked at
    File(Option<Content>),
    /// A path of the Nix store: nothing in it changes
    Stored(Stamp),
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
struct Content(String, Stamp);

/// What changes when a file does: device, inode, mode, size, and both times in nanoseconds.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
struct Stamp(u64, u64, u32, u64, i64, i64);

impl Stamp {
    fn of(meta: &Metadata) -> Stamp {
        let (changed, modified) = (changed(meta), nanoseconds(meta.mtime(), meta.mtime_nsec()));
        Stamp(meta.dev(), meta.ino(), meta.mode(), meta.size(), modified, changed)
    }
}

fn nanoseconds(seconds: i64, rest: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

fn changed(meta: &Metadata) -> i64 {
    nanoseconds(meta.ctime(), meta.ctime_nsec())
}

/// The time of day, and the moment at which it was asked for.
fn now() -> (i64, Instant) {
    loop {
        let (before, time) = (Instant::now(), SystemTime::now());
        // A pause between the two would look like a clock that somebody set.
        if before.elapsed() < Duration::from_millis(1) {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            return (nanoseconds(since.as_secs() as i64, i64::from(since.subsec_nanos())), before);
        }
    }
}

/// The beginning of an evaluation: what changes after it may have been seen in two states.
pub struct Beginning {
    time: i64,
    clock: Instant,
    /// What led to the inputs that are known beforehand
    led: HashMap<PathBuf, (u64, u64)>,
}

impl Beginning {
    /// `paths`: those that the evaluation is sure to start from.
    pub fn now(paths: impl Iterator<Item = PathBuf>) -> Beginning {
        let (time, clock) = now();
        let mut places = Places::default();
        // The store itself always changes: derivations are written to it.
        for path in paths.chain([STORE.into()]) {
            // What cannot be looked at now will say so when it is recorded.
            let _ = places.lead(&path);
        }
        let inode = |path: &String| fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
        let led = places.0.keys().filter_map(|path| Some((path.into(), inode(path)?))).collect();
        Beginning { time, clock, led }
    }

    /// Whether a file is as it was since the beginning.
    fn before(&self, meta: &Metadata) -> bool {
        changed(meta) < self.time - LAG
    }

    /// # Errors
    /// If somebody has set the clock: a file's times say nothing then.
    pub fn check(&self) -> Result<()> {
        let (time, clock) = now();
        let gone = Duration::from_nanos(time.saturating_sub(self.time).unsigned_abs());
        let off = gone.abs_diff(clock.duration_since(self.clock));
        ensure!(off < Duration::from_nanos(LAG as u64 / 2), "the clock was set while Nix evaluated");
        Ok(())
    }
}

/// Digests of files that were read already, by path.
#[derive(Default)]
pub struct Digests(Mutex<HashMap<PathBuf, Content>>);

/// Paths, and what was found at each.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Places(BTreeMap<String, Place>);

/// A path that was looked for.
enum Found {
    Nothing,
    Stored,
    There(PathBuf, Metadata),
}

/// Records what an evaluation looked at. Every error is a reason to be uncertain.
pub struct Recorder<'a> {
    pub places: Places,
    pub beginning: &'a Beginning,
    pub digests: &'a Digests,
}

impl Recorder<'_> {
    /// What a file holds; for a folder, its default.nix, as `import` takes it.
    pub fn file(&mut self, path: &Path) -> Result<()> {
        match self.places.lead(path)? {
            Found::There(real, meta) if meta.is_dir() => self.file(&real.join("default.nix")),
            Found::There(real, meta) => self.content(&real, &meta),
            Found::Nothing | Found::Stored => Ok(()),
        }
    }

    /// The names in a folder, and what kind each is.
    pub fn folder(&mut self, path: &Path) -> Result<()> {
        match self.places.lead(path)? {
            Found::There(real, meta) => self.content(&real, &meta),
            Found::Nothing | Found::Stored => Ok(()),
        }
    }

    /// All that is at and below a path, as it is copied to the store.
    pub fn tree(&mut self, path: &Path) -> Result<()> {
        let Found::There(real, meta) = self.places.lead(path)? else { return Ok(()) };
        self.content(&real, &meta)?;
        if !meta.is_dir() {
            return Ok(());
        }
        for entry in fs::read_dir(&real)? {
            let below = real.join(entry?.file_name());
            let meta = fs::symlink_metadata(&below)?;
            if meta.is_symlink() {
                self.places.note(&below, Place::Link(text(&fs::read_link(&below)?)?))?;
            } else {
                self.tree(&below)?;
            }
        }
        Ok(())
    }

    /// That something is at a path, or nothing; `there` is what the evaluation was told.
    pub fn existence(&mut self, path: &Path, there: Option<bool>) -> Result<bool> {
        let found = !matches!(self.places.lead(path)?, Found::Nothing);
        // A link that leads nowhere is there for some Nix, and not for others.
        let link = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink());
        ensure!(link || there.is_none_or(|there| there == found), "{} came or went", path.display());
        Ok(found)
    }

    fn content(&mut self, real: &Path, meta: &Metadata) -> Result<()> {
        let content = self.digests.of(real, meta)?;
        ensure!(self.beginning.before(meta), "{} was changed just now", real.display());
        ensure!(local(real)?, "{} is on a file system whose times are not this computer's", real.display());
        let place = if meta.is_dir() { Place::Folder(Some(content)) } else { Place::File(Some(content)) };
        self.places.note(real, place)
    }

    /// Checks that what led to each file was there from the beginning.
    pub fn finish(self) -> Result<Places> {
        for (path, place) in &self.places.0 {
            if let Place::Folder(_) | Place::Link(_) = place {
                let path = Path::new(path);
                let meta = fs::symlink_metadata(path)?;
                let same = self.beginning.led.get(path).is_some_and(|inode| *inode == (meta.dev(), meta.ino()));
                ensure!(same || self.beginning.before(&meta), "{} was changed just now", path.display());
            }
        }
        self.beginning.check()?;
        Ok(self.places)
    }
}

impl Places {
    /// Follows a path to its end, and notes what it leads through.
    fn lead(&mut self, path: &Path) -> Result<Found> {
        ensure!(path.is_absolute(), "{} is no absolute path", path.display());
        let mut rest: Vec<OsString> = steps(path).rev().collect();
        let mut at = PathBuf::from("/");
        let mut links = 0;
        loop {
            // A link may lead into a path of the store, and out of it.
            let stored = is_stored(&at);
            let Some(step) = rest.pop() else {
                let meta = fs::symlink_metadata(&at)?;
                return Ok(if stored { Found::Stored } else { Found::There(at, meta) });
            };
            if step == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&step);
            let meta = match fs::symlink_metadata(&next) {
                Ok(meta) => meta,
                Err(error) if is_absence(&error) => {
                    if !stored {
                        self.note(&next, Place::Absent)?;
                    }
                    return Ok(Found::Nothing);
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
                    self.note(&next, Place::Stored(Stamp::of(&meta)))?;
                } else if !stored {
                    self.note(&next, if meta.is_dir() { Place::Folder(None) } else { Place::File(None) })?;
                }
                at = next;
            }
        }
    }

    /// Adds what was found; more is known where something was found before.
    fn note(&mut self, path: &Path, place: Place) -> Result<()> {
        let known = self.0.entry(text(path)?).or_insert_with(|| place.clone());
        match (&*known, place) {
            (Place::Folder(None), place @ Place::Folder(_)) | (Place::File(None), place @ Place::File(_)) => {
                *known = place;
            }
            (Place::Folder(_), Place::Folder(None)) | (Place::File(_), Place::File(None)) => {}
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
                (Place::File(None), Ok(meta)) => !meta.is_dir() && !meta.is_symlink(),
                (Place::Stored(stamp), Ok(meta)) => Stamp::of(&meta) == *stamp,
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
                Place::Stored(stamp) => format!("{stamp:?}"),
            };
            let kind = std::mem::discriminant(place);
            hash.update(format!("{path:?} {kind:?} {content:?}\n"));
        }
        hex(hash)
    }
}

impl Content {
    fn check(&mut self, path: &str, meta: &Metadata, renewed: &mut bool) -> Result<bool> {
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
    fn of(&self, path: &Path, meta: &Metadata) -> Result<Content> {
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

/// Whether a path is at or below a path of the store.
fn is_stored(path: &Path) -> bool {
    let name = path.strip_prefix(STORE).ok().and_then(|below| below.components().next()?.as_os_str().to_str());
    name.is_some_and(|name| StorePath::new(format!("{STORE}/{name}")).is_ok())
}

fn is_absence(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn local(path: &Path) -> Result<bool> {
    Ok(LOCAL.contains(&(rustix::fs::statfs(path)?.f_type as u32).into()))
}

fn text(path: &Path) -> Result<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("nix-push-places-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Folder(fs::canonicalize(path).unwrap())
        }

        /// Records what `look` looks at, in an evaluation that begins now.
        fn record(&self, look: impl Fn(&mut Recorder) -> Result<()>) -> Result<Places> {
            let beginning = Beginning::now(std::iter::once(self.0.clone()));
            let digests = Digests::default();
            let mut recorder = Recorder { places: Places::default(), beginning: &beginning, digests: &digests };
            look(&mut recorder)?;
            recorder.finish()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn settle() {
        std::thread::sleep(Duration::from_nanos(2 * LAG as u64));
    }

    #[test]
    fn what_changed_a_moment_ago_is_uncertain() {
        let folder = Folder::new("racy");
        let file = folder.0.join("a");
        fs::write(&file, "1").unwrap();
        let error = folder.record(|recorder| recorder.file(&file)).unwrap_err();
        assert!(error.to_string().ends_with("changed just now"), "{error}");
        settle();
        assert!(folder.record(|recorder| recorder.file(&file)).is_ok());
        // One that changes while Nix evaluates.
        let changed = folder.record(|recorder| {
            fs::write(&file, "2").unwrap();
            recorder.file(&file)
        });
        assert!(changed.is_err());
        // A folder on the way that takes another's place, with what it holds.
        fs::create_dir_all(folder.0.join("d")).unwrap();
        fs::write(folder.0.join("d/a"), "1").unwrap();
        settle();
        let changed = folder.record(|recorder| {
            fs::rename(folder.0.join("d"), folder.0.join("e")).unwrap();
            recorder.file(&folder.0.join("e/a"))
        });
        assert!(changed.is_err());
    }

    #[test]
    fn times_of_other_clocks_say_nothing() {
        let folder = Folder::new("proc");
        assert!(folder.record(|recorder| recorder.file(Path::new("/proc/version"))).is_err());
        assert!(Places::default().lead(Path::new("relative")).is_err());
    }

    #[test]
    fn links_count_and_the_store_does_not_change() {
        let folder = Folder::new("links");
        let at = |name: &str| folder.0.join(name);
        fs::create_dir_all(at("one/deep")).unwrap();
        fs::write(at("one/deep/file"), "1").unwrap();
        fs::write(at("one/file"), "2").unwrap();
        std::os::unix::fs::symlink("one/deep", at("link")).unwrap();
        std::os::unix::fs::symlink("deep/../file", at("one/other")).unwrap();
        settle();
        // The kernel goes up from where a link leads to, a newer Nix from where it is.
        let places = folder.record(|recorder| recorder.file(&at("link/../other"))).unwrap();
        assert!(places.0.contains_key(at("one/file").to_str().unwrap()), "{places:?}");
        assert_eq!(without_up(&at("link/../other")), at("other"));
        let mut places = folder.record(|recorder| recorder.file(&at("link/file"))).unwrap();
        assert!(!places.check().unwrap());
        fs::remove_file(at("link")).unwrap();
        std::os::unix::fs::symlink("./one/deep", at("link")).unwrap();
        assert!(places.check().is_err());
        let stored = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x";
        assert!(is_stored(Path::new(stored)) && is_stored(&Path::new(stored).join("a")));
        assert!(!is_stored(Path::new("/nix/store/.links/x")) && !is_stored(Path::new(STORE)));
    }

    #[test]
    fn a_stamp_is_renewed_for_the_same_content() {
        let folder = Folder::new("renewed");
        let file = folder.0.join("a");
        fs::write(&file, "1").unwrap();
        settle();
        let mut places = folder.record(|recorder| recorder.file(&file)).unwrap();
        let digest = places.digest();
        fs::write(&file, "1").unwrap();
        settle();
        assert!(places.check().unwrap());
        assert!(!places.check().unwrap());
        assert_eq!(places.digest(), digest);
        fs::write(&file, "2").unwrap();
        assert!(places.check().is_err());
    }
}
