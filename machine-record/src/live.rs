//! The live last line: what the tool is doing now, redrawn on a terminal.
//!
//! Several tools of one pipe share a terminal. Who draws holds a lock on it, for a second at a
//! time; whoever prints a line erases the live one first, and it is drawn again below.

use crate::{log, signals, silence};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{IsTerminal, StdoutLock, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Carriage return, then "erase to the end of the line" (ECMA-48 8.3.41).
const ERASE: &str = "\r\x1b[K";
const REDRAW: Duration = Duration::from_millis(100);
/// A step that is over sooner than this is not shown.
const QUICK: Duration = Duration::from_millis(300);
const TURN: Duration = Duration::from_secs(1);
/// Long enough for the others to see that the lock is free.
const REST: Duration = Duration::from_millis(250);

/// A step in progress; it is over when this is dropped.
pub struct Step(Arc<Item>);

pub(crate) struct Item {
    pub(crate) machine: String,
    what: String,
    pub(crate) began: Instant,
    total: AtomicU64,
    done: AtomicU64,
}

struct Live {
    tool: String,
    terminal: File,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    steps: Vec<Arc<Item>>,
    begun: usize,
    ended: usize,
    /// Whether the line on the screen may be ours
    drawn: bool,
    /// Since when the terminal is ours
    turn: Option<Instant>,
    /// Until when it is the others'
    rest: Option<Instant>,
}

static LIVE: OnceLock<Option<Live>> = OnceLock::new();

/// Begins to draw, if stderr is a terminal that can: false if not.
pub(crate) fn set_up(tool: &str) -> bool {
    if !can_draw(&std::io::stderr()) {
        return false;
    }
    // A description of our own: a lock on the inherited one would be shared by the whole pipe.
    let Ok(terminal) = File::options().write(true).open("/proc/self/fd/2") else { return false };
    let live = Live { tool: tool.into(), terminal, state: Mutex::new(State::default()), changed: Condvar::new() };
    if LIVE.set(Some(live)).is_ok() {
        std::thread::spawn(draw_for_ever);
        signals::watch();
    }
    true
}

/// Whether a live line can be there, ours or that of another tool.
fn can_draw(stream: &impl IsTerminal) -> bool {
    std::env::var("TERM").is_ok_and(|term| term != "dumb") && stream.is_terminal()
}

fn live() -> Option<&'static Live> {
    LIVE.get()?.as_ref()
}

/// Shows what is being done for a machine, or for none where its name is empty, until the result is dropped.
pub fn step(machine: &str, what: &str) -> Step {
    let item = Arc::new(Item {
        machine: machine.into(),
        what: what.into(),
        began: Instant::now(),
        total: AtomicU64::new(0),
        done: AtomicU64::new(0),
    });
    silence::began(&item);
    if let Some(live) = live() {
        live.lock().steps.push(item.clone());
        live.changed.notify_all();
    }
    Step(item)
}

impl Step {
    /// Says how many bytes there are to do.
    pub fn of_bytes(self, total: u64) -> Self {
        self.0.total.store(total, Ordering::Relaxed);
        self
    }

    /// Says that more bytes are done.
    pub fn add_bytes(&self, count: u64) {
        self.0.done.fetch_add(count, Ordering::Relaxed);
    }

    /// How far it is, for those who read JSON.
    pub fn numbers(&self) -> Value {
        numbers(&self.0)
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        let item = &self.0;
        silence::ended(item);
        log::took(&item.machine, &item.what, numbers(item));
        if let Some(live) = live() {
            let mut state = live.lock();
            state.steps.retain(|other| !Arc::ptr_eq(other, item));
            if state.steps.is_empty() {
                live.clear(&mut state);
            }
        }
    }
}

/// Machines were begun, or ended: the line tells how many of how many.
pub(crate) fn count(begun: isize, ended: isize) {
    if let Some(live) = live() {
        let mut state = live.lock();
        state.begun = state.begun.saturating_add_signed(begun);
        state.ended = state.ended.saturating_add_signed(ended);
    }
}

/// Prints lines in one write, above the live one.
pub(crate) fn print(lines: &str) {
    let _turn = live().map(Live::lock);
    // Nobody is left to tell when stderr is closed.
    let _ = above(&mut std::io::stderr().lock(), lines);
    silence::broken();
}

/// Prints a record in the same way, on stdout.
pub(crate) fn print_record(stdout: &mut StdoutLock, line: &str) -> std::io::Result<()> {
    let _turn = match live() {
        Some(live) if stdout.is_terminal() => Some(live.lock()),
        // Held by nobody meanwhile: who reads the record may be slow.
        Some(live) => {
            live.step_aside();
            None
        }
        None => None,
    };
    above(stdout, line)?;
    stdout.flush()
}

/// Writes lines in the place of the live one, which another tool may have drawn.
fn above(stream: &mut (impl Write + IsTerminal), lines: &str) -> std::io::Result<()> {
    let erase = if can_draw(stream) { ERASE } else { "" };
    stream.write_all(format!("{erase}{lines}").as_bytes())
}

impl Live {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, text: &str) {
        let _ = (&self.terminal).write_all(text.as_bytes());
    }

    /// Takes our line off the screen, and leaves the terminal to others.
    fn clear(&self, state: &mut State) {
        // Without the lock, somebody else's line is there by now, or none.
        if std::mem::take(&mut state.drawn) && (state.turn.is_some() || self.terminal.try_lock().is_ok()) {
            self.write(ERASE);
            let _ = self.terminal.unlock();
        }
        state.turn = None;
    }

    /// Takes our line off the screen for a moment: whoever reads the record may print at once, as jq does, and would go on in it.
    fn step_aside(&self) {
        let mut state = self.lock();
        if state.drawn {
            self.clear(&mut state);
            state.rest = Some(Instant::now() + REST);
        }
    }

    /// True if the terminal is ours for now.
    fn is_our_turn(&self, state: &mut State) -> bool {
        match (state.turn, state.rest) {
            (Some(since), _) if since.elapsed() < TURN => true,
            (Some(_), _) => {
                // The line stays: whoever is next draws over it.
                let _ = self.terminal.unlock();
                state.turn = None;
                state.rest = Some(Instant::now() + REST);
                false
            }
            (None, Some(end)) if Instant::now() < end => false,
            (None, _) => {
                let got = self.is_in_front() && self.terminal.try_lock().is_ok();
                state.turn = got.then(Instant::now);
                got
            }
        }
    }

    /// False for a job in the background, whose line would run into what the user types.
    fn is_in_front(&self) -> bool {
        rustix::termios::tcgetpgrp(&self.terminal).map_or(true, |group| group == rustix::process::getpgrp())
    }
}

fn draw_for_ever() {
    let Some(live) = live() else { return };
    let mut state = live.lock();
    loop {
        // The oldest step is the one that the reader waits for.
        match state.steps.iter().min_by_key(|item| item.began).cloned() {
            None => state = live.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(item) => {
                if item.began.elapsed() > QUICK && live.is_our_turn(&mut state) {
                    // A terminal that does not know its own width says 0.
                    let width = rustix::termios::tcgetwinsize(&live.terminal).map_or(0, |size| size.ws_col.into());
                    let line = format!(
                        "{}: {}{}{}",
                        live.tool,
                        log::subject(&item.machine),
                        describe(&item),
                        machines(&state)
                    );
                    live.write(&format!("{ERASE}{}", cut(&line, if width == 0 { 80 } else { width })));
                    state.drawn = true;
                }
                state = live.changed.wait_timeout(state, REDRAW).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
}

/// What is being done, and how far it is.
pub(crate) fn describe(item: &Item) -> String {
    let (done, total) = (item.done.load(Ordering::Relaxed), item.total.load(Ordering::Relaxed));
    let elapsed = item.began.elapsed().as_secs_f64();
    let mut text = item.what.clone();
    if total > 0 {
        let rate = done as f64 / elapsed;
        text += &format!(" {} of {}, {}/s", size(done), size(total), size(rate as u64));
        if rate > 0.0 {
            text += &format!(", {:.0} s left", total.saturating_sub(done) as f64 / rate);
        }
    } else {
        text += &format!(", {elapsed:.0} s");
    }
    text
}

/// The same as numbers.
pub(crate) fn numbers(item: &Item) -> Value {
    let (done, total) = (item.done.load(Ordering::Relaxed), item.total.load(Ordering::Relaxed));
    let elapsed = item.began.elapsed();
    let seconds = elapsed.as_millis() as f64 / 1000.0;
    if total == 0 {
        return json!({ "seconds": seconds });
    }
    let rate = done as f64 / elapsed.as_secs_f64();
    let left = (rate > 0.0).then(|| (total.saturating_sub(done) as f64 / rate).round() as u64);
    json!({ "seconds": seconds, "bytes": total, "sentBytes": done, "rate": rate as u64, "secondsLeft": left })
}

fn machines(state: &State) -> String {
    if state.begun < 2 {
        return String::new();
    }
    format!(" ({} of {} machines done)", state.ended, state.begun)
}

/// Bytes for people, in the binary units that Nix prints.
pub fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// The line cut to three columns less than the terminal has: it never wraps, nor does the `^C` that is typed behind it.
fn cut(line: &str, width: usize) -> String {
    let room = width.saturating_sub(3);
    if line.chars().count() <= room {
        return line.into();
    }
    line.chars().take(room.saturating_sub(1)).chain(['…']).collect()
}

/// Takes our line off the screen, for good: the tool ends.
pub(crate) fn end() {
    if let Some(live) = live() {
        let mut state = live.lock();
        state.steps.clear();
        live.clear(&mut state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_never_wraps() {
        assert_eq!(cut("abcdef", 9), "abcdef");
        assert_eq!(cut("abcdef", 8), "abcd…");
        assert_eq!(cut("äöüäöü", 6), "äö…");
        assert_eq!(cut("abc", 0), "…");
    }

    #[test]
    fn bytes_have_the_units_of_nix() {
        for (bytes, text) in [(0, "0 B"), (999, "999 B"), (1000, "1.0 KiB"), (1 << 20, "1.0 MiB"), (5 << 30, "5.0 GiB")]
        {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn a_step_tells_bytes_rate_and_machines() {
        let item = Item {
            machine: "web-1".into(),
            what: "sending".into(),
            began: Instant::now() - Duration::from_secs(10),
            total: AtomicU64::new(20 << 20),
            done: AtomicU64::new(10 << 20),
        };
        let state = State { begun: 3, ended: 1, ..State::default() };
        let mut told = numbers(&item);
        assert!(told["seconds"].take().as_f64().is_some_and(|seconds| seconds >= 10.0));
        let (bytes, rate) = (20 << 20, told["rate"].take().as_u64());
        assert!(rate.is_some_and(|rate| rate > 1_000_000 && rate <= 1 << 20), "{rate:?}");
        let same = json!({ "seconds": null, "bytes": bytes, "sentBytes": 10 << 20, "rate": null, "secondsLeft": 10 });
        assert_eq!(told, same);
        item.done.store(0, Ordering::Relaxed);
        assert!(numbers(&item)["secondsLeft"].is_null(), "nobody knows");
        item.done.store(10 << 20, Ordering::Relaxed);
        let text = describe(&item) + &machines(&state);
        assert_eq!(text, "sending 10.0 MiB of 20.0 MiB, 1.0 MiB/s, 10 s left (1 of 3 machines done)");
    }
}
