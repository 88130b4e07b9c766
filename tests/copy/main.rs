//! The copy of nix-push: any closure arrives whole, whatever happens on the way, on real machines
//! with real Nix.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod delta;
mod lanes;
mod machine;
mod many;
mod odd;
mod relay;
mod torn;
mod turns;
mod users;
mod versions;
