//! Where a machine is, and how it is known.

use crate::args::LoginArgs;
use crate::elevate::Elevation;
use crate::jump::Jump;
use crate::ssh_config;
use machine_record::{Failure, KeyPair, Kind, Record, Section as _, Ssh};
use std::path::{Path, PathBuf};

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
    /// The public key, to find it in the ssh-agent
    pub public_key: Option<String>,
    /// The private keys that `ssh_config` names, where the record names none
    pub identities: Vec<PathBuf>,
    /// Of the ssh-agent's keys, these alone are tried
    pub identities_only: bool,
    /// The hosts on the way
    pub jump: Option<Jump>,
    /// What makes the connection
    pub client: Client,
    /// How the login becomes root
    pub elevation: Elevation,
}

/// The programs that can speak SSH for us.
#[derive(Clone, Debug)]
pub enum Client {
    /// The library, with what `ssh_config` says of host, port, user, keys and the way
    Libssh2,
    /// OpenSSH's own client, 8.5 or newer, with the user's configuration
    OpenSsh(PathBuf),
}

impl Address {
    /// Reads a record's `ssh` and, if it is there, `keyPair`, and what the flags say of the login.
    ///
    /// # Errors
    /// Kind `input` where `ssh` is missing, or names what could be no host, user or jump host, or
    /// `ssh_config` cannot be used; kind `host-key` where no host key is known.
    pub fn of(record: &Record, args: &LoginArgs) -> Result<Address, Failure> {
        // The hosts on the way alone are no address.
        let ssh: Ssh = if record.has_address() { record.require()? } else { record.without(&[Ssh::NAME]).require()? };
        let key_pair: Option<KeyPair> = record.section()?;
        if ssh.host_keys.is_empty() {
            return Err(Failure::new(Kind::HostKey, format!("no host key of {} is known", ssh.host)).hint(
                "write the machine's public key or its SHA256: fingerprint into ssh.hostKeys; ec2-up does so by itself",
            ));
        }
        // Both end up in argument lists and in what OpenSSH gives to a shell.
        for (member, word) in [("host", Some(&ssh.host)), ("user", ssh.user.as_ref())] {
            let Some(word) = word else { continue };
            if word.is_empty()
                || word.starts_with('-')
                || !word.chars().all(|c| c.is_alphanumeric() || "._:%+-".contains(c))
            {
                return Err(Failure::new(Kind::Input, format!("cannot use the record's `ssh.{member}`: {word:?}"))
                    .hint("it is one word of letters, digits and ._:%+- that does not begin with -"));
            }
        }
        if ssh.port == Some(0) {
            return Err(Failure::new(Kind::Input, "cannot use the record's `ssh.port`: 0")
                .hint("a port is a number from 1 to 65535; without it, it is that of ssh_config, or 22"));
        }
        // What the record does not say is the user's configuration to say, then ours.
        let program = args.program().unwrap_or(Path::new("ssh"));
        let configured = ssh_config::of(program, &ssh.host, ssh.user.as_deref(), ssh.port)?;
        Ok(Address {
            machine: record.name(),
            host: ssh.host,
            port: configured.port,
            identities_only: configured.identities_only,
            host_keys: ssh.host_keys,
            private_key: key_pair.as_ref().and_then(|pair| pair.private_key_file.as_ref()).map(PathBuf::from),
            identities: if key_pair.is_none() && args.program().is_none() {
                configured.identities()
            } else {
                Vec::new()
            },
            public_key: key_pair.map(|pair| pair.public_key).filter(|key| !key.is_empty()),
            jump: ssh.jump.as_deref().map(str::parse).transpose()?,
            client: args.program().map_or(Client::Libssh2, |program| Client::OpenSsh(program.into())),
            elevation: args.elevation(),
            user: configured.user,
        })
    }
}
