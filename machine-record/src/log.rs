//! What people read: one plain line per event on stderr, each starting with `tool: machine:`.
//!
//! Several tools of one pipe share a terminal, so a line is written whole, in one call.

use crate::{Failure, LogFormat, StreamArgs, failure::without_number, live, signals, silence};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

struct Settings {
    tool: String,
    quiet: bool,
    verbose: bool,
    format: LogFormat,
}

static SETTINGS: OnceLock<Settings> = OnceLock::new();

pub(crate) fn set_up(tool: &str, args: &StreamArgs) {
    let _ =
        SETTINGS.set(Settings { tool: tool.into(), quiet: args.quiet, verbose: args.verbose, format: args.log_format });
    let drawn = !args.quiet && args.log_format == LogFormat::Text && live::set_up(tool);
    if !args.quiet && !drawn {
        silence::set_up();
    }
}

pub use live::{Step, size, step};
pub use signals::{EndsToo, GoesOn, ends_too, goes_on};

/// Whether `-v` was given: every command and API call is to be shown.
pub fn is_verbose() -> bool {
    SETTINGS.get().is_some_and(|settings| settings.verbose)
}

/// Whether `-q` was given: errors alone are to be shown.
pub fn is_quiet() -> bool {
    SETTINGS.get().is_some_and(|settings| settings.quiet)
}

fn format() -> LogFormat {
    SETTINGS.get().map_or(LogFormat::Text, |settings| settings.format)
}

/// Says what happens to a machine; hidden by `-q`.
pub fn event(machine: &str, text: &str) {
    figures(machine, text, Value::Null);
}

/// The same with the numbers of the text as an object, for those who read JSON.
pub fn figures(machine: &str, text: &str, numbers: Value) {
    if !is_quiet() {
        write(machine, "info", text, None, numbers);
    }
}

/// How long a step took, for those who read JSON; people have seen it on the live line.
pub(crate) fn took(machine: &str, what: &str, numbers: Value) {
    if format() == LogFormat::Json {
        figures(machine, &format!("{what} took {} s", numbers["seconds"]), numbers);
    }
}

/// Shows a command or an API call; only with `-v`.
pub fn detail(machine: &str, text: &str) {
    if is_verbose() {
        write(machine, "debug", text, None, Value::Null);
    }
}

/// Says what the reader should look at, though the work goes on; hidden by `-q`.
pub fn warning(machine: &str, text: &str) {
    if !is_quiet() {
        write(machine, "warning", text, None, Value::Null);
    }
}

/// Says that a machine failed, and what to do. Never hidden.
pub fn failure(machine: &str, failure: &Failure) {
    write(machine, "error", &failure.message, failure.hint.as_deref(), json!({ "kind": failure.kind }));
}

/// Shows a line that belongs to an error, such as of its trace. Never hidden.
pub fn trace(machine: &str, text: &str) {
    write(machine, "info", text, None, Value::Null);
}

/// Says what is wrong with the whole run, not with one machine. Never hidden.
pub fn error(text: &str) {
    write("", "error", text, None, Value::Null);
}

/// Says that the flags are wrong, in the words of clap.
pub(crate) fn usage(tool: &str, text: &str, format: LogFormat) {
    let text = &without_number(text);
    live::print(&match format {
        LogFormat::Json => object(tool, "", "error", text.trim_end(), None, Value::Null),
        LogFormat::Text => format!("{tool}: {text}"),
    });
}

/// Says what goes on where the tool is ended. Never hidden.
pub(crate) fn interrupted(machine: &str, text: &str, hint: &str) {
    write(machine, "error", text, Some(hint), Value::Null);
}

/// Says what concerns the whole run; hidden by `-q`.
pub fn note(text: &str) {
    event("", text);
}

fn write(machine: &str, level: &str, text: &str, hint: Option<&str>, more: Value) {
    let tool = SETTINGS.get().map_or("nixpipe", |settings| &settings.tool);
    let text = &without_number(text);
    live::print(&match format() {
        LogFormat::Json => object(tool, machine, level, text, hint, more),
        LogFormat::Text => lines(tool, machine, level, text, hint.filter(|hint| is_new(hint))),
    });
}

fn object(tool: &str, machine: &str, level: &str, text: &str, hint: Option<&str>, more: Value) -> String {
    let machine = (!machine.is_empty()).then_some(machine);
    let mut object = Map::from_iter(
        [
            ("time", json!(now())),
            ("tool", json!(tool)),
            ("machine", json!(machine)),
            ("level", json!(level)),
            ("event", json!(text)),
        ]
        .map(|(name, value)| (name.to_string(), value)),
    );
    if let Some(hint) = hint {
        object.insert("hint".into(), hint.into());
    }
    if let Value::Object(more) = more {
        object.extend(more);
    }
    format!("{}\n", Value::Object(object))
}

fn lines(tool: &str, machine: &str, level: &str, text: &str, hint: Option<&str>) -> String {
    let subject = subject(machine);
    let mut word = if level == "warning" { "warning: " } else { "" };
    let mut out = String::new();
    for line in text.lines() {
        out += &format!("{tool}: {subject}{}{}\n", std::mem::take(&mut word), printable(line));
    }
    for line in hint.unwrap_or_default().lines() {
        out += &format!("{tool}: {subject}hint: {}\n", printable(line));
    }
    out
}

/// What a line begins with after the tool, if it is about a machine.
pub(crate) fn subject(machine: &str) -> String {
    if machine.is_empty() { String::new() } else { format!("{}: ", printable(machine)) }
}

/// Whether a hint is said for the first time: fifty machines that fail alike need it once.
fn is_new(hint: &str) -> bool {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(hint.into())
}

/// Control characters of somebody else's output would move the cursor; tabs may stay.
fn printable(line: &str) -> String {
    line.chars().map(|c| if c.is_control() && c != '\t' { '\u{FFFD}' } else { c }).collect()
}

/// `1 path`, `2 paths`.
pub fn count(number: usize, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

/// The time in UTC as RFC 3339, to the millisecond.
pub fn now() -> String {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (elapsed.as_secs() / 86_400, elapsed.as_secs() % 86_400);
    // Days since 1970 to a date: years of 365.2425 days, counted from March so that a leap
    // day is a year's last (the method is described in Calendrical Calculations, chapter 2).
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year_of_era + era * 400 + carry;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        elapsed.subsec_millis()
    )
}
