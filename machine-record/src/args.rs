//! The flags that all tools share.

use clap::{Args, CommandFactory, Parser, ValueEnum};
use clap_complete::Shell;

/// Flags of every tool that reads or writes records.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Options of every tool")]
pub struct StreamArgs {
    /// Read no records; start from the flags with one
    #[arg(short = 'n', long)]
    pub null_input: bool,

    /// Name of the machine, for a record that has none
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub name: Option<String>,

    /// How many machines to work on side by side
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,

    /// Try machines again that failed here
    #[arg(long)]
    pub retry: bool,

    /// Change nothing; say what would be done
    #[arg(long)]
    pub plan: bool,

    /// Print errors only
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Print every command and API call
    #[arg(short, long)]
    pub verbose: bool,

    /// How to write what happens, on stderr
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Print the completions for a shell and exit
    #[arg(long, value_name = "SHELL", exclusive = true)]
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
    crate::check_name(text).map(|()| text.to_string()).map_err(|failure| failure.message)
}

/// Reads the command line, and sets up stderr as it says.
///
/// Ends the program for `--help`, `--version` and `--completions` (status 0) and for wrong
/// usage (status 2).
pub fn parse<A: Parser + CommandFactory + AsRef<StreamArgs>>() -> A {
    let args = A::parse();
    let mut command = A::command();
    let tool = command.get_name().to_string();
    if let Some(shell) = args.as_ref().completions {
        clap_complete::generate(shell, &mut command, tool, &mut std::io::stdout());
        std::process::exit(0);
    }
    crate::log::set_up(&tool, args.as_ref());
    args
}
