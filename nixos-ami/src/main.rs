//! nixos-ami: find the image of a NixOS release.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod catalogue;
mod ec2;
mod find;
mod images;
mod table;

use clap::{Parser, ValueEnum};
use machine_record::{StreamArgs, Tool, duration};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

const TOOL: Tool = Tool { name: "nixos-ami", starts: true, names: false, takes_failed: false, jobs: 16 };

const EXAMPLES: &str = "\
Input: records of machines; or -n, and one is made from the flags.
Output: each with `ami` added, and `region`, `system` and `release` where they came from flags.

Examples:
  The image of the tutorial, without network or credentials:
    nixos-ami -n --release 20.09 --region eu-central-1 | jq -r .ami.id

  The newest image of a current release, from EC2:
    nixos-ami -n --release 25.11 --region eu-central-1 --name web-1 | keygen | ec2-up

  All that could have been chosen:
    nixos-ami -n --release 20.09 --region eu-central-1 --list";

/// Find the EC2 image of a NixOS release
#[derive(Parser)]
#[command(version, after_long_help = EXAMPLES)]
struct Args {
    /// NixOS release, such as 25.11, or `latest`
    #[arg(long, value_name = "RELEASE")]
    release: Option<String>,

    /// EC2 region; else AWS_REGION, AWS_DEFAULT_REGION or the profile's
    #[arg(long, value_name = "REGION")]
    region: Option<String>,

    /// x86_64-linux (the default) or aarch64-linux
    #[arg(long, value_name = "SYSTEM")]
    system: Option<String>,

    /// Virtualisation and root device of the image
    #[arg(long = "type", value_name = "TYPE", default_value = "hvm-ebs", hide_short_help = true)]
    kind: String,

    /// Where to look: default is the table if it has the release, else EC2
    #[arg(long, value_name = "SOURCE", value_enum)]
    source: Option<Source>,

    /// Look in a saved images.json of the NixOS/amis site
    #[arg(long, value_name = "FILE")]
    catalogue: Option<PathBuf>,

    /// Account that publishes the images, not for the table (repeat, or commas); default is NixOS's
    #[arg(long, value_name = "ID", value_delimiter = ',', hide_short_help = true)]
    owner: Vec<String>,

    /// Write a record for every image that fits, the one to choose first
    #[arg(long)]
    list: bool,

    /// Ask EC2 whether the image still exists
    #[arg(long)]
    verify: bool,

    /// Longest wait for EC2
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = duration, hide_short_help = true)]
    timeout: Duration,

    #[command(flatten)]
    stream: StreamArgs,
}

/// Where images are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Source {
    /// The ids of NixOS 14.04 to 23.11, compiled in
    Table,
    /// A saved catalogue (--catalogue)
    Catalogue,
    /// EC2's DescribeImages
    Ec2,
}

impl AsRef<StreamArgs> for Args {
    fn as_ref(&self) -> &StreamArgs {
        &self.stream
    }
}

fn main() -> ExitCode {
    let mut args: Args = machine_record::parse();
    // A catalogue is named to be used.
    if args.catalogue.is_some() && args.source.is_none() {
        args.source = Some(Source::Catalogue);
    }
    if args.catalogue.is_some() != (args.source == Some(Source::Catalogue)) {
        machine_record::log::error("--source catalogue and --catalogue FILE go together");
        return ExitCode::from(2);
    }
    if !args.owner.is_empty() {
        if args.source == Some(Source::Table) {
            machine_record::log::error(
                "the table has the images of NixOS only: --owner is for --source ec2 and catalogue",
            );
            return ExitCode::from(2);
        }
        args.source = args.source.or(Some(Source::Ec2));
    }
    let stream = args.stream.clone();
    machine_record::run(TOOL, &stream, |jobs| find::all(args, jobs))
}
