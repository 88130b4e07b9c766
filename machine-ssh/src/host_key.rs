//! Host keys: seen in a key exchange, compared with what is pinned.

use crate::jump::Jump;
use crate::libssh2::{dial, shake_hands};
use crate::ssh_config;
use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use machine_record::{Failure, Kind};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::time::Duration;

/// What is offered where no type is preferred: the strongest first, SHA-1 and DSA never.
const ALGORITHMS: [&str; 6] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
];

/// Asks a machine for its host key by a key exchange, without logging in.
///
/// `prefer` lists key types such as `ssh-ed25519`, the wished one first; the machine shows the
/// first that it has. `jump` are the hosts on the way. Returns the OpenSSH public key: type and
/// base64.
///
/// # Errors
/// Kinds `unreachable` and `timeout`, and `input` where `ssh_config` cannot be used.
pub fn host_key(host: &str, port: u16, jump: Option<&Jump>, prefer: &[&str], timeout: Duration) -> Result<String> {
    let configured = ssh_config::of(Path::new("ssh"), host, None, Some(port))?;
    let (session, _socket) = shake_hands(dial(&configured, jump, timeout)?, host, &algorithms(prefer), timeout)?;
    let blob = shown(&session, host)?;
    let kind = key_type(&blob).unwrap_or("unknown");
    Ok(format!("{kind} {}", STANDARD.encode(&blob)))
}

/// The SHA-256 fingerprint of an OpenSSH public key line, as `ssh-keygen -l` prints it.
///
/// # Errors
/// Kind `input` where it is no public key.
pub fn fingerprint(public_key: &str) -> Result<String, Failure> {
    let blob = blob(public_key).ok_or_else(|| {
        Failure::new(Kind::Input, format!("not an OpenSSH public key: {public_key:?}"))
            .hint("it is a type and base64, as in ssh-ed25519 AAAA…")
    })?;
    Ok(fingerprint_of(&blob))
}

/// The host key of a session after the key exchange, in the wire format of RFC 4253 6.6.
pub(crate) fn shown(session: &ssh2::Session, host: &str) -> Result<Vec<u8>> {
    match session.host_key() {
        Some((blob, _)) => Ok(blob.to_vec()),
        None => Err(Failure::new(Kind::HostKey, format!("{host} showed no host key"))
            .hint("is it an sshd that answers there?")
            .into()),
    }
}

/// An attempt that did not reach the pinned machine.
pub(crate) struct Unmet {
    pub(crate) error: anyhow::Error,
    /// The type of the key that it showed in the place of a pinned one
    pub(crate) shown: Option<String>,
}

impl From<anyhow::Error> for Unmet {
    fn from(error: anyhow::Error) -> Self {
        Unmet { error, shown: None }
    }
}

/// Attempts to reach the pinned machine, with the algorithms that are to be offered. A fingerprint does not tell the type
/// of its key: where there are such, a machine that shows another key is asked for those of the other types.
pub(crate) fn meet<T>(pinned: &[String], mut attempt: impl FnMut(&[&str]) -> Result<T, Unmet>) -> Result<T> {
    let types: Vec<&str> = pinned.iter().filter_map(|pin| pin.split_whitespace().next()).collect();
    let any_type = pinned.iter().any(|pin| pin.trim().starts_with("SHA256:"));
    let mut offered = algorithms(&types);
    let mut first = None;
    loop {
        let Unmet { error, shown } = match attempt(&offered) {
            Ok(met) => return Ok(met),
            Err(unmet) => unmet,
        };
        // That it has no key of another type explains nothing.
        let error = first.unwrap_or(error);
        let count = offered.len();
        offered.retain(|algorithm| shown.as_deref() != Some(type_of(algorithm)));
        if !any_type || offered.is_empty() || offered.len() == count {
            return Err(error);
        }
        first = Some(error);
    }
}

/// Checks a shown key against the pinned ones.
pub(crate) fn check(blob: &[u8], pinned: &[String], host: &str) -> Result<(), Unmet> {
    if pinned.iter().any(|pin| matches(pin, blob)) {
        return Ok(());
    }
    let error = mismatch(host, &fingerprint_of(blob), pinned).into();
    Err(Unmet { error, shown: key_type(blob).map(String::from) })
}

/// The failure where a machine shows another key than the pinned ones.
pub(crate) fn mismatch(host: &str, shown: &str, pinned: &[String]) -> Failure {
    let wished: Vec<String> = pinned.iter().map(|pin| fingerprint(pin).unwrap_or_else(|_| pin.clone())).collect();
    Failure::new(Kind::HostKey, format!("{host} shows the host key {shown}, not {}", wished.join(" or ")))
        .hint("another machine answers at this address, or this one was made anew: compare with its console before trusting it")
}

/// The algorithms to offer so that the machine shows a key of a pinned type, if it can.
pub(crate) fn algorithms(prefer: &[&str]) -> Vec<&'static str> {
    let mut list: Vec<&str> = Vec::new();
    for kind in prefer {
        list.extend(ALGORITHMS.iter().filter(|known| type_of(known) == *kind));
    }
    list.extend(ALGORITHMS.iter().filter(|known| !prefer.contains(&type_of(known))));
    list.dedup();
    list
}

/// The type of the keys that an algorithm is for: RSA's are named by how they sign (RFC 8332).
fn type_of(algorithm: &str) -> &str {
    if algorithm.starts_with("rsa-sha2-") { "ssh-rsa" } else { algorithm }
}

fn matches(pin: &str, shown: &[u8]) -> bool {
    match pin.trim().strip_prefix("SHA256:") {
        Some(digest) => digest.trim_end_matches('=') == STANDARD_NO_PAD.encode(Sha256::digest(shown)),
        None => blob(pin).is_some_and(|blob| blob == shown),
    }
}

fn fingerprint_of(blob: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(blob)))
}

/// The wire format of a line `type base64 [comment]`, if the type inside is the one it names.
pub(crate) fn blob(public_key: &str) -> Option<Vec<u8>> {
    let mut words = public_key.split_whitespace();
    let (kind, text) = (words.next()?, words.next()?);
    let blob = STANDARD.decode(text).ok()?;
    (key_type(&blob) == Some(kind)).then_some(blob)
}

fn key_type(blob: &[u8]) -> Option<&str> {
    let length = u32::from_be_bytes(blob.get(..4)?.try_into().ok()?) as usize;
    std::str::from_utf8(blob.get(4..4 + length)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made with `ssh-keygen -t ed25519`, printed with `ssh-keygen -l`.
    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIILjIDoQXotsXeA+fpCIe1uXG+Zupk0aIuu8EKpwIfUY";
    const PRINT: &str = "SHA256:HnASBmKSSgnTGtyrojxTIRh1amvuoWaTDCy0o2PKkM8";

    #[test]
    fn fingerprints_are_those_of_ssh_keygen() {
        assert_eq!(fingerprint(KEY).unwrap(), PRINT);
        assert_eq!(fingerprint(&format!("{KEY} root@web-1\n")).unwrap(), PRINT);
        for bad in
            ["", "ssh-ed25519", "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIILjIDoQXotsXeA+fpCIe1uXG+Zupk0aIuu8EKpwIfUY", PRINT]
        {
            let failure = fingerprint(bad).unwrap_err();
            assert_eq!(failure.message, format!("not an OpenSSH public key: {bad:?}"));
            assert_eq!(failure.hint.as_deref(), Some("it is a type and base64, as in ssh-ed25519 AAAA…"));
        }
    }

    #[test]
    fn a_pin_is_a_key_or_a_fingerprint_and_nothing_else() {
        let shown = blob(KEY).unwrap();
        assert!(check(&shown, &[KEY.into()], "h").is_ok());
        assert!(check(&shown, &["SHA256:x".into(), PRINT.into()], "h").is_ok());
        for pins in [vec![], vec![String::new()], vec!["SHA256:".into()], vec!["SHA256:x".into()], vec!["*".into()]] {
            let Err(unmet) = check(&shown, &pins, "h") else { panic!("{pins:?}") };
            assert_eq!(Failure::of(&unmet.error).kind, Kind::HostKey);
            assert_eq!(unmet.shown.as_deref(), Some("ssh-ed25519"));
        }
    }

    #[test]
    fn pinned_types_are_asked_for_first() {
        assert_eq!(algorithms(&["ssh-rsa"])[..3], ["rsa-sha2-512", "rsa-sha2-256", "ssh-ed25519"]);
        assert_eq!((algorithms(&["ssh-rsa"]).len(), algorithms(&[])), (ALGORITHMS.len(), ALGORITHMS.to_vec()));
        assert!(!algorithms(&["ssh-dss"]).contains(&"ssh-dss"));
    }

    #[test]
    fn a_machine_is_asked_for_keys_of_each_type_where_a_fingerprint_is_pinned() {
        let asked = |pins: &[&str], has: &[&str]| {
            let pins: Vec<String> = pins.iter().map(|pin| pin.to_string()).collect();
            let mut shown = Vec::new();
            let met = meet(&pins, |offered| {
                let error = anyhow::anyhow!("attempt {}", shown.len());
                let found = offered.iter().map(|algorithm| type_of(algorithm)).find(|kind| has.contains(kind));
                let Some(kind) = found else { return Err::<(), _>(error.into()) };
                shown.push(kind.to_string());
                Err(Unmet { error, shown: Some(kind.into()) })
            });
            assert_eq!(met.unwrap_err().to_string(), "attempt 0", "the first is what is told");
            shown.join(" ")
        };
        let both = ["ssh-rsa", "ssh-ed25519"];
        assert_eq!(asked(&[PRINT], &both), "ssh-ed25519 ssh-rsa");
        assert_eq!(asked(&["ssh-rsa AAAA", PRINT], &both), "ssh-rsa ssh-ed25519");
        assert_eq!(asked(&[KEY], &both), "ssh-ed25519", "the type is known");
        assert_eq!(asked(&[PRINT], &[]), "", "no key exchange");
    }
}
