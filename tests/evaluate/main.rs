//! nix-push as far as it evaluates and builds: sources, values, the cache, memory, and where it builds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod again;
mod build;
mod cache;
mod company;
mod flakes;
mod fleet;
mod machine;
mod sources;
mod stream;
