//! SHA-256 hashes of NARs, in Nix's spelling and in the wire's.

use sha2::{Digest, Sha256};
use std::fmt::Write;

/// Nix's base 32: no e, o, u, t (NixOS/nix `src/libutil/hash.cc`).
pub const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// The SHA-256 of a NAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NarHash(pub [u8; 32]);

impl NarHash {
    /// Reads `sha256:` and 52 characters of base 32 or 64 of base 16.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text).as_bytes();
        let mut hash = [0; 32];
        match digits.len() {
            64 => {
                for (byte, pair) in hash.iter_mut().zip(digits.chunks(2)) {
                    *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
                }
            }
            // The last character holds the lowest five bits.
            52 => {
                for (index, digit) in digits.iter().rev().enumerate() {
                    let value = ALPHABET.iter().position(|letter| letter == digit)? as u16;
                    let (byte, bit) = (index * 5 / 8, index * 5 % 8);
                    let shifted = value << bit;
                    hash[byte] |= shifted as u8;
                    match hash.get_mut(byte + 1) {
                        Some(next) => *next |= (shifted >> 8) as u8,
                        None if shifted >> 8 != 0 => return None,
                        None => {}
                    }
                }
            }
            _ => return None,
        }
        Some(NarHash(hash))
    }

    /// The hash of all that was fed to `hasher`.
    pub fn of(hasher: Sha256) -> Self {
        NarHash(hasher.finalize().into())
    }

    /// Nix's base 32, as signatures want it.
    pub fn base32(&self) -> String {
        let digit = |at: usize| {
            let (byte, bit) = (at * 5 / 8, at * 5 % 8);
            let above = self.0.get(byte + 1).map_or(0, |next| u16::from(*next) << 8);
            usize::from((u16::from(self.0[byte]) | above) >> bit & 31)
        };
        (0..52).rev().map(|at| char::from(ALPHABET[digit(at)])).collect()
    }

    /// Base 16, as the serve protocol wants it.
    pub fn hex(&self) -> String {
        self.0.iter().fold(String::with_capacity(64), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nix_spelling_is_understood() {
        // `nix-hash --type sha256 --flat --base32 /dev/null` and the same in base 16.
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let nix = NarHash::parse("sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73").unwrap();
        assert_eq!(nix.hex(), hex);
        assert_eq!(nix.base32(), "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73");
        assert_eq!(NarHash::parse(hex), Some(nix));
        assert_eq!(NarHash::of(Sha256::new()), nix);
        for bad in ["", "sha256:", "sha256:zzzz", &"e".repeat(52), &"g".repeat(64), &"z".repeat(52)] {
            assert_eq!(NarHash::parse(bad), None, "{bad}");
        }
    }
}
