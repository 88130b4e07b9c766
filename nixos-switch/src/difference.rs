//! What two systems differ in, package by package.

use machine_record::{PlanEntry, StorePath, log};
use serde_json::json;
use std::collections::BTreeMap;

/// The paths of one package that only one of the two systems needs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Package {
    pub name: String,
    old: Side,
    new: Side,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Side {
    paths: usize,
    versions: Vec<String>,
    /// Bytes of NAR
    bytes: u64,
}

/// Puts store paths together to packages. `paths` are marked `- ` if only the old system needs
/// them and `+ ` if only the new one does; `sizes` are theirs, in bytes of NAR.
pub fn packages(paths: &[String], sizes: &[String]) -> Vec<Package> {
    let mut found: BTreeMap<String, Package> = BTreeMap::new();
    for (line, size) in paths.iter().zip(sizes) {
        let Some((mark, path)) = line.split_once(' ') else { continue };
        let Ok(path) = StorePath::new(path) else { continue };
        let (name, version) = name_and_version(path.name());
        let package = found.entry(name.into()).or_insert_with(|| Package { name: name.into(), ..Package::default() });
        let side = if mark == "+" { &mut package.new } else { &mut package.old };
        side.paths += 1;
        side.bytes += size.trim().parse::<u64>().unwrap_or(0);
        if !version.is_empty() && !side.versions.iter().any(|known| known == version) {
            side.versions.push(version.into());
        }
    }
    found.into_values().collect()
}

/// A version begins after the first dash that no letter follows (Nix manual, `parseDrvName`).
fn name_and_version(text: &str) -> (&str, &str) {
    let dash =
        text.bytes().zip(text.bytes().skip(1)).position(|(dash, next)| dash == b'-' && !next.is_ascii_alphabetic());
    dash.map_or((text, ""), |at| (&text[..at], &text[at + 1..]))
}

impl Package {
    /// True if it is there before and after, in the same version: built anew of other parts.
    pub fn is_rebuilt(&self) -> bool {
        self.old.paths > 0 && self.new.paths > 0 && self.old.versions == self.new.versions
    }

    /// How many bytes the new system needs more.
    pub fn growth(&self) -> i128 {
        i128::from(self.new.bytes) - i128::from(self.old.bytes)
    }

    pub fn action(&self) -> &'static str {
        match (self.old.paths, self.new.paths) {
            (0, _) => "create",
            (_, 0) => "delete",
            _ => "update",
        }
    }

    pub fn entry(&self, tool: &str) -> PlanEntry {
        let versions = |side: &Side| side.versions.join(", ");
        let words = match self.action() {
            "create" => versions(&self.new),
            "delete" => versions(&self.old),
            _ if self.is_rebuilt() => "rebuilt".into(),
            _ => format!("{} -> {}", versions(&self.old), versions(&self.new)),
        };
        let comma = if words.is_empty() { "" } else { ", " };
        let reason = format!("{words}{comma}{}", signed(self.growth()));
        PlanEntry::new(tool, self.action(), format!("package/{}", self.name), reason).details(json!({
            "from": self.old.versions, "to": self.new.versions,
            "bytesBefore": self.old.bytes, "bytesAfter": self.new.bytes,
        }))
    }
}

/// A number of bytes with its sign, for people.
pub fn signed(bytes: i128) -> String {
    let sign = if bytes < 0 { '-' } else { '+' };
    format!("{sign}{}", log::size(u64::try_from(bytes.unsigned_abs()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_begins_with_no_letter() {
        for (text, name, version) in [
            ("openssl-3.0.2", "openssl", "3.0.2"),
            ("openssl-3.0.2-bin", "openssl", "3.0.2-bin"),
            ("nixos-system-web-1-26.05", "nixos-system-web", "1-26.05"),
            ("unit-nginx.service", "unit-nginx.service", ""),
            ("etc", "etc", ""),
        ] {
            assert_eq!(name_and_version(text), (name, version), "{text}");
        }
    }

    #[test]
    fn paths_become_packages() {
        let path = |mark: &str, name: &str| format!("{mark} /nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-{name}");
        let paths = [
            path("-", "openssl-3.0.1"),
            path("+", "openssl-3.0.2"),
            path("+", "hello-2.12"),
            path("-", "gone-1"),
            path("-", "etc"),
            path("+", "etc"),
        ];
        let sizes = ["1000", "1500", "200", "7", "10", "10"].map(String::from);
        let packages = packages(&paths, &sizes);
        let said: Vec<_> = packages
            .iter()
            .map(|package| package.entry("t"))
            .map(|entry| format!("{} {} ({})", entry.action, entry.resource, entry.reason.unwrap()))
            .collect();
        assert_eq!(
            said,
            [
                "update package/etc (rebuilt, +0 B)",
                "delete package/gone (1, -7 B)",
                "create package/hello (2.12, +200 B)",
                "update package/openssl (3.0.1 -> 3.0.2, +500 B)"
            ]
        );
    }
}
