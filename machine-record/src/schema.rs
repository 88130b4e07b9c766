//! The JSON Schema of the record, for programs: made from the types, so that it cannot lie.

#![allow(dead_code)]

use crate::{Activation, Ami, Closure, Generation, Instance, KeyPair, Kind, PlanEntry, Secret, Ssh, Status, Wish};
use schemars::JsonSchema;
use std::collections::BTreeMap;

/// What is known of one machine. Members that are not named here pass through every tool.
///
/// History of `version`: 1 is the first.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "nixpipe machine record, version 1")]
struct MachineRecord {
    /// The version of the format; absent means the current one
    #[schemars(extend("const" = 1), with = "Option<u64>")]
    version: Option<u64>,
    /// A host name, unique in its stream
    #[schemars(regex(pattern = r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$"))]
    name: Option<String>,
    /// Such as `eu-central-1`
    region: Option<String>,
    /// `x86_64-linux` or `aarch64-linux`
    system: Option<String>,
    /// A NixOS release such as `25.11`, or `latest`
    release: Option<String>,
    ami: Option<Ami>,
    key_pair: Option<KeyPair>,
    instance: Option<Instance>,
    ssh: Option<Ssh>,
    wish: Option<Wish>,
    /// Path, flake reference or store path of the NixOS configuration
    configuration: Option<String>,
    /// By the names that they have on the machine; for nixos-switch
    secrets: Option<BTreeMap<String, PathOrSecret>>,
    closure: Option<Closure>,
    activation: Option<Activation>,
    /// Added by `nixos-switch --status`
    status: Option<Status>,
    /// Added by `nixos-switch --list-generations`, the oldest first
    generations: Option<Vec<Generation>>,
    /// Added by `ec2-ls --orphans`, for ec2-down: what nobody uses, as in `volume/vol-1`
    orphans: Option<Vec<String>>,
    /// What the tools would do, with `--plan`
    plan: Option<Vec<PlanEntry>>,
    error: Option<Error>,
}

/// Where a secret comes from
#[derive(JsonSchema)]
#[serde(untagged)]
enum PathOrSecret {
    /// The path of a file
    Path(String),
    Secret(Secret),
}

/// Why the machine failed; later tools but ec2-down hand it on untouched.
#[derive(JsonSchema)]
#[schemars(rename = "Error")]
struct Error {
    /// The tool that failed
    tool: String,
    /// The class of failure
    kind: Kind,
    /// `what failed: cause`
    message: String,
    /// What to do
    hint: Option<String>,
}

/// With `NIXPIPE_WRITE_SCHEMA=1` the file is written instead of compared.
#[test]
fn the_published_schema_is_that_of_the_types() {
    let schema = serde_json::to_string_pretty(&schemars::schema_for!(MachineRecord)).unwrap() + "\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/machine-record-v1.schema.json");
    if std::env::var_os("NIXPIPE_WRITE_SCHEMA").is_some() {
        std::fs::write(path, &schema).unwrap();
    }
    let published = std::fs::read_to_string(path).unwrap_or_default();
    assert!(published == schema, "run: NIXPIPE_WRITE_SCHEMA=1 cargo test -p machine-record");
}
