//! The store of this computer.

use crate::explain;
use crate::nix::{Outcome, Said, follow, show, spawn};
use crate::serve::Serve;
use crate::wire::Pipe;
use anyhow::{Context, Result, bail};
use machine_record::{Failure, StorePath, log};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;
use std::{env, fs};

/// A program of Nix that answers questions until its stdin ends, which it does with us, however we end.
pub struct Local {
    program: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    said: Option<JoinHandle<Said>>,
    /// When it is ended if it has said nothing by then
    pub until: Option<Instant>,
}

/// A `nix-store --serve` of our own: what it is asked to lock is kept from garbage collection until it ends.
pub type LocalStore = Serve<Local>;

/// Where Nix says what is valid in /nix/store.
const DATABASE: &str = "/nix/var/nix/db/db.sqlite";

/// Whether a store was opened that is another than that of /nix/store.
static ELSEWHERE: AtomicBool = AtomicBool::new(false);

/// Opens the local store.
pub fn open() -> Result<LocalStore> {
    let store = Local::start("nix-store", &["--serve", "--write"], show)?;
    let greeted = Serve::greet(store).and_then(|mut store| store.greeted().map(|()| store));
    let store = greeted.context("cannot use the local store")?;
    if store.wire.pipe.is_elsewhere() {
        ELSEWHERE.store(true, Ordering::Relaxed);
    }
    Ok(store)
}

/// Whether the local store, once it was opened, may be another than that of /nix/store, where a path of the same name is not
/// its path.
pub fn is_elsewhere() -> bool {
    let plain = ["", "auto", "daemon", "local"];
    let named = env::var_os("NIX_REMOTE").is_some_and(|remote| !plain.iter().any(|plain| remote == *plain));
    named || ELSEWHERE.load(Ordering::Relaxed)
}

impl Local {
    /// `show` is given what it says on stderr, but for the error that it ends with.
    pub fn start(program: &str, arguments: &[&str], show: fn(&str, &str)) -> Result<Local> {
        log::detail("", &format!("{program} {}", arguments.join(" ")));
        let mut child = spawn(Command::new(program).args(arguments))?;
        let said = follow(Vec::new(), &mut child, true, show, mpsc::channel().0);
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        Ok(Local { program: program.into(), child, stdin, stdout, said, until: None })
    }

    /// The error that it has ended with, if it said one.
    fn failure(&mut self) -> Option<Failure> {
        let said = self.said.take()?;
        drop((self.stdin.take(), self.stdout.take()));
        let outcome = Outcome { stderr: said.join().ok()?.lines.into(), ..Outcome::default() };
        outcome.failed_with("").then(|| explain::explain_store(&self.program, &outcome))
    }

    /// Whether it has a file open whose path ends so.
    pub fn holds(&self, end: &str) -> bool {
        self.open_files(end).next().is_some()
    }

    /// The files that it has open whose paths end so, below /proc.
    fn open_files(&self, end: &str) -> impl Iterator<Item = PathBuf> {
        let files = fs::read_dir(format!("/proc/{}/fd", self.child.id())).into_iter().flatten().flatten();
        files.map(|file| file.path()).filter(move |file| fs::read_link(file).is_ok_and(|path| path.ends_with(end)))
    }

    /// Whether it has a database open by itself, and that is not the one of /nix: settings say where the store is, too, in
    /// more places than one (`store` in nix.conf and in `NIX_CONFIG`).
    fn is_elsewhere(&self) -> bool {
        let number = |file: &Path| fs::metadata(file).map(|data| (data.dev(), data.ino())).ok();
        let usual = number(Path::new(DATABASE));
        self.open_files("db/db.sqlite").any(|file| number(&file) != usual)
    }

    /// Ends it where it has nothing to say before its time is over.
    fn wait(&mut self) -> Result<()> {
        if let (Some(until), Some(stdout)) = (self.until, &self.stdout) {
            let left = Timespec::try_from(until.saturating_duration_since(Instant::now()))?;
            let mut ready = [PollFd::new(stdout, PollFlags::IN)];
            if rustix::io::retry_on_intr(|| poll(&mut ready, Some(&left)))? == 0 {
                self.child.kill()?;
                bail!("{} says nothing", self.program);
            }
        }
        Ok(())
    }
}

impl Pipe for Local {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = self.stdin.as_mut().map_or(Err(ErrorKind::BrokenPipe.into()), |stdin| stdin.write_all(bytes));
        let sent = sent.with_context(|| format!("cannot ask {}", self.program));
        sent.map_err(|error| self.failure().map_or(error, Into::into))
    }
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.wait()?;
        let heard = self.stdout.as_mut().map_or(Err(ErrorKind::BrokenPipe.into()), |stdout| stdout.read(buffer));
        match heard.with_context(|| format!("cannot ask {}", self.program)) {
            Ok(count @ 1..) => Ok(count),
            heard => self.failure().map_or(heard, |failure| Err(failure.into())),
        }
    }
    fn name(&self) -> &str {
        &self.program
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // One that has more to say would wait for us.
        drop((self.stdin.take(), self.stdout.take()));
        let _ = self.child.wait();
    }
}

/// The local store as the machines of a run ask it: one after the other, so that one process will do.
#[derive(Clone, Default)]
pub struct Store(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    open: Option<LocalStore>,
    /// What is kept from garbage collection until the end of the run
    locked: HashSet<StorePath>,
}

impl Store {
    /// Opens the store beside what else is to be done before the first question.
    pub fn begin(&self) {
        // Two programs of Nix at once both make what a new store lacks, and one of them fails.
        if !Path::new(DATABASE).exists() {
            return;
        }
        let store = self.clone();
        // What goes wrong, the first question finds again.
        std::thread::spawn(move || store.ask(|_| Ok(())));
    }

    /// Asks something.
    pub fn ask<T>(&self, question: impl FnOnce(&mut LocalStore) -> Result<T>) -> Result<T> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let State { open: store, locked } = &mut *state;
        let store_open = match store {
            Some(store) => store,
            None => {
                let mut new = open()?;
                let locked: Vec<_> = locked.iter().cloned().collect();
                new.ask_valid_paths(true, false, &locked)?;
                new.valid_paths()?;
                store.insert(new)
            }
        };
        let answer = question(store_open);
        if answer.is_err() {
            // It ends at the first that it cannot answer; the next question opens another.
            *store = None;
        }
        answer
    }

    /// Keeps paths from being collected until the end of the run; gives those that are valid.
    pub fn lock(&self, paths: &[StorePath]) -> Result<HashSet<StorePath>> {
        let valid = self.ask(|store| {
            store.ask_valid_paths(true, false, paths)?;
            store.valid_paths()
        })?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).locked.extend(paths.iter().cloned());
        Ok(valid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nix::show_detail;
    use crate::wire::Wire;

    #[test]
    fn a_program_that_says_too_much_or_nothing_is_ended() {
        let start = |script: &str| Local::start("sh", &["-c", script], show_detail).unwrap();
        let mut wire = Wire::new(start("cat /dev/zero"));
        assert_eq!(wire.number().unwrap(), 0);
        drop(wire);
        let mut silent = start("exec sleep 1000");
        silent.until = Some(Instant::now());
        assert_eq!(silent.receive(&mut [0; 8]).unwrap_err().to_string(), "sh says nothing");
        drop(silent);
        let error = Wire::new(start("echo warning: error: x >&2; printf 1234567")).number().unwrap_err();
        assert_eq!(error.to_string(), "sh ended in the middle of an answer");
        let error = Wire::new(start("printf 1; echo error: no room left >&2")).number().unwrap_err();
        assert_eq!(error.to_string(), "sh said: no room left");
    }

    #[test]
    fn a_store_whose_database_is_not_the_usual_one_is_elsewhere() {
        let folder = env::temp_dir().join(format!("local-test-{}", std::process::id()));
        let database = folder.join("db/db.sqlite");
        fs::create_dir_all(database.parent().unwrap()).unwrap();
        fs::write(&database, "").unwrap();
        let is_elsewhere = |file: &Path| {
            let script = format!("exec 9<{}; echo; exec cat", file.display());
            let mut holder = Local::start("sh", &["-c", &script], show_detail).unwrap();
            assert_eq!(holder.receive(&mut [0; 1]).unwrap(), 1, "it has opened it");
            holder.is_elsewhere()
        };
        assert!(is_elsewhere(&database) && !is_elsewhere(Path::new("/dev/null")));
        let store = open().unwrap();
        assert!(!store.wire.pipe.is_elsewhere() && !super::is_elsewhere());
        assert!(!is_elsewhere(Path::new(DATABASE)));
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_question_that_ends_the_store_stands_in_nobodys_way() {
        let store = Store::default();
        store.begin();
        let path = StorePath::new("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-nowhere").unwrap();
        assert_eq!(store.lock(std::slice::from_ref(&path)).unwrap(), HashSet::new());
        let first = store.ask(|store| Ok(store.wire.pipe.child.id())).unwrap();
        assert_eq!(store.ask(|store| Ok(store.wire.pipe.child.id())).unwrap(), first);
        // The next question would be given the rest of an answer.
        assert!(store.ask(|_| -> Result<()> { bail!("cannot understand it") }).is_err());
        let second = store.ask(|store| Ok(store.wire.pipe.child.id())).unwrap();
        assert_ne!(first, second);
        let roots = std::fs::read_to_string(format!("/nix/var/nix/temproots/{second}")).unwrap();
        assert!(roots.contains(path.as_str()), "what was kept is kept by the next");
    }
}
