//! Compression of the stream, as strong as the link is slow.
//!
//! A fast link gets zstd's first level, not none: what it saves need not be encrypted.

use anyhow::{Result, anyhow};
use flate2::write::GzEncoder;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use zstd::zstd_safe::zstd_sys::ZSTD_EndDirective;
use zstd::zstd_safe::{CCtx, CParameter, ErrorCode, InBuffer, OutBuffer, ResetDirective, get_error_name};

/// How the stream to a machine is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Packing {
    Zstd,
    /// Zstd with older versions as reference, in blocks of at most so many bytes together
    Delta(u64),
    Gzip,
    None,
}

/// Levels of zstd, each about half as fast as the one before. Beyond the last, a closure hardly
/// becomes smaller: level 9 saves 1.3 % of the bytes for half as much processor time again.
const LEVELS: [i32; 3] = [1, 3, 6];
const FIRST: usize = 1;
/// From so many machines on, the link is taken for slow until more is known of it: what is compressed once goes over it so
/// many times.
const MANY: usize = 4;

/// How often the level is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// What a thread of zstd takes at a time; its own choice would be 32 MB at the highest level.
const JOB: u32 = 4 << 20;

/// Compresses one whole stream: those of several packers may follow each other.
pub enum Packer {
    Zstd(Zstd),
    Gzip(Box<GzEncoder<Vec<u8>>>),
    None(Vec<u8>),
}

impl Packer {
    /// `level` is one of [`Pace`]; with more than one thread, zstd works beside its caller.
    pub fn new(packing: Packing, level: i32, threads: usize) -> Result<Self> {
        Ok(match packing {
            Packing::Zstd | Packing::Delta(_) => Packer::Zstd(Zstd::new(level, threads)?),
            Packing::Gzip => Packer::Gzip(Box::new(GzEncoder::new(Vec::new(), flate2::Compression::fast()))),
            Packing::None => Packer::None(Vec::new()),
        })
    }

    /// Takes a piece in.
    pub fn pack(&mut self, piece: &[u8]) -> Result<()> {
        match self {
            Packer::Zstd(zstd) => zstd.run(piece, ZSTD_EndDirective::ZSTD_e_continue)?,
            Packer::Gzip(encoder) => encoder.write_all(piece)?,
            Packer::None(bytes) => bytes.extend_from_slice(piece),
        }
        Ok(())
    }

    /// What is ready to be sent.
    pub fn ready(&mut self) -> &mut Vec<u8> {
        match self {
            Packer::Zstd(zstd) => &mut zstd.ready,
            Packer::Gzip(encoder) => encoder.get_mut(),
            Packer::None(bytes) => bytes,
        }
    }

    /// Gives the rest.
    pub fn finish(self) -> Result<Vec<u8>> {
        Ok(match self {
            Packer::Zstd(mut zstd) => {
                zstd.run(&[], ZSTD_EndDirective::ZSTD_e_end)?;
                std::mem::take(&mut zstd.ready)
            }
            Packer::Gzip(encoder) => encoder.finish()?,
            Packer::None(bytes) => bytes,
        })
    }
}

/// A compressor whose memory, up to 40 MB a thread, is used again by the next: what many threads
/// take and give back would stay with each of them.
pub struct Zstd {
    context: Option<CCtx<'static>>,
    threads: usize,
    ready: Vec<u8>,
}

/// Compressors that nobody uses, and for how many threads they are.
static IDLE: Mutex<Vec<(usize, CCtx<'static>)>> = Mutex::new(Vec::new());

impl Zstd {
    fn new(level: i32, threads: usize) -> Result<Zstd> {
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        // The last one used: it has grown already, and others stay small.
        let known = idle.iter().rposition(|(count, _)| *count == threads);
        let mut context = known.map_or_else(CCtx::create, |at| idle.remove(at).1);
        drop(idle);
        let mut set = |parameter| context.set_parameter(parameter).map_err(said);
        set(CParameter::CompressionLevel(level))?;
        if threads > 1 {
            set(CParameter::NbWorkers(threads as u32))?;
            set(CParameter::JobSize(JOB))?;
        }
        Ok(Zstd { context: Some(context), threads, ready: Vec::new() })
    }

    fn run(&mut self, piece: &[u8], end: ZSTD_EndDirective) -> Result<()> {
        let Some(context) = &mut self.context else { return Ok(()) };
        let mut input = InBuffer::around(piece);
        let ends = matches!(end, ZSTD_EndDirective::ZSTD_e_end);
        loop {
            self.ready.reserve(CCtx::out_size());
            let at = self.ready.len();
            let mut output = OutBuffer::around_pos(&mut self.ready, at);
            let left = context.compress_stream2(&mut output, &mut input, end).map_err(said)?;
            if if ends { left == 0 } else { input.pos() == piece.len() } {
                return Ok(());
            }
        }
    }
}

impl Drop for Zstd {
    fn drop(&mut self) {
        if let Some(mut context) = self.context.take()
            && context.reset(ResetDirective::SessionOnly).is_ok()
        {
            IDLE.lock().unwrap_or_else(PoisonError::into_inner).push((self.threads, context));
        }
    }
}

fn said(code: ErrorCode) -> anyhow::Error {
    anyhow!("zstd: {}", get_error_name(code))
}

/// Whether the link is waited for. Where the machine is, or nothing, more compression gains nothing.
pub struct Pace {
    level: usize,
    since: Instant,
    waited: Duration,
}

impl Pace {
    /// `machines` are sent to at the same time.
    pub fn new(machines: usize) -> Self {
        let level = if machines >= MANY { LEVELS.len() - 1 } else { FIRST };
        Pace { level, since: Instant::now(), waited: Duration::ZERO }
    }

    /// The level of zstd that fits.
    pub fn level(&self) -> i32 {
        LEVELS[self.level]
    }

    /// Hears how long the link was waited for with what was sent last.
    pub fn waited(&mut self, time: Duration) {
        self.waited += time;
        if self.since.elapsed() >= LOOK {
            self.adapt(self.waited.as_secs_f64() / self.since.elapsed().as_secs_f64());
        }
    }

    /// `share` of the time went into waiting for the link.
    fn adapt(&mut self, share: f64) {
        if share > 0.8 {
            self.level = (self.level + 1).min(LEVELS.len() - 1);
        } else if share < 0.5 {
            // The link is not far from waiting for the compressor: each level takes twice the time.
            self.level = self.level.saturating_sub(1);
        }
        (self.since, self.waited) = (Instant::now(), Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_link_gets_more_compression_and_a_fast_one_less() {
        let mut pace = Pace::new(1);
        let mut levels = |share| {
            pace.adapt(share);
            pace.level()
        };
        assert_eq!([levels(0.9), levels(0.9)], [6, 6]);
        assert_eq!([levels(0.5), levels(0.4)], [6, 3]);
        assert_eq!([levels(0.0), levels(0.0)], [1, 1]);
    }

    #[test]
    fn streams_that_follow_each_other_are_unpacked_as_one() {
        let piece: Vec<u8> = (0..3_000_000u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
        for (packing, unpack) in [(Packing::Zstd, "zstd"), (Packing::Gzip, "gzip")] {
            let mut packed = Vec::new();
            for (level, threads) in [(1, 1), (9, 2), (3, 2), (6, 1)] {
                let mut packer = Packer::new(packing, level, threads).unwrap();
                packer.pack(&piece).unwrap();
                packed.append(packer.ready());
                packed.extend(packer.finish().unwrap());
            }
            let mut child = std::process::Command::new(unpack)
                .arg("-dc")
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdin = child.stdin.take().unwrap();
            let writer = std::thread::spawn(move || stdin.write_all(&packed));
            let output = child.wait_with_output().unwrap();
            writer.join().unwrap().unwrap();
            assert!(output.stdout == piece.repeat(4), "{unpack}");
        }
    }
}
