//! What evaluations of one configuration look at, as a tree.
//!
//! Nix is deterministic: what an evaluation looks at next follows from what it has seen so far. So
//! two machines of which it has seen the same are at the same place of the tree, and part where
//! they differ in the fact that is looked at there.

use crate::used::Facts;
use sha2::{Digest as _, Sha256};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The most places of a tree, some 150 bytes each: a record of a megabyte has a hundred thousand facts.
const MOST: usize = 1 << 18;

/// A tree with a `T` at the ends that are known.
pub struct Tree<T> {
    nodes: Vec<Node<T>>,
    /// Where what is looked at in a place leads, by the digest of what is seen: that may be a megabyte
    branches: HashMap<(At, [u8; 32]), At>,
    /// Each fact once: others look at the same
    facts: HashSet<Arc<str>>,
}

/// A place in it; it only grows, so places stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct At(u32);

enum Node<T> {
    /// Nobody has come further
    Open,
    /// The fact that is looked at
    Looks(Arc<str>),
    End(T),
}

impl<T> Default for Tree<T> {
    fn default() -> Self {
        Tree { nodes: vec![Node::Open], branches: HashMap::new(), facts: HashSet::new() }
    }
}

impl<T> Tree<T> {
    /// Goes from a place as far as it is known what an evaluation for these facts looks at. None
    /// where that leads out of a tree that is full.
    pub fn walk(&mut self, mut at: At, facts: &Facts) -> Option<At> {
        while let Node::Looks(fact) = self.node(at) {
            let seen = facts.seen(fact);
            at = self.branch(at, &seen)?;
        }
        Some(at)
    }

    /// Goes one step: an evaluation for these facts has looked at `fact`. None where others looked
    /// at something else there (they were not the same after all), and where the tree is full.
    pub fn step(&mut self, at: At, fact: &str, facts: &Facts) -> Option<At> {
        match self.node(at) {
            Node::Looks(known) if **known == *fact => {}
            Node::Open => {
                let shared = self.facts.get(fact).cloned().unwrap_or_else(|| fact.into());
                self.facts.insert(shared.clone());
                self.nodes[at.0 as usize] = Node::Looks(shared);
            }
            _ => return None,
        }
        self.branch(at, &facts.seen(fact))
    }

    fn branch(&mut self, at: At, seen: &str) -> Option<At> {
        let key = (at, Sha256::digest(seen).into());
        if let Some(next) = self.branches.get(&key) {
            return Some(*next);
        }
        if self.nodes.len() >= MOST {
            return None;
        }
        let next = At(self.nodes.len() as u32);
        self.nodes.push(Node::Open);
        self.branches.insert(key, next);
        Some(next)
    }

    fn node(&self, at: At) -> &Node<T> {
        &self.nodes[at.0 as usize]
    }

    /// What is known to come at the end, if this is one.
    pub fn end(&self, at: At) -> Option<&T> {
        match self.node(at) {
            Node::End(end) => Some(end),
            _ => None,
        }
    }

    /// Says what comes here, where nobody has come further.
    pub fn close(&mut self, at: At, end: T) {
        if let Node::Open = self.node(at) {
            self.nodes[at.0 as usize] = Node::End(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(json: &str) -> Facts {
        Facts::new(json).unwrap()
    }

    #[test]
    fn machines_part_where_what_is_seen_of_them_differs() {
        let mut tree: Tree<u32> = Tree::default();
        let (own, other, third) =
            (facts(r#"{"own":true,"name":"a"}"#), facts(r#"{"name":"b"}"#), facts(r#"{"name":"c"}"#));
        let root = At::default();
        let at = tree.step(root, r#"["own"]"#, &own).unwrap();
        assert_eq!(tree.walk(root, &own), Some(at));
        assert_ne!(tree.walk(root, &other), Some(at));
        // Nobody knows yet whether the name counts for those that have no `own`.
        assert_eq!(tree.walk(root, &other), tree.walk(root, &third));
        let at = tree.step(at, r#"["name"]"#, &own).unwrap();
        tree.close(at, 1);
        assert_eq!((tree.walk(root, &own), tree.end(at)), (Some(at), Some(&1)));
        assert_eq!(tree.walk(root, &other), tree.walk(root, &third));
        let next = facts(r#"{"own":true,"name":"b"}"#);
        let next = tree.walk(root, &next).unwrap();
        assert!(tree.end(next).is_none() && Some(next) != tree.walk(root, &other));
    }

    #[test]
    fn who_looks_at_something_else_is_somewhere_else() {
        let mut tree: Tree<u32> = Tree::default();
        let one = facts(r#"{"a":1}"#);
        let at = tree.step(At::default(), r#"["a"]"#, &one).unwrap();
        assert_eq!(tree.step(At::default(), r#"["b"]"#, &one), None);
        tree.close(at, 1);
        assert_eq!(tree.step(at, r#"["b"]"#, &one), None);
        tree.close(At::default(), 2);
        assert_eq!(tree.end(At::default()), None);
    }

    #[test]
    fn a_tree_stays_within_its_bounds() {
        let mut tree: Tree<u32> = Tree::default();
        let root = At::default();
        let large = |at: usize| facts(&format!(r#"{{"name":"{at}","text":"{}"}}"#, "x".repeat(1 << 20)));
        let look = |tree: &mut Tree<u32>, facts: &Facts, times: usize| {
            let at = tree.step(root, r#"["name"]"#, facts)?;
            let at = tree.step(at, r#"["text"]"#, facts)?;
            (0..times).try_fold(at, |at, i| tree.step(at, &format!(r#"["list",{i}]"#), facts))
        };
        // What is kept of a fact does not grow with it.
        assert_eq!(size_of::<((At, [u8; 32]), At)>(), 40);
        let ends: Vec<_> = (0..20).map(|at| look(&mut tree, &large(at), 100_000 / 2)).collect();
        assert_eq!(tree.nodes.len(), MOST);
        assert!(tree.branches.len() < MOST && tree.facts.len() < 100_000);
        assert_eq!(ends.iter().flatten().count(), MOST / 50_000);
        // Who has come to an end stays there; who has no place has none.
        tree.close(ends[0].unwrap(), 1);
        assert_eq!(tree.walk(root, &large(0)).and_then(|at| tree.end(at)), Some(&1));
        assert!(tree.walk(root, &large(19)).is_none() && tree.walk(root, &large(30)).is_none());
    }
}
