//! Secrets: files of the deployer that a machine is to have. Their bytes go over the session's
//! stdin and nowhere else.

use crate::Args;
use machine_record::{Failure, Kind, Record, Secret};
use machine_ssh::quote;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The folder that secrets are kept in without --secrets-dir: a ramfs of NixOS, gone with a reboot.
const RUN_KEYS: &str = "/run/keys";

/// The longest name of a file on Linux, in bytes (NAME_MAX).
const LONGEST_NAME: usize = 255;

/// The secrets that one machine is to have, all of them.
pub struct Secrets {
    folder: String,
    files: Vec<File>,
}

struct File {
    name: String,
    content: Vec<u8>,
    digest: String,
    mode: String,
    owner: String,
    group: String,
    restart: Vec<String>,
}

impl Secrets {
    /// Reads what --secrets and the record's `secrets` name; the record wins where both name one.
    /// `None` where neither says anything: then the machine's secrets are left alone.
    ///
    /// # Errors
    /// Kind `input`, naming the secret, for what cannot be read or cannot be a secret.
    pub fn of(args: &Args, record: &Record) -> Result<Option<Secrets>, Failure> {
        let own: Option<BTreeMap<String, Value>> = record.read("secrets")?;
        if args.secrets.is_none() && own.is_none() {
            return Ok(None);
        }
        let mut wished = BTreeMap::new();
        if let Some(folder) = &args.secrets {
            wished = of_folder(Path::new(&folder.replace("{name}", &record.name())))?;
        }
        for (name, value) in own.unwrap_or_default() {
            let secret = of_value(value).map_err(|cause| cannot(&name, cause))?;
            wished.insert(name, secret);
        }
        let folder = args.secrets_dir.clone().unwrap_or(RUN_KEYS.into());
        let files = wished.into_iter().map(|(name, secret)| File::read(name, secret, &folder));
        Ok(Some(Secrets { files: files.collect::<Result<_, _>>()?, folder }))
    }

    /// The assignments that tell the script of them: all but their content.
    pub fn values(secrets: Option<&Secrets>) -> [(&'static str, String); 4] {
        let (mut lines, mut sums, mut hash) = (String::new(), String::new(), Sha256::new());
        for (index, file) in secrets.iter().flat_map(|secrets| &secrets.files).enumerate() {
            let File { mode, owner, group, .. } = file;
            let units = quote(&file.restart.join(" "));
            let line = format!("secret {index} {} {mode} {owner} {group} {units}\n", quote(&file.name));
            let sum = format!("{} {} ", file.content.len(), file.digest);
            hash.update(format!("{line}{sum}"));
            lines += &line;
            sums += &sum;
        }
        let folder = secrets.map_or(String::new(), |secrets| secrets.folder.clone());
        // By it a client that comes later knows whether a deployment in hand is the same.
        let id = if secrets.is_some() { hex(&hash.finalize()) } else { String::new() };
        [("secrets_dir", folder), ("secrets", lines), ("sums", sums), ("secrets_id", id)]
    }

    /// The contents of those that the machine asks for: their numbers, as it was told of them.
    pub fn contents<'a>(&'a self, numbers: &'a str) -> impl Iterator<Item = &'a [u8]> {
        numbers.split_whitespace().filter_map(|number| Some(self.file(number)?.content.as_slice()))
    }

    /// The name of the secret with this number.
    pub fn name(&self, number: &str) -> Option<&str> {
        Some(&self.file(number)?.name)
    }

    /// The names of those with these numbers, for people.
    pub fn names(&self, numbers: &str) -> String {
        let names = numbers.split_whitespace().filter_map(|number| self.name(number));
        names.map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
    }

    fn file(&self, number: &str) -> Option<&File> {
        self.files.get(number.parse::<usize>().ok()?)
    }
}

fn cannot(name: &str, cause: impl std::fmt::Display) -> Failure {
    Failure::new(Kind::Input, format!("cannot use the secret {name:?}: {cause}"))
        .hint("a secret is a path, or {\"path\": …, \"owner\", \"group\", \"mode\", \"restart\"}: see nixos-switch(1)")
}

/// A member of the record's `secrets`: a path, or an object that has one.
fn of_value(value: Value) -> Result<Secret, String> {
    match value {
        Value::String(path) => Ok(at(path)),
        Value::Object(_) => serde_json::from_value(value).map_err(|error| error.to_string()),
        // Of a list, too, whose elements serde would take for the members.
        _ => Err("it is neither a path nor an object".into()),
    }
}

fn at(path: impl Into<String>) -> Secret {
    Secret { path: path.into(), ..Secret::default() }
}

/// All files of a folder; each is a secret of its name.
fn of_folder(folder: &Path) -> Result<BTreeMap<String, Secret>, Failure> {
    let cannot = |cause: &dyn std::fmt::Display| {
        Failure::new(Kind::Input, format!("cannot read the secrets in {}: {cause}", folder.display()))
            .hint("--secrets names a folder of files that you may read")
    };
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(|error| cannot(&error))? {
        let path = entry.map_err(|error| cannot(&error))?.path();
        if !path.is_file() {
            let failure = cannot(&format!("{} is no file", path.display()));
            return Err(failure.hint("a secret is one file; folders of them are not taken"));
        }
        match (path.file_name().and_then(|name| name.to_str()), path.to_str()) {
            (Some(name), Some(path)) => found.insert(name.to_string(), at(path)),
            _ => return Err(cannot(&format!("the name {} is not UTF-8", path.display()))),
        };
    }
    Ok(found)
}

impl File {
    fn read(name: String, secret: Secret, folder: &str) -> Result<File, Failure> {
        let cannot = |cause: String| cannot(&name, cause);
        let reserved = ["", ".", "..", ".nixpipe"].contains(&name.as_str());
        if reserved || name.contains(['/', '\0']) || name.len() > LONGEST_NAME {
            return Err(cannot("it cannot be the name of a file there".into()));
        }
        let content = fs::read(&secret.path).map_err(|error| cannot(format!("{}: {error}", secret.path)))?;
        // On a disk as terraform-nixos has it, else for root alone.
        let (mode, group) = if folder.starts_with("/run/") { ("0400", "root") } else { ("0640", "keys") };
        let mode = secret.mode.as_deref().unwrap_or(mode);
        let bits = u32::from_str_radix(mode, 8).ok().filter(|bits| *bits <= 0o777 && mode.len() <= 4);
        let Some(bits) = bits else {
            return Err(cannot(format!("{mode:?} is not a mode of three octal digits, such as 0440")));
        };
        let user = |text: Option<&str>, default: &str| match text.unwrap_or(default) {
            text if is_user(text) => Ok(text.to_string()),
            text => Err(cannot(format!("{text:?} is neither the name nor the number of a user or group"))),
        };
        if let Some(unit) = secret.restart.iter().find(|unit| !is_unit(unit)) {
            return Err(cannot(format!("{unit:?} is not the name of a unit, such as nginx.service")));
        }
        Ok(File {
            digest: hex(&Sha256::digest(&content)),
            content,
            mode: format!("{bits:o}"),
            owner: user(secret.owner.as_deref(), "root")?,
            group: user(secret.group.as_deref(), group)?,
            restart: secret.restart,
            name,
        })
    }
}

/// What useradd(8) takes as a name, or a number.
fn is_user(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && !text.starts_with('-')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

/// What systemd.unit(5) takes as a name, with its kind.
fn is_unit(text: &str) -> bool {
    text.rsplit_once('.').is_some_and(|(name, kind)| !name.is_empty() && !kind.is_empty())
        && !text.starts_with('-')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads --secrets-dir.
pub fn folder(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    let within = ["/nix/", "/proc/", "/sys/", "/dev/"].iter().any(|top| format!("{text}/").starts_with(top));
    let odd = text.split('/').skip(1).any(|part| ["", ".", ".."].contains(&part));
    if !text.starts_with('/') || odd || within || !text.bytes().all(plain) {
        return Err("an absolute path of plain characters, such as /var/keys".into());
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, secret: Secret) -> Result<File, Failure> {
        File::read(name.into(), secret, RUN_KEYS)
    }

    #[test]
    fn a_secret_is_roots_alone_unless_it_is_said_otherwise() {
        let path = std::env::temp_dir().join(format!("nixpipe-secret-{}", std::process::id()));
        fs::write(&path, "x").unwrap();
        let at = || at(path.to_str().unwrap());
        let file = read("a b", at()).unwrap();
        assert_eq!((file.mode.as_str(), file.owner.as_str(), file.group.as_str()), ("400", "root", "root"));
        let file = File::read("a".into(), at(), "/var/keys").unwrap();
        assert_eq!((file.mode.as_str(), file.group.as_str()), ("640", "keys"));
        let more = Secret { mode: Some("0440".into()), owner: Some("postgres".into()), ..at() };
        let file = read("a", more).unwrap();
        assert_eq!((file.mode.as_str(), file.owner.as_str()), ("440", "postgres"));
        for name in ["", "..", "a/b", ".nixpipe", &"x".repeat(256)] {
            assert!(read(name, at()).is_err(), "{name}");
        }
        for mode in ["", "9", "4755", "00440", "rw"] {
            assert!(read("a", Secret { mode: Some(mode.into()), ..at() }).is_err(), "{mode}");
        }
        for owner in ["", "-x", "a b", "$(x)", "a:b"] {
            assert!(read("a", Secret { owner: Some(owner.into()), ..at() }).is_err(), "{owner}");
        }
        for unit in ["", "nginx", "-x.service", "a b.service", "a;b.service"] {
            assert!(read("a", Secret { restart: vec![unit.into()], ..at() }).is_err(), "{unit}");
        }
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_secret_of_the_record_is_a_path_or_an_object() {
        assert_eq!(of_value(serde_json::json!({ "path": "k" })).unwrap(), at("k"));
        for other in [serde_json::json!(["k", "root", null, "0440", []]), serde_json::json!(5), Value::Null] {
            assert_eq!(of_value(other).unwrap_err(), "it is neither a path nor an object");
        }
        assert!(of_value(serde_json::json!({ "path": "k", "user": "root" })).unwrap_err().contains("unknown field"));
    }

    #[test]
    fn nothing_of_the_content_is_in_the_script() {
        let file = File {
            name: "it's\nnew".into(),
            content: b"the-secret".to_vec(),
            digest: hex(&Sha256::digest(b"the-secret")),
            mode: "400".into(),
            owner: "root".into(),
            group: "root".into(),
            restart: vec!["a.service".into(), "b.service".into()],
        };
        let secrets = Secrets { folder: RUN_KEYS.into(), files: vec![file] };
        let values = Secrets::values(Some(&secrets));
        assert!(values.iter().all(|(_, value)| !value.contains("the-secret")));
        assert_eq!(values[1].1, "secret 0 'it'\"'\"'s\nnew' 400 root root 'a.service b.service'\n");
        assert_eq!(secrets.contents("0 7 x").collect::<Vec<_>>(), [b"the-secret"]);
    }

    #[test]
    fn the_folder_is_a_plain_absolute_path() {
        assert!(folder("/var/keys").is_ok());
        for bad in ["", "keys", "/", "/var//keys", "/var/../etc", "/nix/store", "/a b", "/it's"] {
            assert!(folder(bad).is_err(), "{bad}");
        }
    }
}
