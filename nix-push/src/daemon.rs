//! The protocol of Nix's daemon, spoken with a `nix-daemon --stdio` of our own: many questions to one process.
//!
//! See NixOS/nix `src/libstore/worker-protocol.hh`, `daemon.cc` and `remote-store.cc`.

use crate::local::Local;
use crate::wire::{Pipe, Request, Wire};
use crate::{nix, nix_files};
use anyhow::{Result, bail, ensure};
use machine_record::StorePath;
use std::time::{Duration, Instant};

const CLIENT_MAGIC: u64 = 0x6e69_7863;
const DAEMON_MAGIC: u64 = 0x6478_696f;
/// Version 1.30 (Nix 2.4), the first that tells a derivation from its outputs; a newer daemon speaks it too.
const VERSION: u64 = 0x11e;

const QUERY_MISSING: u64 = 40;

/// How long it may take to begin; it takes milliseconds where it is not stuck.
const GREETING: Duration = Duration::from_secs(10);

/// How long an answer may take, for which caches may have to be asked.
pub const ANSWERED: Duration = Duration::from_secs(600);

/// What comes before an answer.
const LOG_LINE: u64 = 0x6f6c_6d67;
const STARTED: u64 = 0x5354_5254;
const STOPPED: u64 = 0x5354_4f50;
const PROGRESS: u64 = 0x5253_4c54;
const ERROR: u64 = 0x6378_7470;
const ANSWER: u64 = 0x616c_7473;

/// What stands between a derivation and its outputs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Missing {
    pub build: Vec<StorePath>,
    pub fetch: Vec<StorePath>,
    /// Bytes of what is to be fetched, as it comes and as it is then
    pub download: u64,
    pub unpacked: u64,
}

/// A client of one daemon.
pub struct Daemon<P>(Wire<P>);

impl Daemon<Local> {
    /// One that works on this computer's store, or hands on to the daemon that does. That one knows
    /// nothing of this user's settings, so it will do only where there are none.
    pub fn start() -> Result<Self> {
        let mut pipe = Local::start("nix-daemon", &["--stdio"], nix::show_detail)?;
        pipe.until = Some(Instant::now() + GREETING);
        let mut daemon = Daemon::greet(pipe)?;
        let pipe = &mut daemon.0.pipe;
        pipe.until = None;
        let works = !nix_files::has_own_settings() || pipe.holds("db/db.sqlite");
        ensure!(works, "it hands on what it is asked, and this user has settings of their own");
        Ok(daemon)
    }

    /// The same as [`missing`](Daemon::missing), in a stated time.
    ///
    /// # Errors
    /// Also where the whole answer has not come by then: it is ended.
    pub fn ask(&mut self, machine: &str, drv: &StorePath) -> Result<Missing> {
        self.0.pipe.until = Some(Instant::now() + ANSWERED);
        let missing = self.missing(machine, drv);
        self.0.pipe.until = None;
        missing
    }
}

impl<P: Pipe> Daemon<P> {
    fn greet(pipe: P) -> Result<Self> {
        let mut daemon = Daemon(Wire::new(pipe));
        // No processors to run on, no memory set aside.
        daemon.0.send(&Request::default().number(CLIENT_MAGIC).number(VERSION).number(0).number(0))?;
        let magic = daemon.0.number()?;
        ensure!(magic == DAEMON_MAGIC, "not the greeting of nix-daemon: {magic:#x}");
        let version = daemon.0.number()?;
        ensure!(
            version >> 8 == VERSION >> 8 && version >= VERSION,
            "its protocol is of version {version:#x}, which is not known"
        );
        daemon.answer("")?;
        Ok(daemon)
    }

    /// What is to be built and fetched for all outputs of `drv`, which comes last.
    pub fn missing(&mut self, machine: &str, drv: &StorePath) -> Result<Missing> {
        let outputs = format!("{drv}!*");
        self.0.send(&Request::default().number(QUERY_MISSING).strings([&*outputs].into_iter()))?;
        self.answer(machine)?;
        let mut build: Vec<StorePath> = self.0.paths()?;
        build.sort_by_key(|path| (path == drv, path.name().to_string()));
        let fetch = self.0.paths()?;
        let unknown: Vec<StorePath> = self.0.paths()?;
        let (download, unpacked) = (self.0.number()?, self.0.number()?);
        ensure!(unknown.is_empty(), "nobody knows how to make {}", unknown[0]);
        Ok(Missing { build, fetch, download, unpacked })
    }

    /// Shows what is said before an answer, up to where that begins.
    ///
    /// # Errors
    /// What the daemon says instead of one.
    fn answer(&mut self, machine: &str) -> Result<()> {
        let wire = &mut self.0;
        loop {
            match wire.number()? {
                ANSWER => return Ok(()),
                LOG_LINE => nix::show(machine, plain(&wire.text()?).trim_end()),
                STARTED => {
                    for _ in ["activity", "level", "type"] {
                        wire.number()?;
                    }
                    wire.text()?;
                    fields(wire)?;
                    wire.number()?; // the activity that it is a part of
                }
                STOPPED => drop(wire.number()?),
                PROGRESS => {
                    for _ in ["activity", "type"] {
                        wire.number()?;
                    }
                    fields(wire)?;
                }
                ERROR => {
                    wire.string()?; // always the same
                    wire.number()?; // how bad it is
                    wire.string()?; // a name that is no longer used
                    bail!(plain(&wire.text()?));
                }
                other => bail!("nix-daemon says what nobody understands: {other:#x}"),
            }
        }
    }
}

/// A text without its colours: ESC, `[`, numbers and a letter (ECMA-48, "Control sequences").
fn plain(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default();
    let others = parts.map(|part| part.find(|c: char| c.is_ascii_alphabetic()).map_or("", |at| &part[at + 1..]));
    [first].into_iter().chain(others).collect()
}

/// Passes over numbers and strings.
fn fields<P: Pipe>(wire: &mut Wire<P>) -> Result<()> {
    for _ in 0..wire.number()? {
        match wire.number()? {
            0 => drop(wire.number()?),
            _ => drop(wire.text()?),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::scripted::Scripted;

    fn path(name: &str) -> StorePath {
        StorePath::new(format!("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-{name}")).unwrap()
    }

    fn greeting(version: u64) -> Request {
        Request::default().number(DAEMON_MAGIC).number(version).number(ANSWER)
    }

    #[test]
    fn what_is_said_before_an_answer_is_passed_over() {
        let says = greeting(0x126)
            .number(STARTED)
            .number(1)
            .number(3)
            .number(109)
            .string("querying")
            .number(2)
            .number(0)
            .number(7)
            .number(1)
            .string("x")
            .number(0)
            .number(LOG_LINE)
            .string("\x1b[35;1mwarning:\x1b[0m x\n")
            .number(PROGRESS)
            .number(1)
            .number(105)
            .number(1)
            .number(0)
            .number(7)
            .number(STOPPED)
            .number(1)
            .number(ANSWER)
            .paths(&[path("a.drv"), path("b.drv"), path("z.drv")])
            .paths(&[path("c")])
            .paths(&[])
            .number(10)
            .number(20);
        let mut daemon = Daemon::greet(Scripted { says: says.0, heard: vec![] }).unwrap();
        let missing = daemon.missing("a", &path("a.drv")).unwrap();
        let build = vec![path("b.drv"), path("z.drv"), path("a.drv")];
        assert_eq!(missing, Missing { build, fetch: vec![path("c")], download: 10, unpacked: 20 });
        let asked = Request::default().number(QUERY_MISSING).strings([&*format!("{}!*", path("a.drv"))].into_iter());
        assert!(daemon.0.pipe.heard.ends_with(&asked.0));
    }

    #[test]
    fn colours_are_left_out() {
        assert_eq!(plain("\x1b[35;1mwarning:\x1b[0m [x\x1b[m]"), "warning: [x]");
        assert_eq!((plain(""), plain("\x1b["), plain("x\x1b[1")), ("".into(), "".into(), "x".into()));
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let daemon = |says: Request| Daemon::greet(Scripted { says: says.0, heard: vec![] });
        let greeted = |says: Request| daemon(says).err().unwrap().to_string();
        assert_eq!(greeted(greeting(0x11d)), "its protocol is of version 0x11d, which is not known");
        assert_eq!(greeted(Request::default().number(1)), "not the greeting of nix-daemon: 0x1");
        let other = Request::default().number(DAEMON_MAGIC).number(0x11e).number(5);
        assert_eq!(greeted(other), "nix-daemon says what nobody understands: 0x5");
        let says =
            greeting(0x11e).number(ERROR).string("Error").number(0).string("Error").string("no such \x1b[1mstore");
        let error = daemon(says).unwrap().missing("a", &path("a.drv")).unwrap_err();
        assert_eq!(error.to_string(), "no such store");
        let none = greeting(0x11e).number(ANSWER).paths(&[]).paths(&[]).paths(&[path("a.drv")]).number(0).number(0);
        let error = daemon(none).unwrap().missing("a", &path("a.drv")).unwrap_err();
        assert_eq!(error.to_string(), format!("nobody knows how to make {}", path("a.drv")));
    }
}
