//! The keys of the ssh-agent (draft-miller-ssh-agent, sections 3 and 4.4).

use crate::key::Key;
use anyhow::{Context, Result};
use machine_record::{Failure, KeyPair, Kind, WithHint, WithKind, log};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;

/// The longest answer that is read, in bytes (OpenSSH's own limit).
const LONGEST: u32 = 256 * 1024;

/// The agent's first key of a kind that EC2 takes; the known one, if the agent has it.
///
/// # Errors
/// Kind `not-found` if there is no agent or no such key.
pub fn key(known: Option<&KeyPair>) -> Result<Key> {
    let socket = std::env::var("SSH_AUTH_SOCK").map_err(|_| {
        Failure::new(Kind::NotFound, "no ssh-agent: SSH_AUTH_SOCK is not set")
            .hint("start one: eval \"$(ssh-agent)\"; ssh-add")
    })?;
    let answer = ask(&socket)
        .with_context(|| format!("cannot ask the ssh-agent at {socket}"))
        .with_kind(Kind::NotFound)
        .with_hint("SSH_AUTH_SOCK names it: is it alive? ssh-add -l asks it, too")?;
    let mut keys: Vec<(Key, String)> = identities(&answer)
        .ok_or_else(|| {
            Failure::new(Kind::NotFound, "the ssh-agent's answer cannot be understood")
                .hint("SSH_AUTH_SOCK names another program")
        })?
        .into_iter()
        .filter_map(|(blob, comment)| Some((Key::from_wire(blob)?, comment)))
        .collect();
    keys.sort_by_key(|(key, _)| !known.is_some_and(|known| key.is(&known.public_key)));
    let (key, comment) = keys.into_iter().next().ok_or_else(|| {
        Failure::new(Kind::NotFound, "the ssh-agent has no ed25519 or RSA key").hint("add one: ssh-add FILE")
    })?;
    log::note(&format!("using the ssh-agent's key {comment:?}"));
    Ok(key)
}

fn ask(socket: &str) -> std::io::Result<Vec<u8>> {
    let mut agent = UnixStream::connect(socket)?;
    agent.set_read_timeout(Some(Duration::from_secs(10)))?;
    agent.write_all(&[0, 0, 0, 1, REQUEST_IDENTITIES])?;
    let mut length = [0; 4];
    agent.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > LONGEST {
        return Err(std::io::Error::other("its answer is too long"));
    }
    let mut answer = vec![0; length as usize];
    agent.read_exact(&mut answer)?;
    Ok(answer)
}

/// Key blobs and comments of an answer; `None` if it is something else.
fn identities(answer: &[u8]) -> Option<Vec<(&[u8], String)>> {
    let (&kind, mut rest) = answer.split_first()?;
    if kind != IDENTITIES_ANSWER {
        return None;
    }
    let count = take_number(&mut rest)?;
    (0..count)
        .map(|_| {
            let blob = take_string(&mut rest)?;
            let comment = take_string(&mut rest)?;
            Some((blob, String::from_utf8_lossy(comment).into_owned()))
        })
        .collect()
}

fn take_number(bytes: &mut &[u8]) -> Option<u32> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_be_bytes(*number))
}

fn take_string<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take_number(bytes)? as usize;
    let (string, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_answer_is_not_understood() {
        let whole = [&[12, 0, 0, 0, 1, 0, 0, 0, 2][..], b"ab", &[0, 0, 0, 1], b"c"].concat();
        assert_eq!(identities(&whole).unwrap(), [(&b"ab"[..], "c".to_string())]);
        for end in 0..whole.len() {
            assert!(identities(&whole[..end]).is_none(), "{end}");
        }
        assert!(identities(&[5]).is_none());
    }
}
