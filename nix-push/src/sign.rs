//! Signatures of paths, as Nix makes and checks them.

use crate::serve::PathInfo;
use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use machine_record::{Failure, Kind, WithHint, WithKind};
use std::path::{Path, PathBuf};

/// A secret key of `nix-store --generate-binary-cache-key`.
pub struct Signer {
    pub file: PathBuf,
    name: String,
    key: SigningKey,
}

/// How there comes to be one.
const MAKE: &str = "make one with: nix-store --generate-binary-cache-key NAME SECRET-FILE PUBLIC-FILE";

impl Signer {
    /// Reads `name:` and the base64 of the 64 bytes of a secret and its public key.
    ///
    /// # Errors
    /// Kind `input`, without a word of what is in the file.
    pub fn read(file: &Path) -> Result<Signer> {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read the signing key {}", file.display()))
            .with_kind(Kind::Input)
            .with_hint(MAKE)?;
        let pair = text.trim().split_once(':');
        let key = pair.and_then(|(_, secret)| STANDARD.decode(secret).ok()).and_then(|bytes| {
            let bytes: [u8; 64] = bytes.try_into().ok()?;
            SigningKey::from_keypair_bytes(&bytes).ok()
        });
        match (pair, key) {
            (Some((name, _)), Some(key)) => {
                let file = std::path::absolute(file).with_kind(Kind::Input)?;
                Ok(Signer { file, name: name.into(), key })
            }
            _ => {
                Err(Failure::new(Kind::Input, format!("{} is no secret signing key", file.display())).hint(MAKE).into())
            }
        }
    }

    /// The public key, as `trusted-public-keys` takes it.
    pub fn public_key(&self) -> String {
        format!("{}:{}", self.name, STANDARD.encode(self.key.verifying_key().as_bytes()))
    }

    /// Adds the signature of what a store knows of a path
    /// (NixOS/nix `src/libstore/path-info.cc`, `fingerprint`).
    pub fn sign(&self, info: &mut PathInfo) {
        let mut references: Vec<&str> = info.references.iter().map(|path| path.as_str()).collect();
        references.sort_unstable();
        let hash = info.nar_hash.base32();
        let text = format!("1;{};sha256:{hash};{};{}", info.path, info.nar_size, references.join(","));
        let signature = STANDARD.encode(self.key.sign(text.as_bytes()).to_bytes());
        info.signatures.push(format!("{}:{signature}", self.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::NarHash;
    use machine_record::StorePath;

    // Made with `nix-store --generate-binary-cache-key test-1`.
    const SECRET: &str =
        "test-1:KyNir8zm/oKDfBFg1o6Bw9TFxj34f+Knl4GBPPYmddJcB+JO+3LjDBw5moGdDvyoYqawQpfQpyEFG+LSexi5xA==";
    const PUBLIC: &str = "test-1:XAfiTvty4wwcOZqBnQ78qGKmsEKX0KchBRvi0nsYucQ=";

    #[test]
    fn a_signature_is_that_of_nix() {
        let folder = std::env::temp_dir().join(format!("sign-test-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("key");
        std::fs::write(&file, format!("{SECRET}\n")).unwrap();
        let signer = Signer::read(&file).unwrap();
        assert_eq!(signer.public_key(), PUBLIC);
        let mut info = PathInfo {
            path: StorePath::new("/nix/store/k0gc17kyvipyws8j900sdzc5bn25bw8q-a").unwrap(),
            deriver: String::new(),
            references: vec![StorePath::new("/nix/store/pxvcv8a2q21xkd9l7zrzb2xlqzah47md-b").unwrap()],
            nar_size: 160,
            nar_hash: NarHash(
                STANDARD.decode("SnOkiXkYWoCkMc3WBUxDVDb8/HMalLpcoU9XKDkQojQ=").unwrap().try_into().unwrap(),
            ),
            content_address: String::new(),
            signatures: vec![],
        };
        signer.sign(&mut info);
        assert_eq!(
            info.signatures,
            ["test-1:K9Jn1K1Pc7pq4I7TiFuEwiZp5Vnl7hf/OdiShgvvN74PghKw7COWK28p3f48e/nLoWyqHboXO8TjawUhzDO+AQ=="]
        );

        std::fs::write(&file, "test-1:AAAA").unwrap();
        let failure = Failure::of(&Signer::read(&file).err().unwrap());
        assert!(failure.kind == Kind::Input && !failure.message.contains("AAAA"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
