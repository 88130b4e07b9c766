//! One machine's groups: made a little ahead of what is sent, and given out in order.

use super::{AHEAD, Figures, Frame, Name, Order, PART, Part, Place, State};
use crate::delta;
use crate::groups::Group;
use crate::pack::{Packer, Packing};
use crate::read::Reader;
use crate::wire::Request;
use anyhow::{Context, Result, bail};
use machine_record::{Failure, Kind, WithHint, WithKind};
use std::os::unix::fs::FileExt;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

const UNKEPT: &str = "cannot keep on this computer what is sent to several machines";

impl Order<'_> {
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Makes what nobody has made, a little ahead of what is sent, until all is made or the order
    /// is over. Several threads may do so.
    pub fn make(&self) {
        let mut reader = Reader::default();
        while let Some((group, mut made)) = self.claim() {
            made.end = Some(self.compress(group, &mut reader, &made).map_err(|error| Failure::of(&error)));
        }
    }

    /// Takes the next group that nobody has begun; it must be made then.
    fn claim(&self) -> Option<(&Group<'_>, Made<'_>)> {
        let spool = self.spool;
        let mut state = spool.lock();
        loop {
            let next = self.next.load(Ordering::SeqCst);
            let over = self.over.load(Ordering::SeqCst);
            let Some((group, key)) = self.groups.get(next).filter(|_| !over) else {
                self.be_first(&mut state, false);
                return None;
            };
            let sending = self.sending.load(Ordering::SeqCst);
            let shared = (self.packing, *key, None);
            if state.frames.contains_key(&shared) {
                self.next.store(next + 1, Ordering::SeqCst);
                continue;
            }
            let full = next > sending && self.waiting.load(Ordering::SeqCst) >= spool.share();
            let level = self.level.load(Ordering::Relaxed);
            let shares = self.packing != Packing::None && spool.shares(&mut state, group);
            // One that pauses holds its memory, and each machine may have one.
            let lean = !shares && spool.machines() > 1;
            let level = if lean { level.min(3) } else { level };
            let need = if lean { 1 } else { self.threads(group, level) };
            let early = next > sending + AHEAD || full;
            let busy = state.making + need > spool.makers;
            if early || busy || !self.may_begin(&state) {
                // While one thread or another is at work for other machines, one that wants both would never begin.
                self.be_first(&mut state, busy && need > 1 && !early);
                state = spool.wait(state);
                continue;
            }
            self.be_first(&mut state, false);
            state.making += need;
            self.next.store(next + 1, Ordering::SeqCst);
            let own = (self.packing, *key, Some(self.id));
            let name = if shares { shared } else { own };
            state.frames.insert(name, Frame::default());
            return Some((group, Made { order: self, name, level, threads: need, end: None }));
        }
    }

    /// Whether no other order is first.
    fn may_begin(&self, state: &State) -> bool {
        state.first.is_none_or(|first| first == self.id)
    }

    /// Makes this order the first, if there is none, or no longer.
    fn be_first(&self, state: &mut State, wanted: bool) {
        if wanted {
            state.first.get_or_insert(self.id);
        } else if state.first.take_if(|first| *first == self.id).is_some() {
            self.spool.changed.notify_all();
        }
    }

    /// How many threads compress a group: a large one is worth all of them. A difference is made by
    /// one, but takes the memory of all where it is not [made quickly](delta::QUICK).
    fn threads(&self, group: &Group, level: i32) -> usize {
        let quick = level <= delta::QUICK && !group.old.is_empty();
        if group.is_large() && !quick { self.spool.makers } else { 1 }
    }

    fn compress(&self, group: &Group, reader: &mut Reader, made: &Made) -> Result<()> {
        let level = made.level;
        if let Packing::Delta(limit) = self.packing {
            return delta::compress(group, limit, level, made.threads, reader, &mut |bytes, figures| {
                let mut figures = figures;
                for part in bytes.chunks(PART) {
                    made.give(part.to_vec(), std::mem::take(&mut figures))?;
                }
                Ok(())
            });
        }
        let mut packer = Packer::new(self.packing, level, made.threads)?;
        let mut raw = 0;
        let figures = |raw: &mut u64| Figures { raw: std::mem::take(raw), saved: 0 };
        for info in group.infos {
            packer.pack(&Request::add_to_store_nar(info).0)?;
            reader.read(info, &mut |bytes| {
                packer.pack(bytes)?;
                raw += bytes.len() as u64;
                if packer.ready().len() >= PART {
                    made.give(std::mem::take(packer.ready()), figures(&mut raw))?;
                }
                Ok(())
            })?;
        }
        made.give(packer.finish()?, figures(&mut raw))
    }

    /// Waits for a part of a group: its bytes, and what they stand for; `None` after the last.
    pub fn part(&self, group: usize, part: usize) -> Result<Option<(Vec<u8>, Figures)>> {
        let spool = self.spool;
        let key = self.groups[group].1;
        let mut state = spool.lock();
        if self.sending.swap(group, Ordering::SeqCst) != group {
            spool.changed.notify_all();
        }
        loop {
            // What was made for this machine alone is what it has begun with.
            let name = [Some(self.id), None].map(|owner| (self.packing, key, owner));
            let name = name.into_iter().find(|name| state.frames.contains_key(name));
            if let Some(name) = name
                && let Some(frame) = state.frames.get_mut(&name)
            {
                match (frame.parts.get_mut(part), &frame.end) {
                    (Some(Part { figures, place: Place::Memory(bytes) }), _) => {
                        let (bytes, figures) = (std::mem::take(bytes), *figures);
                        frame.waiting -= bytes.len();
                        self.waiting.fetch_sub(bytes.len(), Ordering::SeqCst);
                        spool.changed.notify_all();
                        return Ok(Some((bytes, figures)));
                    }
                    (Some(Part { figures, place: Place::File { offset, length } }), _) => {
                        let (figures, offset, mut bytes) = (*figures, *offset, vec![0; *length]);
                        let file = state.file.clone().context("cannot read the spool")?;
                        drop(state);
                        file.read_exact_at(&mut bytes, offset).context("cannot read the spool")?;
                        return Ok(Some((bytes, figures)));
                    }
                    (None, Some(Ok(()))) => {
                        if name.2.is_some() {
                            state.frames.remove(&name);
                        }
                        return Ok(None);
                    }
                    (None, Some(Err(failure))) => return Err(failure.clone().into()),
                    (None, None) => {}
                }
            }
            state = spool.wait(state);
        }
    }

    /// Ends the making: all is sent, or nothing more will be.
    pub fn close(&self) {
        self.over.store(true, Ordering::SeqCst);
        let mut state = self.spool.lock();
        state.frames.retain(|name, _| name.2 != Some(self.id));
        self.be_first(&mut state, false);
        drop(state);
        self.spool.changed.notify_all();
    }
}

/// A group in the making. Whoever waits for it hears of its end, however it ends.
struct Made<'a> {
    order: &'a Order<'a>,
    name: Name,
    level: i32,
    threads: usize,
    end: Option<Result<(), Failure>>,
}

impl Made<'_> {
    /// Hands out a part.
    fn give(&self, bytes: Vec<u8>, figures: Figures) -> Result<()> {
        let spool = self.order.spool;
        let mut state = spool.lock();
        if self.name.2.is_none() {
            let file = state.file.clone().context(UNKEPT)?;
            let (offset, length) = (state.end, bytes.len());
            state.end += length as u64;
            drop(state);
            file.write_all_at(&bytes, offset)
                .context(UNKEPT)
                .with_kind(Kind::Copy)
                .with_hint("TMPDIR names another folder for it, with more room")?;
            state = spool.lock();
            if let Some(frame) = state.frames.get_mut(&self.name) {
                frame.parts.push(Part { figures, place: Place::File { offset, length } });
            }
        } else {
            state = self.pause(state)?;
            if let Some(frame) = state.frames.get_mut(&self.name) {
                frame.waiting += bytes.len();
                self.order.waiting.fetch_add(bytes.len(), Ordering::SeqCst);
                frame.parts.push(Part { figures, place: Place::Memory(bytes) });
            }
        }
        drop(state);
        spool.changed.notify_all();
        Ok(())
    }

    /// Waits while enough of this group is in memory. Others may work in the meantime.
    fn pause<'a>(&'a self, mut state: MutexGuard<'a, State>) -> Result<MutexGuard<'a, State>> {
        let spool = self.order.spool;
        let mut paused = false;
        loop {
            if self.order.over.load(Ordering::SeqCst) {
                state.making += if paused { self.threads } else { 0 };
                bail!("it is no longer wanted");
            }
            let full = state.frames.get(&self.name).is_some_and(|frame| frame.waiting >= spool.share());
            if full && !paused {
                state.making -= self.threads;
                paused = true;
                spool.changed.notify_all();
            } else if !full && !paused {
                return Ok(state);
            } else if !full && state.making + self.threads <= spool.makers && self.order.may_begin(&state) {
                state.making += self.threads;
                paused = false;
                continue;
            }
            state = spool.wait(state);
        }
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        let spool = self.order.spool;
        let mut state = spool.lock();
        state.making -= self.threads;
        if let Some(frame) = state.frames.get_mut(&self.name) {
            let fault = || Err(Failure::new(Kind::Internal, "a path was not read to its end: this is a bug"));
            frame.end = Some(self.end.take().unwrap_or_else(fault));
        }
        drop(state);
        spool.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::LARGE;
    use crate::serve::PathInfo;
    use crate::spool::{Spool, nameless};
    use std::fs::File;
    use std::sync::Arc;
    use std::time::Duration;

    /// The first group of an order in the making, for all machines in `file` or for this one alone.
    fn made<'a>(order: &'a Order<'a>, file: Option<File>) -> Made<'a> {
        let owner = file.is_none().then_some(order.id);
        let name = (order.packing, order.groups[0].1, owner);
        let mut state = order.spool.lock();
        state.file = file.map(Arc::new);
        state.making += 1;
        state.frames.insert(name, Frame::default());
        Made { order, name, level: 1, threads: 1, end: None }
    }

    fn group<'a>(infos: &'a [&'a PathInfo]) -> Group<'a> {
        Group { infos, bytes: infos[0].nar_size, old: Vec::new() }
    }

    #[test]
    fn a_group_that_takes_all_threads_begins_before_the_small_ones_of_others() {
        let info = |name, size| PathInfo::example(&format!("00bgd045z0d4icpbc2yyz4gx48ak44la-{name}"), size);
        let (one, two, large) = (info("one", 1), info("two", 1), info("large", LARGE));
        let ([one, two], large) = ([[&one], [&two]], [&large]);
        let spool = Spool { makers: 2, ..Spool::new() };
        let others = spool.order(Packing::Zstd, 1, vec![group(&one), group(&two)]);
        let order = spool.order(Packing::Zstd, 1, vec![group(&large)]);
        let (_, begun) = others.claim().unwrap();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| order.claim().unwrap().1);
            while spool.lock().first.is_none() {
                std::thread::sleep(Duration::from_millis(1));
            }
            let next = scope.spawn(|| others.claim().unwrap().1.threads);
            std::thread::sleep(Duration::from_millis(50));
            assert!(!next.is_finished(), "another one has begun meanwhile");
            drop(begun);
            let made = waits.join().unwrap();
            assert_eq!((made.threads, next.is_finished()), (2, false));
            drop(made);
            assert_eq!(next.join().unwrap(), 1);
        });
        let state = spool.lock();
        assert_eq!((state.making, state.first), (0, None));
    }

    fn message(error: &anyhow::Error) -> String {
        Failure::of(error).message
    }

    #[test]
    fn whoever_waits_for_a_group_hears_why_it_does_not_come() {
        let info = PathInfo::example("00bgd045z0d4icpbc2yyz4gx48ak44la-one", 1);
        let (spool, infos) = (Spool::new(), [&info]);
        let order = spool.order(Packing::Zstd, 1, vec![group(&infos)]);
        let full = made(&order, Some(File::options().write(true).open("/dev/full").unwrap()));
        let failure = Failure::of(&full.give(vec![1], Figures::default()).unwrap_err());
        let what = "cannot keep on this computer what is sent to several machines: No space left on device";
        assert!(failure.message.starts_with(what), "{}", failure.message);
        assert_eq!(failure.hint.as_deref(), Some("TMPDIR names another folder for it, with more room"));
        drop(full);
        let fault = order.part(0, 0).unwrap_err();
        assert_eq!(message(&fault), "a path was not read to its end: this is a bug");

        let cut = made(&order, Some(nameless().unwrap()));
        cut.give(vec![1; 10], Figures::default()).unwrap();
        assert_eq!(order.part(0, 0).unwrap().unwrap().0, [1; 10]);
        spool.lock().file.as_ref().unwrap().set_len(5).unwrap();
        let error = message(&order.part(0, 0).unwrap_err());
        assert!(error.starts_with("cannot read the spool: "), "{error}");
        drop(cut);

        let unwanted = made(&order, None);
        order.close();
        let error = unwanted.give(vec![1], Figures::default()).unwrap_err();
        assert_eq!(message(&error), "it is no longer wanted");
    }
}
