//! keygen: an SSH key pair for the machines of a stream.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

use anyhow::Result;
use clap::{Parser, ValueEnum};
use key::{Algorithm, Key};
use machine_record::{Failure, KeyPair, Kind, PlanEntry, Record, StreamArgs, Tool, log};
use std::path::PathBuf;
use std::process::ExitCode;

mod agent;
mod key;
mod key_file;

const TOOL: Tool = Tool { name: "keygen", starts: true, names: false, takes_failed: false, jobs: 4 };

const EXAMPLES: &str = "\
Input: records of machines; or -n, and one is made from the flags.
Output: each with `keyPair` added; the private key stays in its file.

Examples:
  One key for the stream, in id_ed25519:
    nixos-ami -n --release 25.11 --name web-1 | keygen | ec2-up

  The tutorial's: an RSA key in id_rsa.pem:
    nixos-ami -n --release 20.09 --region eu-central-1 | keygen --type rsa

  A key for each machine, in the folder keys:
    keygen --file 'keys/{name}' < machines.json

  The first key of the ssh-agent; no file is written:
    keygen --from-agent < machines.json";

/// Make an SSH key pair for a machine
///
/// Reads machine records and writes each with its `keyPair` added: a name, the public key, and
/// the path of the private key. A key file that exists is used as it is, after a check of its
/// mode and that it is a key; otherwise it is made, with mode 0600. It is never overwritten.
#[derive(Parser)]
#[command(version, after_long_help = EXAMPLES)]
struct Args {
    /// Algorithm of a key that is made [default: ed25519]
    #[arg(long = "type", value_name = "TYPE", value_enum)]
    algorithm: Option<Type>,

    /// Size of an RSA key, from 2048 (the default) to 4096
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(2048..=4096), conflicts_with = "from_agent")]
    bits: Option<u16>,

    /// Private key file; {name} stands for the machine's name [default: id_ed25519 or id_rsa.pem]
    #[arg(long, value_name = "PATH")]
    file: Option<String>,

    /// Take a key of the ssh-agent instead of a file
    #[arg(long, conflicts_with_all = ["file", "algorithm"])]
    from_agent: bool,

    #[command(flatten)]
    stream: StreamArgs,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Type {
    Ed25519,
    Rsa,
}

impl AsRef<StreamArgs> for Args {
    fn as_ref(&self) -> &StreamArgs {
        &self.stream
    }
}

/// The size of an RSA key unless said, as Terraform's `tls_private_key`.
const BITS: u16 = 2048;

/// The sizes of RSA keys that EC2 imports (EC2 user guide, "Create a key pair").
const IMPORTED: [u16; 2] = [2048, 4096];

fn main() -> ExitCode {
    let args: Args = machine_record::parse();
    if args.bits.is_some() && args.algorithm != Some(Type::Rsa) {
        log::error("--bits is for --type rsa: an ed25519 key has one size");
        return ExitCode::from(2);
    }
    machine_record::for_each(TOOL, &args.stream, |record| add_key_pair(&args, record))
}

fn add_key_pair(args: &Args, record: &mut Record) -> Result<()> {
    let known: Option<KeyPair> = record.section()?;
    if args.from_agent {
        let public = agent::key(known.as_ref())?;
        return finish(record, known, public, None);
    }
    let path = path(args, record, known.as_ref())?;
    let shown = path.display().to_string();
    let public = match key_file::read(&path)? {
        Some(key) => {
            fit(args, &key, &shown)?;
            log::event(&record.name(), &format!("using the key in {shown}"));
            key
        }
        None if known.as_ref().is_some_and(|pair| pair.private_key_file.is_none()) => {
            let name = known.map(|pair| pair.name).unwrap_or_default();
            return Err(Failure::new(Kind::NotFound, format!("the private key of {name} is not in {shown}"))
                .hint("say where it is with --file, or that the ssh-agent has it with --from-agent")
                .into());
        }
        None if known.is_some() => {
            return Err(Failure::new(Kind::NotFound, format!("the record's private key is gone: {shown}"))
                .hint("bring the file back; a new key would not open the machine. To make one all the same, remove `keyPair` from the record")
                .into());
        }
        None if args.stream.plan => {
            log::event(&record.name(), &format!("+ file/{shown}: a new key"));
            record.plan(&PlanEntry::new(TOOL.name, "create", format!("file/{shown}"), "no such file"))?;
            return Ok(());
        }
        None => {
            let bits = args.bits.unwrap_or(BITS);
            if args.algorithm == Some(Type::Rsa) && !IMPORTED.contains(&bits) {
                log::warning(&record.name(), &format!("EC2 imports RSA keys of 2048 and 4096 bits, not of {bits}"));
            }
            let _step = log::step(&record.name(), "making the key");
            let (key, made) = key_file::create(&path, || match args.algorithm {
                Some(Type::Rsa) => key::make_rsa(bits.into()),
                _ => key::make_ed25519(),
            })?;
            let did = if made { "made the key" } else { "using the key" };
            // Somebody else was faster, perhaps with another wish.
            fit(args, &key, &shown)?;
            log::event(&record.name(), &format!("{did} in {shown}"));
            key
        }
    };
    finish(record, known, public, Some(shown))
}

/// Refuses a key that is there and is of another type or size than the flags say.
fn fit(args: &Args, key: &Key, shown: &str) -> Result<(), Failure> {
    if let Some(wished) = args.algorithm
        && wished.name() != key.algorithm.name()
    {
        let has = key.algorithm.name();
        return Err(Failure::new(Kind::Conflict, format!("{shown} is an {has} key, not {}", wished.name()))
            .hint("name another file with --file, or leave --type out to use this key"));
    }
    if let (Some(wished), Some(has)) = (args.bits, key.bits())
        && has != u32::from(wished)
    {
        return Err(Failure::new(Kind::Conflict, format!("{shown} is an RSA key of {has} bits, not {wished}"))
            .hint("name another file with --file, or leave --bits out to use this key"));
    }
    Ok(())
}

/// The key file: the record's own, else the flag's, else the default.
fn path(args: &Args, record: &Record, known: Option<&KeyPair>) -> Result<PathBuf> {
    if let Some(path) = known.and_then(|pair| pair.private_key_file.as_ref()) {
        return Ok(std::path::absolute(path)?);
    }
    // What ec2-ls found tells the type, and not where the file is.
    let is_rsa = args.algorithm.map_or(known.is_some_and(|pair| pair.algorithm == "rsa"), |it| it == Type::Rsa);
    let default = if is_rsa { "id_rsa.pem" } else { "id_ed25519" };
    let template = args.file.as_deref().unwrap_or(default);
    if template.is_empty() {
        return Err(Failure::new(Kind::Input, "--file is empty").hint("name a file, such as id_ed25519").into());
    }
    Ok(std::path::absolute(template.replace("{name}", &record.name()))?)
}

fn finish(record: &mut Record, known: Option<KeyPair>, key: Key, file: Option<String>) -> Result<()> {
    let is_other = |known: &&KeyPair| !known.public_key.is_empty() && !key.is(&known.public_key);
    if let Some(known) = known.as_ref().filter(is_other) {
        let (from, names) = (file.as_deref().unwrap_or("the ssh-agent"), &known.name);
        return Err(Failure::new(
            Kind::Conflict,
            format!("the key of {from} is not the record's: the record names {names}"),
        )
        .hint("name the file of the record's own key with --file")
        .into());
    }
    // A name that it has is that of a key pair in EC2, maybe of a machine that is there.
    let named = known.map(|known| known.name).filter(|name| !name.is_empty());
    record.put(&KeyPair {
        name: named.unwrap_or_else(|| key.name()),
        public_key: key.public,
        private_key_file: file,
        algorithm: key.algorithm.name().into(),
    })?;
    Ok(())
}

impl Type {
    fn name(self) -> &'static str {
        match self {
            Type::Ed25519 => Algorithm::Ed25519.name(),
            Type::Rsa => Algorithm::Rsa.name(),
        }
    }
}
