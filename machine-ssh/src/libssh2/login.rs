//! Logging in with a key: the record's, one of the ssh-agent's, or one that the configuration names.

use super::{TIMED_OUT, plain};
use crate::ssh_config::Agent;
use crate::{Address, host_key};
use anyhow::{Context, Result};
use machine_record::{Failure, Kind, WithHint, WithKind};
use ssh2::ErrorCode;
use std::fs;
use std::path::Path;

/// `LIBSSH2_ERROR_*` of libssh2.h.
const FILE: ErrorCode = ErrorCode::Session(-16);
const AUTHENTICATION_FAILED: ErrorCode = ErrorCode::Session(-18);
const PUBLIC_KEY_REFUSED: ErrorCode = ErrorCode::Session(-19);
const KEY_FILE_FAILED: ErrorCode = ErrorCode::Session(-48);

/// How a key in OpenSSH's format begins that is not encrypted: `openssh-key-v1`, then `none` as its cipher.
const NO_CIPHER: &str = "b3BlbnNzaC1rZXktdjEAAAAABG5vbmU";

/// Logs in, with the host key checked; `agent` is the one that is asked for keys.
pub(super) fn log_in(ssh: &ssh2::Session, address: &Address, agent: &Agent) -> Result<()> {
    let Address { host, user, .. } = address;
    let (result, with) = match &address.private_key {
        Some(file) => {
            // libssh2 says the same of a missing file as of a refused key.
            fs::File::open(file)
                .with_context(|| format!("cannot read the private key {}", file.display()))
                .with_kind(Kind::Input)
                .with_hint(crate::NO_KEY)?;
            (ssh.userauth_pubkey_file(user, None, file, None), format!("the key {}", file.display()))
        }
        None => (
            ask_agent(ssh, address, agent).or_else(|error| try_identities(ssh, address, error)),
            "a key of the ssh-agent or of ssh_config".into(),
        ),
    };
    result.map_err(|error| {
        if let Some(file) = &address.private_key
            && matches!(error.code(), FILE | KEY_FILE_FAILED)
        {
            return unusable(file, &error).into();
        }
        let kind = match error.code() {
            AUTHENTICATION_FAILED | PUBLIC_KEY_REFUSED => Kind::Denied,
            TIMED_OUT => Kind::Timeout,
            _ if address.private_key.is_none() => Kind::Denied,
            _ => Kind::Unreachable,
        };
        let hint = match address.private_key {
            Some(_) => "the machine takes the key pair that it was launched with",
            None => {
                "the record names no key file: put keygen before this tool (ec2-ls | keygen | …), or ssh-add the key"
            }
        };
        Failure::new(kind, format!("cannot log in to {host} as {user} with {with}: {}", plain(&error)))
            .hint(hint)
            .into()
    })
}

/// The failure of a private key that libssh2 cannot read. It tries no passphrase, and nobody is asked for one.
fn unusable(file: &Path, error: &ssh2::Error) -> Failure {
    let name = file.display();
    if error.code() == KEY_FILE_FAILED || is_protected(file) {
        return Failure::new(Kind::Input, format!("the private key {name} is protected by a passphrase"))
            .hint("ssh-add it, and let keyPair.privateKeyFile be null: then the ssh-agent is asked for the key pair");
    }
    Failure::new(Kind::Input, format!("cannot use the private key {name}: {}", plain(error))).hint(crate::NO_KEY)
}

/// Whether a private key is encrypted: libssh2 does not tell all of them from what is no key.
fn is_protected(file: &Path) -> bool {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.contains("ENCRYPTED") || text.contains("BEGIN OPENSSH PRIVATE KEY") && !text.contains(NO_CIPHER)
}

/// Logs in with the record's key, or where it names none, with any key of the ssh-agent, those
/// first that the configuration names (an sshd soon tires of others).
fn ask_agent(ssh: &ssh2::Session, address: &Address, which: &Agent) -> Result<(), ssh2::Error> {
    let wished = address.public_key.as_deref().and_then(host_key::blob);
    let named: Vec<Vec<u8>> = address.identities.iter().filter_map(|file| public_half(file)).collect();
    let is_named = |key: &ssh2::PublicKey| named.iter().any(|blob| blob == key.blob());
    let mut agent = ssh.agent()?;
    match which {
        Agent::Usual => {}
        Agent::At(socket) => agent.set_identity_path(socket)?,
        Agent::None => return Err(ssh2::Error::new(AUTHENTICATION_FAILED, "ssh_config has no IdentityAgent for it")),
    }
    agent.connect()?;
    agent.list_identities()?;
    let mut last = ssh2::Error::new(AUTHENTICATION_FAILED, "the agent does not have it");
    let mut keys = agent.identities()?;
    keys.retain(|key| match &wished {
        Some(blob) => blob == key.blob(),
        None => !address.identities_only || is_named(key),
    });
    keys.sort_by_key(|key| !is_named(key));
    for key in keys {
        match agent.userauth(&address.user, &key) {
            Ok(()) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Logs in with the files that the configuration names, where the record names no key.
fn try_identities(ssh: &ssh2::Session, address: &Address, mut last: ssh2::Error) -> Result<(), ssh2::Error> {
    for file in address.identities.iter().filter(|_| address.public_key.is_none()) {
        match ssh.userauth_pubkey_file(&address.user, None, file, None) {
            Ok(()) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The public key that lies beside a private one, in the wire format.
fn public_half(file: &Path) -> Option<Vec<u8>> {
    let mut path = file.as_os_str().to_owned();
    path.push(".pub");
    host_key::blob(&fs::read_to_string(path).ok()?)
}
