//! Groups of paths, read, checked and compressed once for all machines that lack them.
//!
//! With several machines in hand a group goes into a file without a name, from which each machine
//! takes it at its own pace: none is slowed by another, and memory holds but a piece for each.
//! For a single machine, or where the disk has no room, it stays in memory, a little at a time.

use crate::groups::Group;
use crate::pack::Packing;
use anyhow::Result;
use machine_record::Failure;
use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

mod order;

/// Compressed bytes that travel together.
const PART: usize = 256 * 1024;
/// Compressed bytes that may wait in memory, for all machines together.
const WAITING: usize = 32 << 20;
/// How many groups are made ahead of the one that is being sent.
const AHEAD: usize = 6;
/// Most groups that are made at a time: a compressor holds up to 40 MB, and two keep up with a gigabit.
const MAKERS: usize = 2;
/// What is left free on the file's disk.
const SPARE: u64 = 512 << 20;

/// What is made in this run, for all machines.
pub struct Spool {
    makers: usize,
    machines: AtomicUsize,
    expected: AtomicUsize,
    orders: AtomicUsize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    frames: HashMap<Name, Frame>,
    file: Option<Arc<File>>,
    /// Where the file ends
    end: u64,
    /// Threads at work
    making: usize,
    /// The order that waits for more than one thread: others begin nothing before it
    first: Option<usize>,
}

/// What a group is known by: how it is packed, its key, and for one that is kept in memory whose it is.
type Name = (Packing, [u8; 32], Option<usize>);

/// A compressed group, as far as it is made.
#[derive(Default)]
struct Frame {
    parts: Vec<Part>,
    /// Bytes in memory
    waiting: usize,
    end: Option<Result<(), Failure>>,
}

struct Part {
    figures: Figures,
    place: Place,
}

/// What a part stands for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Bytes of NAR that went in since the part before
    pub raw: u64,
    /// About how many bytes more it would be if it were no difference
    pub saved: u64,
}

enum Place {
    Memory(Vec<u8>),
    File { offset: u64, length: usize },
}

/// A machine that counts until this is dropped.
pub struct Counted<'a>(&'a AtomicUsize);

/// The groups that one machine is to get, in order.
pub struct Order<'a> {
    spool: &'a Spool,
    packing: Packing,
    groups: Vec<(Group<'a>, [u8; 32])>,
    id: usize,
    /// The level of zstd that fits this machine's link
    pub level: AtomicI32,
    /// The next group to be made
    next: AtomicUsize,
    /// The group that is being sent
    sending: AtomicUsize,
    /// Bytes in memory that wait to be sent
    waiting: AtomicUsize,
    over: AtomicBool,
}

impl Spool {
    pub fn new() -> Self {
        let makers = std::thread::available_parallelism().map_or(1, |count| count.get().min(MAKERS));
        Spool {
            makers,
            machines: AtomicUsize::new(0),
            expected: AtomicUsize::new(0),
            orders: AtomicUsize::new(0),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Counts a machine in: with more than one, what is made is kept for the others.
    pub fn enter(&self) -> Counted<'_> {
        Counted::among(&self.machines)
    }

    /// Counts a machine whose closure is known, and whose link is not done with it.
    pub fn expecting(&self) -> Counted<'_> {
        Counted::among(&self.expected)
    }

    /// How many machines are sent to, as far as is known.
    pub fn expected(&self) -> usize {
        self.expected.load(Ordering::SeqCst)
    }

    /// What a machine is to get. Its groups are made by threads that run [`Order::make`].
    pub fn order<'a>(&'a self, packing: Packing, level: i32, groups: Vec<Group<'a>>) -> Order<'a> {
        Order {
            spool: self,
            packing,
            groups: groups.into_iter().map(|group| (group.key(), group)).map(|(key, group)| (group, key)).collect(),
            id: self.orders.fetch_add(1, Ordering::SeqCst),
            level: AtomicI32::new(level),
            next: AtomicUsize::new(0),
            sending: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        }
    }

    /// How many machines are in hand.
    pub fn machines(&self) -> usize {
        self.machines.load(Ordering::SeqCst)
    }

    /// How many threads an order is worth.
    pub fn makers(&self) -> usize {
        self.makers
    }

    /// Compressed bytes that may wait in memory for one machine.
    fn share(&self) -> usize {
        (WAITING / self.machines().max(1)).max(2 * PART)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what is made should go into the file: others may want it, and there is room.
    fn shares(&self, state: &mut State, group: &Group) -> bool {
        if self.machines() < 2 {
            return false;
        }
        if state.file.is_none() {
            state.file = nameless().ok().map(Arc::new);
        }
        let free = state.file.as_ref().and_then(|file| rustix::fs::fstatvfs(file).ok());
        free.is_some_and(|free| free.f_bavail * free.f_frsize > SPARE + 2 * group.bytes)
    }
}

/// A file that goes with this process, in `TMPDIR` or a folder that is no memory.
fn nameless() -> Result<File> {
    let folder = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let path = folder.join(format!(".nix-push-{}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

impl<'a> Counted<'a> {
    fn among(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Counted(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
