//! Sends paths: read, checked, compressed and written at the same time.

use crate::hash::NarHash;
use crate::nar;
use crate::pack::{Packer, Packing};
use crate::remote;
use crate::serve::{ADDED_ANSWER, HELLO_ANSWER, PathInfo, Request};
use anyhow::{Context, Result, bail};
use machine_record::{Failure, Kind, log};
use machine_ssh::Channel;
use sha2::{Digest, Sha256};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// A piece of the stream, and how many of them may wait: memory is bounded by their product,
/// and by what the compressor holds.
const PIECE: usize = 512 * 1024;
const WAITING: usize = 8;

/// How often progress is told.
const TELL: Duration = Duration::from_secs(10);

/// What a stream was.
#[derive(Debug, Default)]
pub struct Sent {
    pub raw: u64,
    pub packed: u64,
}

/// Sends `infos`, which are in order, into the intake of a machine; all have arrived when this
/// returns without an error, and the channel then says whether the system is rooted.
pub fn send(machine: &str, channel: &mut Channel, packing: Packing, infos: &[&PathInfo]) -> Result<Sent> {
    let (give, take) = sync_channel(WAITING);
    std::thread::scope(|scope| {
        // It ends by itself when this side goes away.
        scope.spawn(move || {
            if let Err(error) = read(infos, &give) {
                let _ = give.send(Err(error));
            }
        });
        let total = infos.iter().map(|info| info.nar_size).sum();
        let step = log::step(machine, "sending").of_bytes(total);
        let mut progress = Progress { machine, total, began: Instant::now(), told: Instant::now(), step };
        let result = transfer(channel, packing, take, infos.len(), &mut progress);
        remote::explain(result, channel)
    })
}

/// Reads the paths and gives out the requests that add them.
fn read(infos: &[&PathInfo], give: &SyncSender<Result<Vec<u8>>>) -> Result<()> {
    let mut piece = Request::hello().0;
    for info in infos {
        piece.extend_from_slice(&Request::add_to_store_nar(info).0);
        let mut hasher = Sha256::new();
        let mut size = 0;
        nar::write(info.path.as_ref(), &mut |bytes| {
            hasher.update(bytes);
            size += bytes.len() as u64;
            if piece.len() >= PIECE {
                give.send(Ok(std::mem::replace(&mut piece, Vec::with_capacity(PIECE + PIECE / 2))))?;
            }
            piece.extend_from_slice(bytes);
            Ok(())
        })
        .with_context(|| format!("cannot send {}", info.path))?;
        // The end of the NAR is still in hand: the machine will not take it for whole.
        if size != info.nar_size || NarHash::of(hasher) != info.nar_hash {
            return Err(Failure::new(Kind::Copy, format!("{} is damaged in the local store", info.path))
                .hint(format!("repair it with: nix-store --repair-path {}", info.path))
                .into());
        }
    }
    give.send(Ok(piece))?;
    Ok(())
}

/// Compresses and sends all pieces, then counts the answers.
fn transfer(
    channel: &mut Channel,
    packing: Packing,
    pieces: Receiver<Result<Vec<u8>>>,
    paths: usize,
    progress: &mut Progress,
) -> Result<Sent> {
    let mut packer = Packer::new(packing)?;
    let mut sent = Sent::default();
    let mut answered = 0;
    let mut answer = [0; 4096];
    for piece in pieces {
        let piece = piece?;
        sent.raw += piece.len() as u64;
        let packed = packer.pack(&piece)?;
        sent.packed += packed.len() as u64;
        let began = Instant::now();
        channel.write_all(&packed)?;
        packer.waited(began.elapsed())?;
        while let Some(count) = channel.try_read(&mut answer)? {
            if count == 0 {
                bail!("it took no more");
            }
            answered += count;
        }
        progress.step.add_bytes(piece.len() as u64);
        progress.tell(&sent);
    }
    let rest = packer.finish()?;
    sent.packed += rest.len() as u64;
    channel.write_all(&rest)?;
    channel.finish_input()?;
    let expected = HELLO_ANSWER + ADDED_ANSWER * paths;
    while answered < expected {
        // Not a byte more: what follows is the word about the root.
        let most = answer.len().min(expected - answered);
        match channel.read_some(&mut answer[..most])? {
            0 => bail!("it took {} of {paths} paths", answered.saturating_sub(HELLO_ANSWER) / ADDED_ANSWER),
            count => answered += count,
        }
    }
    Ok(sent)
}

/// Tells people how far a long copy has come.
struct Progress<'a> {
    machine: &'a str,
    total: u64,
    began: Instant,
    told: Instant,
    step: log::Step,
}

impl Progress<'_> {
    fn tell(&mut self, sent: &Sent) {
        if self.told.elapsed() < TELL {
            return;
        }
        self.told = Instant::now();
        let seconds = self.began.elapsed().as_secs_f64();
        let rate = sent.raw as f64 / seconds;
        let left = self.total.saturating_sub(sent.raw) as f64 / rate;
        log::event(
            self.machine,
            &format!(
                "sent {} of {}, {}/s compressed, about {left:.0} s left",
                size(sent.raw),
                size(self.total),
                size((sent.packed as f64 / seconds) as u64)
            ),
        );
    }
}

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}
