//! EC2 without a state file.
//!
//! Most tests have a cloud of their own, on a port of their own, whose instances have states only.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod failed;
mod faults;
mod host_keys;
mod https;
mod images;
mod leftovers;
mod life;
mod network;
mod pages;
mod policy;
mod quotas;
mod refusals;
mod region;
mod scale;
mod started;
