//! Cuts a list of paths into groups, of which each is compressed as a whole.
//!
//! Machines that lack the same paths get the same groups, and machines that lack almost the same
//! get almost only the same: where a group ends depends on the paths near by, not on the list.

use crate::hash::ALPHABET;
use crate::pairs::Pairs;
use crate::serve::PathInfo;
use sha2::{Digest, Sha256};

/// NAR bytes from which on a path is a group by itself.
pub const LARGE: u64 = 4 << 20;
/// What groups of small paths come to on average. Paths that are compressed together become smaller.
const AVERAGE: u64 = 4 << 20;
/// A group that is smaller goes on.
const LEAST: u64 = 1 << 20;
/// The size at which a group ends.
const MOST: u64 = 8 << 20;
/// What a path costs beside its NAR, so that a group of tiny ones ends, too.
const HEAD: u64 = 512;

/// Paths that follow each other in a list.
pub struct Group<'a> {
    pub infos: &'a [&'a PathInfo],
    /// NAR bytes
    pub bytes: u64,
    /// Older versions, where they are sent as differences
    pub old: Vec<&'a PathInfo>,
}

impl Group<'_> {
    /// The same for groups of the same paths and older versions.
    pub fn key(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for infos in [self.infos, &self.old[..]] {
            for info in infos {
                hash.update(info.path.as_str());
                hash.update("\n");
            }
            // No path is empty: an older version is not taken for one of the group.
            hash.update("\n");
        }
        hash.finalize().into()
    }

    /// Whether it is one large path.
    pub fn is_large(&self) -> bool {
        self.bytes >= LARGE && self.infos.len() == 1
    }
}

/// A number below `DRAWS` that every path has: the first three characters of its hash.
fn draw(info: &PathInfo) -> u64 {
    let digit = |byte: &u8| ALPHABET.iter().position(|letter| letter == byte).unwrap_or(0) as u64;
    info.path.base_name().as_bytes().iter().take(3).fold(0, |number, byte| number * 32 + digit(byte))
}

const DRAWS: u64 = 32 * 32 * 32;

/// Cuts `infos`, to be sent as differences to those of `pairs`.
pub fn cut<'a>(infos: &'a [&'a PathInfo], pairs: &'a Pairs) -> Vec<Group<'a>> {
    let mut groups = Vec::new();
    let (mut start, mut bytes, mut cost) = (0, 0, 0);
    let mut end = |start: &mut usize, bytes: &mut u64, at: usize| {
        if *start < at {
            let infos = &infos[*start..at];
            let old = infos.iter().filter_map(|info| pairs.get(&info.path)).collect();
            groups.push(Group { infos, bytes: std::mem::take(bytes), old });
        }
        *start = at;
    };
    for (at, info) in infos.iter().enumerate() {
        if info.nar_size >= LARGE {
            end(&mut start, &mut bytes, at);
            cost = 0;
        }
        bytes += info.nar_size;
        cost += info.nar_size + HEAD;
        // By the path's own hash: an end that two lists have in common comes soon.
        let ends = draw(info) * AVERAGE < (info.nar_size + HEAD) * DRAWS;
        if cost >= MOST || (cost >= LEAST && ends) {
            end(&mut start, &mut bytes, at + 1);
            cost = 0;
        }
    }
    end(&mut start, &mut bytes, infos.len());
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn info(number: u64, nar_size: u64) -> PathInfo {
        let digits = ALPHABET;
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17);
        let hash: String = (0..32).map(|at| digits[(mixed >> (at % 12 * 5)) as usize % 32] as char).collect();
        PathInfo::example(&format!("{hash}-p{number}"), nar_size)
    }

    #[test]
    fn every_path_is_in_one_group_and_large_ones_are_alone() {
        let infos: Vec<_> =
            (0..2000).map(|i| info(i, if i % 97 == 0 { 2 * LARGE } else { 1000 * (i % 300) })).collect();
        let infos: Vec<_> = infos.iter().collect();
        let none = Pairs::new();
        let groups = cut(&infos, &none);
        let all: Vec<_> = groups.iter().flat_map(|group| group.infos).map(|info| &info.path).collect();
        assert_eq!(all, infos.iter().map(|info| &info.path).collect::<Vec<_>>());
        for group in &groups {
            assert_eq!(group.bytes, group.infos.iter().map(|info| info.nar_size).sum::<u64>());
            assert!(group.infos.len() == 1 || group.bytes < MOST + LARGE);
            assert!(group.infos.len() == 1 || group.infos.iter().all(|info| info.nar_size < LARGE));
        }
        assert!(cut(&[], &none).is_empty());
    }

    #[test]
    fn a_difference_has_another_key_than_its_paths_together() {
        let (one, two) = (info(1, 1), info(2, 1));
        let (both, first) = ([&one, &two], [&one]);
        let together = Group { infos: &both, bytes: 2, old: Vec::new() };
        let difference = Group { infos: &first, bytes: 1, old: vec![&two] };
        assert_ne!(together.key(), difference.key());
    }

    #[test]
    fn lists_that_differ_a_little_have_most_groups_in_common() {
        let infos: Vec<_> = (0..3000).map(|i| info(i, 40_000)).collect();
        let all: Vec<_> = infos.iter().collect();
        let some: Vec<_> = infos.iter().enumerate().filter(|(i, _)| i % 1000 != 500).map(|(_, info)| info).collect();
        let none = Pairs::new();
        let keys = |groups: Vec<Group>| groups.iter().map(Group::key).collect::<HashSet<_>>();
        let (all, some) = (keys(cut(&all, &none)), keys(cut(&some, &none)));
        let common = all.intersection(&some).count();
        assert!(common * 10 >= all.len() * 8, "{common} of {}", all.len());
    }
}
