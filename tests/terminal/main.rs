//! What a person sees: the tools on pseudo-terminals.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod lines;
mod prompt;
mod screen;
