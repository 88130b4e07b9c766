//! The stream: records from stdin to a tool's step and out to stdout.

use crate::{Closure, Failure, Kind, Record, Records, Section, Ssh, StreamArgs, check_name, live, log};
use anyhow::Result;
use rustix::fs::FileType;
use std::collections::HashSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

/// What the stream must know of a tool.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    /// Its name, as in `error.tool`
    pub name: &'static str,
    /// True if it can make a record from its flags alone
    pub starts: bool,
    /// True if it names a machine that has no name: `machine`, as the tutorial does
    pub names: bool,
    /// True if a machine that failed before is work for it as any other: its `error` is the tool's to take out
    pub takes_failed: bool,
    /// How many machines it works on side by side unless `--jobs` says
    pub jobs: u16,
}

/// The tools, and the section that each adds last.
const OWNERS: [(&str, &str); 5] = [
    ("nixos-ami", "ami"),
    ("keygen", "keyPair"),
    // Its `instance` stands beside its errors, too.
    ("ec2-up", "ssh"),
    ("nix-push", "closure"),
    ("nixos-switch", "activation"),
];

/// How many records may wait between stdin and the tool.
const WAITING: usize = 4096;

/// One machine in hand: a record that must be given back.
pub struct Job {
    pub record: Record,
    output: Arc<Output>,
    done: bool,
}

impl Job {
    /// Writes the record out, with `error` if the work failed.
    pub fn finish(mut self, result: Result<()>) {
        self.done = true;
        match result {
            Err(error) => self.output.fail(&mut self.record, &Failure::of(&error)),
            // One that failed before, and the tool has not changed that.
            Ok(()) if self.record.text("error").is_some() => self.output.failed.store(true, Ordering::SeqCst),
            Ok(()) => {}
        }
        live::count(0, 1);
        self.output.write(&self.record);
    }

    /// A further machine of the stream, for a tool that finds several where it was asked once.
    pub fn another(&self, record: Record) -> Job {
        live::count(1, 0);
        Job { record, output: self.output.clone(), done: false }
    }

    /// Takes the machine out of the stream without a record, for one that was no wish of the user.
    pub fn discard(mut self) {
        live::count(-1, 0);
        self.done = true;
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.done {
            // A machine is never lost, not even by a fault of the tool.
            let failure = Failure::new(Kind::Internal, "the tool gave up this machine");
            self.output.fail(&mut self.record, &failure);
            self.output.write(&self.record);
        }
    }
}

/// The machines that have come and are not yet begun.
pub struct Jobs {
    arrived: mpsc::Receiver<Record>,
    output: Arc<Output>,
}

impl Jobs {
    /// Waits for a machine, and takes with it all others that have come by then, at most `most`.
    ///
    /// `None` at the end of the stream, and from the moment on when stdout is closed.
    pub fn take(&self, most: usize) -> Option<Vec<Job>> {
        let job = |record| Job { record, output: self.output.clone(), done: false };
        let first = self.arrived.recv().ok()?;
        if self.output.closed.load(Ordering::SeqCst) {
            return None;
        }
        let rest = self.arrived.try_iter().take(most.saturating_sub(1));
        Some(std::iter::once(first).chain(rest).map(job).collect())
    }
}

/// Runs `step` for each machine of the stream, several at a time, and gives the exit status.
///
/// A machine is written as soon as it is ready; one that fails, or panics, holds up no other.
pub fn for_each(tool: Tool, args: &StreamArgs, step: impl Fn(&mut Record) -> Result<()> + Sync) -> ExitCode {
    let workers = args.jobs.unwrap_or(tool.jobs).max(1);
    run(tool, args, |jobs| {
        let jobs = Mutex::new(jobs);
        let next = || jobs.lock().ok()?.take(1)?.pop();
        let work =
            || {
                while let Some(mut job) = next() {
                    let result = catch_unwind(AssertUnwindSafe(|| step(&mut job.record)));
                    job.finish(result.unwrap_or_else(|_| {
                        Err(Failure::new(Kind::Internal, "the tool stopped: this is a bug").into())
                    }));
                }
            };
        std::thread::scope(|scope| {
            // Where the system has no more threads, fewer have to do.
            let mut more = (1..workers).map(|_| std::thread::Builder::new().spawn_scoped(scope, work));
            more.find(|thread| thread.is_err());
            work();
        });
        Ok(())
    })
}

/// Hands `body` the machines of the stream as they come, and gives the exit status.
///
/// For tools that do many machines in one call; others use [`for_each`]. An error of `body` is one
/// of the whole run: it is printed, and the status is 1.
pub fn run(tool: Tool, args: &StreamArgs, body: impl FnOnce(Jobs) -> Result<()>) -> ExitCode {
    let output =
        Arc::new(Output { tool: tool.name, failed: false.into(), closed: false.into(), stdout: Mutex::default() });
    let input = match Input::of(tool, args) {
        Ok(input) => input,
        Err(what) => {
            log::error(&what);
            return ExitCode::from(2);
        }
    };
    let (send, arrived) = mpsc::sync_channel(WAITING);
    let usage = Arc::new(Mutex::new(None));
    let reader =
        Reader { tool, args: args.clone(), output: output.clone(), names: HashSet::new(), nameless: false, send };
    let verdict = usage.clone();
    std::thread::spawn(move || {
        // The lock is held until all is read: who asks for the verdict waits for it.
        if let Ok(mut verdict) = verdict.lock() {
            *verdict = reader.read(input).err();
        }
    });
    if let Err(error) = body(Jobs { arrived, output: output.clone() }) {
        log::failure("", &Failure::of(&error));
        output.failed.store(true, Ordering::SeqCst);
    }
    if output.closed.load(Ordering::SeqCst) {
        // The reader may wait for input that nobody will send.
        return ExitCode::from(1);
    }
    let verdict = usage.lock().ok().and_then(|mut what| what.take());
    output.sum_up();
    if let Some(what) = verdict {
        log::error(&what);
        return ExitCode::from(2);
    }
    ExitCode::from(u8::from(output.failed.load(Ordering::SeqCst)))
}

/// Whether records come from stdin: not with `-n`, and not where it is a terminal, /dev/null, or closed.
pub fn has_input(args: &StreamArgs) -> bool {
    !args.null_input && matches!(stdin_type(), Some(FileType::Fifo | FileType::Socket | FileType::RegularFile))
}

fn stdin_type() -> Option<FileType> {
    rustix::fs::fstat(rustix::stdio::stdin()).ok().map(|stat| FileType::from_raw_mode(stat.st_mode))
}

enum Input {
    Stdin,
    Flags,
}

impl Input {
    fn of(tool: Tool, args: &StreamArgs) -> Result<Self, String> {
        if !args.null_input && stdin_type() == Some(FileType::Directory) {
            Err("stdin is a directory, not a stream of records".into())
        } else if has_input(args) {
            Ok(Input::Stdin)
        } else if tool.starts {
            Ok(Input::Flags)
        } else {
            Err(format!("no records: {} needs the records of an earlier tool on stdin (see --help)", tool.name))
        }
    }
}

/// Reads the records, checks what concerns the stream, and hands them on.
struct Reader {
    tool: Tool,
    args: StreamArgs,
    output: Arc<Output>,
    names: HashSet<String>,
    nameless: bool,
    send: mpsc::SyncSender<Record>,
}

impl Reader {
    fn read(mut self, input: Input) -> Result<(), String> {
        match input {
            Input::Flags => self.admit(Record::default()),
            Input::Stdin => {
                let mut records = Records::new(io::stdin().lock());
                let mut any = false;
                while let Some(record) = records.read().map_err(|malformed| format!("stdin: {malformed}"))? {
                    any = true;
                    self.admit(record)?;
                }
                if !any && self.tool.starts {
                    log::note("no records on stdin: nothing to do (to start from the flags alone, say -n)");
                }
                Ok(())
            }
        }
    }

    fn admit(&mut self, mut record: Record) -> Result<(), String> {
        let failed = record.text("error").is_some();
        if failed && !self.tool.takes_failed {
            if !(self.args.retry && self.may_retry(&record)) {
                self.output.failed.store(true, Ordering::SeqCst);
                self.output.write(&record);
                return Ok(());
            }
            record.remove("error");
        }
        // One that failed may have failed because it bears the name of another, and must not be in that one's way.
        let counts = !(failed && self.tool.takes_failed);
        let unnamed = counts && record.text("name").is_none() && self.args.name.is_some();
        if unnamed && std::mem::replace(&mut self.nameless, true) {
            return Err("--name names one machine, and a second record without a name has come".into());
        }
        match self.check(&mut record, counts) {
            // The other end is gone when the tool has stopped early: nothing is to be begun.
            Ok(()) => {
                live::count(1, 0);
                drop(self.send.send(record));
            }
            Err(failure) => {
                self.output.fail(&mut record, &failure);
                self.output.write(&record);
            }
        }
        Ok(())
    }

    /// `counts`: whether its name is to be the only one.
    fn check(&mut self, record: &mut Record, counts: bool) -> Result<(), Failure> {
        record.check_version()?;
        if !self.args.plan {
            record.remove("plan");
        }
        if record.text("name").is_none() {
            if let Some(name) = &self.args.name {
                record.set("name", name)?;
            } else if self.tool.names {
                record.set("name", &record.name())?;
            }
        }
        let Some(name) = record.string("name")? else { return Ok(()) };
        check_name(&name)?;
        if counts && !self.names.insert(name.clone()) {
            return Err(Failure::new(Kind::Input, format!("a second machine of the name {name} in one stream"))
                .hint("names are unique in a stream: rename one of them"));
        }
        Ok(())
    }

    /// An error of this tool, or one of a tool whose work is there by now.
    fn may_retry(&self, record: &Record) -> bool {
        let Ok(Some(error)) = record.read::<Error>("error") else { return false };
        let is_done = |section: &str| match section {
            // A push that failed writes what it came to: no machine has that.
            Closure::NAME => record.section::<Closure>().is_ok_and(|closure| {
                closure.is_some_and(|closure| closure.sent_paths.is_some() && closure.phases.root.is_some())
            }),
            // The user may have written the way to it before.
            Ssh::NAME => record.has_address(),
            _ => record.text(section).is_some(),
        };
        error.tool == self.tool.name || OWNERS.iter().any(|(tool, section)| *tool == error.tool && is_done(section))
    }
}

/// Who made a record's error, and of what kind.
#[derive(serde::Deserialize)]
struct Error {
    tool: String,
    kind: Option<String>,
}

/// Stdout, and what the exit status will be.
struct Output {
    tool: &'static str,
    failed: AtomicBool,
    closed: AtomicBool,
    stdout: Mutex<Left>,
}

/// The machines that have left.
#[derive(Default)]
struct Left {
    count: usize,
    /// Name, tool and kind of those that left with an error
    failed: Vec<String>,
}

/// How many machines that failed are named at the end.
const NAMED: usize = 20;

impl Output {
    fn fail(&self, record: &mut Record, failure: &Failure) {
        log::failure(&record.name(), failure);
        record.fail(self.tool, failure);
        self.failed.store(true, Ordering::SeqCst);
    }

    /// At the end of a pipe, and of many lines: which machines failed.
    fn sum_up(&self) {
        let stdout = rustix::fs::fstat(rustix::stdio::stdout()).map(|stat| FileType::from_raw_mode(stat.st_mode));
        let left = self.stdout.lock().unwrap_or_else(PoisonError::into_inner);
        if left.count < 2 || left.failed.is_empty() || stdout == Ok(FileType::Fifo) {
            return;
        }
        let named = left.failed.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
        let more = match left.failed.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        log::error(&format!("{} of {} machines failed: {named}{more}", left.failed.len(), left.count));
    }

    fn write(&self, record: &Record) {
        let line = record.to_line() + "\n";
        let mut left = self.stdout.lock().unwrap_or_else(PoisonError::into_inner);
        left.count += 1;
        if let Ok(Some(error)) = record.read::<Error>("error") {
            left.failed.push(format!("{} ({}: {})", record.name(), error.tool, error.kind.unwrap_or_default()));
        }
        let mut stdout = io::stdout().lock();
        if let Err(error) = live::print_record(&mut stdout, &line)
            && !self.closed.swap(true, Ordering::SeqCst)
        {
            log::error(&format!("cannot write records to stdout: {error}; starting no more machines"));
        }
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
