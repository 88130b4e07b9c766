//! What a machine is at: on the live line, and in the message when its time is up.

use machine_record::log::{self, Step};
use std::cell::{Cell, RefCell};

pub struct Doing {
    machine: String,
    what: Cell<&'static str>,
    shown: RefCell<Step>,
}

impl Doing {
    pub fn new(machine: &str, what: &'static str) -> Self {
        Doing { machine: machine.into(), what: Cell::new(what), shown: RefCell::new(log::step(machine, what)) }
    }

    /// The step before is over, and this one begins.
    pub fn set(&self, what: &'static str) {
        self.what.set(what);
        self.shown.replace(log::step(&self.machine, what));
    }

    pub fn get(&self) -> &'static str {
        self.what.get()
    }
}
