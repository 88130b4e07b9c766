//! The pages are true: help and man pages name the same options, what they show can be typed, and
//! what is installed is whole.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod completions;
mod examples;
mod help;
mod install;
mod pages;
mod transcripts;
mod words;

/// The tools, and where their pages are.
const TOOLS: [(&str, &str); 7] = [
    ("nixos-ami", "nixos-ami/nixos-ami.1"),
    ("keygen", "keygen/keygen.1"),
    ("ec2-up", "ec2-up/ec2-up.1"),
    ("ec2-down", "ec2-up/ec2-down.1"),
    ("ec2-ls", "ec2-up/ec2-ls.1"),
    ("nix-push", "nix-push/nix-push.1"),
    ("nixos-switch", "nixos-switch/nixos-switch.1"),
];
