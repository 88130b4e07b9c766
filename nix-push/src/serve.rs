//! The serve protocol of `nix-store --serve`, spoken with the Nix here and the one on a machine.
//!
//! Integers are 64 bits, little-endian; a string is its length, its bytes and zeros up to a
//! multiple of 8; a list is its count and its strings (NixOS/nix `src/libstore/serve-protocol.hh`,
//! `src/nix-store/nix-store.cc`, `opServe`). Requests may be sent without waiting for answers.

use crate::hash::NarHash;
use anyhow::{Context, Result, bail, ensure};
use machine_record::StorePath;
use std::collections::HashSet;

const CLIENT_MAGIC: u64 = 0x390c_9deb;
const SERVER_MAGIC: u64 = 0x5452_eecb;
/// Version 2.5, the first with AddToStoreNar; a newer server speaks it too.
const VERSION: u64 = 0x205;

const QUERY_VALID_PATHS: u64 = 1;
const QUERY_PATH_INFOS: u64 = 2;
const DUMP_STORE_PATH: u64 = 3;
const QUERY_CLOSURE: u64 = 7;
const ADD_TO_STORE_NAR: u64 = 9;

/// The longest string that is believed: a list of signatures is shorter, a lost beat is not.
const MAX_STRING: u64 = 1 << 20;

/// The two directions of a running `nix-store --serve`.
pub trait Pipe {
    /// Sends all of `bytes`.
    fn send(&mut self, bytes: &[u8]) -> Result<()>;
    /// Waits for at least one byte; 0 at the end.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize>;
}

impl Pipe for machine_ssh::Channel {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes)
    }
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.read_some(buffer)
    }
}

/// What a store knows of a valid path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathInfo {
    pub path: StorePath,
    pub deriver: String,
    pub references: Vec<StorePath>,
    pub nar_size: u64,
    pub nar_hash: NarHash,
    /// How the path follows from its content, as Nix writes it; empty if it does not
    pub content_address: String,
    pub signatures: Vec<String>,
}

#[cfg(test)]
impl PathInfo {
    /// A path for tests, by its hash and name; it refers to nothing.
    pub fn example(base_name: &str, nar_size: u64) -> PathInfo {
        PathInfo {
            path: StorePath::new(format!("/nix/store/{base_name}")).unwrap(),
            deriver: String::new(),
            references: vec![],
            nar_size,
            nar_hash: NarHash([0; 32]),
            content_address: String::new(),
            signatures: vec![],
        }
    }
}

/// Encodes what is sent.
#[derive(Default)]
pub struct Request(pub Vec<u8>);

impl Request {
    /// The greeting that comes before everything else.
    pub fn hello() -> Self {
        Request::default().number(CLIENT_MAGIC).number(VERSION)
    }

    /// Asks for information; the NAR of the path must follow.
    pub fn add_to_store_nar(info: &PathInfo) -> Self {
        Request::default()
            .number(ADD_TO_STORE_NAR)
            .string(info.path.as_str())
            .string(&info.deriver)
            .string(&info.nar_hash.hex())
            .strings(info.references.iter().map(StorePath::as_str))
            .number(0) // registered now, there
            .number(info.nar_size)
            .number(0) // not built there
            .strings(info.signatures.iter().map(String::as_str))
            .string(&info.content_address)
    }

    /// Asks for the NAR of a valid path, which comes without anything around it.
    pub fn dump_store_path(path: &StorePath) -> Self {
        Request::default().number(DUMP_STORE_PATH).string(path.as_str())
    }

    fn number(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    fn string(self, text: &str) -> Self {
        let mut request = self.number(text.len() as u64);
        request.0.extend_from_slice(text.as_bytes());
        request.0.resize(request.0.len().next_multiple_of(8), 0);
        request
    }

    fn strings<'a>(self, texts: impl ExactSizeIterator<Item = &'a str>) -> Self {
        let request = self.number(texts.len() as u64);
        texts.fold(request, Request::string)
    }

    fn paths(self, paths: &[StorePath]) -> Self {
        self.strings(paths.iter().map(StorePath::as_str))
    }
}

/// A client of one `nix-store --serve`.
pub struct Serve<P> {
    pub pipe: P,
    received: Vec<u8>,
    start: usize,
}

impl<P: Pipe> Serve<P> {
    /// Greets the other side, without waiting for its greeting.
    pub fn greet(mut pipe: P) -> Result<Self> {
        pipe.send(&Request::hello().0)?;
        Ok(Serve { pipe, received: Vec::new(), start: 0 })
    }

    /// Takes the other side's greeting.
    pub fn greeted(&mut self) -> Result<()> {
        let magic = self.number()?;
        ensure!(magic == SERVER_MAGIC, "not the greeting of nix-store --serve: {magic:#x}");
        let version = self.number()?;
        ensure!(
            version >> 8 == VERSION >> 8 && version >= VERSION,
            "its protocol is of version {version:#x}, which is not known"
        );
        Ok(())
    }

    /// Asks which of `paths` are valid. With `lock`, the server keeps all of them, also those
    /// that are still to come, from being collected as garbage for as long as it runs.
    pub fn ask_valid_paths(&mut self, lock: bool, substitute: bool, paths: &[StorePath]) -> Result<()> {
        let request =
            Request::default().number(QUERY_VALID_PATHS).number(lock.into()).number(substitute.into()).paths(paths);
        self.pipe.send(&request.0)
    }

    /// Takes the answer to [`Self::ask_valid_paths`].
    pub fn valid_paths(&mut self) -> Result<HashSet<StorePath>> {
        Ok(self.paths()?.into_iter().collect())
    }

    /// The paths that `roots` need, themselves included. All roots must be valid.
    pub fn closure(&mut self, roots: &[StorePath]) -> Result<Vec<StorePath>> {
        self.pipe.send(&Request::default().number(QUERY_CLOSURE).number(0).paths(roots).0)?;
        self.paths()
    }

    /// What is known of each of `paths`; those that are not valid are left out.
    pub fn path_infos(&mut self, paths: &[StorePath]) -> Result<Vec<PathInfo>> {
        self.pipe.send(&Request::default().number(QUERY_PATH_INFOS).paths(paths).0)?;
        let mut infos = Vec::with_capacity(paths.len());
        loop {
            let path = self.string()?;
            if path.is_empty() {
                return Ok(infos);
            }
            let deriver = self.string()?;
            let references = self.paths()?;
            self.number()?; // the size of a download, which there is none of
            let nar_size = self.number()?;
            let hash = self.string()?;
            infos.push(PathInfo {
                nar_hash: NarHash::parse(&hash).with_context(|| format!("cannot use the hash of {path}: {hash:?}"))?,
                path: StorePath::new(path)?,
                deriver,
                references,
                nar_size,
                content_address: self.string()?,
                signatures: self.strings()?,
            });
        }
    }

    /// Gives out the NAR of a valid path in pieces.
    pub fn dump(&mut self, info: &PathInfo, sink: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.pipe.send(&Request::dump_store_path(&info.path).0)?;
        let mut left = info.nar_size;
        while left > 0 {
            let piece = left.min(128 * 1024);
            sink(self.bytes(piece as usize)?)?;
            left -= piece;
        }
        Ok(())
    }

    fn paths(&mut self) -> Result<Vec<StorePath>> {
        self.strings()?.into_iter().map(|path| Ok(StorePath::new(path)?)).collect()
    }

    fn strings(&mut self) -> Result<Vec<String>> {
        (0..self.number()?).map(|_| self.string()).collect()
    }

    fn string(&mut self) -> Result<String> {
        let length = self.number()?;
        ensure!(length <= MAX_STRING, "a string of {length} bytes was announced");
        let bytes = self.bytes(length.next_multiple_of(8) as usize)?;
        Ok(String::from_utf8(bytes[..length as usize].to_vec())?)
    }

    fn number(&mut self) -> Result<u64> {
        Ok(self.bytes(8)?.try_into().map(u64::from_le_bytes)?)
    }

    fn bytes(&mut self, count: usize) -> Result<&[u8]> {
        if self.received.len() - self.start < count {
            self.received.drain(..std::mem::take(&mut self.start));
            let mut piece = [0; 32 * 1024];
            while self.received.len() < count {
                match self.pipe.receive(&mut piece)? {
                    0 => bail!("nix-store --serve ended in the middle of an answer"),
                    some => self.received.extend_from_slice(&piece[..some]),
                }
            }
        }
        self.start += count;
        Ok(&self.received[self.start - count..self.start])
    }
}

/// The bytes of a greeting and of the answer to each added path.
pub const HELLO_ANSWER: usize = 16;
pub const ADDED_ANSWER: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    /// Says what was prepared, a few bytes at a time, and keeps what it hears.
    struct Scripted {
        says: Vec<u8>,
        heard: Vec<u8>,
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
    }

    fn path(name: &str) -> StorePath {
        StorePath::new(format!("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-{name}")).unwrap()
    }

    fn serve(says: Request) -> Serve<Scripted> {
        Serve::greet(Scripted { says: says.0, heard: vec![] }).unwrap()
    }

    #[test]
    fn strings_are_padded_to_eight_bytes() {
        assert_eq!(Request::default().string("abc").0, b"\x03\0\0\0\0\0\0\0abc\0\0\0\0\0");
        assert_eq!(Request::default().string("").0, [0; 8]);
        assert_eq!(Request::default().string("12345678").0.len(), 16);
    }

    #[test]
    fn a_question_is_asked_and_its_answer_understood() {
        let mut serve = serve(Request::default().number(SERVER_MAGIC).number(0x207).paths(&[path("a")]));
        serve.ask_valid_paths(true, false, &[path("a"), path("b")]).unwrap();
        serve.greeted().unwrap();
        assert_eq!(serve.valid_paths().unwrap(), HashSet::from([path("a")]));
        let asked = Request::hello().number(1).number(1).number(0).paths(&[path("a"), path("b")]);
        assert_eq!(serve.pipe.heard, asked.0);
    }

    #[test]
    fn path_infos_end_with_an_empty_string() {
        let hash = "sha256:0c5b8vw40dy178xlpddw65q9gf1h2186jcc3p4swinwggbllv8mk";
        let says = Request::default()
            .string(path("a").as_str())
            .string("")
            .paths(&[path("a"), path("b")])
            .number(0)
            .number(112)
            .string(hash)
            .string("")
            .strings(["key:sig"].into_iter())
            .string("");
        let infos = serve(says).path_infos(&[path("a")]).unwrap();
        assert_eq!(infos.len(), 1);
        assert_eq!(infos[0].nar_size, 112);
        assert_eq!(infos[0].references, [path("a"), path("b")]);
        assert_eq!(infos[0].signatures, ["key:sig"]);
    }

    #[test]
    fn an_answer_that_ends_early_or_is_none_is_an_error() {
        assert!(serve(Request::default().number(SERVER_MAGIC)).greeted().is_err());
        assert!(serve(Request::default().number(7).number(0x207)).greeted().is_err());
        assert!(serve(Request::default().number(SERVER_MAGIC).number(0x204)).greeted().is_err());
        assert!(serve(Request::default().number(1).number(u64::MAX)).valid_paths().is_err());
    }
}
