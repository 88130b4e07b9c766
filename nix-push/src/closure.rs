//! The paths that a system needs, and which of them a machine lacks.

use crate::local::Store;
use crate::serve::PathInfo;
use crate::sign::Signer;
use anyhow::Result;
use machine_record::StorePath;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// A system and all that it needs, references first.
pub struct Closure {
    pub infos: Vec<PathInfo>,
}

/// The closures of this run: machines that get the same share its list.
#[derive(Default)]
pub struct Closures(Mutex<HashMap<StorePath, Arc<Mutex<Weak<Closure>>>>>);

impl Closures {
    /// The closure of `root`, which is valid; listed and signed once for all that hold it at the same time.
    pub fn of(&self, store: &Store, root: &StorePath, signer: Option<&Signer>) -> Result<Arc<Closure>> {
        let one = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(root.clone()).or_default().clone()
        };
        let mut listed = one.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(closure) = listed.upgrade() {
            return Ok(closure);
        }
        let mut infos = in_order(store.ask(|store| {
            let paths = store.closure(std::slice::from_ref(root))?;
            store.path_infos(&paths)
        })?);
        if let Some(signer) = signer {
            infos.iter_mut().for_each(|info| signer.sign(info));
        }
        let closure = Arc::new(Closure { infos });
        *listed = Arc::downgrade(&closure);
        Ok(closure)
    }
}

impl Closure {
    /// How many bytes its NARs are.
    pub fn bytes(&self) -> u64 {
        self.infos.iter().map(|info| info.nar_size).sum()
    }

    /// What lies outside the closures of `known`, of which those count that are valid here too.
    ///
    /// A machine on which one of them is valid has all that it needs, so only this must be asked.
    pub fn beyond(&self, store: &Store, known: &[StorePath]) -> Result<Beyond<'_>> {
        let valid = store.lock(known)?;
        let known: Vec<_> = known.iter().filter(|path| valid.contains(*path)).cloned().collect();
        let there: HashSet<_> = if known.is_empty() {
            HashSet::new()
        } else {
            store.ask(|store| store.closure(&known))?.into_iter().collect()
        };
        Ok(Beyond { infos: self.infos.iter().filter(|info| !there.contains(&info.path)).collect(), known, there })
    }
}

/// A part of a closure, and what its completeness rests on.
pub struct Beyond<'a> {
    pub infos: Vec<&'a PathInfo>,
    pub known: Vec<StorePath>,
    /// The closure of `known`
    pub there: HashSet<StorePath>,
}

/// Sorts so that every path comes after those that it refers to: Nix takes none before.
///
/// A path's place depends on its own closure and its name alone, so that it has the same
/// neighbours in other closures. `infos` must be closed under references.
fn in_order(infos: Vec<PathInfo>) -> Vec<PathInfo> {
    let heights = heights(&infos);
    let mut order: Vec<_> = heights.into_iter().zip(infos).collect();
    order.sort_by(|(one, a), (two, b)| {
        (one, a.path.name(), a.path.as_str()).cmp(&(two, b.path.name(), b.path.as_str()))
    });
    order.into_iter().map(|(_, info)| info).collect()
}

/// The length of the longest chain of references from each path.
fn heights(infos: &[PathInfo]) -> Vec<usize> {
    let index: HashMap<&str, usize> = infos.iter().enumerate().map(|(i, info)| (info.path.as_str(), i)).collect();
    let needs = |at: usize| {
        let others = infos[at].references.iter().filter_map(|path| index.get(path.as_str()).copied());
        others.filter(move |other| *other != at)
    };
    let mut entered = vec![false; infos.len()];
    let mut heights = vec![0; infos.len()];
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
                    heights[*at] = needs(*at).map(|need| heights[need] + 1).max().unwrap_or(0);
                    stack.pop();
                }
            }
        }
    }
    heights
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(name: &str, references: &[&str]) -> PathInfo {
        let plain = |name: &&str| PathInfo::example(&format!("00bgd045z0d4icpbc2yyz4gx48ak44la-{name}"), 1);
        PathInfo { references: references.iter().map(|name| plain(name).path).collect(), ..plain(&name) }
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
        let order = in_order(infos.to_vec());
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
        let order = in_order(infos);
        assert_eq!(order[0].path.name(), "p99999");
    }
}
