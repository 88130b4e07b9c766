//! Keys in memory: made, or read from the text of a private key.

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machine_record::{Failure, Kind, WithKind};
use rsa::pkcs1::{DecodeRsaPrivateKey, EncodeRsaPrivateKey, LineEnding};
use rsa::pkcs8::DecodePrivateKey;
use rsa::traits::PublicKeyParts;
use sha2::{Digest, Sha256};
use ssh_key::private::{Ed25519Keypair, KeypairData};

/// The kinds of key that EC2 imports (EC2 user guide, "Create a key pair").
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Algorithm {
    Ed25519,
    Rsa,
}

impl Algorithm {
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Ed25519 => "ed25519",
            Algorithm::Rsa => "rsa",
        }
    }
}

/// A public key: all that leaves this module of a key that was read.
#[derive(Clone, Debug)]
pub struct Key {
    pub algorithm: Algorithm,
    /// Type and base64, as in authorized_keys, without a comment
    pub public: String,
}

/// The text of a private key file that was made, and its public half.
pub struct NewKey {
    pub text: String,
    pub key: Key,
}

impl Key {
    /// `generated-key-` and the SHA-256 of the public key line with its newline, as the
    /// tutorial makes it of `tls_private_key.public_key_openssh`.
    pub fn name(&self) -> String {
        let digest = Sha256::digest(format!("{}\n", self.public));
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("generated-key-{hex}")
    }

    /// Whether a public key line is this key; its comment does not matter.
    pub fn is(&self, line: &str) -> bool {
        line.split_whitespace().take(2).eq(self.public.split_whitespace())
    }

    /// The size of an RSA key.
    pub fn bits(&self) -> Option<u32> {
        let wire = STANDARD.decode(self.public.strip_prefix("ssh-rsa ")?).ok()?;
        let mut rest = wire.as_slice();
        let mut last = rest;
        // Type, e and n.
        while let Some((length, behind)) = rest.split_first_chunk() {
            (last, rest) = behind.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        }
        let number = last.iter().skip_while(|byte| **byte == 0);
        let first = number.clone().next()?.leading_zeros();
        Some(u32::try_from(number.count()).ok()? * 8 - first)
    }

    /// Reads a public key in the wire format of RFC 4253 6.6; `None` if EC2 takes none of its kind.
    pub fn from_wire(blob: &[u8]) -> Option<Key> {
        let length = u32::from_be_bytes(blob.get(..4)?.try_into().ok()?) as usize;
        let (algorithm, kind) = match blob.get(4..4 + length)? {
            b"ssh-ed25519" => (Algorithm::Ed25519, "ssh-ed25519"),
            b"ssh-rsa" => (Algorithm::Rsa, "ssh-rsa"),
            _ => return None,
        };
        Some(Key { algorithm, public: format!("{kind} {}", STANDARD.encode(blob)) })
    }
}

/// Makes an ed25519 key; the file is in OpenSSH's format.
pub fn make_ed25519() -> Result<NewKey> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| Failure::new(Kind::Internal, format!("no random numbers: {error}")))?;
    let pair = Ed25519Keypair::from_seed(&seed);
    let private = ssh_key::PrivateKey::new(KeypairData::Ed25519(pair), "")?;
    let public = private.public_key().to_openssh()?.trim().to_string();
    let text = private.to_openssh(ssh_key::LineEnding::LF)?.to_string();
    Ok(NewKey { text, key: Key { algorithm: Algorithm::Ed25519, public } })
}

/// Makes an RSA key with the exponent 65537; the file is PKCS#1 PEM, as Terraform's
/// `tls_private_key.private_key_pem`.
pub fn make_rsa(bits: usize) -> Result<NewKey> {
    let private = rsa::PrivateKey::new(&mut getrandom::SysRng, bits)
        .map_err(|error| Failure::new(Kind::Internal, format!("cannot make an RSA key: {error}")))?;
    let text = private.to_pkcs1_pem(LineEnding::LF)?.to_string();
    Ok(NewKey { text, key: rsa_key(&private) })
}

/// Reads the public half out of the text of a private key.
///
/// # Errors
/// Kind `input`, with what to do, for an encrypted key, a kind that EC2 does not take, and what
/// is no private key. The text itself is in no message.
pub fn read(text: &str) -> Result<Key> {
    let label = text.lines().find_map(|line| line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----"));
    match label {
        Some("OPENSSH PRIVATE KEY") => read_openssh(text),
        Some("ENCRYPTED PRIVATE KEY") => Err(encrypted()),
        Some("RSA PRIVATE KEY") if text.contains("ENCRYPTED") => Err(encrypted()),
        Some("RSA PRIVATE KEY") => {
            rsa::PrivateKey::from_pkcs1_pem(text.trim()).map(|private| rsa_key(&private)).with_kind(Kind::Input)
        }
        Some("PRIVATE KEY") => match rsa::PrivateKey::from_pkcs8_pem(text.trim()) {
            Ok(private) => Ok(rsa_key(&private)),
            Err(_) => Err(Failure::new(Kind::Input, "a PKCS#8 key that is not RSA")
                .hint("make a key in OpenSSH's format: name a new file with --file")
                .into()),
        },
        Some(other) => Err(Failure::new(Kind::Input, format!("it holds a {other}"))
            .hint("EC2 takes ed25519 and RSA keys: name a new file with --file, or the private half of a public key")
            .into()),
        None => Err(Failure::new(Kind::Input, "not a private key")
            .hint("name the private half of the key with --file, or a new file")
            .into()),
    }
}

fn read_openssh(text: &str) -> Result<Key> {
    let other = || {
        Failure::new(Kind::Input, "it is of a kind that EC2 does not take")
            .hint("EC2 takes ed25519 and RSA keys: name a new file with --file, and one is made")
    };
    let private = match ssh_key::PrivateKey::from_openssh(text) {
        // The kinds that this crate was built without.
        Err(ssh_key::Error::AlgorithmUnknown) => return Err(other().into()),
        private => private.with_kind(Kind::Input)?,
    };
    if private.is_encrypted() {
        return Err(encrypted());
    }
    let wire = private.public_key().to_bytes()?;
    Ok(Key::from_wire(&wire).ok_or_else(other)?)
}

fn encrypted() -> anyhow::Error {
    Failure::new(Kind::Input, "the key is encrypted")
        .hint("add it to the ssh-agent (ssh-add FILE) and use --from-agent, or name a new file with --file")
        .into()
}

/// The public key of RFC 4253 6.6: the type, then e and n as mpints of RFC 4251 5.
fn rsa_key(private: &rsa::PrivateKey) -> Key {
    let mut wire = Vec::new();
    let mut put = |bytes: &[u8]| {
        wire.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        wire.extend_from_slice(bytes);
    };
    put(b"ssh-rsa");
    for number in [private.e_bytes(), private.n_bytes()] {
        // A leading bit would be a sign.
        let mut mpint: Vec<u8> = number.iter().copied().skip_while(|byte| *byte == 0).collect();
        if mpint.first().is_some_and(|byte| byte & 0x80 != 0) {
            mpint.insert(0, 0);
        }
        put(&mpint);
    }
    Key { algorithm: Algorithm::Rsa, public: format!("ssh-rsa {}", STANDARD.encode(wire)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_tutorials() {
        // Terraform's `sha256("ssh-rsa AAAA\n")`.
        let key = Key { algorithm: Algorithm::Rsa, public: "ssh-rsa AAAA".into() };
        assert_eq!(key.name(), "generated-key-edbcf9e8839226cec7d7c0ff2404eb09c89cbe384e6c818bfecaca9c8e635b0a");
        assert!(key.is("ssh-rsa AAAA me@example.org\n") && !key.is("ssh-rsa AAAB") && !key.is("ssh-rsa"));
    }

    #[test]
    fn what_is_made_is_read_back() {
        let rsa = |bits| (make_rsa(bits).unwrap(), Some(bits as u32));
        for (made, bits) in [(make_ed25519().unwrap(), None), rsa(2048), rsa(3072)] {
            let read = read(&made.text).unwrap();
            assert_eq!((read.algorithm, &read.public), (made.key.algorithm, &made.key.public));
            assert_eq!(read.bits(), bits);
        }
    }

    #[test]
    fn what_is_no_usable_private_key_is_refused_without_a_word_of_it() {
        let public = make_ed25519().unwrap().key.public;
        let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let broken = "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n";
        for bad in ["", "hello", &public, certificate, broken] {
            let failure = Failure::of(&read(bad).unwrap_err());
            assert_eq!(failure.kind, Kind::Input, "{bad}");
            assert!(!failure.message.contains("c2VjcmV0"));
        }
    }
}
