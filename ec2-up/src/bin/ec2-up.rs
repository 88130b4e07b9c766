//! ec2-up: make NixOS machines on EC2.

use clap::Parser;
use ec2_up::up::UpArgs;
use machine_record::StreamArgs;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Input: records of machines with `ami` (from nixos-ami) and `keyPair` (from keygen).
Output: each with `instance` and `ssh` added, as soon as ssh answers with a proven host key.
A machine is found by its tags, nixpipe:name and nixpipe:deployment: run again, it changes nothing.

Examples:
  The machine of the tutorial:
    nixos-ami -n --release 20.09 --region eu-central-1 | keygen --type rsa | ec2-up

  Say what would be done, and do nothing:
    nixos-ami -n --release 25.11 --name web-1 | keygen | ec2-up --open 80,443 --plan";

/// Make NixOS machines on EC2, or find them
#[derive(Parser)]
#[command(name = "ec2-up", version, after_long_help = EXAMPLES)]
struct Args {
    #[command(flatten)]
    up: UpArgs,
}

impl AsRef<StreamArgs> for Args {
    fn as_ref(&self) -> &StreamArgs {
        &self.up.stream
    }
}

fn main() -> ExitCode {
    let args: Args = machine_record::parse();
    ec2_up::up::run(args.up)
}
