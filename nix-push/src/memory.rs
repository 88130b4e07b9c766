//! How much memory processes hold, and how much there is.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// What processes hold in bytes (proc(5), statm: status says the same and costs several times as much).
/// Pages of files are the same for all programs of Nix, so they count once, as the kernel does in a
/// proportional set size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Pages of its own
    pub own: u64,
    /// Pages of files, such as libraries
    files: u64,
}

impl Held {
    /// What one process holds, if it runs.
    pub fn by(process: u32) -> Option<Held> {
        Held::parse(&fs::read_to_string(format!("/proc/{process}/statm")).ok()?)
    }

    fn parse(statm: &str) -> Option<Held> {
        let mut pages = statm.split_whitespace().skip(1).map(|number| number.parse::<u64>().ok());
        let (resident, files) = (pages.next()??, pages.next()??);
        let page = page_size();
        Some(Held { own: resident.saturating_sub(files) * page, files: files * page })
    }
}

/// Bytes of a page, which the kernel tells each process when it starts it (getauxval(3), AT_PAGESZ).
fn page_size() -> u64 {
    static SIZE: OnceLock<u64> = OnceLock::new();
    let told = || {
        let words = fs::read("/proc/self/auxv").ok()?;
        let words = words.chunks_exact(8).filter_map(|word| Some(u64::from_ne_bytes(word.try_into().ok()?)));
        let words: Vec<u64> = words.collect();
        words.chunks_exact(2).find(|pair| pair[0] == 6).map(|pair| pair[1])
    };
    *SIZE.get_or_init(|| told().unwrap_or(4096))
}

/// How long what was measured is good enough.
const FRESH: Duration = Duration::from_millis(250);

/// What this process and the programs that it runs hold beside the evaluators.
#[derive(Default)]
pub struct Beside {
    bytes: u64,
    when: Option<Instant>,
}

impl Beside {
    /// Bytes, with the files of `evaluators` and without what is their own.
    ///
    /// A build that one of the programs runs does not count: it is not Nix's memory.
    pub fn bytes(&mut self, evaluators: impl Iterator<Item = u32>) -> u64 {
        if self.when.is_none_or(|when| when.elapsed() >= FRESH) {
            let evaluators: Vec<u32> = evaluators.collect();
            let mut files = 0;
            self.bytes = Held::by(std::process::id()).map_or(0, |held| held.own + held.files);
            for child in children() {
                let Some(held) = Held::by(child) else { continue };
                files = held.files.max(files);
                if !evaluators.contains(&child) {
                    self.bytes += held.own;
                }
            }
            self.bytes += files;
            self.when = Some(Instant::now());
        }
        self.bytes
    }
}

/// The processes that this one has started.
fn children() -> Vec<u32> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    children.flat_map(|list| list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()).collect()
}

/// The memory that is free: the kernel's estimate (proc(5)), or less where a cgroup gives less.
pub fn free() -> Option<u64> {
    let free = kibibytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let number = |file: &str| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    Some(left(&groups, number).map_or(free, |left| left.min(free)))
}

/// What cgroups leave to a process: the one that it is in, and all above that (cgroups(7), /proc/PID/cgroup; of version 1
/// its memory controller). `number` reads a file; a limit that is none is no number.
fn left(groups: &str, number: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    let of_line = |line: &str| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let (top, limit, usage) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max", "memory.current"),
            _ if controllers.split(',').any(|one| one == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
            }
            _ => return None,
        };
        let folders = Path::new(path).ancestors().map(|folder| format!("{top}{}", folder.display()));
        folders
            .filter_map(|at| Some(number(&format!("{at}/{limit}"))?.saturating_sub(number(&format!("{at}/{usage}"))?)))
            .min()
    };
    groups.lines().filter_map(of_line).min()
}

/// Reads a size: `512M`, `4G` (powers of 1024, as nix.conf and systemd have them), or bytes.
pub fn size(text: &str) -> Result<u64, String> {
    let upper = text.trim_end_matches("iB").trim_end_matches('B');
    let (number, shift) = match upper.as_bytes().last() {
        Some(b'K' | b'k') => (&upper[..upper.len() - 1], 10),
        Some(b'M' | b'm') => (&upper[..upper.len() - 1], 20),
        Some(b'G' | b'g') => (&upper[..upper.len() - 1], 30),
        Some(b'T' | b't') => (&upper[..upper.len() - 1], 40),
        _ => (upper, 0),
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift)) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err("a size is a number and a unit, such as 512M or 4G".into()),
    }
}

fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn pages_of_files_are_told_from_a_process_own() {
        let page = page_size();
        assert_eq!(page % 4096, 0);
        assert_eq!(Held::parse("20 9 3 1 0 5 0\n"), Some(Held { own: 6 * page, files: 3 * page }));
        assert_eq!(Held::parse("20 9"), None);
    }

    #[test]
    fn what_a_program_holds_counts_unless_it_is_an_evaluator() {
        let held = |evaluators: &[u32]| Beside::default().bytes(evaluators.iter().copied());
        assert!(held(&[]) > 0);
        // A shell with a megabyte of its own.
        let large =
            "x=0123456789abcdef; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do x=$x$x; done; echo; read y";
        let mut shell =
            Command::new("sh").args(["-c", large]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        std::io::Read::read_exact(shell.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        assert!(children().contains(&shell.id()));
        let one = Held::by(shell.id()).unwrap();
        assert!(one.own > 1 << 20, "{one:?}");
        // What other tests hold at the same time comes and goes.
        assert!((0..100).any(|_| held(&[]) >= held(&[shell.id()]) + (1 << 20) - (256 << 10)));
        drop(shell.stdin.take());
        shell.wait().unwrap();
    }

    #[test]
    fn the_smallest_cgroup_on_the_way_up_counts() {
        let files = [
            ("/sys/fs/cgroup/a.slice/b.service/memory.current", 30),
            ("/sys/fs/cgroup/a.slice/memory.max", 100),
            ("/sys/fs/cgroup/a.slice/memory.current", 40),
            ("/sys/fs/cgroup/memory/c/memory.limit_in_bytes", 90),
            ("/sys/fs/cgroup/memory/c/memory.usage_in_bytes", 100),
            ("/sys/fs/cgroup/memory//memory.limit_in_bytes", 1000),
            ("/sys/fs/cgroup/memory//memory.usage_in_bytes", 1),
        ];
        let number = |file: &str| files.iter().find(|(name, _)| *name == file).map(|(_, number)| *number);
        assert_eq!(left("0::/a.slice/b.service\n", number), Some(60), "its own has no limit");
        assert_eq!(left("4:memory:/\n3:cpu:/c\n", number), Some(999));
        assert_eq!(left("4:cpu,memory:/c\n0::/a.slice\n", number), Some(0));
        assert_eq!(left("", number), None);
    }

    #[test]
    fn sizes_have_a_unit_or_are_bytes() {
        for (text, bytes) in [("4G", 4 << 30), ("512M", 512 << 20), ("512MiB", 512 << 20), ("1k", 1024), ("77", 77)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "0", "G", "-1M", "1.5G", "1X", "99999999999T"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
