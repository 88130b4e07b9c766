//! The flags that all tools share.

use clap::{Args, Command, CommandFactory, Parser, ValueEnum};
use clap_complete::Shell;
use std::io::{ErrorKind, Write};
use std::time::Duration;

/// `-h` fits a screen of 24 lines: it names the flags that all tools share, `--help` explains them.
const SHARED: &str = "\
Options of every tool, explained by --help:
  -n  --name  -j  --retry  --plan  -q  -v  --log-format  --completions";

/// Flags of every tool that reads or writes records.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Options of every tool")]
pub struct StreamArgs {
    /// Read no records; start from the flags with one, where the tool can
    #[arg(short = 'n', long, hide_short_help = true)]
    pub null_input: bool,

    /// Name of the machine, for a record that has none; ec2-ls and ec2-down look for it
    #[arg(long, value_name = "NAME", value_parser = name, hide_short_help = true)]
    pub name: Option<String>,

    /// How many machines to work on side by side
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), hide_short_help = true)]
    pub jobs: Option<u16>,

    /// Try machines again that failed here
    #[arg(long, hide_short_help = true)]
    pub retry: bool,

    /// Change nothing; say what would be done
    #[arg(long, hide_short_help = true)]
    pub plan: bool,

    /// Print errors only
    #[arg(short, long, conflicts_with = "verbose", hide_short_help = true)]
    pub quiet: bool,

    /// Print every command, API call and login
    #[arg(short, long, hide_short_help = true)]
    pub verbose: bool,

    /// How to write what happens, on stderr
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text, hide_short_help = true)]
    pub log_format: LogFormat,

    /// Print the completions for a shell and exit
    #[arg(long, value_name = "SHELL", exclusive = true, hide_short_help = true)]
    pub completions: Option<Shell>,
}

/// How events are written on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One plain line an event
    Text,
    /// One JSON object a line
    Json,
}

fn name(text: &str) -> Result<String, String> {
    crate::check_name(text).map(|()| text.to_string()).map_err(|failure| failure.hint.unwrap_or(failure.message))
}

/// Reads a length of time from a flag: `90s`, `10m`, `1h`, or a bare number of seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 0.001),
        None => match text.as_bytes().last() {
            Some(b's') => (&text[..text.len() - 1], 1.0),
            Some(b'm') => (&text[..text.len() - 1], 60.0),
            Some(b'h') => (&text[..text.len() - 1], 3600.0),
            _ => (text, 1.0),
        },
    };
    // A year is more than anybody waits, and keeps clear of the clock's end.
    match number.parse::<f64>() {
        Ok(number) if number > 0.0 && number * unit <= 31_536_000.0 => Ok(Duration::from_secs_f64(number * unit)),
        _ => Err("a length of time is a number and a unit, such as 90s, 10m or 1h".into()),
    }
}

/// Reads the command line, and sets up stderr as it says.
///
/// Ends the program for `--help`, `--version` and `--completions` (status 0; 1 where these cannot be written) and for wrong
/// usage (status 2).
pub fn parse<A: Parser + CommandFactory + AsRef<StreamArgs>>() -> A {
    let mut command = A::command().after_help(SHARED);
    let tool = command.get_name().to_string();
    let matches = command.try_get_matches_from_mut(std::env::args_os());
    let args = matches.and_then(|matches| A::from_arg_matches(&matches)).unwrap_or_else(|error| stop(&tool, &error));
    if let Some(shell) = args.as_ref().completions {
        complete(shell, &mut command, &tool);
    }
    crate::log::set_up(&tool, args.as_ref());
    args
}

/// Prints the completions for a shell.
fn complete(shell: Shell, command: &mut Command, tool: &str) -> ! {
    // Not to stdout itself: where that takes no more, the generator stops as at a bug.
    let mut completions = Vec::new();
    clap_complete::generate(shell, command, tool, &mut completions);
    let mut stdout = std::io::stdout();
    let written = stdout.write_all(&completions).and_then(|()| stdout.flush());
    // Somebody who wants no more knows that.
    if let Err(error) = written.as_ref()
        && error.kind() != ErrorKind::BrokenPipe
    {
        crate::log::usage(tool, &format!("cannot write: {error}\n"), LogFormat::Text);
    }
    std::process::exit(written.is_err().into())
}

/// Prints help, or what is wrong with the flags: with the tool's name in front, as there are several in a pipe.
fn stop(tool: &str, error: &clap::Error) -> ! {
    if error.use_stderr() {
        let text = error.render().to_string();
        let words: Vec<_> = std::env::args_os().collect();
        let json = words.join("=".as_ref()).to_string_lossy().contains("--log-format=json");
        let format = if json { LogFormat::Json } else { LogFormat::Text };
        crate::log::usage(tool, &plain(tool, text.strip_prefix("error: ").unwrap_or(&text)), format);
        std::process::exit(error.exit_code());
    }
    error.exit()
}

/// The words of clap and of Rust's own parsers, for people.
fn plain(tool: &str, text: &str) -> String {
    let mut text = text.replace("try '--help'", &format!("try '{tool} --help'"));
    for (theirs, ours) in [
        ("invalid digit found in string", "it is a whole number, without a unit"),
        ("cannot parse integer from empty string", "it is a whole number, without a unit"),
        ("number too large to fit in target type", "it is too large"),
    ] {
        text = text.replace(theirs, ours);
    }
    match text.split_once(" is not in ") {
        Some((value, range)) => format!("{value} is not in {}", range.replacen("..=", " to ", 1)),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::{duration, plain};
    use std::time::Duration;

    #[test]
    fn a_wrong_number_is_told_without_rusts_words() {
        let told = |cause: &str| plain("t", &format!("invalid value '0' for '--jobs <N>': {cause}"));
        assert_eq!(told("0 is not in 1..=65535"), "invalid value '0' for '--jobs <N>': 0 is not in 1 to 65535");
        for (number, theirs, ours) in [
            ("5m", "invalid digit found in string", "it is a whole number, without a unit"),
            ("", "cannot parse integer from empty string", "it is a whole number, without a unit"),
            ("65536", "number too large to fit in target type", "it is too large"),
        ] {
            assert_eq!(number.parse::<u16>().unwrap_err().to_string(), theirs);
            assert_eq!(told(theirs), format!("invalid value '0' for '--jobs <N>': {ours}"));
        }
    }

    #[test]
    fn lengths_of_time_have_a_unit_or_are_seconds() {
        for (text, milliseconds) in
            [("90s", 90_000), ("10m", 600_000), ("1h", 3_600_000), ("2", 2_000), ("0.5s", 500), ("20ms", 20)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "0", "-1s", "1d", "nan", "inf", "1e9h", "5 s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
