//! nix-push: from a NixOS configuration to its closure on the machine.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

use anyhow::Result;
use build::{Builds, Config};
use cache::Cache;
use clap::{Parser, ValueEnum};
use closure::Closures;
use evaluate::Settings;
use evaluators::Evaluators;
use local::Store;
use lock::Locks;
use machine_record::{Closure, Failure, Kind, Record, Section, StreamArgs, Tool, log};
use machine_ssh::LoginArgs;
use plan::Plans;
use share::Shared;
use sign::Signer;
use source::Source;
use spool::Spool;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Once;
use std::time::Duration;
use via::Via;

mod about;
mod build;
mod cache;
mod closure;
mod daemon;
mod deliver;
mod delta;
mod digests;
mod evaluate;
mod evaluator;
mod evaluators;
mod explain;
mod expression;
mod facts;
mod flake_files;
mod groups;
mod hash;
mod inputs;
#[cfg(test)]
mod inputs_tests;
mod intake;
mod lanes;
mod leaks;
mod local;
mod lock;
mod memory;
mod nar;
mod nix;
mod nix_files;
mod once;
mod pack;
mod pairs;
mod places;
mod plan;
mod push;
mod read;
mod recorder;
mod remarks;
mod remote;
mod room;
mod send;
mod serve;
mod share;
mod sign;
mod source;
mod spool;
mod stamp;
mod tail;
mod tree;
mod used;
mod via;
mod wire;

const TOOL: Tool = Tool { name: "nix-push", starts: false, names: false, takes_failed: false, jobs: 8 };

const EXAMPLES: &str = "\
Input: machine records with `ssh`, as ec2-up writes them. A record's own `configuration` wins over
the command line. The configuration finds the record as the module argument `machine`:
  { machine, ... }: { networking.hostName = machine.name; }
Output: each with `closure` added.

Examples:
  The usual pipe:
    ec2-up < machines.json | nix-push configuration.nix | nixos-switch

  nixosConfigurations.web of the flake here:
    nix-push --flake .#web < machines.json

  What would be sent of a system that is built already:
    nix-push --toplevel ./result --plan < machines.json";

/// Build a NixOS configuration and put its closure on the machine
///
/// Reads machine records, evaluates the configuration for each, builds the system, sends the
/// machine the store paths that it lacks, and keeps them there from being collected as garbage.
/// Writes each record with its `closure` added. Nothing is activated: nixos-switch does that.
#[derive(Parser)]
#[command(version, after_long_help = EXAMPLES)]
struct Args {
    /// NixOS configuration: a file, a folder with a default.nix, a flake reference, or a built system
    #[arg(group = "source")]
    configuration: Option<String>,

    /// Flake to take the configuration from [default NAME: the machine's name]
    #[arg(long, value_name = "REF#NAME", group = "source")]
    flake: Option<String>,

    /// NixOS configuration as a Nix expression
    #[arg(long, value_name = "NIX", group = "source", hide_short_help = true)]
    expr: Option<String>,

    /// File that evaluates to a NixOS system by itself, <nixpkgs> included
    #[arg(long, value_name = "FILE", group = "source", hide_short_help = true)]
    hermetic: Option<PathBuf>,

    /// System that is built already, or a link to one
    #[arg(long, value_name = "PATH", group = "source")]
    toplevel: Option<PathBuf>,

    /// Add to Nix's search path, such as nixpkgs=/path
    #[arg(short = 'I', long = "nix-path", value_name = "NAME=PATH")]
    nix_path: Vec<String>,

    /// Take <nixpkgs> from here
    #[arg(long, value_name = "PATH", conflicts_with = "flake", hide_short_help = true)]
    nixpkgs: Option<String>,

    /// Give the configuration another module argument, as a Nix expression
    #[arg(long, num_args = 2, value_names = ["NAME", "NIX"], hide_short_help = true)]
    arg: Vec<String>,

    /// Give the configuration another module argument, as text
    #[arg(long, num_args = 2, value_names = ["NAME", "TEXT"], hide_short_help = true)]
    argstr: Vec<String>,

    /// Set an option of nix.conf for evaluating and building
    #[arg(long, num_args = 2, value_names = ["NAME", "VALUE"], hide_short_help = true)]
    option: Vec<String>,

    /// Where to build: here, as this Nix is set up, or on the machine
    #[arg(long, value_enum, default_value_t = BuildOn::Auto)]
    build_on: BuildOn,

    /// Machines that build for this Nix, as in nix.conf; empty for none
    #[arg(long, value_name = "MACHINES", hide_short_help = true)]
    builders: Option<String>,

    /// Keep what is built here, by a link in this folder
    #[arg(long, value_name = "FOLDER")]
    keep_result: Option<PathBuf>,

    /// Memory for all evaluations together [default: half of what is free]
    #[arg(long, value_name = "SIZE", value_parser = memory::size, hide_short_help = true)]
    eval_memory: Option<u64>,

    /// Most evaluations at a time, never more than --jobs [default: the number of processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), hide_short_help = true)]
    eval_jobs: Option<u16>,

    /// Longest time for the evaluation of one machine, with what it builds and fetches [default: none]
    #[arg(long, value_name = "TIME", value_parser = machine_record::duration, hide_short_help = true)]
    eval_timeout: Option<Duration>,

    /// Longest time for the build of one system [default: none]
    #[arg(long, value_name = "TIME", value_parser = machine_record::duration, hide_short_help = true)]
    build_timeout: Option<Duration>,

    /// Evaluate even if nothing has changed since the last time
    #[arg(long, hide_short_help = true)]
    no_eval_cache: bool,

    /// Let the machine fetch what it can from its own caches first
    #[arg(long, hide_short_help = true)]
    substitute_on_destination: bool,

    /// Write to this binary cache once, and let the machines fetch from there what they can
    #[arg(long, value_name = "URL", hide_short_help = true)]
    via: Option<String>,

    /// Sign what is sent with this secret key, for users whom the machine does not trust
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    sign_key: Option<PathBuf>,

    /// How to compress what is sent
    #[arg(long, value_enum, default_value_t = Compress::Auto, hide_short_help = true)]
    compress: Compress,

    /// Send only what changed where the machine has an older version
    #[arg(long, value_enum, default_value_t = Delta::Auto, hide_short_help = true)]
    delta: Delta,

    /// Longest wait for the machine: to connect, and for a sign of life later
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = machine_record::duration, hide_short_help = true)]
    timeout: Duration,

    #[command(flatten)]
    login: LoginArgs,

    #[command(flatten)]
    stream: StreamArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BuildOn {
    /// Here, unless this Nix cannot build the system
    Auto,
    Here,
    Machine,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Compress {
    /// The best that the machine knows
    Auto,
    Zstd,
    Gzip,
    None,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Delta {
    /// Where the machine can make use of it, and it pays
    Auto,
    Off,
}

impl AsRef<StreamArgs> for Args {
    fn as_ref(&self) -> &StreamArgs {
        &self.stream
    }
}

fn main() -> ExitCode {
    let args: Args = machine_record::parse();
    if let Err(failure) = args.check().and_then(|()| args.login.prepare(TOOL.name)) {
        log::failure("", &failure);
        return ExitCode::from(2);
    }
    let settings = args.settings();
    let begin = Once::new();
    machine_record::for_each(TOOL, &args.stream, |record| {
        // The system of an earlier run is not what this one is to come to. A null keeps its place.
        if record.text(Closure::NAME).is_some() {
            record.set(Closure::NAME, &None::<Closure>)?;
        }
        let result = args.source(record).and_then(|source| {
            begin.call_once(|| settings.store.begin());
            match args.stream.plan {
                true => plan::plan(&args, &settings, &source, record),
                false => push::push(&args, &settings, &source, record),
            }
        });
        if record.text(Closure::NAME).is_none() {
            record.remove(Closure::NAME);
        }
        result
    })
}

impl Args {
    /// Refuses what no machine could be given.
    fn check(&self) -> Result<(), Failure> {
        if self.arg.chunks(2).chain(self.argstr.chunks(2)).any(|pair| pair[0] == "machine") {
            return Err(Failure::new(Kind::Input, "the argument `machine` is each machine's own record")
                .hint("write into the record what the configuration is to find there"));
        }
        Ok(())
    }

    fn settings(&self) -> Settings {
        let expressions = self.arg.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone()));
        let texts = self.argstr.chunks(2).map(|pair| (pair[0].clone(), facts::nix_string(&pair[1])));
        Settings {
            // Nix takes the first that it finds.
            nix_path: self.nixpkgs.iter().map(|path| format!("nixpkgs={path}")).chain(self.nix_path.clone()).collect(),
            arguments: expressions.chain(texts).collect(),
            options: self
                .option
                .chunks(2)
                .flat_map(|pair| ["--option", &pair[0], &pair[1]].map(String::from))
                .collect(),
            builders: self.builders.clone(),
            eval_timeout: self.eval_timeout,
            build_timeout: self.build_timeout,
            evaluators: Evaluators::new(self.eval_memory, self.eval_jobs.map(usize::from)),
            cache: Cache::new(!self.no_eval_cache),
            locks: Locks::default(),
            shared: Shared::default(),
            builds: Builds::default(),
            config: Config::default(),
            plans: Plans::new(self.stream.plan),
            store: Store::default(),
            closures: Closures::default(),
            spool: Spool::new(),
            signer: self.sign_key.as_deref().map(|file| Signer::read(file).map_err(|error| Failure::of(&error))),
            via: self.via.clone().map(Via::new),
        }
    }

    /// The record's own configuration, else the command line's.
    fn source(&self, record: &Record) -> Result<Source> {
        if let Some(source) = Source::of(record)? {
            return Ok(source);
        }
        match (&self.configuration, &self.flake, &self.expr, &self.hermetic, &self.toplevel) {
            (Some(text), ..) => Source::guess(text),
            (_, Some(text), ..) => Source::flake(text),
            (_, _, Some(text), ..) => Ok(Source::Inline(text.clone())),
            (_, _, _, Some(file), _) => Source::hermetic(file),
            (_, _, _, _, Some(path)) => Source::toplevel(path),
            _ => Err(Failure::new(Kind::Input, "no configuration")
                .hint("name one, as in: nix-push configuration.nix; or write `configuration` into the record")
                .into()),
        }
    }
}
