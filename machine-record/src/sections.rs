//! The sections of a record: what each tool adds, one doc line a field.

use crate::StorePath;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;

/// A member that one tool adds and owns.
pub trait Section: Serialize + DeserializeOwned {
    /// The member's name
    const NAME: &'static str;
    /// The tool to run when it is missing
    const ADDED_BY: &'static str;
}

macro_rules! section {
    ($type:ty, $name:literal, $tool:literal) => {
        impl Section for $type {
            const NAME: &'static str = $name;
            const ADDED_BY: &'static str = $tool;
        }
    };
}

/// The image to start from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Ami {
    /// `ami-0eed77c38432886d2`
    pub id: String,
    /// The image's own name, such as `nixos/25.11.1234.abcdef-x86_64-linux`; null from the table
    pub name: Option<String>,
    /// The NixOS release, such as `20.09`
    pub release: String,
    /// The EC2 region that the id belongs to
    pub region: String,
    /// `x86_64-linux` or `aarch64-linux`
    pub system: String,
    /// Virtualisation and root device, such as `hvm-ebs`
    #[serde(rename = "type")]
    pub kind: String,
    /// RFC 3339, as EC2 writes it
    pub creation_date: Option<String>,
    /// RFC 3339: when the publisher means to withdraw it
    pub deprecation_time: Option<String>,
    /// `table`, `catalogue` or `ec2`
    pub source: String,
    /// `legacy-bios`, `uefi` or `uefi-preferred`, where the source tells
    #[serde(default)]
    pub boot_mode: Option<String>,
}
section!(Ami, "ami", "nixos-ami");

/// The SSH key pair that opens the machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct KeyPair {
    /// `generated-key-` and the SHA-256 of the public key line with its newline
    #[serde(default)]
    pub name: String,
    /// The OpenSSH public key: type and base64, no comment, no newline
    #[serde(default)]
    pub public_key: String,
    /// Absolute path of the private key; null for a key of the ssh-agent
    pub private_key_file: Option<String>,
    /// `ed25519` or `rsa`
    #[serde(default)]
    pub algorithm: String,
}
section!(KeyPair, "keyPair", "keygen");

/// The EC2 instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// `i-0123456789abcdef0`
    pub id: String,
    /// Such as `t3.micro`
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// `pending`, `running`, …, as EC2 calls it
    pub state: Option<String>,
    /// Null where the subnet gives none
    pub public_dns: Option<String>,
    /// Changes with each stop and start, unless it is an Elastic IP
    pub public_ip: Option<String>,
    /// The address inside the VPC
    pub private_ip: Option<String>,
    /// The IPv6 address, if it has one
    #[serde(default)]
    pub ipv6: Option<String>,
    /// Such as `eu-central-1a`
    pub availability_zone: Option<String>,
    /// `sg-…`: its own, or the first of those that were chosen
    pub security_group_id: Option<String>,
    /// RFC 3339
    pub launch_time: Option<String>,
    /// True if this run made it
    #[serde(default)]
    pub created: bool,
}
section!(Instance, "instance", "ec2-up");

/// How to log in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Ssh {
    /// Name or address
    pub host: String,
    /// TCP port; unsaid, `ssh_config` may say it, else it is 22
    #[serde(default)]
    pub port: Option<u16>,
    /// Login name; unsaid, `ssh_config` may say it, else it is root
    #[serde(default)]
    pub user: Option<String>,
    /// OpenSSH public keys, or `SHA256:` fingerprints, of which the machine must show one
    #[serde(default)]
    pub host_keys: Vec<String>,
    /// A jump host, as OpenSSH's `ProxyJump` takes it
    #[serde(default)]
    pub jump: Option<String>,
}
section!(Ssh, "ssh", "ec2-up");

/// What the user wishes for one machine; flags of the same names say it for all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Wish {
    /// Such as `t3.micro`
    pub instance_type: Option<String>,
    /// GiB
    pub volume_size: Option<u32>,
    /// Such as `gp3`
    pub volume_type: Option<String>,
    /// `PORT[/udp][:CIDR]` each
    pub open: Option<Vec<String>>,
    /// CIDR blocks that may reach ssh
    pub ssh_from: Option<Vec<String>>,
    /// `subnet-…`
    pub subnet: Option<String>,
    /// `sg-…` each, in place of a group of its own
    pub security_groups: Option<Vec<String>>,
    /// An IPv6 address
    pub ipv6: Option<bool>,
    /// An address that survives a stop
    pub elastic_ip: Option<bool>,
    /// Tags beside the tools' own
    pub tags: Option<BTreeMap<String, String>>,
    /// A spot instance
    pub spot: Option<bool>,
    /// `standard` or `unlimited`
    pub credits: Option<String>,
    /// Name or ARN of an IAM instance profile
    pub instance_profile: Option<String>,
    /// Path of a script that the machine runs at every boot
    pub user_data: Option<String>,
    /// `required` or `optional`
    pub imds: Option<String>,
    /// `switch`, `boot`, `test` or `dry-activate`
    pub action: Option<String>,
}
section!(Wish, "wish", "the user");

/// One of the record's `secrets`: a file of the deployer's, by its path only. A path alone may
/// stand for the object.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Secret {
    /// Where the deployer has it
    pub path: String,
    /// The user whom it belongs to on the machine, by name or number; root if absent
    #[serde(default)]
    pub owner: Option<String>,
    /// The group, by name or number
    #[serde(default)]
    pub group: Option<String>,
    /// Its mode in octal, such as `0440`
    #[serde(default)]
    pub mode: Option<String>,
    /// Units to restart when it has changed
    #[serde(default)]
    pub restart: Vec<String>,
}

/// The system that was built and put on the machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Closure {
    /// The toplevel's derivation; null where only a store path was given
    pub drv: Option<StorePath>,
    /// The NixOS system
    pub toplevel: StorePath,
    /// Store paths of the closure; null if a failure came before they were counted
    pub paths: Option<u64>,
    /// Bytes of NAR of the closure
    pub bytes: Option<u64>,
    /// Store paths sent by this run; null if not all arrived
    pub sent_paths: Option<u64>,
    /// Bytes of NAR sent by this run, before compression
    pub sent_bytes: Option<u64>,
    /// What those bytes were on the wire, compressed; null if not all arrived
    #[serde(default)]
    pub compressed_bytes: Option<u64>,
    /// Bytes on the wire that were spared by sending differences to older versions
    #[serde(default)]
    pub saved_bytes: Option<u64>,
    /// How often this run waited for an answer of the machine, connecting and logging in included; not
    /// counted are answers that came while it still sent
    #[serde(default)]
    pub round_trips: Option<u64>,
    /// Bytes of NAR a second while sending
    #[serde(default)]
    pub rate: Option<u64>,
    /// True if Nix evaluated the configuration for this machine: not where an earlier evaluation holds, or another machine's
    #[serde(default)]
    pub evaluated: bool,
    /// True if this run built something
    #[serde(default)]
    pub built: bool,
    /// Seconds that this run took for the machine
    #[serde(default)]
    pub seconds: f64,
    /// Where the seconds went
    #[serde(default)]
    pub phases: Phases,
}
section!(Closure, "closure", "nix-push");

/// Seconds of each phase of a push; null for one that was not begun or not ended. Connecting goes
/// on beside evaluating and building.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Phases {
    /// Evaluating, or waiting for an evaluation that holds for this machine too
    pub evaluate: Option<f64>,
    /// Building here, or waiting for a build of the same system
    pub build: Option<f64>,
    /// From no connection to the machine's facts
    pub connect: Option<f64>,
    /// Asking the machine what it lacks
    pub ask: Option<f64>,
    /// Sending, to the machine's last answer
    pub send: Option<f64>,
    /// Building on the machine, and keeping the system there
    pub root: Option<f64>,
}

/// What came of the switch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Activation {
    /// `switch`, `boot`, `test` or `dry-activate`
    #[serde(default)]
    pub action: String,
    /// `switched unchanged booted-next rebooted units-failed rolled-back refused dry`; null if it is not known
    pub outcome: Option<String>,
    /// The system that ran before
    pub previous: Option<StorePath>,
    /// The system that runs now
    pub current: Option<StorePath>,
    /// The number of the profile's generation
    pub generation: Option<u64>,
    /// The kernel's boot id, to see a reboot by
    pub boot_id: Option<String>,
    /// What is in the machine's /etc/machine-id, to know it again where it has no instance id
    #[serde(default)]
    pub machine_id: Option<String>,
    /// True if this run rebooted the machine
    #[serde(default)]
    pub rebooted: bool,
    /// Units that failed
    #[serde(default)]
    pub failed_units: Vec<String>,
    /// Seconds that this run took for the machine
    #[serde(default)]
    pub seconds: f64,
}
section!(Activation, "activation", "nixos-switch");

/// What `nixos-switch --status` found on the machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The system that runs
    pub running: Option<StorePath>,
    /// The system that was booted
    pub booted: Option<StorePath>,
    /// The system of the profile
    pub profile: Option<StorePath>,
    /// The system that the boot loader starts by default; null where the loader is not known
    pub boot_entry: Option<StorePath>,
    /// The number of the profile's generation
    pub generation: Option<u64>,
    /// The kernel's boot id
    pub boot_id: Option<String>,
    /// True if it runs and boots the record's system, with nothing pending; null without `closure`
    pub matches: Option<bool>,
    /// What only a reboot would bring: `kernel initrd kernel-modules`
    pub reboot_for: Vec<String>,
    /// Wished secrets that the machine does not have
    pub secrets_missing: Vec<String>,
    /// Wished secrets that it has with another content, mode or owner
    pub secrets_changed: Vec<String>,
    /// A deployment under way: its system, how far it is, who and since when
    pub deployment: Option<String>,
    /// What a deployment that was cut short has left
    pub left: Vec<String>,
}

/// One generation of the system, as `nixos-switch --list-generations` found it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Generation {
    /// Its number
    pub generation: u64,
    /// RFC 3339: when it was made
    pub date: Option<String>,
    /// Its system
    pub toplevel: Option<StorePath>,
    /// Such as `26.05.20260101.abcdef0`
    pub nixos_version: Option<String>,
    /// Such as `6.12.1`
    pub kernel_version: Option<String>,
    /// The names of its specialisations
    pub specialisations: Vec<String>,
    /// True if it is the profile's
    pub current: bool,
    /// True if its system runs
    pub running: bool,
    /// True if its system was booted
    pub booted: bool,
    /// True if the boot loader starts its system by default
    pub boots: bool,
}
