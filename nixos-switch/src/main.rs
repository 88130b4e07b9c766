//! nixos-switch: closure to running system, so that nobody is locked out.
//!
//! One session sets up the switch on the machine, which then goes on by itself (`job.sh`); a
//! second login confirms it. See nixos-switch(1) for what the machine does when nobody does.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

use anyhow::Result;
use clap::{Parser, ValueEnum};
use machine_record::{Failure, Kind, Record, StorePath, StreamArgs, Tool, log};
use machine_ssh::LoginArgs;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

mod answers;
mod deploy;
mod difference;
mod look;
mod plan;
mod report;
mod script;
mod secrets;

const TOOL: Tool = Tool { name: "nixos-switch", starts: false, names: false, takes_failed: false, jobs: 16 };

const HELP: &str = "\
Input: records with `closure` (from nix-push) and `ssh` (from ec2-up).
Output: each with `activation` added.

The new system is activated without touching the boot entry. Only after a new login has
succeeded, and the --health commands, does it become the one that boots. Otherwise the machine
goes back to the previous system by itself, at the latest by a reboot.

Examples:
  Deploy to all machines, and count on sshd:
    ec2-ls | keygen | nix-push configuration.nix | nixos-switch --health 'systemctl is-active sshd'

  One machine first, and then the rest:
    head -n 1 pushed.json | nixos-switch && tail -n +2 pushed.json | nixos-switch

  What would happen:
    nixos-switch --plan < pushed.json | jq .plan

  Back to the generation before:
    ec2-ls --name web-1 | keygen | nixos-switch --rollback";

/// Switch machines to the systems that were pushed to them
#[derive(Parser)]
#[command(version, after_long_help = HELP)]
pub struct Args {
    /// What to do with the system
    #[arg(long, value_enum, default_value_t = Action::Switch)]
    action: Action,

    /// Reboot into the new system: where it brings another kernel, initrd or PID 1, or always
    #[arg(long, value_enum, default_value_t = Reboot::Never)]
    reboot: Reboot,

    /// Reboot even where the machine could not undo it by itself
    #[arg(long, hide_short_help = true)]
    reboot_unprotected: bool,

    /// Start this specialisation of the system; its parent is the one that boots
    #[arg(long, value_name = "NAME", value_parser = file_name, hide_short_help = true)]
    specialisation: Option<String>,

    /// Command that must succeed on the machine first (repeatable)
    #[arg(long, value_name = "COMMAND")]
    health: Vec<String>,

    /// How long one run of a health command may take
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = machine_record::duration, hide_short_help = true)]
    health_timeout: Duration,

    /// Where to log in for the proof, if address or port change with the switch
    #[arg(long, value_name = "HOST:PORT", value_parser = host_and_port, hide_short_help = true)]
    confirm_via: Option<(String, u16)>,

    /// How long the new system may stay unconfirmed
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = machine_record::duration, hide_short_help = true)]
    confirm_timeout: Duration,

    /// How long the activation may take
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = machine_record::duration, hide_short_help = true)]
    activation_timeout: Duration,

    /// How long a system that was gone back to waits for a login, before the machine reboots
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = machine_record::duration, hide_short_help = true)]
    return_timeout: Duration,

    /// How long a reboot may take until the machine answers again
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = machine_record::duration, hide_short_help = true)]
    reboot_timeout: Duration,

    /// How long to wait for another deployment of the machine
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = machine_record::duration, hide_short_help = true)]
    lock_timeout: Duration,

    /// How long a connection may take, and how long a silence is borne
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = machine_record::duration, hide_short_help = true)]
    connect_timeout: Duration,

    /// Keep the new system if units of it fail
    #[arg(long, hide_short_help = true)]
    allow_failed_units: bool,

    /// Leave a system that fails to activate as it is, for you to look at
    #[arg(long, hide_short_help = true)]
    no_auto_rollback: bool,

    /// Refuse if another system runs than this one
    #[arg(long, value_name = "PATH", value_parser = store_path, hide_short_help = true)]
    expect_current: Option<StorePath>,

    /// Go back to the previous generation
    #[arg(long)]
    rollback: bool,

    /// Go back to this generation or store path
    #[arg(long, value_name = "GENERATION|PATH", requires = "rollback", value_parser = generation, hide_short_help = true)]
    to: Option<String>,

    /// Add `status`: what runs and what boots
    #[arg(long, conflicts_with_all = ["rollback", "plan", "list_generations"])]
    status: bool,

    /// Add `generations`: the generations of the system
    #[arg(long, conflicts_with_all = ["rollback", "plan"], hide_short_help = true)]
    list_generations: bool,

    /// Delete all but the newest generations, and what only they needed, once the system is committed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), hide_short_help = true)]
    keep_generations: Option<u32>,

    /// Begin no more machines once so many failed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_failures: Option<u32>,

    /// Folder of the machine's secrets; {name} is its name
    #[arg(long, value_name = "DIR")]
    secrets: Option<String>,

    /// Where the machine keeps its secrets: /run/keys, which is empty after a reboot, or a disk
    #[arg(long, value_name = "PATH", value_parser = secrets::folder, hide_short_help = true)]
    secrets_dir: Option<String>,

    #[command(flatten)]
    login: LoginArgs,

    #[command(flatten)]
    stream: StreamArgs,
}

/// What to do with a system; the words are switch-to-configuration's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// Run it now, and boot it from now on
    Switch,
    /// Boot it from now on
    Boot,
    /// Run it until the next reboot
    Test,
    /// Say what starting it would do
    DryActivate,
}

impl Action {
    fn word(self) -> &'static str {
        match self {
            Action::Switch => "switch",
            Action::Boot => "boot",
            Action::Test => "test",
            Action::DryActivate => "dry-activate",
        }
    }
}

/// When to reboot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Reboot {
    /// Refuse a system that cannot be started without it
    Never,
    /// If kernel, initrd, kernel modules, PID 1 or what nixpkgs calls inhibitors differ
    IfNeeded,
    /// Unless the system is the one that was booted
    Always,
}

impl Reboot {
    fn word(self) -> &'static str {
        match self {
            Reboot::Never => "never",
            Reboot::IfNeeded => "if-needed",
            Reboot::Always => "always",
        }
    }
}

impl AsRef<StreamArgs> for Args {
    fn as_ref(&self) -> &StreamArgs {
        &self.stream
    }
}

fn main() -> ExitCode {
    let args: Args = machine_record::parse();
    if let Err(failure) = args.login.prepare(TOOL.name) {
        log::failure("", &failure);
        return ExitCode::from(2);
    }
    let failures = AtomicU32::new(0);
    machine_record::for_each(TOOL, &args.stream, |record| {
        check_failures(args.max_failures, failures.load(Ordering::SeqCst))?;
        let result = step(&args, record);
        if result.is_err() {
            failures.fetch_add(1, Ordering::SeqCst);
        }
        result
    })
}

/// Ends a roll-out that goes wrong: machines in hand are finished, the others stay as they are.
fn check_failures(most: Option<u32>, failures: u32) -> Result<(), Failure> {
    match most {
        Some(most) if failures >= most => {
            let machines = if failures == 1 { "machine has" } else { "machines have" };
            let failure = Failure::new(Kind::NotStarted, format!("not begun: {failures} {machines} failed before"));
            Err(failure.hint("see what failed, then go on with: nixos-switch --retry"))
        }
        _ => Ok(()),
    }
}

fn step(args: &Args, record: &mut Record) -> Result<()> {
    if args.stream.plan && plan::is_unknown(args, record) {
        return plan::plan_unknown(record);
    }
    let looks = args.stream.plan || args.status || args.list_generations;
    let _step = log::step(&record.name(), if looks { "looking" } else { "switching" });
    let wish = deploy::Wish::of(args, record)?;
    if args.stream.plan {
        plan::plan(&wish, record)
    } else if args.status {
        look::status(&wish, record)
    } else if args.list_generations {
        look::generations(&wish, record)
    } else if wish.action == Action::DryActivate {
        plan::dry_activate(&wish, record)
    } else {
        let end = deploy::deploy(&wish);
        let (activation, result) = report::report(&wish, end);
        if let Some(activation) = activation {
            record.put(&activation)?;
        }
        result
    }
}

fn store_path(text: &str) -> Result<StorePath, String> {
    StorePath::new(text).map_err(|failure| failure.message)
}

fn generation(text: &str) -> Result<String, String> {
    if text.parse::<u32>().is_ok() || StorePath::new(text).is_ok() {
        Ok(text.into())
    } else {
        Err("neither the number of a generation nor a store path".into())
    }
}

fn file_name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._?=".contains(&byte);
    if !text.is_empty() && !text.starts_with('.') && text.bytes().all(plain) {
        Ok(text.into())
    } else {
        Err("not the name of a specialisation".into())
    }
}

fn host_and_port(text: &str) -> Result<(String, u16), String> {
    let (host, port) = text.rsplit_once(':').ok_or("a host and a port, such as 192.0.2.1:2222")?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().map_err(|_| format!("not a port: {port}"))?;
    if host.is_empty() { Err("no host before the port".into()) } else { Ok((host.into(), port)) }
}

/// Reads an action out of a record's `wish`.
fn action(word: &str) -> Result<Action, Failure> {
    Action::from_str(word, false).map_err(|_| {
        Failure::new(Kind::Input, format!("cannot use the record's `wish.action`: {word:?}"))
            .hint("it is switch, boot, test or dry-activate")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_host_may_be_an_ipv6_address() {
        assert_eq!(host_and_port("[::1]:22").unwrap(), ("::1".into(), 22));
        assert_eq!(host_and_port("web-1:2222").unwrap(), ("web-1".into(), 2222));
        for bad in ["web-1", ":22", "a:b", "a:70000"] {
            assert!(host_and_port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_specialisation_is_one_file_name() {
        assert!(file_name("on-call").is_ok());
        for bad in ["", "..", "a/b", "a b", "$(x)"] {
            assert!(file_name(bad).is_err(), "{bad}");
        }
    }
}
