//! Differences: groups of paths, compressed with their older versions as reference.
//!
//! The machine has the older versions, and so has this computer. Both put the files of those that a
//! group is compared with behind each other; zstd takes them as what came before the group.
//! `rebuild.sh` undoes it there, and Nix checks the hash of each path as always.

use crate::closure::Beyond;
use crate::groups::Group;
use crate::local::Store;
use crate::pairs::{self, Pairs};
use crate::read::Reader;
use crate::remote::Facts;
use crate::spool::Figures;
use crate::wire::Request;
use anyhow::{Context, Result, anyhow};
use blocks::Blocks;
use machine_record::{Kind, WithKind};
use machine_ssh::quote;
use reference::Reference;
use std::fs;
use std::path::{Path, PathBuf};
use zstd::zstd_safe::{self, CCtx, CParameter};

mod blocks;
mod reference;

/// What the machine's zstd has in memory for a block: the block and its reference. Twice as much
/// makes nothing smaller, half of it makes the difference of a large path twice as large (git's).
const MOST: u64 = 32 << 20;
/// A machine that cannot spare this gets no differences.
const LEAST: u64 = 16 << 20;
/// The part of its free memory that a machine spares.
const SHARE: u64 = 8;
/// Older versions that are a smaller part of a group than one of so many are no reference for it.
const LITTLE: u64 = 256;
/// A block without a reference.
const PLAIN: u64 = 8 << 20;
/// Names that are a larger part of a difference than one of so many count.
const NAMED: usize = 128;
/// How many times too large the guess is that may be made of a block that is much like itself.
const DOUBT: u64 = 16;
/// NAR bytes with an older version from which on differences are worth the machine's trouble.
const WORTH: u64 = 64 << 10;
/// Up to this level of zstd its long-distance matcher alone looks into the reference.
pub const QUICK: i32 = 3;
/// The long-distance matcher looks at one place of so many (their logarithm). Real packages become no larger than with
/// one of 16, in half the time.
const LDM_RATE: u32 = 6;
/// The first zstd with `--patch-from`.
const ZSTD: [u32; 3] = [1, 4, 5];

/// How many bytes a block and its reference may have together; `None` for a machine that can make
/// nothing of differences.
pub fn limit(facts: &Facts) -> Option<u64> {
    let able = facts.zstd_version.is_some_and(|version| version >= ZSTD);
    // A power of two, so that machines that differ a little get the same blocks.
    let spare = (facts.memory.unwrap_or(0) / SHARE).min(MOST).checked_ilog2().map(|log| 1 << log)?;
    (able && spare >= LEAST).then_some(spare)
}

/// The older versions of what lies beyond the systems that the machine keeps; `None` where there
/// are too few for differences to pay.
pub fn worth(beyond: &Beyond, store: &Store) -> Result<Option<Pairs>> {
    let candidates = pairs::candidates(&beyond.infos, &beyond.there);
    let mut old = store.ask(|store| store.path_infos(&candidates))?;
    // Those of a store below another root are not at their place.
    old.retain(|info| fs::symlink_metadata(info.path.as_ref() as &Path).is_ok());
    let pairs = pairs::pair(&beyond.infos, &old);
    let paired = beyond.infos.iter().filter(|info| pairs.contains_key(&info.path));
    Ok((paired.map(|info| info.nar_size).sum::<u64>() >= WORTH).then_some(pairs))
}

/// What the machine runs to take differences in: rebuilds the stream, in a scope of bounded memory
/// where systemd and the user allow it.
pub fn intake(limit: u64) -> String {
    // What zstd holds, the same for each of two references while they are in the page cache, and programs.
    let most = 3 * limit + (64 << 20);
    let rebuild = quote(include_str!("rebuild.sh"));
    format!(
        "under=
if [ -d /run/systemd/system ] && [ \"$(id -u)\" = 0 ] && command -v systemd-run >/dev/null
then under='systemd-run --quiet --scope --property=MemoryMax={most}'
fi
$under /bin/sh -c {rebuild} | nix-store --serve --write"
    )
}

/// What comes before the groups: `hello`.
pub fn opening(hello: &Request) -> Result<Vec<u8>> {
    let Block { mut head, frame } = block(&hello.0, None, 1, 1)?;
    head.extend(frame);
    Ok(head)
}

/// Compresses a group, block by block, in no more memory than `limit` and what zstd takes.
pub fn compress(
    group: &Group,
    limit: u64,
    level: i32,
    threads: usize,
    reader: &mut Reader,
    give: &mut impl FnMut(&[u8], Figures) -> Result<()>,
) -> Result<()> {
    let requests = group.infos.iter().map(|info| Request::add_to_store_nar(info).0.len() as u64).sum::<u64>();
    let files = reference::files(&group.old).with_kind(Kind::Copy)?;
    let (sizes, references) = cut(files, group.bytes + requests, limit);
    let mut references = references.into_iter();
    let mut blocks = Blocks::new(sizes, |new: Vec<u8>| {
        let (made, plain) = smallest(&new, references.next().as_ref(), level, threads)?;
        let figures = Figures { raw: new.len() as u64, saved: plain.saturating_sub(made.size()) };
        drop(new);
        give(&made.head, figures)?;
        give(&made.frame, Figures::default())
    });
    for info in group.infos {
        blocks.take(&Request::add_to_store_nar(info).0)?;
        reader.read(info, &mut |bytes| blocks.take(bytes))?;
    }
    Ok(())
}

/// A block as a difference to its reference, or by itself where that is smaller; and about how large it is by itself.
fn smallest(new: &[u8], reference: Option<&Reference>, level: i32, threads: usize) -> Result<(Block, u64)> {
    let made = block(new, reference, level, threads)?;
    if reference.is_none() {
        return Ok((made, 0));
    }
    let plain = plain_size(new, level)?;
    // Where the names of its files count, a block that is much like itself may be far smaller than a sample tells.
    let named = made.head.len() * NAMED > made.frame.len();
    if made.size() <= if named { plain / DOUBT } else { plain } {
        return Ok((made, plain));
    }
    let whole = block(new, None, level, threads)?;
    let plain = whole.size();
    Ok((if plain < made.size() { whole } else { made }, plain))
}

/// The sizes of a group's blocks, and the reference of each, if they have any. Of `new` bytes, a block has as
/// large a part as its reference has of all: most likely they are alike there.
fn cut(files: Vec<(PathBuf, u64)>, new: u64, limit: u64) -> (Vec<u64>, Vec<Reference>) {
    let total = files.iter().map(|(_, size)| size).sum::<u64>();
    if total == 0 || total < new / LITTLE {
        let count = new.div_ceil(PLAIN);
        return ((0..count).map(|at| share(new, at, at + 1, count)).collect(), Vec::new());
    }
    let most = if new + total <= limit { limit } else { share(limit, 0, total, new + total) };
    let mut references = reference::cut(files, most);
    let (mut at, mut sizes) = (0, Vec::new());
    references.retain(|reference| {
        let size = share(new, at, at + reference.size, total);
        at += reference.size;
        sizes.extend((size > 0).then_some(size));
        size > 0
    });
    (sizes, references)
}

/// How much of `all` lies between two of `parts` points at the same distance.
fn share(all: u64, from: u64, to: u64, parts: u64) -> u64 {
    let point = |at: u64| (u128::from(all) * u128::from(at) / u128::from(parts)) as u64;
    point(to) - point(from)
}

/// A part of the stream.
struct Block {
    /// The headline, and the names of the reference's files
    head: Vec<u8>,
    frame: Vec<u8>,
}

impl Block {
    fn size(&self) -> u64 {
        (self.head.len() + self.frame.len()) as u64
    }
}

fn block(new: &[u8], reference: Option<&Reference>, level: i32, threads: usize) -> Result<Block> {
    let old = reference.map(Reference::read).transpose().with_kind(Kind::Copy)?.unwrap_or_default();
    let frame = frame(new, &old, level, threads).map_err(unmade)?;
    let Some(reference) = reference else {
        return Ok(Block { head: format!("0 - 0 {}\n", frame.len()).into_bytes(), frame });
    };
    let names = self::frame(&reference.names(), &[], 9, 1).map_err(unmade)?;
    let start = reference.start().map_or("-".into(), |start| start.to_string());
    let mut head = format!("{} {start} {} {}\n", names.len(), reference.size, frame.len()).into_bytes();
    head.extend(names);
    Ok(Block { head, frame })
}

fn unmade(code: usize) -> anyhow::Error {
    anyhow!(zstd_safe::get_error_name(code)).context("cannot compress")
}

/// One frame of zstd with `old` as what came before. Its checksum shows the machine a reference
/// that is not the same there.
fn frame(new: &[u8], old: &[u8], level: i32, threads: usize) -> Result<Vec<u8>, usize> {
    let mut frame = Vec::with_capacity(zstd_safe::compress_bound(new.len()));
    let mut context = CCtx::create();
    // Beside the matcher, a lower level gains no time.
    let level = if old.is_empty() { level } else { level.max(QUICK) };
    context.set_parameter(CParameter::CompressionLevel(level))?;
    context.set_parameter(CParameter::ChecksumFlag(true))?;
    if old.is_empty() {
        if threads > 1 {
            context.set_parameter(CParameter::NbWorkers(threads as u32))?;
        }
    } else {
        let log = (old.len() + new.len()).next_power_of_two().ilog2().clamp(16, 27);
        context.set_parameter(CParameter::WindowLog(log))?;
        if level <= QUICK {
            // Finds what both have in common at 32 bytes and more, in the whole of the reference: several
            // times as fast as the other way, for a third to a half more bytes.
            context.set_parameter(CParameter::EnableLongDistanceMatching(true))?;
            context.set_parameter(CParameter::LdmHashRateLog(LDM_RATE))?;
            context.set_parameter(CParameter::LdmMinMatch(32))?;
            context.set_parameter(CParameter::LdmHashLog(log - LDM_RATE))?;
        } else {
            // Tables that hold the whole of the reference.
            context.set_parameter(CParameter::HashLog(log.min(24) - 1))?;
            context.set_parameter(CParameter::ChainLog(log.min(25) - 1))?;
        }
        context.ref_prefix(old)?;
    }
    context.compress2(&mut frame, new)?;
    Ok(frame)
}

/// About how large a block would be by itself, from a sample of it.
fn plain_size(new: &[u8], level: i32) -> Result<u64> {
    const EVERY: usize = 4 << 20;
    const SAMPLE: usize = 128 << 10;
    let mut compressor = zstd::bulk::Compressor::new(level).context("cannot compress")?;
    let (mut raw, mut packed) = (0, 0);
    for stretch in new.chunks(EVERY) {
        let sample = &stretch[..stretch.len().min(SAMPLE)];
        raw += sample.len() as u64;
        packed += compressor.compress(sample).context("cannot compress")?.len() as u64;
    }
    Ok(new.len() as u64 * packed / raw.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn a_machine_with_little_memory_or_an_old_zstd_gets_none() {
        let facts = |zstd_version, mib: u64| Facts { zstd_version, memory: Some(mib << 20), ..Facts::default() };
        assert_eq!(limit(&facts(Some([1, 5, 4]), 4000)), Some(32 << 20));
        assert_eq!(limit(&facts(Some([1, 4, 5]), 256)), Some(32 << 20));
        assert_eq!(limit(&facts(Some([1, 4, 5]), 255)), Some(16 << 20));
        assert_eq!(limit(&facts(Some([1, 4, 5]), 127)), None);
        assert_eq!(limit(&facts(Some([1, 4, 4]), 4000)), None);
        assert_eq!(limit(&facts(None, 4000)), None);
        assert_eq!(limit(&Facts { zstd_version: Some([1, 5, 4]), ..Facts::default() }), None);
    }

    #[test]
    fn no_block_is_larger_than_the_limit_with_its_reference() {
        let limit = 16 << 20;
        let file = |size| (PathBuf::from("f"), size);
        let small = vec![file(10); 1000];
        for (files, new) in [
            (vec![file(136)], 5 << 30),
            (vec![file(5 << 30)], 136),
            (small.clone(), 1 << 30),
            (small, 100_000),
            (vec![file(100 << 20), file(1), file(30 << 20)], 131 << 20),
            (vec![file(4 << 20)], 1 << 30),
            (Vec::new(), 1000),
        ] {
            let (sizes, references) = cut(files, new, limit);
            assert_eq!(sizes.iter().sum::<u64>(), new);
            for (at, size) in sizes.iter().enumerate() {
                let reference = references.get(at).map_or(0, |reference| reference.size);
                assert!(size + reference <= limit + 1, "{size} with {reference} of {new}");
            }
        }
    }

    /// Bytes that look like a program: some repeat, most do not.
    fn bytes(seed: u64, length: usize) -> Vec<u8> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..length).map(|at| if at % 5 == 0 { 0 } else { next() }).collect()
    }

    #[test]
    fn zstd_itself_undoes_a_difference_and_sees_another_reference() {
        let folder = std::env::temp_dir().join(format!("delta-test-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let old = bytes(1, 3_000_000);
        let mut new = old.clone();
        new.splice(1_000_000..1_000_100, bytes(2, 5_000));
        for level in [1, 3, 6, 9] {
            let frame = frame(&new, &old, level, 1).unwrap();
            assert!(frame.len() < 10_000, "{} at level {level}", frame.len());
            let undo = |reference: &[u8]| {
                let file = folder.join("reference");
                std::fs::write(&file, reference).unwrap();
                let mut command = Command::new("zstd");
                command.args(["-dqc", "--long=27", &format!("--patch-from={}", file.display())]);
                let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
                let mut stdin = child.stdin.take().unwrap();
                std::thread::scope(|scope| {
                    scope.spawn(|| drop(stdin.write_all(&frame).map(|()| stdin)));
                    child.wait_with_output().unwrap()
                })
            };
            let right = undo(&old);
            assert!(right.status.success() && right.stdout == new);
            let mut other = old.clone();
            other[2_000_000] ^= 1;
            assert!(!undo(&other).status.success());
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_difference_to_something_else_costs_next_to_nothing_more() {
        let (old, new) = (bytes(1, 4_000_000), bytes(2, 4_000_000));
        for level in [1, 3, 6, 9] {
            let (whole, difference) = (frame(&new, &[], level, 1).unwrap(), frame(&new, &old, level, 1).unwrap());
            assert!(difference.len() * 100 <= whole.len() * 103, "{} for {}", difference.len(), whole.len());
        }
    }

    /// Files that look like the units of a system, in `folder`, and what is like their NARs. Each version has its own hashes.
    fn units(folder: &Path, version: u64) -> (Vec<(PathBuf, u64)>, Vec<u8>) {
        let hash = |seed| {
            let letters = bytes(version * 1_000_000 + seed, 40).into_iter().filter(|byte| *byte != 0);
            letters.map(|byte| char::from(b'a' + byte % 26)).take(32).collect::<String>()
        };
        let (mut files, mut nars) = (Vec::new(), Vec::new());
        for at in 0..1500 {
            // A path of programs is that of one unit in so many.
            let path: String = (0..10).map(|i| format!("/nix/store/{}-tool/bin:", hash(at % 60 * 10 + i))).collect();
            let text = format!(
                "[Service]\nEnvironment=\"PATH={path}\"\nExecStart=/nix/store/{}-start-{at}\n",
                hash(at + 1000)
            );
            let file = folder.join(format!("{}-unit-{at}.service", hash(at + 3000)));
            std::fs::write(&file, &text).unwrap();
            nars.extend(format!("nix-archive-1 (type regular contents {text}) {}", file.display()).bytes());
            files.push((file, text.len() as u64));
        }
        (files, nars)
    }

    #[test]
    fn many_small_files_cost_no_more_by_their_names() {
        let folder = std::env::temp_dir().join(format!("delta-units-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (old, _) = units(&folder, 1);
        let (_, new) = units(&folder, 2);
        let references = reference::cut(old, MOST);
        for level in [1, 3, 6] {
            let whole = block(&new, None, level, 1).unwrap().size();
            let (made, _) = smallest(&new, references.first(), level, 1).unwrap();
            assert!(made.size() * 100 <= whole * 103, "{} for {whole} at level {level}", made.size());
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn the_size_without_a_reference_is_guessed_well() {
        let block = bytes(3, 5_000_000);
        let (guess, size) = (plain_size(&block, 3).unwrap(), frame(&block, &[], 3, 1).unwrap().len() as u64);
        assert!(guess.abs_diff(size) * 20 < size, "{guess} for {size}");
    }
}
