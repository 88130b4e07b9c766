//! From a closure here to a rooted system on the machine: what it lacks, and how that is sent.

use crate::delta;
use crate::evaluate::Settings;
use crate::intake;
use crate::lanes;
use crate::pack::Packing;
use crate::pairs::Pairs;
use crate::push::{Cargo, seconds, timed};
use crate::remote::{Facts, Script, free_now};
use crate::send::{self, Sent, size};
use crate::serve::PathInfo;
use crate::{Args, Compress, Delta};
use anyhow::Result;
use machine_record::{Closure as Section, Failure, Kind, StorePath, WithHint, log};
use machine_ssh::Session;
use serde_json::json;
use std::collections::HashSet;
use std::time::Instant;

/// File systems that compress, or keep equal blocks once: there a file may take less room than its size tells.
/// The last is bcachefs for a coreutils that does not know it.
const PACKING_DISKS: [&str; 4] = ["btrfs", "zfs", "bcachefs", "UNKNOWN (0xca451a4e)"];

/// What to do about a copy that ended for a reason of its own.
const AGAIN: &str = "run the pipe again: what has arrived stays";

/// Sends what the machine lacks, and roots the system there.
#[allow(clippy::too_many_arguments)]
pub fn deliver(
    args: &Args,
    settings: &Settings,
    machine: &str,
    session: &Session,
    facts: &Facts,
    mut script: Script,
    cargo: Cargo,
    section: &mut Section,
) -> Result<()> {
    let Cargo { toplevel, build, options: building, closure, expected } = cargo;
    let toplevel = &toplevel;
    let (all, all_bytes) = (closure.infos.len(), closure.bytes());
    let whole = size(all_bytes);
    let numbers = |paths: usize, bytes: u64| json!({ "paths": paths, "bytes": bytes, "closurePaths": all, "closureBytes": all_bytes });
    if (script.was_asked() || facts.has.contains(toplevel))
        && timed(&mut section.phases.root, || script.root(toplevel))?
    {
        (section.sent_paths, section.sent_bytes, section.compressed_bytes) = (Some(0), Some(0), Some(0));
        section.saved_bytes = Some(0);
        let text = format!("nothing to send: the machine has {toplevel} ({all} paths, {whole})");
        log::figures(machine, &text, numbers(0, 0));
        return Ok(());
    }
    let asking = Instant::now();
    let plain = packing(args.compress, facts)?;
    let beyond = closure.beyond(&settings.store, &facts.has)?;
    let mut options = Vec::new();
    if let Some(via) = &settings.via {
        options = via.options(settings.signer()?);
    }
    let substitute = args.substitute_on_destination || settings.via.is_some();
    let wish = args.delta == Delta::Auto && plain == Packing::Zstd && build.is_none() && settings.via.is_none();
    let (packing, mut pairs) = match delta::limit(facts).filter(|_| wish) {
        Some(limit) => delta::worth(&beyond, &settings.store)?
            .map_or((plain, Pairs::new()), |pairs| (Packing::Delta(limit), pairs)),
        None => (plain, Pairs::new()),
    };
    let mut serve = script.serve(&options)?;
    // It answers when it has them.
    let fetching = substitute.then(|| log::step(machine, "fetching from caches"));
    let mut asked: Vec<StorePath> = beyond.infos.iter().map(|info| &info.path).chain(&beyond.known).cloned().collect();
    if build.is_some() {
        asked.push(toplevel.clone());
    }
    serve.ask_valid_paths(true, substitute, &asked)?;
    drop(asked);
    // Differences are small: what goes whole is what takes long.
    let whole_bytes =
        beyond.infos.iter().filter(|info| !pairs.contains_key(&info.path)).map(|info| info.nar_size).sum();
    let folder = lanes::folder(session, whole_bytes);
    // The answer comes while this waits for its own.
    let limit = settings.build_timeout;
    let open = |packing, folder| intake::open(session, packing, folder, toplevel, build.as_ref(), &building, limit);
    let mut intake = open(packing, folder.as_deref())?;
    let answer = serve.greeted().and_then(|()| serve.valid_paths());
    let mut valid = intake::explain(answer, &mut serve.wire.pipe).with_hint(AGAIN)?;
    let mut wanted = beyond.infos;
    if !beyond.known.iter().all(|path| valid.contains(path)) {
        // Something else than a whole system is at one of its links: nothing is to rest on it.
        wanted = closure.infos.iter().collect();
        pairs.clear();
        let all: Vec<StorePath> = wanted.iter().map(|info| info.path.clone()).collect();
        serve.ask_valid_paths(true, substitute, &all)?;
        let answer = serve.valid_paths();
        valid = intake::explain(answer, &mut serve.wire.pipe).with_hint(AGAIN)?;
    }
    drop(fetching);
    section.phases.ask = Some(seconds(asking));
    let there = valid.contains(toplevel);
    let mut missing = if there { Vec::new() } else { lacking(&wanted, &valid) };
    let paths = missing.len();
    let bytes = missing.iter().map(|info| info.nar_size).sum();
    // The facts may be as old as a long build.
    let free = match facts.free {
        Some(free) if free < bytes => free_now(session).or(facts.free),
        free => free,
    };
    if let Some(doubt) = room(bytes, free, &facts.disk)? {
        log::warning(machine, &doubt);
    }
    let text = format!("sending {paths} of {all} paths, {} of {whole}", size(bytes));
    log::figures(machine, &text, numbers(paths, bytes));
    let sent = timed(&mut section.phases.send, || {
        let second = folder.as_deref().map(|folder| intake::open_second(machine, session, folder));
        let sent = match send::send(machine, &mut intake, second, packing, &settings.spool, &missing, &pairs) {
            Err(error) if packing != plain && undone(&Failure::of(&error)) => {
                log::event(machine, &format!("differences do not arrive, so the rest goes whole: {error:#}"));
                intake = open(plain, None)?;
                let rest: Vec<StorePath> = missing.iter().map(|info| info.path.clone()).collect();
                let answer = serve.ask_valid_paths(true, false, &rest).and_then(|()| serve.valid_paths());
                missing = lacking(&missing, &intake::explain(answer, &mut serve.wire.pipe)?);
                send::send(machine, &mut intake, None, plain, &settings.spool, &missing, &Pairs::new())
            }
            sent => sent,
        };
        sent.map_err(|error| filled(error, bytes, facts.free)).with_hint(AGAIN)
    });
    drop(expected);
    let Sent { packed, saved, .. } = sent?;
    let took = section.phases.send.unwrap_or_default();
    let rate = (bytes as f64 / took.max(0.001)) as u64;
    (section.sent_paths, section.sent_bytes) = (Some(paths as u64), Some(bytes));
    (section.compressed_bytes, section.saved_bytes, section.rate) = (Some(packed), Some(saved), Some(rate));
    let spared = if saved > 0 { format!(", {} saved by differences", size(saved)) } else { String::new() };
    let (count, all, sent) = (log::count(paths, "path"), size(bytes), size(packed));
    let text = format!("sent {count}, {all} as {sent} in {took:.1} s ({}/s{spared})", size(rate));
    let numbers = json!({
        "paths": paths, "bytes": bytes, "packedBytes": packed, "savedBytes": saved, "seconds": took, "rate": rate
    });
    log::figures(machine, &text, numbers);
    let builds = build.is_some() && !there;
    if builds {
        log::event(machine, &format!("building {toplevel} on the machine"));
    }
    let _step = builds.then(|| log::step(machine, "building on the machine"));
    timed(&mut section.phases.root, || intake::rooted(machine, &mut intake, toplevel, limit))?;
    section.built |= builds;
    Ok(())
}

/// What is wanted and not there, references first.
pub fn lacking<'a>(wanted: &[&'a PathInfo], valid: &HashSet<StorePath>) -> Vec<&'a PathInfo> {
    wanted.iter().filter(|info| !valid.contains(&info.path)).copied().collect()
}

/// Checks that the machine's disk can hold what is to come. Gives the doubt where that shows only on the way.
fn room(bytes: u64, free: Option<u64>, disk: &str) -> Result<Option<String>> {
    let Some(free) = free.filter(|free| *free < bytes) else { return Ok(None) };
    let (come, free) = (size(bytes), size(free));
    if PACKING_DISKS.contains(&disk) {
        return Ok(Some(format!(
            "{come} are to come, {free} are free in the machine's store: {disk} may make them fit"
        )));
    }
    let text = format!("not enough room in the machine's store: {come} are to come, {free} are free");
    Err(Failure::new(Kind::Copy, text)
        .hint("make room there, for example with nix-collect-garbage, or give it a larger volume (--volume-size)")
        .into())
}

/// Whether it may be the differences that failed: any other cause of a copy's end has a hint.
fn undone(failure: &Failure) -> bool {
    failure.kind == Kind::Copy && failure.hint.is_none()
}

/// Says how much room was wanted, where the machine's disk filled all the same: a NAR does not tell
/// how many blocks its files take.
fn filled(error: anyhow::Error, bytes: u64, free: Option<u64>) -> anyhow::Error {
    match free {
        Some(free) if intake::says_full(&Failure::of(&error)) => error.context(format!(
            "no room left in the machine's store: {} of files were to come, {} were free",
            size(bytes),
            size(free)
        )),
        _ => error,
    }
}

fn packing(wish: Compress, facts: &Facts) -> Result<Packing> {
    let absent = |program: &str| {
        Failure::new(Kind::Copy, format!("the machine has no {program}"))
            .hint("leave --compress out: what it has is used")
    };
    Ok(match wish {
        Compress::Zstd if !facts.zstd => return Err(absent("zstd").into()),
        Compress::Gzip if !facts.gzip => return Err(absent("gzip").into()),
        Compress::Zstd => Packing::Zstd,
        Compress::Gzip => Packing::Gzip,
        Compress::None => Packing::None,
        Compress::Auto if facts.zstd => Packing::Zstd,
        Compress::Auto if facts.gzip => Packing::Gzip,
        Compress::Auto => Packing::None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_packing_that_the_machine_knows_is_taken() {
        let facts = |zstd, gzip| Facts { zstd, gzip, ..Facts::default() };
        assert_eq!(packing(Compress::Auto, &facts(true, true)).unwrap(), Packing::Zstd);
        assert_eq!(packing(Compress::Auto, &facts(false, true)).unwrap(), Packing::Gzip);
        assert_eq!(packing(Compress::Auto, &facts(false, false)).unwrap(), Packing::None);
        assert!(packing(Compress::Zstd, &facts(false, true)).is_err());
    }

    #[test]
    fn a_full_machine_is_seen_before_anything_is_sent() {
        let failure = Failure::of(&room(5 << 30, Some(1 << 30), "ext2/ext3").unwrap_err());
        assert_eq!(failure.kind, Kind::Copy);
        assert!(failure.message.contains("5.0 GiB") && failure.message.contains("1.0 GiB"), "{failure}");
        assert_eq!(room(5, None, "").unwrap(), None);
        assert_eq!(room(5, Some(5), "btrfs").unwrap(), None);
        let doubt = room(5 << 30, Some(1 << 30), "btrfs").unwrap();
        let text = "5.0 GiB are to come, 1.0 GiB are free in the machine's store: btrfs may make them fit";
        assert_eq!(doubt.as_deref(), Some(text));
    }

    #[test]
    fn a_full_disk_of_this_computer_is_not_the_machines() {
        let full = |hint: &str| {
            let failure = Failure::new(Kind::Copy, "x: No space left on device").hint(hint);
            Failure::of(&filled(failure.into(), 5 << 30, Some(1 << 30))).message
        };
        assert_eq!(full("TMPDIR names another folder for it, with more room"), "x: No space left on device");
        let text = "no room left in the machine's store: 5.0 GiB of files were to come, 1.0 GiB were free: x: ";
        assert!(full(intake::MAKE_ROOM).starts_with(text), "{}", full(intake::MAKE_ROOM));
    }
}
