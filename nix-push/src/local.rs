//! The store of this computer.

use crate::nix::{follow, spawn};
use crate::serve::Serve;
use crate::wire::Pipe;
use anyhow::{Context, Result};
use machine_record::{StorePath, log};
use std::collections::HashSet;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command};
use std::sync::{Arc, Mutex, PoisonError};

/// A program of Nix that answers questions until its stdin ends, which it does with us, however we end.
pub struct Local {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
}

/// A `nix-store --serve` of our own: what it is asked to lock is kept from garbage collection until it ends.
pub type LocalStore = Serve<Local>;

/// Opens the local store.
pub fn open() -> Result<LocalStore> {
    let mut store = Serve::greet(Local::start("nix-store", &["--serve", "--write"])?)?;
    store.greeted().context("cannot use the local store")?;
    Ok(store)
}

impl Local {
    pub fn start(program: &str, arguments: &[&str]) -> Result<Local> {
        log::detail("", &format!("{program} {}", arguments.join(" ")));
        let mut child = spawn(Command::new(program).args(arguments))?;
        follow("", &mut child, false);
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().context("it has no stdout")?);
        Ok(Local { child, stdin, stdout })
    }
}

impl Pipe for Local {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let stdin = self.stdin.as_mut().context("nix-store has no stdin")?;
        stdin.write_all(bytes).context("cannot ask the local store")
    }
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.stdout.read(buffer).context("cannot hear the local store")
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        drop(self.stdin.take());
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
    use anyhow::bail;

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
