//! What evaluations of one configuration look at, as a tree.
//!
//! Nix is deterministic: what an evaluation looks at next follows from what it has seen so far. So
//! two machines of which it has seen the same are at the same place of the tree, and part where
//! they differ in the fact that is looked at there.

use crate::used::Facts;
use std::collections::HashMap;

/// A tree with a `T` at the ends that are known.
pub struct Tree<T>(Vec<Node<T>>);

/// A place in it; it only grows, so places stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct At(usize);

enum Node<T> {
    /// Nobody has come further
    Open,
    /// The fact that is looked at, and where that leads by what is seen
    Looks(String, HashMap<String, At>),
    End(T),
}

impl<T> Default for Tree<T> {
    fn default() -> Self {
        Tree(vec![Node::Open])
    }
}

impl<T> Tree<T> {
    /// Goes from a place as far as it is known what an evaluation for these facts looks at.
    pub fn walk(&mut self, mut at: At, facts: &Facts) -> At {
        while let Node::Looks(fact, _) = &self.0[at.0] {
            let seen = facts.seen(fact);
            at = self.branch(at, seen);
        }
        at
    }

    /// Goes one step: an evaluation for these facts has looked at `fact`. None where others looked
    /// at something else there: they were not the same after all.
    pub fn step(&mut self, at: At, fact: &str, facts: &Facts) -> Option<At> {
        let node = &mut self.0[at.0];
        if let Node::Open = node {
            *node = Node::Looks(fact.into(), HashMap::new());
        }
        match node {
            Node::Looks(known, _) if known == fact => Some(self.branch(at, facts.seen(fact))),
            _ => None,
        }
    }

    fn branch(&mut self, at: At, seen: String) -> At {
        let next = At(self.0.len());
        let Node::Looks(_, branches) = &mut self.0[at.0] else { return at };
        let at = *branches.entry(seen).or_insert(next);
        if at == next {
            self.0.push(Node::Open);
        }
        at
    }

    /// What is known to come at the end, if this is one.
    pub fn end(&self, at: At) -> Option<&T> {
        match &self.0[at.0] {
            Node::End(end) => Some(end),
            _ => None,
        }
    }

    /// Says what comes here, where nobody has come further.
    pub fn close(&mut self, at: At, end: T) {
        if let Node::Open = self.0[at.0] {
            self.0[at.0] = Node::End(end);
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
        assert_eq!(tree.walk(root, &own), at);
        assert_ne!(tree.walk(root, &other), at);
        // Nobody knows yet whether the name counts for those that have no `own`.
        assert_eq!(tree.walk(root, &other), tree.walk(root, &third));
        let at = tree.step(at, r#"["name"]"#, &own).unwrap();
        tree.close(at, 1);
        assert_eq!((tree.walk(root, &own), tree.end(at)), (at, Some(&1)));
        assert_eq!(tree.walk(root, &other), tree.walk(root, &third));
        let next = facts(r#"{"own":true,"name":"b"}"#);
        let next = tree.walk(root, &next);
        assert!(tree.end(next).is_none() && next != tree.walk(root, &other));
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
}
