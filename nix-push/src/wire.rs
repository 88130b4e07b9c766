//! How Nix's protocols write what they say, of `nix-store --serve` and of the daemon.
//!
//! Integers are 64 bits, little-endian; a string is its length, its bytes and zeros up to a
//! multiple of 8; a list is its count and its strings (NixOS/nix `src/libstore/serve-protocol.hh`,
//! `worker-protocol.hh`).

use anyhow::{Result, bail, ensure};
use machine_record::StorePath;

/// The longest string that is believed: a list of signatures is shorter, a lost beat is not.
const MAX_STRING: u64 = 1 << 20;

/// The longest list that is believed: more than any closure has paths.
const MAX_LIST: u64 = 1 << 20;

/// The two directions of a program that is spoken with.
pub trait Pipe {
    /// Sends all of `bytes`.
    fn send(&mut self, bytes: &[u8]) -> Result<()>;
    /// Waits for at least one byte; 0 at the end.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize>;
    /// What people are told that it is.
    fn name(&self) -> &str;
}

impl Pipe for machine_ssh::Channel {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes)
    }
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.read_some(buffer)
    }
    fn name(&self) -> &str {
        "the machine's nix-store"
    }
}

/// Encodes what is sent.
#[derive(Default)]
pub struct Request(pub Vec<u8>);

impl Request {
    pub fn number(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    pub fn string(self, text: &str) -> Self {
        let mut request = self.number(text.len() as u64);
        request.0.extend_from_slice(text.as_bytes());
        request.0.resize(request.0.len().next_multiple_of(8), 0);
        request
    }

    pub fn strings<'a>(self, texts: impl ExactSizeIterator<Item = &'a str>) -> Self {
        let request = self.number(texts.len() as u64);
        texts.fold(request, Request::string)
    }

    pub fn paths(self, paths: &[StorePath]) -> Self {
        self.strings(paths.iter().map(StorePath::as_str))
    }

    /// The format with which printf(1) writes it.
    pub fn printf(&self) -> String {
        let octal = |byte: &u8| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'/' | b'-' | b'.' => char::from(*byte).to_string(),
            byte => format!("\\{byte:03o}"),
        };
        self.0.iter().map(octal).collect()
    }
}

/// Reads what is said at the other end of a pipe.
pub struct Wire<P> {
    pub pipe: P,
    received: Vec<u8>,
    start: usize,
}

impl<P: Pipe> Wire<P> {
    pub fn new(pipe: P) -> Self {
        Wire { pipe, received: Vec::new(), start: 0 }
    }

    pub fn send(&mut self, request: &Request) -> Result<()> {
        self.pipe.send(&request.0)
    }

    pub fn paths<C: FromIterator<StorePath>>(&mut self) -> Result<C> {
        (0..self.count()?).map(|_| Ok(StorePath::new(self.string()?)?)).collect()
    }

    pub fn strings(&mut self) -> Result<Vec<String>> {
        (0..self.count()?).map(|_| self.string()).collect()
    }

    fn count(&mut self) -> Result<u64> {
        let count = self.number()?;
        ensure!(count <= MAX_LIST, "a list of {count} strings was announced");
        Ok(count)
    }

    pub fn string(&mut self) -> Result<String> {
        Ok(String::from_utf8(self.string_bytes()?.to_vec())?)
    }

    /// A string that is only shown: what is not UTF-8 in it is replaced.
    pub fn text(&mut self) -> Result<String> {
        Ok(String::from_utf8_lossy(self.string_bytes()?).into_owned())
    }

    fn string_bytes(&mut self) -> Result<&[u8]> {
        let length = self.number()?;
        ensure!(length <= MAX_STRING, "a string of {length} bytes was announced");
        Ok(&self.bytes(length.next_multiple_of(8) as usize)?[..length as usize])
    }

    pub fn number(&mut self) -> Result<u64> {
        Ok(self.bytes(8)?.try_into().map(u64::from_le_bytes)?)
    }

    pub fn bytes(&mut self, count: usize) -> Result<&[u8]> {
        if self.received.len() - self.start < count {
            self.received.drain(..std::mem::take(&mut self.start));
            let mut piece = [0; 32 * 1024];
            while self.received.len() < count {
                match self.pipe.receive(&mut piece)? {
                    0 => bail!("{} ended in the middle of an answer", self.pipe.name()),
                    some => self.received.extend_from_slice(&piece[..some]),
                }
            }
        }
        self.start += count;
        Ok(&self.received[self.start - count..self.start])
    }
}

/// The other end of a protocol, in tests.
#[cfg(test)]
pub mod scripted {
    use super::*;

    /// Says what was prepared, a few bytes at a time, and keeps what it hears.
    pub struct Scripted {
        pub says: Vec<u8>,
        pub heard: Vec<u8>,
    }

    impl Pipe for Scripted {
        fn send(&mut self, bytes: &[u8]) -> Result<()> {
            self.heard.extend_from_slice(bytes);
            Ok(())
        }
        fn receive(&mut self, buffer: &mut [u8]) -> Result<usize> {
            let count = self.says.len().min(5).min(buffer.len());
            buffer[..count].copy_from_slice(&self.says[..count]);
            self.says.drain(..count);
            Ok(count)
        }
        fn name(&self) -> &str {
            "script"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_that_nobody_would_send_is_not_waited_for() {
        let says = Request::default().number(MAX_STRING + 1).0;
        let told = Wire::new(scripted::Scripted { says, heard: vec![] }).string().unwrap_err();
        assert_eq!(told.to_string(), format!("a string of {} bytes was announced", MAX_STRING + 1));
    }

    #[test]
    fn a_list_that_nobody_would_send_is_not_waited_for() {
        let says = Request::default().number(MAX_LIST + 1).0;
        let told = Wire::new(scripted::Scripted { says, heard: vec![] }).strings().unwrap_err();
        assert_eq!(told.to_string(), format!("a list of {} strings was announced", MAX_LIST + 1));
    }

    #[test]
    fn a_shell_writes_what_is_asked() {
        let all: Vec<u8> = (0..=255).chain(*b"7%d\\1%").collect();
        for shell in ["sh", "bash"] {
            let script = format!("printf '{}'", Request(all.clone()).printf());
            let output = std::process::Command::new(shell).args(["-c", &script]).output().unwrap();
            assert_eq!(output.stdout, all, "{shell}");
        }
    }

    #[test]
    fn strings_are_padded_to_eight_bytes() {
        assert_eq!(Request::default().string("abc").0, b"\x03\0\0\0\0\0\0\0abc\0\0\0\0\0");
        assert_eq!(Request::default().string("").0, [0; 8]);
        assert_eq!(Request::default().string("12345678").0.len(), 16);
    }
}
