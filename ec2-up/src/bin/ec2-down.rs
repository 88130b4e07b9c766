//! ec2-down: remove what ec2-up made.

use clap::Parser;
use ec2_up::down::DownArgs;
use machine_record::StreamArgs;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Input: records of machines, also of those that failed in another tool; or --name or --all.
Output: each without `instance`, `ssh` but for its `jump`, and what was deployed (`closure`,
`activation`, `status`, `generations`), when the machine is terminated and its security group and
key pair are gone. A key pair that other machines use stays. Run again, it has nothing to do.

Examples:
  One machine, by its name:
    ec2-down --name web-1

  All of a deployment, after a look:
    ec2-down -n --all --deployment staging --plan
    ec2-down -n --all --deployment staging

  Those of a pipe:
    ec2-ls | jq -c 'select(.name | startswith(\"test-\"))' | ec2-down";

/// Remove machines that ec2-up made, with their security groups and key pairs
#[derive(Parser)]
#[command(name = "ec2-down", version, after_long_help = EXAMPLES)]
struct Args {
    #[command(flatten)]
    down: DownArgs,
}

impl AsRef<StreamArgs> for Args {
    fn as_ref(&self) -> &StreamArgs {
        &self.down.stream
    }
}

fn main() -> ExitCode {
    let args: Args = machine_record::parse();
    ec2_up::down::run(args.down)
}
