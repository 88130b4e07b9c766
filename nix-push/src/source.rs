//! Where a machine's configuration comes from.

use anyhow::{Context, Result};
use machine_record::{Failure, Kind, Record, StorePath, WithHint, WithKind};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the configuration comes from, by a flag or the record's `configuration`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A NixOS configuration: a file, or a folder with a default.nix
    Plain(PathBuf),
    /// The same as text
    Inline(String),
    /// A file that is a NixOS system by itself, or a function to one
    Hermetic(PathBuf),
    /// `nixosConfigurations.<name>` of a flake; the name is the machine's unless said
    Flake { reference: String, name: Option<String> },
    /// A system that is built already
    Toplevel(StorePath),
}

impl Source {
    /// Reads the record's `configuration`.
    pub fn of(record: &Record) -> Result<Option<Source>> {
        record.string("configuration")?.map(|text| Source::guess(&text)).transpose()
    }

    /// Tells a path, a flake reference and a built system from each other.
    pub fn guess(text: &str) -> Result<Source> {
        let path = Path::new(text);
        if path.join("bin/switch-to-configuration").exists() {
            Source::toplevel(path)
        } else if path.exists() {
            Source::plain(path)
        } else if text.contains('#') || has_scheme(text) {
            Source::flake(text)
        } else {
            Source::plain(path)
        }
    }

    pub fn plain(path: &Path) -> Result<Source> {
        Ok(Source::Plain(file(path)?))
    }

    pub fn hermetic(path: &Path) -> Result<Source> {
        Ok(Source::Hermetic(file(path)?))
    }

    pub fn toplevel(path: &Path) -> Result<Source> {
        // The files of a store path may be elsewhere than its name says.
        if fs::symlink_metadata(path).is_err()
            && let Ok(store_path) = StorePath::new(path.to_string_lossy())
        {
            return Ok(Source::Toplevel(store_path));
        }
        let real = fs::canonicalize(path)
            .with_context(|| format!("cannot use the system {}", path.display()))
            .with_kind(Kind::Input)
            .with_hint(SYSTEM)?;
        let store_path = StorePath::new(real.to_string_lossy()).map_err(|_| {
            Failure::new(Kind::Input, format!("{} is no path of the Nix store", path.display())).hint(SYSTEM)
        })?;
        Ok(Source::Toplevel(store_path))
    }

    pub fn flake(text: &str) -> Result<Source> {
        let (reference, name) = match text.split_once('#') {
            Some((reference, name)) => (reference, Some(name.to_string()).filter(|name| !name.is_empty())),
            None => (text, None),
        };
        let reference = if has_scheme(reference) { reference.into() } else { local_flake(reference)? };
        Ok(Source::Flake { reference, name })
    }

    /// The file or folder that it is in.
    pub fn path(&self) -> Option<PathBuf> {
        match self {
            Source::Plain(path) | Source::Hermetic(path) => Some(path.clone()),
            Source::Inline(_) => std::env::current_dir().ok(),
            Source::Flake { .. } | Source::Toplevel(_) => None,
        }
    }

    /// What to call it in a line for people.
    pub fn shown(&self) -> String {
        match self {
            Source::Plain(path) | Source::Hermetic(path) => path.display().to_string(),
            Source::Inline(_) => "the expression".into(),
            Source::Flake { reference, .. } => reference.clone(),
            Source::Toplevel(path) => path.to_string(),
        }
    }
}

/// What a system is that is built already.
const SYSTEM: &str = "it is a system of the Nix store, or a link to one, such as result of nix-build";

/// An absolute path to what exists.
fn file(path: &Path) -> Result<PathBuf> {
    if path.as_os_str().is_empty() {
        return Err(Failure::new(Kind::Input, "the path of the configuration is empty")
            .hint("name one, as in: nix-push configuration.nix")
            .into());
    }
    let path = std::path::absolute(path).with_kind(Kind::Input)?;
    fs::metadata(&path).map_err(|error| {
        Failure::new(Kind::Input, format!("cannot read the configuration {}: {error}", path.display()))
            .hint("is the path right? A relative one starts at the current folder")
    })?;
    Ok(path)
}

/// `github:`, `git+https:` and the like (RFC 3986, section 3.1).
fn has_scheme(text: &str) -> bool {
    let Some((scheme, _)) = text.split_once(':') else { return false };
    scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+.-".contains(&byte))
}

/// A flake in a folder: through git where there is a repository, as the commands of Nix do, so
/// that only what git knows is copied to the store.
fn local_flake(text: &str) -> Result<String> {
    // What follows is Nix's to understand, such as `?submodules=1`.
    let (path, query) = match text.split_once('?') {
        Some((path, query)) if !Path::new(text).exists() => (path, Some(query)),
        _ => (text, None),
    };
    let path = Path::new(if path.is_empty() { "." } else { path });
    let folder = fs::canonicalize(path).map_err(|error| {
        let failure = Failure::new(Kind::Input, format!("cannot read the flake {}: {error}", path.display()));
        match path.components().count() {
            1 => failure.hint(format!("for an entry of Nix's registry, say flake:{}", path.display())),
            _ => failure.hint("is the path right? A relative one starts at the current folder"),
        }
    })?;
    let root = folder.ancestors().find(|folder| folder.join(".git").exists());
    let reference = match root {
        None => format!("path:{}", escape(&folder)),
        Some(root) if root == folder => format!("git+file://{}", escape(root)),
        Some(root) => {
            let below = folder.strip_prefix(root).unwrap_or(&folder);
            format!("git+file://{}?dir={}", escape(root), escape(below))
        }
    };
    let joint = if reference.contains('?') { '&' } else { '?' };
    Ok(query.map_or(reference.clone(), |query| format!("{reference}{joint}{query}")))
}

/// Percent-encodes a path for a URL.
pub fn escape(path: &Path) -> String {
    percent_encode(&path.to_string_lossy()).replace("%2F", "/")
}

/// Percent-encodes all but the unreserved characters of RFC 3986, section 2.3.
pub fn percent_encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flakes_are_told_from_paths() {
        let flake = |reference: &str, name: Option<&str>| Source::Flake {
            reference: reference.into(),
            name: name.map(String::from),
        };
        assert_eq!(Source::guess("github:a/b#web").unwrap(), flake("github:a/b", Some("web")));
        assert_eq!(Source::guess("git+https://x.org/a").unwrap(), flake("git+https://x.org/a", None));
        assert_eq!(Source::guess("/usr#web").unwrap(), flake("path:/usr", Some("web")));
        assert_eq!(Source::guess("/usr?dir=lib#web").unwrap(), flake("path:/usr?dir=lib", Some("web")));
        assert_eq!(Source::guess("/usr").unwrap(), Source::Plain("/usr".into()));
        assert_eq!(Source::guess("/usr/../etc/passwd").unwrap(), Source::Plain("/usr/../etc/passwd".into()));
        let failure = Failure::of(&Source::guess("").unwrap_err());
        assert_eq!((failure.kind, &*failure.message), (Kind::Input, "the path of the configuration is empty"));
        assert_eq!(failure.hint.as_deref(), Some("name one, as in: nix-push configuration.nix"));
        let failure = Failure::of(&Source::guess("/no/such.nix").unwrap_err());
        assert_eq!(failure.kind, Kind::Input);
        assert!(failure.message.contains("/no/such.nix"));
    }

    #[test]
    fn paths_become_urls() {
        assert_eq!(escape(Path::new("/a b/c#d/é")), "/a%20b/c%23d/%C3%A9");
    }
}
