//! The serve protocol of `nix-store --serve`, spoken with the Nix here and the one on a machine.
//!
//! See NixOS/nix `src/libstore/serve-protocol.hh` and `src/nix-store/nix-store.cc`, `opServe`.
//! Requests may be sent without waiting for answers.

use crate::hash::NarHash;
use crate::wire::{Pipe, Request, Wire};
use anyhow::{Context, Result, ensure};
use machine_record::StorePath;
use std::collections::HashSet;

const CLIENT_MAGIC: u64 = 0x390c_9deb;
pub const SERVER_MAGIC: u64 = 0x5452_eecb;
/// Version 2.5, the first with AddToStoreNar; a newer server speaks it too.
const VERSION: u64 = 0x205;

const QUERY_VALID_PATHS: u64 = 1;
const QUERY_PATH_INFOS: u64 = 2;
const DUMP_STORE_PATH: u64 = 3;
const QUERY_CLOSURE: u64 = 7;
const ADD_TO_STORE_NAR: u64 = 9;

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

impl Request {
    /// The greeting that comes before everything else.
    pub fn hello() -> Self {
        Request::default().number(CLIENT_MAGIC).number(VERSION)
    }

    /// Asks which of `paths` are valid, as [`Serve::ask_valid_paths`] does.
    pub fn ask_valid_paths(self, lock: bool, substitute: bool, paths: &[StorePath]) -> Self {
        self.number(QUERY_VALID_PATHS).number(lock.into()).number(substitute.into()).paths(paths)
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
}

/// A client of one `nix-store --serve`.
pub struct Serve<P> {
    pub wire: Wire<P>,
}

impl<P: Pipe> Serve<P> {
    /// Greets the other side, without waiting for its greeting.
    pub fn greet(pipe: P) -> Result<Self> {
        let mut wire = Wire::new(pipe);
        wire.send(&Request::hello())?;
        Ok(Serve { wire })
    }

    /// Takes the other side's greeting.
    pub fn greeted(&mut self) -> Result<()> {
        let magic = self.wire.number()?;
        ensure!(magic == SERVER_MAGIC, "not the greeting of nix-store --serve: {magic:#x}");
        let version = self.wire.number()?;
        ensure!(
            version >> 8 == VERSION >> 8 && version >= VERSION,
            "its protocol is of version {version:#x}, which is not known"
        );
        Ok(())
    }

    /// Asks which of `paths` are valid. With `lock`, the server keeps all of them, also those
    /// that are still to come, from being collected as garbage for as long as it runs.
    pub fn ask_valid_paths(&mut self, lock: bool, substitute: bool, paths: &[StorePath]) -> Result<()> {
        let request = Request::default().ask_valid_paths(lock, substitute, paths);
        self.wire.send(&request)
    }

    /// Takes the answer to [`Self::ask_valid_paths`].
    pub fn valid_paths(&mut self) -> Result<HashSet<StorePath>> {
        self.wire.paths()
    }

    /// The paths that `roots` need, themselves included. All roots must be valid.
    pub fn closure(&mut self, roots: &[StorePath]) -> Result<Vec<StorePath>> {
        self.wire.send(&Request::default().number(QUERY_CLOSURE).number(0).paths(roots))?;
        self.wire.paths()
    }

    /// What is known of each of `paths`; those that are not valid are left out.
    pub fn path_infos(&mut self, paths: &[StorePath]) -> Result<Vec<PathInfo>> {
        self.wire.send(&Request::default().number(QUERY_PATH_INFOS).paths(paths))?;
        let mut infos = Vec::with_capacity(paths.len());
        loop {
            let path = self.wire.string()?;
            if path.is_empty() {
                return Ok(infos);
            }
            let deriver = self.wire.string()?;
            let references = self.wire.paths()?;
            self.wire.number()?; // the size of a download, which there is none of
            let nar_size = self.wire.number()?;
            let hash = self.wire.string()?;
            infos.push(PathInfo {
                nar_hash: NarHash::parse(&hash).with_context(|| format!("cannot use the hash of {path}: {hash:?}"))?,
                path: StorePath::new(path)?,
                deriver,
                references,
                nar_size,
                content_address: self.wire.string()?,
                signatures: self.wire.strings()?,
            });
        }
    }

    /// Gives out the NAR of a valid path in pieces, to its own end: that of a damaged path may be of any size.
    pub fn dump(&mut self, path: &StorePath, sink: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        const PIECE: usize = 128 * 1024;
        self.wire.send(&Request::dump_store_path(path))?;
        let mut piece = Vec::new();
        let (mut depth, mut word) = (0, Vec::new());
        while depth > 0 || word != b")" {
            // Behind these words anything may stand, else one of the format's own.
            let free = [&b"contents"[..], b"name", b"target"].contains(&&*word);
            word.clear();
            let length = self.wire.number()?;
            ensure!(free || length <= 16, "what it gives is not a NAR");
            piece.extend_from_slice(&length.to_le_bytes());
            let mut left = length.checked_next_multiple_of(8).context("what it gives is not a NAR")?;
            while left > 0 {
                let bytes = self.wire.bytes(left.min(PIECE as u64) as usize)?;
                left -= bytes.len() as u64;
                piece.extend_from_slice(bytes);
                if !free {
                    word.extend_from_slice(&bytes[..length as usize]);
                }
                if piece.len() >= PIECE {
                    sink(&piece)?;
                    piece.clear();
                }
            }
            depth += i64::from(word == b"(") - i64::from(word == b")");
        }
        sink(&piece)
    }
}

/// The bytes of a greeting and of the answer to each added path.
pub const HELLO_ANSWER: usize = 16;
pub const ADDED_ANSWER: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::scripted::Scripted;

    fn path(name: &str) -> StorePath {
        StorePath::new(format!("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-{name}")).unwrap()
    }

    fn serve(says: Request) -> Serve<Scripted> {
        Serve::greet(Scripted { says: says.0, heard: vec![] }).unwrap()
    }

    #[test]
    fn a_question_is_asked_and_its_answer_understood() {
        let mut serve = serve(Request::default().number(SERVER_MAGIC).number(0x207).paths(&[path("a")]));
        serve.ask_valid_paths(true, false, &[path("a"), path("b")]).unwrap();
        serve.greeted().unwrap();
        assert_eq!(serve.valid_paths().unwrap(), HashSet::from([path("a")]));
        let asked = Request::hello().number(1).number(1).number(0).paths(&[path("a"), path("b")]);
        assert_eq!(serve.wire.pipe.heard, asked.0);
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
    fn a_nar_ends_where_it_ends() {
        let folder = std::env::temp_dir().join(format!("serve-nar-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("contents")).unwrap();
        std::fs::write(folder.join(")"), b"\x01\0\0\0\0\0\0\0)").unwrap();
        std::fs::write(folder.join("contents/name"), vec![b'('; 300_000]).unwrap();
        std::fs::write(folder.join("empty"), "").unwrap();
        std::os::unix::fs::symlink(")", folder.join("link")).unwrap();
        let keep = |all: &mut Vec<u8>, piece: &[u8]| {
            all.extend_from_slice(piece);
            Ok(())
        };
        let mut nar = Vec::new();
        crate::nar::write(&folder, &mut |piece| keep(&mut nar, piece)).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let mut serve = serve(Request([nar.clone(), Request::default().number(7).0].concat()));
        let mut given = Vec::new();
        serve.dump(&path("a"), &mut |piece| keep(&mut given, piece)).unwrap();
        assert!(given == nar);
        assert_eq!(serve.wire.number().unwrap(), 7, "what comes next");
    }

    #[test]
    fn what_is_not_a_nar_is_told() {
        for says in [Request::default().number(17), Request::default().string("contents").number(u64::MAX)] {
            let told = serve(says).dump(&path("a"), &mut |_| Ok(())).unwrap_err();
            assert_eq!(told.to_string(), "what it gives is not a NAR");
        }
    }

    #[test]
    fn a_hash_of_another_kind_is_told() {
        let says =
            Request::default().string(path("a").as_str()).string("").paths(&[]).number(0).number(1).string("md5:x");
        let told = serve(says).path_infos(&[path("a")]).unwrap_err();
        assert_eq!(told.to_string(), format!("cannot use the hash of {}: \"md5:x\"", path("a")));
    }

    #[test]
    fn an_answer_that_ends_early_or_is_none_is_an_error() {
        assert!(serve(Request::default().number(SERVER_MAGIC)).greeted().is_err());
        assert!(serve(Request::default().number(7).number(0x207)).greeted().is_err());
        assert!(serve(Request::default().number(SERVER_MAGIC).number(0x204)).greeted().is_err());
        assert!(serve(Request::default().number(1).number(u64::MAX)).valid_paths().is_err());
    }
}
