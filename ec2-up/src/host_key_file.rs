//! A host key that is given to the machine instead of read from its console (`--host-key user-data`).
//!
//! It is kept in a file beside the ssh key, made before the machine: so a second run sends the same
//! request under the same client token.

use anyhow::{Context, Result};
use machine_record::{Failure, KeyPair, Kind, WithHint, WithKind};
use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{LineEnding, PrivateKey};
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What to do about a file that is no use.
const AWAY: &str = "move it away, and a new machine gets another key";

/// Where the host key of a machine is kept.
pub fn path(deployment: &str, machine: &str, pair: Option<&KeyPair>) -> PathBuf {
    let beside = pair.and_then(|pair| pair.private_key_file.as_deref()).map(Path::new).and_then(Path::parent);
    beside.unwrap_or(Path::new(".")).join(format!("{deployment}-{machine}.host-key"))
}

/// Reads the host key, or makes it if there is none.
pub fn ensure(path: &Path) -> Result<PrivateKey> {
    if let Some(key) = read(path)? {
        return Ok(key);
    }
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| Failure::new(Kind::Internal, format!("no random numbers: {error}")))?;
    let key = PrivateKey::new(KeypairData::Ed25519(Ed25519Keypair::from_seed(&seed)), "")?;
    let text = key.to_openssh(LineEnding::LF)?;
    write(path, text.as_bytes())
        .with_context(|| format!("cannot write the host key {}", path.display()))
        .with_kind(Kind::Input)
        .with_hint("it is kept beside the private key: that folder must be one to write to")?;
    // Another run may have been faster: what the file holds is the key.
    read(path)?
        .with_context(|| format!("{} is there, and no file", path.display()))
        .with_kind(Kind::Conflict)
        .with_hint("is it a link that leads nowhere? Or somebody takes it away: run ec2-up again")
}

/// Reads the host key, if there is one.
pub fn read(path: &Path) -> Result<Option<PrivateKey>> {
    match fs::read(path) {
        Ok(_) if fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o077 != 0) => {
            let shown = path.display();
            Err(Failure::new(Kind::Input, format!("the host key {shown} can be read by others"))
                .hint(format!("chmod 600 {shown}"))
                .into())
        }
        Ok(text) => PrivateKey::from_openssh(text)
            .with_context(|| format!("cannot use the host key {}", path.display()))
            .with_kind(Kind::Input)
            .with_hint(AWAY)
            .map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error)
            .with_context(|| format!("cannot read the host key {}", path.display()))
            .with_kind(Kind::Input)
            .with_hint(AWAY),
    }
}

/// Whole or absent, never overwritten, and for nobody else to read from its first byte.
fn write(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let unfinished = path.with_extension(format!("host-key.{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    let written = file.write_all(text).and_then(|()| file.sync_all());
    let linked = written.and_then(|()| match fs::hard_link(&unfinished, path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    });
    let _ = fs::remove_file(&unfinished);
    linked
}

/// The public half: type and base64.
pub fn public(key: &PrivateKey) -> Result<String> {
    let line = key.public_key().to_openssh()?;
    Ok(line.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
}

/// User data from which NixOS takes its host key at the first boot: two lines, newlines as `|`
/// (nixpkgs, `nixos/modules/virtualisation/ec2-data.nix`).
pub fn user_data(key: &PrivateKey) -> Result<String> {
    let private = key.to_openssh(LineEnding::LF)?.trim_end().replace('\n', "|");
    Ok(format!("SSH_HOST_ED25519_KEY:{private}\nSSH_HOST_ED25519_KEY_PUB:{}\n", public(key)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_host_key_is_made_once_and_only_its_owner_reads_it() {
        let folder = std::env::temp_dir().join(format!("nixpipe-host-key-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("default-web-1.host-key");
        let _ = fs::remove_file(&file);
        let made = ensure(&file).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(public(&ensure(&file).unwrap()).unwrap(), public(&made).unwrap());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("read by others"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&file, "no key").unwrap();
        assert!(ensure(&file).is_err());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn user_data_holds_two_lines_and_nothing_else() {
        let key = PrivateKey::new(KeypairData::Ed25519(Ed25519Keypair::from_seed(&[7; 32])), "").unwrap();
        let text = user_data(&key).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        let private = lines[0].strip_prefix("SSH_HOST_ED25519_KEY:").unwrap().replace('|', "\n");
        assert_eq!(public(&PrivateKey::from_openssh(private).unwrap()).unwrap(), public(&key).unwrap());
        assert!(lines[1].starts_with("SSH_HOST_ED25519_KEY_PUB:ssh-ed25519 "));
    }
}
