//! Cuts a stream into blocks of sizes that are known before.

use anyhow::{Context, Result};

/// A stream that is being cut.
pub struct Blocks<F> {
    sizes: std::vec::IntoIter<u64>,
    size: usize,
    block: Vec<u8>,
    give: F,
}

impl<F: FnMut(Vec<u8>) -> Result<()>> Blocks<F> {
    pub fn new(sizes: Vec<u64>, give: F) -> Self {
        Blocks { sizes: sizes.into_iter(), size: 0, block: Vec::new(), give }
    }

    /// Takes the next bytes; gives out each block once it is whole.
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            if self.block.is_empty() {
                self.size = self.sizes.next().context("more bytes than were announced")? as usize;
                self.block.reserve_exact(self.size);
            }
            let (now, later) = bytes.split_at(bytes.len().min(self.size - self.block.len()));
            self.block.extend_from_slice(now);
            bytes = later;
            if self.block.len() == self.size {
                (self.give)(std::mem::take(&mut self.block))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_the_sizes_that_were_asked_for_however_the_bytes_come() {
        let all: Vec<u8> = (0..1000u32).map(|at| at as u8).collect();
        for piece in [1000, 7, 13] {
            let sizes = vec![1, 499, 100, 400];
            let mut got = Vec::new();
            let mut blocks = Blocks::new(sizes.clone(), |block| {
                got.push(block);
                Ok(())
            });
            for piece in all.chunks(piece) {
                blocks.take(piece).unwrap();
            }
            assert_eq!(blocks.take(&[0]).unwrap_err().to_string(), "more bytes than were announced");
            assert_eq!(got.iter().map(|block| block.len() as u64).collect::<Vec<_>>(), sizes);
            assert_eq!(got.concat(), all);
        }
    }
}
