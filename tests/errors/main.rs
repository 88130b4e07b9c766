//! Errors that no other test comes by: each is made to happen, and says what failed and what to do.
//!
//! `tests/unseen.py` tells what the tools can say and no test has heard.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../ec2/region.rs"]
#[allow(dead_code)]
mod region;

mod account;
mod keys;
mod logins;
mod machines;
mod nix;
mod systems;
mod words;

use tests::Folder;

/// Runs a command and expects these words on stderr, in one line each.
#[track_caller]
fn says(folder: &Folder, command: &str, input: &str, status: i32, words: &[&str]) {
    let ran = folder.sh(command, input);
    assert_eq!(ran.status, status, "{command}: {}{}", ran.stdout, ran.stderr);
    for word in words {
        assert!(ran.stderr.contains(word), "{command}: {word:?} is not in: {}", ran.stderr);
    }
    // Nor a number that only Rust adds to the system's words.
    for never in ["panicked", "(os error"] {
        assert!(!ran.stderr.contains(never), "{}", ran.stderr);
    }
}
