//! Running the Nix of this computer.

use crate::expression::{DONE, FACT, READ};
use crate::inputs::COPIED;
use crate::remarks::is_list;
use anyhow::{Context, Result};
use machine_record::{Failure, Kind, log};
use rustix::process::{Pid, Signal, kill_process};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How many of the last lines on stderr are kept, to explain a failure or to be read as an answer.
const TAIL: usize = 20_000;

/// How often a command that runs is looked after.
const BEAT: Duration = Duration::from_millis(20);

/// How long a command may take to end by itself.
const ENDING: Duration = Duration::from_secs(10);

/// How lines begin that Nix says for the sake of [`COPIED`] alone (`-vv`).
const CHATTER: [&str; 6] = [
    "evaluating file '",
    "instantiated '",
    "executing builder '",
    "querying info about '",
    "downloading '",
    "linking '",
];

/// What a watched evaluation looked at and nobody can look up, in the words of `watch.nix`.
const UNSURE: &str = r#"["unsure","a file whose name is no UTF-8"]"#;

/// The same for what a builder is given.
const ARGUMENTS: &str = "using builder args '";

/// What a command of Nix left behind.
#[derive(Default)]
pub struct Outcome {
    pub success: bool,
    /// The signal that ended it
    pub signal: Option<i32>,
    pub stdout: String,
    /// The last lines of stderr
    pub stderr: Vec<String>,
    /// How many of them have not been shown, the last ones
    pub held: usize,
    /// The facts of the record that an evaluation looked at, in the order it did
    pub facts: Vec<String>,
    /// What a watched evaluation looked at else, in its own words and Nix's
    pub reads: Vec<String>,
    /// Whether it was ended for its time
    pub late: bool,
}

/// The failure of what took longer than a flag allows.
pub fn late(what: &str, flag: &str, limit: Duration) -> Failure {
    Failure::new(Kind::Timeout, format!("{what} took longer than {flag} allows, {} s", limit.as_secs_f64()))
        .hint(format!("give {flag} more, or see with -v what takes so long"))
}

impl Outcome {
    /// Whether a line of stderr has these words.
    pub fn said(&self, words: &str) -> bool {
        self.stderr.iter().any(|line| line.contains(words))
    }

    /// Whether an error that it names has these words; what it shows of the code does not count.
    pub fn failed_with(&self, words: &str) -> bool {
        self.stderr.iter().any(|line| line.trim_start().starts_with("error:") && line.contains(words))
    }

    /// Whether it failed for want of room, in the store or in Nix's database.
    pub fn is_full(&self) -> bool {
        ["No space left on device", "database or disk is full"].iter().any(|words| self.said(words))
    }

    /// Shows what was held.
    pub fn show_held(&self, machine: &str) {
        self.stderr.iter().skip(self.stderr.len().saturating_sub(self.held)).for_each(|line| show(machine, line));
    }

    /// Shows the error that it ended with, and what belongs to it, where `-q` has hidden that.
    pub fn show_error(&self, machine: &str) {
        show_error(machine, &self.stderr, 0);
    }

    /// The error that Nix ended with, in one line.
    pub fn error(&self) -> String {
        // With a trace, the error itself comes last; its text may begin on the next line.
        let lines: Vec<&str> = self.stderr.iter().map(|line| line.trim()).collect();
        let Some(at) = lines.iter().rposition(|line| line.starts_with("error:")) else {
            return lines.last().map_or("Nix said nothing", |line| line).into();
        };
        let text = lines[at..].iter().map(|line| line.trim_start_matches("error:").trim());
        // What the error's place and trace begin with.
        let place = |line: &str| {
            ["at ", "… ", "(use '--show-trace'"].iter().any(|start| line.starts_with(start)) || line.contains("| ")
        };
        let text: Vec<&str> = text.take_while(|line| !place(line)).filter(|line| !line.is_empty()).take(5).collect();
        text.join(" ")
    }
}

/// What an evaluator says while it runs.
pub enum Event {
    /// Which of its machines, counted from 0, has a fact that it looks at
    Looks(usize, String),
    /// What the next of its machines came to
    Done(Outcome),
}

/// Runs a command of Nix with `input` on its stdin; shows what it says as it says it.
pub fn run(machine: &str, program: &str, arguments: &[String], input: String) -> Result<Outcome> {
    log::detail(machine, &format!("{program} {}", arguments.join(" ")));
    run_beside(vec![machine.into()], Command::new(program).args(arguments), input, false, |_, _| {})
}

/// What was said on stderr by a command that has ended. Another that it had started may live on and hold it open: git's
/// helper that waits for a server, when Nix was ended.
fn heard(said: JoinHandle<Said>) -> Option<Said> {
    let ended = Instant::now();
    while !said.is_finished() && ended.elapsed() < ENDING {
        std::thread::sleep(Duration::from_millis(1));
    }
    said.is_finished().then(|| said.join().ok())?
}

/// The same without input, in a stated time and as long as it is not `useless`: it is ended then, and killed where it
/// does not end.
pub fn run_within(
    limit: Option<Duration>,
    machine: &str,
    program: &str,
    arguments: &[String],
    mut useless: impl FnMut() -> bool,
) -> Result<Outcome> {
    log::detail(machine, &format!("{program} {}", arguments.join(" ")));
    let (began, mut told, mut over, mut end) = (Instant::now(), false, false, None);
    let mut command = Command::new(program);
    let outcome = run_beside(vec![machine.into()], command.args(arguments), String::new(), false, |child, _| {
        let Some(child) = child else { return };
        if end.is_none() {
            over = limit.is_some_and(|limit| began.elapsed() >= limit);
            end = (over || useless()).then(Instant::now);
        }
        match end {
            Some(end) if end.elapsed() > ENDING => drop(child.kill()),
            Some(_) if !told => told = kill_process(Pid::from_child(child), Signal::TERM).is_ok(),
            _ => {}
        }
    })?;
    Ok(Outcome { late: over && told && !outcome.success, ..outcome })
}

/// The same with a command made elsewhere, which may evaluate several machines, one after the other.
/// `beside` is called often while it runs, and once when it has ended, with what it has said since
/// the last time. With `hold`, the error that it ends with is not shown.
pub fn run_beside(
    machines: Vec<String>,
    command: &mut Command,
    input: String,
    hold: bool,
    mut beside: impl FnMut(Option<&mut Child>, Vec<Event>),
) -> Result<Outcome> {
    let mut child = spawn(command)?;
    // Nix hears no signal while it evaluates.
    let _ends = log::ends_too(child.id(), command.get_program() == "nix-instantiate");
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    beside(Some(&mut child), Vec::new());
    let (tell, told) = mpsc::channel();
    let said = follow(machines, &mut child, hold, show, tell);
    let finished: std::io::Result<_> = std::thread::scope(|scope| {
        // A command that fails early reads nothing: its own words say more than a broken pipe.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
        let (send, text) = mpsc::channel();
        scope.spawn(move || {
            let mut text = Vec::new();
            let read = stdout.map(|mut stdout| stdout.read_to_end(&mut text)).transpose();
            // The other end waits for this.
            let _ = send.send(read.map(|_| text));
        });
        let text = loop {
            match text.recv_timeout(BEAT) {
                Ok(text) => break text?,
                Err(mpsc::RecvTimeoutError::Timeout) => beside(Some(&mut child), told.try_iter().collect()),
                Err(mpsc::RecvTimeoutError::Disconnected) => break Vec::new(),
            }
        };
        Ok((text, child.wait()?))
    });
    let (text, status) = finished.with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let Said { lines, held, reads } = said.and_then(heard).unwrap_or_default();
    beside(None, told.try_iter().collect());
    let (success, signal) = (status.success(), status.signal());
    let stdout = String::from_utf8_lossy(&text).into_owned();
    Ok(Outcome { success, signal, stdout, stderr: lines.into(), held, reads, ..Outcome::default() })
}

/// The oldest Nix that this is tested with.
const TESTED: (u32, u32) = (2, 8);

/// The version of this computer's Nix, if it is older than any that this is tested with.
pub fn old() -> Option<String> {
    let said = Command::new("nix-instantiate").arg("--version").stdin(Stdio::null()).output().ok()?;
    let said = String::from_utf8_lossy(&said.stdout);
    let version = said.trim().rsplit(' ').next()?;
    (number(version)? < TESTED).then(|| version.into())
}

fn number(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

/// What to do about an answer of Nix that cannot be understood.
pub const TESTED_WITH: &str = "nix-push is tested with Nix 2.8 and newer: which does nix --version say?";

/// Starts a command of Nix with all its streams as pipes.
///
/// # Errors
/// Kind `not-found` where it is not installed.
pub fn spawn(command: &mut Command) -> Result<Child> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().map_err(|error| {
        let failure = Failure::new(Kind::NotFound, format!("cannot run {}: {error}", command.get_program().display()));
        match error.kind() {
            ErrorKind::NotFound => failure.hint("install Nix, and see that its commands are in PATH"),
            _ => failure.hint("is it a program that you may run, and is there memory for it?"),
        }
        .into()
    })
}

/// What a command said on stderr, since the last machine was done.
#[derive(Default)]
pub struct Said {
    pub lines: VecDeque<String>,
    held: usize,
    /// From the beginning: what one machine's evaluation has looked at is not looked at again for the next
    reads: Vec<String>,
}

/// Shows each line of stderr by `show`, with `hold` until an error, and gives the last ones at the
/// end. What an evaluator says of one of `machines` is told to `events` at once; what it says of one
/// of several is shown when that one is done: else another process says it again.
pub fn follow(
    machines: Vec<String>,
    child: &mut Child,
    hold: bool,
    show: fn(&str, &str),
    events: Sender<Event>,
) -> Option<JoinHandle<Said>> {
    let stderr = child.stderr.take()?;
    Some(std::thread::spawn(move || {
        let mut said = Said::default();
        let (mut done, mut arguments) = (0, false);
        let mut lines = BufReader::new(stderr);
        let mut line = Vec::new();
        while matches!(lines.read_until(b'\n', &mut line), Ok(1..)) {
            let whole = line.ends_with(b"\n");
            let told = String::from_utf8_lossy(&line);
            let text = told.trim_end().to_string();
            // A name that is no UTF-8 is not that of the file.
            if matches!(told, Cow::Owned(_)) && [READ, COPIED].iter().any(|word| text.contains(word)) {
                said.reads.push(UNSURE.into());
            }
            line.clear();
            // What a process that was killed had begun to say is not to be believed.
            if !whole && [FACT, DONE, READ].iter().any(|word| text.contains(word)) {
                continue;
            }
            // Not only at the beginning: what else writes there may not end its lines.
            if let Some((at, fact)) = about(&text, FACT) {
                // Whoever does not listen has no use for it.
                let _ = events.send(Event::Looks(at, fact.into()));
                continue;
            }
            if let Some((at, result)) = about(&text, DONE)
                && at == done
            {
                let Said { lines, held, reads } = &mut said;
                if machines.len() > 1 {
                    lines.iter().take(lines.len().saturating_sub(*held)).for_each(|line| show(&machines[done], line));
                }
                let (stderr, held, reads) = (std::mem::take(lines).into(), std::mem::take(held), reads.clone());
                let stdout = result.into();
                let outcome = Outcome { success: true, stdout, stderr, held, reads, ..Outcome::default() };
                let _ = events.send(Event::Done(outcome));
                done += 1;
                continue;
            }
            if let Some((_, read)) = text.split_once(READ) {
                said.reads.push(read.into());
                continue;
            }
            if let Some(at) = text.find(COPIED) {
                said.reads.push(text[at..].into());
                continue;
            }
            // They may have several lines, and end with a quote.
            arguments = !text.starts_with("building '") && (arguments || text.starts_with(ARGUMENTS));
            if arguments {
                arguments = text == ARGUMENTS || !text.ends_with('\'');
                continue;
            }
            // Builds, which may say the same, are not asked for it.
            if hold && CHATTER.iter().any(|start| text.starts_with(start)) {
                continue;
            }
            // Here it is -v that shows the trace.
            if text.contains("use '--show-trace'") {
                continue;
            }
            // It waits and goes on: that is said of this moment, and of no configuration.
            if text.starts_with("warning:") && text.contains("SQLite database '") && text.contains("' is busy") {
                show_detail(machines.get(done).or(machines.last()).map_or("", String::as_str), &text);
                continue;
            }
            // What is built is kept by a temporary root instead, which nothing can leave behind.
            if text.is_empty() || text.starts_with("warning: you did not specify '--add-root'") {
                continue;
            }
            if said.held > 0 || hold && text.starts_with("error:") {
                said.held += 1;
            } else if machines.len() == 1 || done >= machines.len() {
                let machine = machines.get(done).or(machines.last());
                show(machine.map_or("", String::as_str), &text);
            }
            said.lines.push_back(text);
            if said.lines.len() > TAIL {
                said.lines.pop_front();
            }
        }
        said
    }))
}

/// What a line says of one of an evaluator's machines: which, and what.
fn about<'a>(line: &'a str, start: &str) -> Option<(usize, &'a str)> {
    let (at, what) = line.split_once(start)?.1.split_once(' ')?;
    Some((at.parse().ok()?, what))
}

/// Shows a line of Nix; long lists of what is to be built or fetched, and their headlines, only with `-v`.
pub fn show(machine: &str, line: &str) {
    let show = if is_list(line) { log::detail } else { log::event };
    show(machine, &format!("nix: {line}"));
}

/// The same with `-q`, from so many lines before the error on.
pub fn show_error(machine: &str, said: &[String], before: usize) {
    let error = said.iter().position(|line| line.starts_with("error:"));
    if let (Some(at), true) = (error, log::is_quiet()) {
        said.iter().skip(at.saturating_sub(before)).for_each(|line| log::trace(machine, &format!("nix: {line}")));
    }
}

/// Shows a line of Nix only with `-v`.
pub fn show_detail(machine: &str, line: &str) {
    log::detail(machine, &format!("nix: {line}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(stderr: &str) -> String {
        let stderr = stderr.lines().map(String::from).collect();
        Outcome { stderr, ..Outcome::default() }.error()
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert!(number("2.3.16") < Some(TESTED) && number("2.18.1") > Some(TESTED));
        assert_eq!((number("2.35pre20260101_abc"), number("none")), (Some((2, 35)), None));
    }

    #[test]
    fn what_is_said_for_us_alone_is_passed_over() {
        let said = "using builder args '-c\nerror: x=1\n'\nusing builder args '-c exit'\nusing builder args '\nx\n'\nbuilding 'b'\n\
                    using builder args '\nno end\nbuilding 'c'\nwarning: error: SQLite database '/db.sqlite' is busy\nit's so\n";
        let mut child =
            Command::new("sh").args(["-c", "printf %s \"$0\" >&2", said]).stderr(Stdio::piped()).spawn().unwrap();
        let (events, _) = mpsc::channel();
        let said = follow(vec!["a".into()], &mut child, false, |_, _| {}, events).unwrap().join().unwrap();
        child.wait().unwrap();
        assert_eq!(said.lines, ["building 'b'", "building 'c'", "it's so"]);
    }

    #[test]
    fn the_error_is_found_in_what_nix_says() {
        let undefined = "error: undefined variable 'x'\n       at /c.nix:1:2:\n            1| x\n             | ^\n";
        assert_eq!(error(undefined), "undefined variable 'x'");
        let assertions = "error:\n       Failed assertions:\n       - No root.\n       - No boot.\n(use '--show-trace' to show more)";
        assert_eq!(error(assertions), "Failed assertions: - No root. - No boot.");
        assert_eq!(error("error: while evaluating\n  error: attribute 'nope' missing"), "attribute 'nope' missing");
        assert_eq!(error("error: no\n\n       … while evaluating the attribute 'x'\n\n       at /c.nix:1:2:"), "no");
        assert_eq!(error("Segmentation fault"), "Segmentation fault");
    }
}
