//! Ctrl-C and its like: the screen is left whole, it is said what goes on without the tool, and the tool ends as it would have.

use crate::{live, log};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

/// What goes on without the tool: machine, text and hint.
static LEFT: Mutex<Vec<(String, String, String)>> = Mutex::new(Vec::new());
/// Programs that end with the tool, and by which signal.
static ENDING: Mutex<Vec<(Pid, Signal)>> = Mutex::new(Vec::new());
static WATCH: Once = Once::new();

/// Something on a machine that goes on by itself, until this is dropped.
pub struct GoesOn(String);

/// Has `text` and `hint` said if a signal ends the tool while a machine goes on by itself.
pub fn goes_on(machine: &str, text: &str, hint: &str) -> GoesOn {
    watch();
    left().push((machine.into(), text.into(), hint.into()));
    GoesOn(machine.into())
}

impl Drop for GoesOn {
    fn drop(&mut self) {
        left().retain(|(machine, ..)| *machine != self.0);
    }
}

/// A program that ends with the tool, until this is dropped.
pub struct EndsToo(Option<Pid>);

/// Has a program ended where a signal ends the tool: `at_once` one that does not hear signals while it is busy.
pub fn ends_too(program: u32, at_once: bool) -> EndsToo {
    watch();
    let program = i32::try_from(program).ok().and_then(Pid::from_raw);
    ending().extend(program.map(|program| (program, if at_once { Signal::KILL } else { Signal::TERM })));
    EndsToo(program)
}

impl Drop for EndsToo {
    fn drop(&mut self) {
        ending().retain(|(program, _)| Some(*program) != self.0);
    }
}

fn ending() -> MutexGuard<'static, Vec<(Pid, Signal)>> {
    ENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn left() -> MutexGuard<'static, Vec<(String, String, String)>> {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins to hear signals; those that the caller ignores, as nohup(1) does, stay ignored.
pub(crate) fn watch() {
    WATCH.call_once(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let heard = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| !is_ignored(&status, *signal));
        // Before what follows, which alone would take a signal and do nothing.
        let Ok(mut signals) = signal_hook::iterator::Signals::new(heard.clone()) else { return };
        // The second one ends the tool at once: nobody may read what is said at the first.
        let again = Arc::new(AtomicBool::new(false));
        for signal in heard {
            let _ = signal_hook::flag::register_conditional_default(signal, again.clone());
        }
        std::thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                again.store(true, Ordering::SeqCst);
                live::end();
                for (machine, text, hint) in left().iter() {
                    log::interrupted(machine, text, hint);
                }
                // Held to the end: whoever runs one of them is not to go on and say that it was ended.
                let ending = ending();
                for (program, signal) in ending.iter() {
                    let _ = kill_process(*program, *signal);
                }
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
        });
    });
}

/// Whether a process ignores a signal, by its `/proc/PID/status`: bit 0 of `SigIgn` is signal 1 (proc(5)).
fn is_ignored(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (signal - 1)) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_status() {
        // What `nohup grep SigIgn /proc/self/status` prints.
        let status = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000001\nSigCgt:\t0000000000000002\n";
        assert!(is_ignored(status, SIGHUP));
        assert!(!is_ignored(status, SIGINT));
        assert!(!is_ignored("", SIGHUP));
    }

    #[test]
    fn what_has_ended_is_not_left() {
        let (one, two) = (goes_on("one", "goes on", "look"), goes_on("two", "goes on", "look"));
        drop(one);
        assert!(left().iter().all(|(machine, ..)| machine == "two"));
        drop(two);
        assert!(left().is_empty());
    }
}
