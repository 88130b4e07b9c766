//! Where a machine is, and how it is known.

use machine_record::{Failure, KeyPair, Kind, Record, Ssh};
use std::path::PathBuf;

/// How to reach a machine and what it must show.
#[derive(Clone, Debug)]
pub struct Address {
    /// The machine's name, for messages
    pub machine: String,
    /// Name or address
    pub host: String,
    /// TCP port
    pub port: u16,
    /// Login name
    pub user: String,
    /// OpenSSH public keys or `SHA256:` fingerprints, of which the machine must show one
    pub host_keys: Vec<String>,
    /// The private key; without one the ssh-agent is asked
    pub private_key: Option<PathBuf>,
}

impl Address {
    /// Reads a record's `ssh` and, if it is there, `keyPair`.
    ///
    /// # Errors
    /// Kind `input` where `ssh` is missing or asks for a jump host; kind `host-key` where no
    /// host key is known.
    pub fn of(record: &Record) -> Result<Address, Failure> {
        let ssh: Ssh = record.require()?;
        let key_pair: Option<KeyPair> = record.section()?;
        if let Some(jump) = ssh.jump {
            return Err(Failure::new(Kind::Input, format!("jump hosts are not available yet: ssh.jump is {jump:?}"))
                .hint("reach the machine directly, or remove `jump` from its `ssh`"));
        }
        if ssh.host_keys.is_empty() {
            return Err(Failure::new(Kind::HostKey, format!("no host key of {} is known", ssh.host)).hint(
                "write the machine's public key or its SHA256: fingerprint into ssh.hostKeys; ec2-up does so by itself",
            ));
        }
        Ok(Address {
            machine: record.name(),
            host: ssh.host,
            port: ssh.port,
            user: ssh.user,
            host_keys: ssh.host_keys,
            private_key: key_pair.and_then(|pair| pair.private_key_file).map(PathBuf::from),
        })
    }
}
