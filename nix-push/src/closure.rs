//! The paths that a system needs, and which of them a machine lacks.

use crate::nix::LocalStore;
use crate::serve::PathInfo;
use anyhow::Result;
use machine_record::StorePath;
use std::collections::{HashMap, HashSet};

/// A system and all that it needs.
pub struct Closure {
    pub infos: Vec<PathInfo>,
}

impl Closure {
    /// Asks the local store, where `roots` are valid.
    pub fn of(store: &mut LocalStore, roots: &[StorePath]) -> Result<Self> {
        let paths = store.closure(roots)?;
        Ok(Closure { infos: store.path_infos(&paths)? })
    }

    /// How many bytes its NARs are.
    pub fn bytes(&self) -> u64 {
        self.infos.iter().map(|info| info.nar_size).sum()
    }

    /// What lies outside the closures of `known`, of which those count that are valid here too.
    ///
    /// A machine on which one of them is valid has all that it needs, so only this must be asked.
    pub fn beyond(&self, store: &mut LocalStore, known: &[StorePath]) -> Result<Beyond<'_>> {
        store.ask_valid_paths(true, false, known)?;
        let valid = store.valid_paths()?;
        let known: Vec<_> = known.iter().filter(|path| valid.contains(*path)).cloned().collect();
        let there: HashSet<_> =
            if known.is_empty() { HashSet::new() } else { store.closure(&known)?.into_iter().collect() };
        Ok(Beyond { infos: self.infos.iter().filter(|info| !there.contains(&info.path)).collect(), known })
    }
}

/// A part of a closure, and what its completeness rests on.
pub struct Beyond<'a> {
    pub infos: Vec<&'a PathInfo>,
    pub known: Vec<StorePath>,
}

/// Sorts so that every path comes after those that it refers to: Nix takes none before.
///
/// References to paths that are not in the list are those that are there already.
pub fn in_order<'a>(infos: &[&'a PathInfo]) -> Vec<&'a PathInfo> {
    let index: HashMap<&str, usize> = infos.iter().enumerate().map(|(i, info)| (info.path.as_str(), i)).collect();
    let needs = |at: usize| infos[at].references.iter().filter_map(|path| index.get(path.as_str()).copied());
    let mut entered = vec![false; infos.len()];
    let mut order = Vec::with_capacity(infos.len());
    // Without recursion: a chain of references may be longer than a stack is deep.
    for root in 0..infos.len() {
        if std::mem::replace(&mut entered[root], true) {
            continue;
        }
        let mut stack = vec![(root, needs(root).collect::<Vec<_>>())];
        while let Some((at, rest)) = stack.last_mut() {
            match rest.pop() {
                Some(next) if !entered[next] => {
                    entered[next] = true;
                    stack.push((next, needs(next).collect()));
                }
                Some(_) => {}
                None => {
                    order.push(infos[*at]);
                    stack.pop();
                }
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::NarHash;

    fn info(name: &str, references: &[&str]) -> PathInfo {
        let path = |name: &str| StorePath::new(format!("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-{name}")).unwrap();
        PathInfo {
            path: path(name),
            deriver: String::new(),
            references: references.iter().map(|name| path(name)).collect(),
            nar_size: 1,
            nar_hash: NarHash([0; 32]),
            content_address: String::new(),
            signatures: vec![],
        }
    }

    #[test]
    fn references_come_first() {
        let infos = [
            info("top", &["b", "c", "elsewhere"]),
            info("c", &["b", "c"]),
            info("a", &[]),
            info("b", &["a"]),
            info("alone", &["alone"]),
        ];
        let order = in_order(&infos.iter().collect::<Vec<_>>());
        assert_eq!(order.len(), infos.len());
        for (at, info) in order.iter().enumerate() {
            for reference in &info.references {
                let there = order.iter().position(|other| other.path == *reference);
                assert!(there.is_none_or(|there| there <= at), "{} before {reference}", info.path);
            }
        }
    }

    #[test]
    fn a_long_chain_is_no_deep_stack() {
        let infos: Vec<_> = (0..100_000).map(|i| info(&format!("p{i}"), &[&format!("p{}", i + 1)])).collect();
        let order = in_order(&infos.iter().collect::<Vec<_>>());
        assert_eq!(order[0].path.name(), "p99999");
    }
}
