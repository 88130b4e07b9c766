//! Which older version a path is compared with.
//!
//! A machine keeps the system that it runs. Of a new path, the most similar thing there is most
//! likely the path of the same name, or of the same name but for its version.

use crate::serve::PathInfo;
use machine_record::StorePath;
use std::collections::{HashMap, HashSet};

/// For each path, what is known of its older version. A path without one is not in it.
pub type Pairs = HashMap<StorePath, PathInfo>;

/// How many times as large as a path its older version may be: reading it costs time and memory
/// on both sides. A small one is worth reading whatever the path.
const FACTOR: u64 = 4;
const SMALL: u64 = 1 << 20;

/// Those of `there` that may be older versions of some path of `new`.
pub fn candidates(new: &[&PathInfo], there: &HashSet<StorePath>) -> Vec<StorePath> {
    let stems: HashSet<String> = new.iter().map(|info| stem(info.path.name())).collect();
    there.iter().filter(|path| stems.contains(&stem(path.name()))).cloned().collect()
}

/// Finds the older versions of `new` among `old`: of the same name, else of the same name but for
/// the version; of several the one of the nearest size.
pub fn pair(new: &[&PathInfo], old: &[PathInfo]) -> Pairs {
    let mut same: HashMap<&str, Vec<&PathInfo>> = HashMap::new();
    let mut alike: HashMap<String, Vec<&PathInfo>> = HashMap::new();
    for info in old {
        same.entry(info.path.name()).or_default().push(info);
        alike.entry(stem(info.path.name())).or_default().push(info);
    }
    let nearest = |info: &PathInfo, among: &[&PathInfo]| {
        let fits = among.iter().filter(|old| old.nar_size <= info.nar_size * FACTOR + SMALL);
        fits.min_by_key(|old| (old.nar_size.abs_diff(info.nar_size), &old.path)).map(|old| (*old).clone())
    };
    let find = |info: &PathInfo| {
        let name = info.path.name();
        let exact = same.get(name).and_then(|among| nearest(info, among));
        exact.or_else(|| nearest(info, alike.get(&stem(name))?))
    };
    new.iter().filter_map(|info| Some((info.path.clone(), find(info)?))).collect()
}

/// A name without what tells a version: every part between hyphens that begins with a digit.
fn stem(name: &str) -> String {
    let parts = name.split('-').filter(|part| !part.starts_with(|first: char| first.is_ascii_digit()));
    parts.collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(hash: char, name: &str, nar_size: u64) -> PathInfo {
        PathInfo::example(&format!("{}-{name}", hash.to_string().repeat(32)), nar_size)
    }

    #[test]
    fn a_stem_has_no_version() {
        for (name, expected) in [
            ("openssl-3.0.14", "openssl"),
            ("openssl-3.0.14-bin", "openssl-bin"),
            ("python3.11-requests-2.31.0", "python3.11-requests"),
            ("nixos-system-web-1-25.11.20251101.abc", "nixos-system-web"),
            ("unit-nginx.service", "unit-nginx.service"),
            ("7zip-24.09", ""),
        ] {
            assert_eq!(stem(name), expected);
        }
    }

    #[test]
    fn the_same_name_comes_first_then_the_name_without_a_version_then_the_size() {
        let old = [
            info('a', "openssl-3.0.13", 100),
            info('b', "openssl-3.0.14", 5000),
            info('c', "openssl-3.0.14-bin", 60),
            info('d', "source", 10_000_000),
            info('f', "source", 300),
            info('g', "huge-1", 1 << 40),
        ];
        let new = [
            info('1', "openssl-3.0.14", 110),
            info('2', "openssl-3.0.15", 110),
            info('3', "openssl-3.0.15-bin", 110),
            info('4', "source", 9_000_000),
            info('5', "huge-2", 100),
            info('6', "other-1", 1),
        ];
        let new: Vec<_> = new.iter().collect();
        let pairs = pair(&new, &old);
        let found = |at: usize| pairs.get(&new[at].path).map(|old| old.path.base_name().chars().next().unwrap());
        let all: Vec<_> = (0..new.len()).map(found).collect();
        assert_eq!(all, [Some('b'), Some('a'), Some('c'), Some('d'), None, None]);

        let there = old.iter().map(|info| info.path.clone()).collect();
        assert_eq!(candidates(&new[2..3], &there), [old[2].path.clone()]);
    }
}
