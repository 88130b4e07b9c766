//! What a machine record is, and how a tool passes it on.
//!
//! One JSON object per machine, in a stream. On the way in: any white space
//! between objects, as `jq` accepts. On the way out: one line each, flushed at
//! once. A *section* is the work of one tool: absent until that tool has run,
//! complete from then on (`null`, not missing). Members that nobody knows pass
//! through untouched and in place, byte for byte but for white space.
//!
//! A machine that fails is written out too, with the member `error` added, and
//! every later tool hands such a record on as it came. So the end of a pipe
//! lists every machine that entered it. Only a tool that says so
//! ([`Tool::takes_failed`]) works on them: ec2-down, which removes a machine
//! whatever has failed on it.
//!
//! | exit | meaning |
//! |---|---|
//! | 0 | done for every machine, also for none |
//! | 1 | at least one record left with `error`, whoever made it; or stdout was closed |
//! | 2 | wrong usage, or stdin is not a stream of records |
//!
//! Without the feature `cli` the crate only knows the record; with it come the
//! flags that all tools share ([`StreamArgs`]), the stream from stdin to stdout
//! ([`for_each`], [`run`]) and the lines on stderr ([`log`]). It has no network.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod failure;
mod json;
mod plan;
mod record;
mod sections;
mod store_path;

pub use failure::{
    Failure, Kind, UNTRUSTED, WithHint, WithKind, aws_profile, innermost, is_unknown_host, is_untrusted, no_credentials,
};
pub use json::{Malformed, Records};
pub use plan::PlanEntry;
pub use record::{Record, VERSION, check_name};
pub use sections::{
    Activation, Ami, Closure, Generation, Instance, KeyPair, Phases, Secret, Section, Ssh, Status, Wish,
};
pub use store_path::StorePath;

#[cfg(feature = "cli")]
mod args;
#[cfg(feature = "cli")]
mod live;
#[cfg(feature = "cli")]
pub mod log;
#[cfg(feature = "cli")]
mod signals;
#[cfg(feature = "cli")]
mod silence;
#[cfg(feature = "cli")]
mod stream;

#[cfg(feature = "cli")]
pub use args::{LogFormat, StreamArgs, duration, parse};
#[cfg(feature = "cli")]
pub use stream::{Job, Jobs, Tool, for_each, has_input, run};

#[cfg(test)]
mod schema;
