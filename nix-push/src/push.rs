//! One push, from the configuration to the rooted system on the machine.

use crate::closure::Closure;
use crate::deliver::deliver;
use crate::evaluate::{Evaluated, Settings, evaluate};
use crate::local::Store;
use crate::remote::Remote;
use crate::source::Source;
use crate::spool::Counted;
use crate::{Args, BuildOn, about, build};
use anyhow::{Context, Result, anyhow};
use machine_record::{Closure as Section, Failure, Kind, Phases, Record, StorePath};
use machine_ssh::Address;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

/// How often a connection that waits is seen to.
const BEAT: Duration = Duration::from_secs(1);

/// What to do about a system that was named and is not there.
pub const NOT_BUILT: &str = "build it first, or name what builds it: nix-push CONFIGURATION";

/// What is to be sent; it is kept in the local store until the end of the run.
pub struct Cargo<'a> {
    pub toplevel: StorePath,
    /// The derivation, where the machine is to build it: then the closure is that of the derivation
    pub build: Option<StorePath>,
    /// What the machine's Nix is told for that
    pub options: Vec<String>,
    pub closure: Arc<Closure>,
    /// Held until all has arrived
    pub expected: Counted<'a>,
}

/// Evaluates, builds, sends and roots; writes `closure`, as far as it came.
pub fn push(args: &Args, settings: &Settings, source: &Source, record: &mut Record) -> Result<()> {
    let began = Instant::now();
    let _present = settings.spool.enter();
    let mut section = None;
    let result = work(args, settings, source, record, &mut section);
    if let Some(mut section) = section {
        section.seconds = seconds(began);
        record.put(&section)?;
    }
    result
}

/// The section of a system that is known, and with which nothing is done yet.
pub fn begun(evaluated: Option<&Evaluated>, toplevel: &StorePath) -> Section {
    Section {
        drv: evaluated.map(|evaluated| evaluated.drv.clone()),
        toplevel: toplevel.clone(),
        paths: None,
        bytes: None,
        sent_paths: None,
        sent_bytes: None,
        compressed_bytes: None,
        saved_bytes: None,
        round_trips: None,
        rate: None,
        evaluated: evaluated.is_some_and(|evaluated| evaluated.fresh),
        built: false,
        seconds: 0.0,
        phases: Phases::default(),
    }
}

/// Seconds since then, to the millisecond.
pub fn seconds(began: Instant) -> f64 {
    (began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0
}

/// Does a part of the work and notes how long it took, if it succeeds.
pub fn timed<T>(phase: &mut Option<f64>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let began = Instant::now();
    let result = work()?;
    *phase = Some(seconds(began));
    Ok(result)
}

fn work(
    args: &Args,
    settings: &Settings,
    source: &Source,
    record: &Record,
    written: &mut Option<Section>,
) -> Result<()> {
    let address = Address::of(record, &args.login)?;
    let stop = AtomicBool::new(false);
    let known = OnceLock::new();
    let began = Instant::now();
    // The key exchange goes on while this computer evaluates and builds.
    let (remote, cargo) = std::thread::scope(|scope| {
        let cargo = Beside::begin(scope, || prepare(args, settings, source, record, written, &known, &stop));
        let remote = Remote::connect(&address, args.timeout, &known);
        stop.store(remote.is_err(), Ordering::SeqCst);
        let connecting = seconds(began);
        let remote = remote.map(|mut remote| {
            let lives = cargo.attend(&mut remote, args.timeout);
            (remote, connecting, lives)
        });
        (remote, cargo.end())
    });
    let cargo = match (cargo, &remote) {
        (Ok(cargo), _) => cargo,
        // What is wrong with the configuration is more than that nobody is there to hear of it.
        (Err(error), _) if !stop.load(Ordering::SeqCst) || Failure::of(&error).kind != Kind::NotStarted => {
            return Err(error);
        }
        (Err(error), _) => return Err(remote.err().unwrap_or(error)),
    };
    let (mut remote, connecting, mut lives) = remote?;
    let section = written.as_mut().context("the tool stopped: this is a bug")?;
    section.phases.connect = Some(connecting);
    if let Some(via) = &settings.via
        && !remote.facts.has.contains(&cargo.toplevel)
    {
        let (root, signer) = (cargo.build.as_ref().unwrap_or(&cargo.toplevel), settings.signer()?);
        std::thread::scope(|scope| {
            let upload = Beside::begin(scope, || via.upload(&record.name(), root, signer));
            lives &= upload.attend(&mut remote, args.timeout);
            upload.end()
        })?;
    }
    let mut round_trips = 0;
    if !lives {
        round_trips = remote.session.round_trips();
        remote = Remote::connect(&address, args.timeout, &known)?;
    }
    let Remote { session, facts, script } = remote;
    let result = deliver(args, settings, &record.name(), &session, &facts, script, cargo, section);
    section.round_trips = Some(round_trips + session.round_trips());
    result
}

/// What another thread does while a connection waits for it.
struct Beside<'scope, T> {
    thread: ScopedJoinHandle<'scope, Result<T>>,
    end: Receiver<()>,
}

impl<'scope, T: Send + 'scope> Beside<'scope, T> {
    fn begin(scope: &'scope Scope<'scope, '_>, work: impl FnOnce() -> Result<T> + Send + 'scope) -> Self {
        let (ends, end) = channel();
        let thread = scope.spawn(move || {
            // Dropped at the end, however that comes.
            let _ends: Sender<()> = ends;
            work()
        });
        Beside { thread, end }
    }

    /// Waits for the end, and keeps the connection alive: firewalls forget silent ones, and an sshd may end one that gives
    /// no sign of life (`ClientAliveInterval`). False where that did not help, or the machine was silent for too long.
    fn attend(&self, remote: &mut Remote, timeout: Duration) -> bool {
        // Signs of life come every ten seconds, or sooner where less silence is borne.
        let silence = timeout.min(Duration::from_secs(10)) + 4 * BEAT;
        let (mut heard, mut lives) = (Instant::now(), true);
        while self.end.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
            match remote.keep() {
                Some(true) => heard = Instant::now(),
                Some(false) => lives &= heard.elapsed() < silence,
                None => lives = false,
            }
        }
        lives
    }

    fn end(self) -> Result<T> {
        self.thread.join().unwrap_or_else(|_| Err(anyhow!("the tool stopped: this is a bug")))
    }
}

/// What happens on this computer: evaluating, building, and listing the closure. A system that is
/// there without that is told to `known` at once.
fn prepare<'a>(
    args: &Args,
    settings: &'a Settings,
    source: &Source,
    record: &Record,
    written: &mut Option<Section>,
    known: &OnceLock<StorePath>,
    stop: &AtomicBool,
) -> Result<Cargo<'a>> {
    let machine = record.name();
    let signer = settings.signer()?;
    let mut phases = Phases::default();
    let (toplevel, evaluated) = match source {
        Source::Toplevel(toplevel) => (toplevel.clone(), None),
        _ => {
            let evaluated = timed(&mut phases.evaluate, || evaluate(settings, source, record))?;
            (evaluated.toplevel.clone(), Some(evaluated))
        }
    };
    let section = written.insert(Section { phases, ..begun(evaluated.as_ref(), &toplevel) });
    if stop.load(Ordering::SeqCst) {
        return Err(Failure::new(Kind::NotStarted, "the machine cannot be reached").into());
    }
    let store = &settings.store;
    let there = lock(store, &toplevel, evaluated.as_ref())?;
    if let Some(evaluated) = &evaluated
        && builds_there(args, settings, record, evaluated, there)?
    {
        about::warn_if_small(&machine, record);
        let closure = settings.closures.of(store, &evaluated.drv, signer).context("cannot list the derivations")?;
        let expected = settings.spool.expecting();
        // The machine's builders are its own.
        let options = [settings.options.clone(), evaluated.about.caches()].concat();
        return Ok(Cargo { toplevel, build: Some(evaluated.drv.clone()), options, closure, expected });
    }
    if there {
        let _ = known.set(toplevel.clone());
    } else {
        let evaluated = evaluated.ok_or_else(|| {
            Failure::new(Kind::NotFound, format!("{toplevel} is not in the local store")).hint(NOT_BUILT)
        })?;
        timed(&mut section.phases.build, || build::build(&machine, settings, &evaluated))?;
        section.built = true;
    }
    if let Some(folder) = &args.keep_result {
        build::keep(&machine, &toplevel, folder)?;
    }
    let closure = settings.closures.of(store, &toplevel, signer).context("cannot list the closure")?;
    section.paths = Some(closure.infos.len() as u64);
    section.bytes = Some(closure.bytes());
    Ok(Cargo { toplevel, build: None, options: Vec::new(), closure, expected: settings.spool.expecting() })
}

/// Whether the machine is to build its system by itself; `there` tells whether this computer has it.
pub fn builds_there(
    args: &Args,
    settings: &Settings,
    record: &Record,
    evaluated: &Evaluated,
    there: bool,
) -> Result<bool> {
    Ok(match (args.build_on, evaluated.about.system()) {
        (BuildOn::Machine, _) => true,
        (BuildOn::Auto, Some(system)) if !there => !build::can_build(&record.name(), system, settings)?,
        _ => false,
    })
}

/// Keeps the system and its derivation from being collected; true if the system is there.
pub fn lock(store: &Store, toplevel: &StorePath, evaluated: Option<&Evaluated>) -> Result<bool> {
    let paths: Vec<_> =
        evaluated.map(|evaluated| evaluated.drv.clone()).into_iter().chain([toplevel.clone()]).collect();
    let valid = store.lock(&paths)?;
    if let Some(Evaluated { drv, fresh, .. }) = evaluated
        && !valid.contains(drv)
    {
        // It was nobody's for a moment, between two processes.
        let hint = if *fresh { "run the pipe again" } else { "run the pipe again, with --no-eval-cache" };
        return Err(Failure::new(Kind::Evaluation, format!("{drv} was collected as garbage")).hint(hint).into());
    }
    Ok(valid.contains(toplevel))
}
