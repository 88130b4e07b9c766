//! What Nix reads of a flake in a folder of this computer before it can say what the flake is locked to.

use crate::nix_files::{home, programs};
use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// To look at more files would take as long as to ask Nix.
const MOST: usize = 10_000;

/// What git keeps a commit by, in .git.
const FILES: [&str; 6] = ["HEAD", "index", "packed-refs", "config", "config.worktree", "shallow"];

/// What would give names another meaning, or keep them elsewhere.
const OTHERS: [&str; 4] = ["commondir", "reftable", "refs/replace", "info/grafts"];

/// A folder, and whether git says what of it belongs to the flake.
#[derive(Debug, PartialEq, Eq)]
pub struct Flake {
    folder: PathBuf,
    git: bool,
}

impl Flake {
    /// The folder that a reference names; none for what is elsewhere, or is asked for with more
    /// than its folder: nobody can tell here whether that has changed.
    pub fn of(reference: &str) -> Option<Flake> {
        let (url, query) = reference.split_once('?').unwrap_or((reference, ""));
        let (git, path) = match (url.strip_prefix("git+file://"), url.strip_prefix("path:")) {
            (Some(path), _) => (true, path),
            (_, Some(path)) => (false, path),
            _ => return None,
        };
        let plain = query.is_empty() || query.starts_with("dir=") && !query.contains('&');
        let folder = PathBuf::from(percent_decode(path)?);
        (plain && folder.is_absolute()).then_some(Flake { folder, git })
    }

    /// Whether a line of Nix is about it.
    pub fn is_named(&self, line: &str) -> bool {
        line.contains(&*self.folder.to_string_lossy())
    }

    /// Whether git knows of changes that are not committed.
    pub fn has_changes(&self) -> Result<bool> {
        Ok(self.git && !self.ask_git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty())
    }

    /// Where Nix is sure to look.
    pub fn roots(&self) -> Vec<PathBuf> {
        let inside = [FILES.as_slice(), &OTHERS, &["refs/heads"]].concat().into_iter().map(|name| self.inside(name));
        let (attributes, settings) = self.git_files();
        let own = [self.folder.clone(), self.folder.join(".gitattributes")];
        own.into_iter().chain(inside).chain(attributes).chain(settings).collect()
    }

    fn inside(&self, name: &str) -> PathBuf {
        self.folder.join(".git").join(name)
    }

    /// Where git looks for attributes and settings besides.
    fn git_files(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let users = home("XDG_CONFIG_HOME", ".config").join("git");
        let prefix = programs("git").pop().and_then(|git| Some(git.parent()?.parent()?.join("etc")));
        let everybodys: Vec<PathBuf> = [PathBuf::from("/etc")].into_iter().chain(prefix).collect();
        let with =
            |name: &str, others: [PathBuf; 2]| everybodys.iter().map(|etc| etc.join(name)).chain(others).collect();
        (
            with("gitattributes", [users.join("attributes"), self.inside("info/attributes")]),
            with("gitconfig", [home("", ".gitconfig"), users.join("config")]),
        )
    }

    /// All that the lock depends on, in the words of `watch.nix`; `copy` is what it rests on in the store.
    ///
    /// # Errors
    /// Why it is not certain that this is all.
    pub fn reads(&self, copy: Option<&str>) -> Result<Vec<String>> {
        let mut reads = Reads(Vec::new());
        // The version of Nix is that of nix-instantiate, which is looked at elsewhere.
        let found = |name| programs(name).last().map(fs::canonicalize).transpose().unwrap_or(None);
        ensure!(found("nix") == found("nix-instantiate"), "nix and nix-instantiate are two programs");
        reads.program("nix")?;
        ensure!(fs::canonicalize(&self.folder)? == self.folder, "a link leads to it");
        for path in copy.map(Path::new).into_iter().chain([&*self.folder]) {
            reads.say("kind", path)?;
        }
        if self.git {
            self.git(&mut reads)?;
        } else {
            // The time of the newest file is a part of the lock, too.
            reads.tree(&self.folder)?;
        }
        Ok(reads.0)
    }

    /// What git knows of the folder (gitrepository-layout(5)), and how it is set up.
    fn git(&self, reads: &mut Reads) -> Result<()> {
        reads.program("git")?;
        let inside = |name: &str| self.inside(name);
        ensure!(fs::symlink_metadata(inside("")).is_ok_and(|meta| meta.is_dir()), "its .git is no folder");
        for name in FILES {
            self.is_no_link(&inside(name))?;
            reads.say("entry", &inside(name))?;
        }
        for name in OTHERS {
            ensure!(fs::symlink_metadata(inside(name)).is_err(), "its .git has {name}");
            reads.say("entry", &inside(name))?;
        }
        ensure!(
            !fs::read_to_string(inside("packed-refs")).unwrap_or_default().contains("refs/replace"),
            "it replaces commits"
        );
        let head = fs::read_to_string(inside("HEAD")).context("it has no HEAD")?;
        if let Some(branch) = head.strip_prefix("ref:") {
            let branch = inside(branch.trim());
            self.is_no_link(&branch)?;
            let commit = fs::read_to_string(&branch).unwrap_or_default();
            ensure!(!commit.starts_with("ref:"), "a branch is another's name");
            reads.say("entry", &branch)?;
        }
        let mut folders = BTreeSet::from([self.folder.clone()]);
        for line in self.ask_git(&["ls-files", "--stage", "-z"])?.split_terminator('\0') {
            let (about, name) = line.split_once('\t').context("cannot understand git ls-files")?;
            ensure!(!about.starts_with("160000"), "it has submodules");
            let file = self.folder.join(name);
            reads.say("entry", &file)?;
            folders.extend(file.ancestors().skip(1).take_while(|above| *above != self.folder).map(PathBuf::from));
        }
        let (attributes, settings) = self.git_files();
        // What git makes of a file is up to these, whether it knows them or not (gitattributes(5)).
        let own = folders.iter().map(|folder| folder.join(".gitattributes"));
        for file in own.chain(attributes) {
            let filters = fs::read_to_string(&file).unwrap_or_default().contains("filter");
            ensure!(!filters, "git changes its files: {}", file.display());
            reads.say("maybe", &file)?;
        }
        for file in settings {
            reads.say("maybe", &file)?;
        }
        // Each entry is where it is from, and the setting.
        let settings = self.ask_git(&["config", "--list", "--show-origin", "-z"])?;
        let unknown = ["include.", "includeif.", "core.worktree", "core.attributesfile", "extensions.worktreeconfig"];
        for setting in settings.split('\0').skip(1).step_by(2) {
            let name = setting.lines().next().unwrap_or_default();
            ensure!(!unknown.iter().any(|unknown| name.starts_with(unknown)), "git is set up with {name}");
        }
        Ok(())
    }

    /// What a link leads to may change without it, such as the branch that HEAD is (core.preferSymlinkRefs).
    fn is_no_link(&self, file: &Path) -> Result<()> {
        let link = fs::symlink_metadata(file).is_ok_and(|meta| meta.is_symlink());
        ensure!(!link, "{} is a link", file.display());
        Ok(())
    }

    fn ask_git(&self, arguments: &[&str]) -> Result<String> {
        let said = Command::new("git").arg("-C").arg(&self.folder).args(arguments).stdin(Stdio::null()).output()?;
        ensure!(said.status.success(), "git: {}", String::from_utf8_lossy(&said.stderr).trim());
        String::from_utf8(said.stdout).context("git says what is no UTF-8")
    }
}

/// What is read, in the words of `watch.nix`.
struct Reads(Vec<String>);

impl Reads {
    fn say(&mut self, what: &str, path: &Path) -> Result<()> {
        let path = path.to_str().with_context(|| format!("{} is no UTF-8", path.display()))?;
        ensure!(self.0.len() < MOST, "it has too many files");
        self.0.push(json!([what, path]).to_string());
        Ok(())
    }

    /// A program of the PATH: those before the one that is found are not there.
    fn program(&mut self, name: &str) -> Result<()> {
        let mut programs = programs(name);
        let Some(found) = programs.pop() else { bail!("there is no {name}") };
        programs.iter().try_for_each(|program| self.say("absent", program))?;
        self.say("program", &found)
    }

    /// All that is at and below a folder.
    fn tree(&mut self, path: &Path) -> Result<()> {
        self.say("entry", path)?;
        if fs::symlink_metadata(path)?.is_dir() {
            for entry in fs::read_dir(path)? {
                self.tree(&entry?.path())?;
            }
        }
        Ok(())
    }
}

/// The text that was percent-encoded (RFC 3986, section 2.1); none for what is not.
pub fn percent_decode(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_that_json_cannot_hold_is_told() {
        use std::os::unix::ffi::OsStrExt;
        let name = Path::new(std::ffi::OsStr::from_bytes(b"/a\xff"));
        assert_eq!(Reads(Vec::new()).say("file", name).unwrap_err().to_string(), "/a\u{FFFD} is no UTF-8");
    }

    #[test]
    fn a_lock_that_depends_on_too_much_is_not_kept() {
        let told = Reads(vec![String::new(); MOST]).say("file", Path::new("/a")).unwrap_err();
        assert_eq!(told.to_string(), "it has too many files");
    }

    #[test]
    fn a_git_repository_that_is_set_up_otherwise_is_not_looked_at() {
        let folder = std::env::temp_dir().join(format!("flake-files-test-{}", std::process::id()));
        for (script, why) in [
            ("mkdir .git/refs/replace", "its .git has refs/replace"),
            ("echo 'abc refs/replace/def' > .git/packed-refs", "it replaces commits"),
            ("rm .git/HEAD", "it has no HEAD"),
            ("ln -sf refs/heads/a .git/HEAD", "/.git/HEAD is a link"),
            ("ln -s b .git/refs/heads/a", "/.git/refs/heads/a is a link"),
            ("echo 'ref: refs/heads/b' > .git/refs/heads/a", "a branch is another's name"),
            ("touch \"$(printf '\\377')\" && git add .", "git says what is no UTF-8"),
            ("mkdir b && touch b/c && git add b && echo '* filter=x' > b/.gitattributes", "git changes its files: "),
            ("git config core.attributesFile x", "git is set up with core.attributesfile"),
        ] {
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(&folder).unwrap();
            let script = format!("git init -q && git symbolic-ref HEAD refs/heads/a && {script}");
            let done = Command::new("sh").args(["-ec", &script]).current_dir(&folder).status().unwrap();
            let flake = Flake { folder: folder.clone(), git: true };
            let told = flake.git(&mut Reads(Vec::new())).map_err(|error| error.to_string());
            fs::remove_dir_all(&folder).unwrap();
            assert!(done.success(), "{script}");
            let told = told.map_err(|told| told.replace(&*folder.to_string_lossy(), ""));
            assert!(told.as_ref().is_err_and(|told| told.starts_with(why)), "{script}: {told:?}");
        }
    }

    #[test]
    fn only_a_folder_of_this_computer_can_be_looked_at() {
        let flake = |folder: &str, git| Some(Flake { folder: folder.into(), git });
        assert_eq!(Flake::of("path:/a%20b"), flake("/a b", false));
        assert_eq!(Flake::of("git+file:///a?dir=b"), flake("/a", true));
        for elsewhere in [
            "path:./a",
            "github:a/b",
            "git+file:///a?ref=x",
            "git+file:///a?dir=b&submodules=1",
            "git+https://x.org/a",
            "nixpkgs",
            "path:/a%2",
            "git+file://host/a",
        ] {
            assert_eq!(Flake::of(elsewhere), None, "{elsewhere}");
        }
    }
}
