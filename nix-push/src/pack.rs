//! Compression of the stream, as strong as the link is slow.

use anyhow::Result;
use flate2::write::GzEncoder;
use std::io::Write;
use std::time::{Duration, Instant};
use zstd::zstd_safe::CParameter;

/// How the stream to a machine is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    Zstd,
    Gzip,
    None,
}

/// Levels of zstd, each about half as fast as the one before. Beyond the last, a closure hardly
/// becomes smaller (9: 115 MB, 12: 114 MB of 361 MB).
const LEVELS: [i32; 4] = [1, 3, 6, 9];
const FIRST: usize = 1;

/// How often the level is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Compresses a stream piece by piece.
pub enum Packer {
    Zstd { encoder: Box<zstd::Encoder<'static, Vec<u8>>>, pace: Pace },
    Gzip(Box<GzEncoder<Vec<u8>>>),
    None,
}

impl Packer {
    pub fn new(packing: Packing) -> Result<Self> {
        Ok(match packing {
            Packing::Zstd => {
                let mut encoder = zstd::Encoder::new(Vec::new(), LEVELS[FIRST])?;
                // A thread of zstd holds some 20 MB.
                let threads = std::thread::available_parallelism().map_or(1, |count| count.get().min(4));
                encoder.multithread(threads as u32)?;
                Packer::Zstd { encoder: Box::new(encoder), pace: Pace::new() }
            }
            Packing::Gzip => Packer::Gzip(Box::new(GzEncoder::new(Vec::new(), flate2::Compression::fast()))),
            Packing::None => Packer::None,
        })
    }

    /// Takes a piece, and gives what is ready.
    pub fn pack(&mut self, piece: &[u8]) -> Result<Vec<u8>> {
        Ok(match self {
            Packer::Zstd { encoder, .. } => {
                encoder.write_all(piece)?;
                std::mem::take(encoder.get_mut())
            }
            Packer::Gzip(encoder) => {
                encoder.write_all(piece)?;
                std::mem::take(encoder.get_mut())
            }
            Packer::None => piece.to_vec(),
        })
    }

    /// Hears how long the link took what was packed last, and changes the level for what follows.
    pub fn waited(&mut self, time: Duration) -> Result<()> {
        if let Packer::Zstd { encoder, pace } = self {
            pace.waited += time;
            if pace.since.elapsed() >= LOOK
                && let Some(level) = pace.next(pace.waited.as_secs_f64() / pace.since.elapsed().as_secs_f64())
            {
                encoder.set_parameter(CParameter::CompressionLevel(level))?;
            }
        }
        Ok(())
    }

    /// Gives the rest.
    pub fn finish(self) -> Result<Vec<u8>> {
        Ok(match self {
            Packer::Zstd { encoder, .. } => encoder.finish()?,
            Packer::Gzip(encoder) => encoder.finish()?,
            Packer::None => Vec::new(),
        })
    }
}

/// Who waits for whom: the link for the compressor, or the other way round.
pub struct Pace {
    level: usize,
    since: Instant,
    waited: Duration,
}

impl Pace {
    fn new() -> Self {
        Pace { level: FIRST, since: Instant::now(), waited: Duration::ZERO }
    }

    /// The level for the next while, if it is another one; `share` of the time went into waiting
    /// for the link.
    fn next(&mut self, share: f64) -> Option<i32> {
        let old = self.level;
        if share > 0.7 {
            self.level = (old + 1).min(LEVELS.len() - 1);
        } else if share < 0.2 {
            self.level = old.saturating_sub(1);
        }
        (self.since, self.waited) = (Instant::now(), Duration::ZERO);
        (self.level != old).then_some(LEVELS[self.level])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_link_gets_more_compression_and_a_fast_one_less() {
        let mut pace = Pace::new();
        assert_eq!([pace.next(0.9), pace.next(0.9), pace.next(0.9)], [Some(6), Some(9), None]);
        assert_eq!([pace.next(0.5), pace.next(0.1)], [None, Some(6)]);
        assert_eq!([pace.next(0.0), pace.next(0.0), pace.next(0.0)], [Some(3), Some(1), None]);
    }

    #[test]
    fn what_is_packed_can_be_unpacked_also_after_a_change_of_level() {
        let mut packer = Packer::new(Packing::Zstd).unwrap();
        let mut packed = Vec::new();
        let piece: Vec<u8> = (0..1_000_000u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
        for level in LEVELS {
            packed.extend(packer.pack(&piece).unwrap());
            if let Packer::Zstd { encoder, .. } = &mut packer {
                encoder.set_parameter(CParameter::CompressionLevel(level)).unwrap();
            }
        }
        packed.extend(packer.finish().unwrap());
        assert!(zstd::decode_all(&packed[..]).unwrap() == piece.repeat(LEVELS.len()));
    }
}
