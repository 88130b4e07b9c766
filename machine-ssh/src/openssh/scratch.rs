//! The files of one connection: the pinned keys, the login's key, the socket.

use crate::{Address, quote};
use anyhow::{Context, Result};
use machine_record::{Kind, WithHint, WithKind};
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

/// Called by ssh with the fingerprint, name, type and base64 of the key that the machine shows
/// (`%f %H %t %K` of ssh_config, `KnownHostsCommand`), then the pinned fingerprints: says whether
/// it is one of them, and notes it down for the error. Before the key exchange they are `NONE`.
const PINS: &str = r#"
[ "$1" = NONE ] || echo "$1 $3" >"${0%/*}/shown"
shown=$1 line="$2 $3 $4"
shift 4
for pin; do
  [ "$pin" != "$shown" ] || echo "$line"
done
"#;

/// A folder that only this user can enter; it goes with the connection.
pub(super) struct Scratch {
    folder: PathBuf,
    /// What the keys are known by: no address, so that nothing is remembered for it
    name: String,
    fingerprints: Vec<String>,
    has_key: bool,
}

impl Scratch {
    pub(super) fn new(address: &Address) -> Result<Scratch> {
        let folder = folder()?;
        let plain = |name: &String| name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        let name = Some(address.machine.clone()).filter(plain).unwrap_or_else(|| "machine".into());
        let (prints, keys): (Vec<_>, Vec<_>) =
            address.host_keys.iter().map(|pin| pin.trim()).partition(|pin| pin.starts_with("SHA256:"));
        let mut scratch = Scratch { folder, name, fingerprints: Vec::new(), has_key: false };
        scratch.fingerprints = prints.into_iter().map(|print| quote(print.trim_end_matches('='))).collect();
        let words = |key: &str| key.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        let known: String = keys.into_iter().map(|key| format!("{} {}\n", scratch.name, words(key))).collect();
        scratch.write("known_hosts", &known)?;
        scratch.write("pins", PINS)?;
        scratch.add_key(address)?;
        Ok(scratch)
    }

    /// Links the private key, with the files that ssh looks for beside it, or writes the public
    /// one, by which ssh finds it in the ssh-agent.
    fn add_key(&mut self, address: &Address) -> Result<()> {
        if let Some(file) = &address.private_key {
            let file = std::path::absolute(file)?;
            for suffix in ["", ".pub", "-cert.pub"] {
                let mut target = file.clone().into_os_string();
                target.push(suffix);
                if Path::new(&target).exists() {
                    prepared(symlink(&target, self.folder.join(format!("key{suffix}"))))?;
                }
            }
        } else if let Some(key) = address.public_key.as_ref().filter(|key| crate::host_key::blob(key).is_some()) {
            self.write("key", &format!("{key}\n"))?;
        } else {
            return Ok(());
        }
        self.has_key = true;
        Ok(())
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        prepared(fs::write(self.folder.join(name), text))
    }

    /// Where the connection is shared.
    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    /// The fingerprint of the key that the machine showed, and its type.
    pub(super) fn shown(&self) -> Option<(String, String)> {
        let shown = fs::read_to_string(self.folder.join("shown")).ok()?;
        let (print, kind) = shown.trim().split_once(' ')?;
        Some((print.into(), kind.into()))
    }

    pub(super) fn options(&self) -> Vec<String> {
        let at = self.folder.display();
        let mut options = vec![
            format!("HostKeyAlias={}", self.name),
            format!("UserKnownHostsFile={at}/known_hosts"),
            format!("KnownHostsCommand=/bin/sh {at}/pins %f %H %t %K {}", self.fingerprints.join(" ")),
            format!("ControlPath={at}/socket"),
        ];
        if self.has_key {
            options.extend(["IdentitiesOnly=yes".into(), format!("IdentityFile={at}/key")]);
        }
        options
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn prepared(written: std::io::Result<()>) -> Result<()> {
    written
        .context("cannot prepare the login")
        .with_kind(Kind::Input)
        .with_hint("XDG_RUNTIME_DIR or TMPDIR names a folder that can be written to and has room")
}

/// Makes a folder of our own, in the place of the user's sockets if there is one. Its path holds
/// nothing that ssh would read as more than a path, and is short enough for a socket's.
fn folder() -> Result<PathBuf> {
    let fits = |path: &PathBuf| {
        path.is_absolute()
            && path.as_os_str().len() < 48
            && path.to_string_lossy().chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
            && path.is_dir()
    };
    let base = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(fits);
    let base = base.or_else(|| Some(std::env::temp_dir()).filter(fits)).unwrap_or_else(|| "/tmp".into());
    let mut count = 0;
    loop {
        let folder = base.join(format!("nixpipe-ssh-{}-{count}", std::process::id()));
        // It fails where there is one already, whoever made it.
        match DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => count += 1,
            Err(error) => {
                prepared(Err(std::io::Error::new(error.kind(), format!("cannot make {}: {error}", folder.display()))))?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_that_cannot_be_prepared_says_where_there_may_be_room() {
        let folder = "/dev/full/nowhere".into();
        let scratch = Scratch { folder, name: "a".into(), fingerprints: Vec::new(), has_key: false };
        let failure = machine_record::Failure::of(&scratch.write("pins", PINS).unwrap_err());
        assert!(failure.message.starts_with("cannot prepare the login: "), "{}", failure.message);
        assert_eq!(
            failure.hint.as_deref(),
            Some("XDG_RUNTIME_DIR or TMPDIR names a folder that can be written to and has room")
        );
    }
}
