//! Looks up what an evaluation looked at, right after it.

use crate::digests::Digests;
use crate::places::{Found, Place, Places, STORE, is_absence, text};
use crate::stamp::{LAG, Stamp, changed, local, now};
use anyhow::{Result, bail, ensure};
use std::collections::{HashMap, HashSet};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The beginning of an evaluation: what changes after it may have been seen in two states.
pub struct Beginning {
    time: i64,
    clock: Instant,
    /// What led to the inputs that are known beforehand
    led: HashMap<PathBuf, (u64, u64)>,
    /// Where nothing was
    absent: HashSet<PathBuf>,
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
        let nothing = places.0.iter().filter(|(_, place)| **place == Place::Absent);
        let absent = nothing.map(|(path, _)| path.into()).collect();
        Beginning { time, clock, led, absent }
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

/// Records what an evaluation looked at. Every error is a reason to be uncertain.
pub struct Recorder<'a> {
    pub places: Places,
    beginning: &'a Beginning,
    digests: &'a Digests,
    /// Whether the times of a file system are this computer's, by its device
    local: HashMap<u64, bool>,
}

impl<'a> Recorder<'a> {
    pub fn new(beginning: &'a Beginning, digests: &'a Digests) -> Self {
        Recorder { places: Places::default(), beginning, digests, local: HashMap::new() }
    }

    /// What a file holds that was read; for a folder, its default.nix, as `import` takes it.
    pub fn file(&mut self, path: &Path) -> Result<()> {
        match self.places.lead(path)? {
            Found::There(real, meta) if meta.is_dir() => self.file(&real.join("default.nix")),
            Found::There(real, meta) => self.content(&real, &meta),
            Found::Stored => Ok(()),
            Found::Nothing(_) => bail!("{} was read, and is not there", path.display()),
        }
    }

    /// What a file holds that need not be there, such as settings.
    pub fn maybe(&mut self, path: &Path) -> Result<()> {
        match self.places.lead(path)? {
            Found::There(real, meta) => self.content(&real, &meta),
            Found::Stored => Ok(()),
            Found::Nothing(at) => self.nothing(&at),
        }
    }

    /// The names in a folder, and what kind each is.
    pub fn folder(&mut self, path: &Path) -> Result<()> {
        match self.places.lead(path)? {
            Found::There(real, meta) => self.content(&real, &meta),
            Found::Stored => Ok(()),
            Found::Nothing(_) => bail!("{} was read, and is not there", path.display()),
        }
    }

    /// That where nothing is now, nothing was for the evaluation.
    fn nothing(&mut self, at: &Path) -> Result<()> {
        match at.parent() {
            Some(folder) if !self.beginning.absent.contains(at) => {
                self.is_settled(folder, &fs::symlink_metadata(folder)?)
            }
            _ => Ok(()),
        }
    }

    /// All that is at and below a path, as it is copied to the store.
    pub fn tree(&mut self, path: &Path) -> Result<()> {
        let (real, meta) = match self.places.lead(path)? {
            Found::There(real, meta) => (real, meta),
            Found::Stored => return Ok(()),
            // A link that leads nowhere is copied as it is. Else Nix has not told the whole name: it leaves out what moves
            // the cursor of a terminal.
            Found::Nothing(_) if fs::symlink_metadata(path).is_ok() => return Ok(()),
            Found::Nothing(_) => bail!("Nix copied {}, which is not there", path.display()),
        };
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

    /// A program or a library of Nix: large, and seldom changed.
    pub fn program(&mut self, path: &Path) -> Result<()> {
        match self.places.lead(path)? {
            Found::There(real, meta) => self.stamp(&real, &meta),
            Found::Stored => Ok(()),
            Found::Nothing(_) => bail!("{} was run, and is not there", path.display()),
        }
    }

    /// What is at a path itself, its times included; of a link, where it leads to.
    pub fn entry(&mut self, path: &Path) -> Result<()> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        let folder = match self.places.lead(folder)? {
            Found::There(folder, _) => folder,
            Found::Stored => return Ok(()),
            Found::Nothing(at) => return self.nothing(&at),
        };
        let real = folder.join(name);
        match fs::symlink_metadata(&real) {
            Ok(meta) if meta.is_symlink() => self.places.note(&real, Place::Link(text(&fs::read_link(&real)?)?)),
            Ok(meta) => self.stamp(&real, &meta),
            Err(error) if is_absence(&error) => {
                self.nothing(&real)?;
                self.places.note(&real, Place::Absent)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn stamp(&mut self, real: &Path, meta: &Metadata) -> Result<()> {
        self.is_settled(real, meta)?;
        self.places.0.insert(text(real)?, Place::Stamped(Stamp::of(meta)));
        Ok(())
    }

    /// Whether what is seen now is what the evaluation saw, and a change would be seen.
    fn is_settled(&mut self, real: &Path, meta: &Metadata) -> Result<()> {
        ensure!(self.beginning.before(meta), "{} was changed just now", real.display());
        let local = match self.local.get(&meta.dev()) {
            Some(local) => *local,
            None => *self.local.entry(meta.dev()).or_insert(local(real)?),
        };
        ensure!(local, "{} is on a file system whose times are not this computer's", real.display());
        Ok(())
    }

    /// That something is at a path, or nothing; `there` is what the evaluation was told.
    pub fn existence(&mut self, path: &Path, there: bool) -> Result<()> {
        let found = self.is_there(path)?;
        // A link that leads nowhere is there for some Nix, and not for others.
        let link = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink());
        ensure!(link || there == found, "{} came or went", path.display());
        Ok(())
    }

    pub fn is_there(&mut self, path: &Path) -> Result<bool> {
        Ok(!matches!(self.places.lead(path)?, Found::Nothing(_)))
    }

    /// What is at a path: a file, a folder or nothing.
    pub fn kind(&mut self, path: &Path) -> Result<()> {
        match self.places.lead(path)? {
            Found::There(real, meta) if !meta.is_dir() => self.is_settled(&real, &meta),
            // Those that others came to be in are told from it in the end.
            Found::There(..) | Found::Stored => Ok(()),
            Found::Nothing(at) => self.nothing(&at),
        }
    }

    fn content(&mut self, real: &Path, meta: &Metadata) -> Result<()> {
        // First: what is read before is known for all evaluations of this run.
        self.is_settled(real, meta)?;
        let content = self.digests.of(real, meta)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::places::{is_stored, without_up};

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
            let mut recorder = Recorder::new(&beginning, &digests);
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
    fn a_clock_that_was_set_is_noticed() {
        let mut beginning = Beginning::now(std::iter::empty());
        assert!(beginning.check().is_ok());
        beginning.time -= 3600 * 1_000_000_000;
        assert_eq!(beginning.check().unwrap_err().to_string(), "the clock was set while Nix evaluated");
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
        // What is read before would be known for later evaluations.
        let socket = folder.0.join("socket");
        let _socket = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let error = folder.record(|recorder| recorder.file(&socket)).unwrap_err();
        assert!(error.to_string().ends_with("changed just now"), "{error}");
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
    fn what_may_have_come_or_gone_is_uncertain() {
        let folder = Folder::new("gone");
        let at = |name: &str| folder.0.join(name);
        type Look = fn(&mut Recorder, &Path) -> Result<()>;
        let looks: [Look; 3] = [|to, path| to.maybe(path), |to, path| to.kind(path), |to, path| to.entry(path)];
        settle();
        // Where nothing was all the time, nothing is to be seen.
        assert!(looks.iter().all(|look| folder.record(|recorder| look(recorder, &at("b"))).is_ok()));
        for look in looks {
            for (before, after) in [(true, false), (false, true)] {
                let put = |there: bool| {
                    if there { fs::write(at("a"), "").unwrap() } else { fs::remove_file(at("a")).unwrap() }
                };
                if before {
                    put(true);
                }
                settle();
                let said = folder.record(|recorder| {
                    put(after);
                    look(recorder, &at("a"))
                });
                let error = said.unwrap_err().to_string();
                assert!(error.ends_with("changed just now"), "{before}: {error}");
                if after {
                    put(false);
                }
            }
        }
        // A folder that others write to says nothing; that it was looked at before does.
        let known = Beginning::now(std::iter::once(at("b")));
        fs::write(at("c"), "").unwrap();
        let digests = Digests::default();
        assert!(Recorder::new(&known, &digests).maybe(&at("b")).is_ok());
        assert!(Recorder::new(&known, &digests).maybe(&at("d")).is_err());
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
