//! ec2-ls: list the machines that ec2-up made.

use clap::Parser;
use ec2_up::list::ListArgs;
use machine_record::StreamArgs;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Input: none; stdin is not read, and -n, -j, --retry and --plan have no effect.
Output: a record for each machine of the deployment, with `instance`, `ssh` and `keyPair`.

Examples:
  Names and addresses:
    ec2-ls | jq -r '[.name, .instance.publicIp] | @tsv'

  Tomorrow's pipe begins with it (keygen says where the private key is):
    ec2-ls | keygen | nix-push configuration.nix | nixos-switch";

/// List the machines that ec2-up made, as records
#[derive(Parser)]
#[command(name = "ec2-ls", version, after_long_help = EXAMPLES)]
struct Args {
    #[command(flatten)]
    list: ListArgs,
}

impl AsRef<StreamArgs> for Args {
    fn as_ref(&self) -> &StreamArgs {
        &self.list.stream
    }
}

fn main() -> ExitCode {
    let args: Args = machine_record::parse();
    ec2_up::list::run(args.list)
}
