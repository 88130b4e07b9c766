//! Where no live line is drawn, in a file or a job's log: who works in silence says so.

use crate::live::{Item, describe, numbers};
use crate::log;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The silence at the beginning, and the one after a line.
const FIRST: Duration = Duration::from_secs(1);
const LATER: Duration = Duration::from_secs(30);

struct Watch {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    steps: Vec<Arc<Item>>,
    /// When a line was last printed, or the work began
    said: Instant,
    /// How long nothing may be said
    patience: Duration,
}

static WATCH: OnceLock<Watch> = OnceLock::new();

/// Begins to watch.
pub(crate) fn set_up() {
    let state = Mutex::new(State { steps: Vec::new(), said: Instant::now(), patience: FIRST });
    if WATCH.set(Watch { state, changed: Condvar::new() }).is_ok() {
        std::thread::spawn(watch_for_ever);
    }
}

fn state() -> Option<MutexGuard<'static, State>> {
    Some(WATCH.get()?.state.lock().unwrap_or_else(PoisonError::into_inner))
}

pub(crate) fn began(item: &Arc<Item>) {
    if let Some(mut state) = state() {
        if state.steps.is_empty() {
            state.said = state.said.max(item.began);
        }
        state.steps.push(item.clone());
    }
    if let Some(watch) = WATCH.get() {
        watch.changed.notify_all();
    }
}

pub(crate) fn ended(item: &Arc<Item>) {
    if let Some(mut state) = state() {
        state.steps.retain(|other| !Arc::ptr_eq(other, item));
    }
}

/// A line was printed.
pub(crate) fn broken() {
    if let Some(mut state) = state() {
        (state.said, state.patience) = (Instant::now(), LATER);
    }
}

fn watch_for_ever() {
    let Some(watch) = WATCH.get() else { return };
    loop {
        let item = watch.wait();
        log::figures(&item.machine, &describe(&item), numbers(&item));
    }
}

impl Watch {
    /// The oldest step, once nobody has said anything for so long.
    fn wait(&self) -> Arc<Item> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let oldest = state.steps.iter().min_by_key(|item| item.began).cloned();
            let left = state.patience.saturating_sub(state.said.elapsed());
            state = match oldest {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(item) if left.is_zero() => return item,
                Some(_) => self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }
}
