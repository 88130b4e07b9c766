//! What ec2-up, ec2-down and ec2-ls share: the account is the state.
//!
//! There is no state file. A machine is found by its tags (`tags`), told apart from what is wished
//! (`compare`), made or changed (`up`), removed (`down`) or listed (`list`). All calls to EC2 go
//! through `aws`, which gives each a time limit and tries again what may be tried again.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod address;
mod adopt;
pub mod args;
mod aws;
mod batch;
mod call_error;
mod checks;
mod compare;
mod console;
mod credits;
mod doing;
pub mod down;
mod group;
mod group_users;
mod host_key;
mod host_key_file;
mod image;
mod instance;
mod instance_type;
mod key_pair;
mod launch;
mod leftovers;
pub mod list;
mod look;
mod mend;
mod plan;
mod quota;
mod region;
mod rule_changes;
mod rules;
mod stream;
mod subnet;
mod tags;
pub mod up;
mod user_data;
mod volume;
mod wish;
mod wish_args;
