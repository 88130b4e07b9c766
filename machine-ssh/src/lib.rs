//! A session with a machine: its host key pinned, commands run, bytes streamed.
//!
//! Two clients make the connection, behind the same [`Session`]: libssh2, and OpenSSH's own with
//! the user's configuration. The only crate that names `ssh2`. A host key is always checked, before anything is sent
//! that the machine could use: there is no way to switch that off.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod address;
mod args;
mod channel;
mod complaint;
mod elevate;
mod host_key;
mod jump;
mod libssh2;
mod openssh;
mod session;
mod ssh_config;
mod stderr;

pub use address::{Address, Client};
pub use args::LoginArgs;
pub use channel::{Channel, Output};
pub use elevate::{Elevation, Password};
pub use host_key::{fingerprint, host_key};
pub use jump::Jump;
pub use session::{Beginning, Session};

/// What to do about a private key that cannot be read.
const NO_KEY: &str =
    "the record says where it is, in keyPair.privateKeyFile; if it has moved: ec2-ls | keygen --file FILE | …";

/// Quotes a word for a POSIX shell and for fish, once or several times.
///
/// Between single quotes fish takes `\\` for one backslash and `\'` for a quote, and a POSIX shell takes them as they are:
/// neither ever stands there, so a quote is written as `"'"`, and a backslash before one or before another outside, too.
pub fn quote(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./=:,+@%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.into();
    }
    let (mut quoted, mut rest) = (String::from("'"), word.chars().peekable());
    while let Some(char) = rest.next() {
        match char {
            '\'' => quoted.push_str("'\"'\"'"),
            '\\' if matches!(rest.peek(), Some('\\' | '\'') | None) => quoted.push_str("'\\\\'"),
            other => quoted.push(other),
        }
    }
    quoted + "'"
}

#[cfg(test)]
mod tests {
    use super::quote;
    use std::process::Command;

    #[test]
    fn a_quoted_word_comes_out_of_a_shell_as_it_was_however_often_it_was_quoted() {
        let words = ["", "a", "a b", "it's", "''", "$(x) `y` \"z\" \\ * ~ #", "new\nline", "é😀", "-n", "a=b"];
        let backslashes = ["\\", "\\\\", "a\\'b", "'\\", "a\\\\'\\'", "printf '\\n\\n' >&8", "'\\''"];
        for word in words.into_iter().chain(backslashes) {
            for shell in ["sh", "fish"] {
                let mut script = format!("printf %s {}", quote(word));
                for times in 1..=4 {
                    let output = Command::new(shell).arg("-c").arg(&script).output().expect("fish (install fish)");
                    let said = String::from_utf8_lossy(&output.stderr);
                    let told = String::from_utf8_lossy(&output.stdout);
                    assert_eq!(told, word, "{shell}, quoted {times} times: {script} {said}");
                    script = format!("exec /bin/sh -c {}", quote(&script));
                }
            }
        }
    }
}
