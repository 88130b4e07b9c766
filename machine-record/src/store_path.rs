//! A checked path of the Nix store.

use crate::{Failure, Kind};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A store path such as `/nix/store/7rjj…-nixos-system-web-1`, checked when made, also when it
/// comes out of JSON.
///
/// Form: 32 characters of Nix's base-32 alphabet, `-`, and a name of at most 211 characters
/// (NixOS/nix `src/libstore/path.cc`, manual "Store Path").
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct StorePath(String);

const STORE: &str = "/nix/store/";
const HASH: usize = 32;

impl StorePath {
    /// Checks that `path` is a store path itself: not a file below one, not a link to one.
    pub fn new(path: impl Into<String>) -> Result<Self, Failure> {
        let path = path.into();
        if well_formed(&path) {
            Ok(StorePath(path))
        } else {
            Err(Failure::new(Kind::Input, format!("not a store path: {path:?}"))
                .hint("it is the folder of the store, a hash and a name, as in /nix/store/…-nixos-system-web-1"))
        }
    }

    /// The whole path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last component: hash and name.
    pub fn base_name(&self) -> &str {
        &self.0[STORE.len()..]
    }

    /// The name without the hash.
    pub fn name(&self) -> &str {
        &self.0[STORE.len() + HASH + 1..]
    }
}

fn well_formed(path: &str) -> bool {
    let Some(base) = path.strip_prefix(STORE) else { return false };
    let Some((hash, name)) = base.split_once('-') else { return false };
    hash.len() == HASH
        && hash.bytes().all(|byte| b"0123456789abcdfghijklmnpqrsvwxyz".contains(&byte))
        && (1..=211).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-._?=".contains(&byte))
}

impl TryFrom<String> for StorePath {
    type Error = Failure;
    fn try_from(path: String) -> Result<Self, Failure> {
        StorePath::new(path)
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<std::path::Path> for StorePath {
    fn as_ref(&self) -> &std::path::Path {
        self.0.as_ref()
    }
}

#[cfg(test)]
impl schemars::JsonSchema for StorePath {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "StorePath".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^/nix/store/[0-9abcdfghijklmnpqrsvwxyz]{32}-[A-Za-z0-9+._?=-]{1,211}$"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_store_paths_are_store_paths() {
        let good = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-net-tools-1.60";
        assert_eq!(StorePath::new(good).unwrap().name(), "net-tools-1.60");
        for bad in [
            "",
            "/nix/store/",
            "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la",
            "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-",
            "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-a/bin",
            "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-a b",
            "/nix/store/e0bgd045z0d4icpbc2yyz4gx48ak44la-net-tools",
            "/gnu/store/00bgd045z0d4icpbc2yyz4gx48ak44la-net-tools",
            "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-é",
        ] {
            let failure = StorePath::new(bad).unwrap_err();
            assert_eq!(failure.message, format!("not a store path: {bad:?}"));
            let hint = "it is the folder of the store, a hash and a name, as in /nix/store/…-nixos-system-web-1";
            assert_eq!(failure.hint.as_deref(), Some(hint));
        }
        assert!(serde_json::from_str::<StorePath>("\"/etc/passwd\"").is_err());
    }
}
