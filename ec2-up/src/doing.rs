//! What a machine is at: on the live line, and in the message when its time is up.

use crate::region::Region;
use anyhow::Result;
use machine_record::log::{self, Step};
use machine_record::{Failure, Kind};
use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::time::Duration;

pub struct Doing {
    machine: String,
    what: Cell<&'static str>,
    shown: RefCell<Step>,
    /// Where it is done, once that is known
    pub region: OnceCell<Rc<Region>>,
}

impl Doing {
    pub fn new(machine: &str, what: &'static str) -> Self {
        let shown = RefCell::new(log::step(machine, what));
        Doing { machine: machine.into(), what: Cell::new(what), shown, region: OnceCell::new() }
    }

    /// The step before is over, and this one begins.
    pub fn set(&self, what: &'static str) {
        self.what.set(what);
        self.shown.replace(log::step(&self.machine, what));
    }

    /// Waits for `work` as long as the machine has time.
    ///
    /// # Errors
    /// Kind `timeout`: what the machine was at, and what EC2 answered to calls that it would not take.
    pub async fn within(&self, limit: Duration, work: impl Future<Output = Result<()>>) -> Result<()> {
        if let Ok(result) = tokio::time::timeout(limit, work).await {
            return result;
        }
        let refused = self.region.get().and_then(|region| region.aws.refused());
        let refused = refused.map(|error| format!("; {error}")).unwrap_or_default();
        let message = format!("not done in {} s: it was {}{refused}", limit.as_secs(), self.what.get());
        Err(Failure::new(Kind::Timeout, message)
            .hint("run it again: it goes on where it was; or wait longer with --timeout")
            .into())
    }
}
