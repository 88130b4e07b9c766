//! The failure suite of nixos-switch: whatever happens, the machine ends in one of two states, new
//! and confirmed or old and running. What is asserted is the machine's state, by looking at it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod broken;
mod computer;
mod fleet;
mod generations;
mod guards;
mod interrupted;
mod machine;
mod plan;
mod reboot;
mod secrets;
mod trips;
mod uefi;
mod window;
