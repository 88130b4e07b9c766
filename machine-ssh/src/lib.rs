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

/// Quotes a word for a POSIX shell.
pub fn quote(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./=:,+@%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_quoted_word_comes_out_of_a_shell_as_it_was() {
        for word in ["", "a", "a b", "it's", "$(x) `y` \"z\" \\ * ~ #", "new\nline", "é😀", "-n", "a=b"] {
            let script = format!("printf %s {}", super::quote(word));
            let output = std::process::Command::new("/bin/sh").arg("-c").arg(&script).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word, "{script}");
        }
    }
}
