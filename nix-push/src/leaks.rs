//! A flake of this computer is copied to the store, where everybody may read it: none that a private key lies in.

use crate::flake_files::percent_decode;
use machine_record::{Failure, Kind, Record};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Refuses a flake with which Nix would copy the record's private key, one of its `secrets` or a private host key: of a
/// folder it copies everything, of a git repository what git tracks (manual of Nix, "nix flake", *path* and *git*).
///
/// # Errors
/// Kind `input`, naming the file.
pub fn check(reference: &str, record: &Record) -> Result<(), Failure> {
    let Some((folder, git)) = local(reference) else { return Ok(()) };
    let here = |(what, path): (_, String)| Some((what, fs::canonicalize(&path).ok()?, path));
    let inside: Vec<_> = secrets(record, &folder)?
        .into_iter()
        .filter_map(here)
        .filter(|(_, file, _)| file.starts_with(&folder))
        .collect();
    let files: Vec<_> = inside.iter().map(|(_, file, _)| file.as_path()).collect();
    // Git is asked about all at once, and which it is only where it has one.
    if git && !files.is_empty() && !are_tracked(&folder, &files) {
        return Ok(());
    }
    let leaks = |(_, file, _): &&(&str, PathBuf, String)| !git || are_tracked(&folder, &[file]);
    if let Some((what, _, path)) = inside.iter().find(leaks) {
        let text = format!(
            "{what} {path} lies in the flake {}: Nix copies it to its store, where everybody may read it",
            folder.display()
        );
        return Err(Failure::new(Kind::Input, text).hint(match git {
            true => "take it out of the repository: git rm --cached FILE",
            false => "keep it elsewhere, or make the flake a git repository: of one, Nix copies what git tracks",
        }));
    }
    Ok(())
}

/// The folder that is copied, and whether by way of git.
fn local(reference: &str) -> Option<(PathBuf, bool)> {
    let url = reference.split_once('?').map_or(reference, |(url, _)| url);
    let git = url.strip_prefix("git+file://");
    let path = git.or(url.strip_prefix("path:"))?;
    Some((fs::canonicalize(percent_decode(path)?).ok()?, git.is_some()))
}

/// The files that nobody but the deployer is to read, and what each is.
fn secrets(record: &Record, flake: &Path) -> Result<Vec<(&'static str, String)>, Failure> {
    let pair: Option<Value> = record.read("keyPair")?;
    let own: Option<BTreeMap<String, Value>> = record.read("secrets")?;
    let key = pair.as_ref().and_then(|pair| pair["privateKeyFile"].as_str());
    let own = own.iter().flat_map(|own| own.values()).filter_map(|secret| secret.as_str().or(secret["path"].as_str()));
    Ok(key
        .map(|path| ("the private key", path))
        .into_iter()
        .chain(own.map(|path| ("the secret", path)))
        .map(|(what, path)| (what, path.to_string()))
        .chain(host_keys(key.map(Path::new), flake).into_iter().map(|path| ("the private host key", path)))
        .collect())
}

/// What ec2-up keeps for `--host-key user-data`, of whatever deployment and machine, or was about to: beside the private key,
/// or where it is run, if the ssh-agent has that.
fn host_keys(key: Option<&Path>, flake: &Path) -> Vec<String> {
    let folders = [key.and_then(Path::parent), Some(Path::new(".")), Some(flake)].into_iter().flatten();
    let files = folders.flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    let named = files.filter(|file| file.file_name().to_string_lossy().contains(".host-key"));
    let paths = named.filter_map(|file| file.path().to_str().map(String::from));
    // The public half of some host may have such a name.
    paths.filter(|path| is_private(path)).collect()
}

fn is_private(path: &str) -> bool {
    let mut start = [0; 11];
    File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == *b"-----BEGIN "
}

/// Whether git tracks any of the files, as far as is known.
fn are_tracked(folder: &Path, files: &[&Path]) -> bool {
    let mut git = Command::new("git");
    git.arg("-C").arg(folder).args(["ls-files", "--"]).args(files).stdin(Stdio::null()).stderr(Stdio::null());
    git.output().map_or(true, |said| !said.status.success() || !said.stdout.is_empty())
}
