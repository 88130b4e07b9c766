//! What Nix reads before it evaluates: itself, its settings, and variables.

use crate::places::is_stored;
use serde_json::json;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// What this Nix is made of, or why that is not known.
static LIBRARIES: OnceLock<Result<Vec<PathBuf>, String>> = OnceLock::new();

/// Where the loader finds libraries (ld.so(8)).
const LOADER: &str = "/etc/ld.so.cache";

/// How deep settings may include others.
const DEPTH: usize = 8;

/// Settings that bring builtins which may look at anything, also those of `pure-eval`; also with `extra-` before them.
pub const UNKNOWN: [&str; 2] = ["plugin-files", "allow-unsafe-native-code-during-evaluation"];

/// Whether Nix, or what loads it, reads an environment variable by itself.
pub fn reads(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let places = ["XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"];
    ["NIX_", "_NIX_", "LD_", "GIT_"].iter().any(|start| name.starts_with(start))
        || ["HOME", "USER"].contains(&&*name)
        || places.contains(&&*name)
}

/// Finds out what this Nix is made of, which takes a while, before that is asked for.
pub fn learn() {
    if let Some(program) = programs("nix-instantiate").pop() {
        let _ = LIBRARIES.get_or_init(|| libraries(&program));
    }
}

/// The same in the words of `watch.nix`.
pub fn reads_at_start() -> Vec<String> {
    let mut reads = Vec::new();
    let mut say = |what: &str, path: &Path| reads.push(json!([what, path.to_string_lossy()]).to_string());
    // Those before the one that is found are not there.
    let mut programs = programs("nix-instantiate");
    let found = programs.pop();
    programs.iter().for_each(|program| say("absent", program));
    match found.map(|program| LIBRARIES.get_or_init(|| libraries(&program)).as_ref()) {
        Some(Ok(files)) => {
            files.iter().for_each(|file| say("program", file));
            // Where the next run would find libraries.
            say("maybe", Path::new(LOADER));
        }
        Some(Err(error)) => say("unsure", Path::new(error)),
        None => {}
    }
    if !is_home_taken() {
        say("unsure", Path::new("HOME, which is not a folder of this user"));
    }
    all_settings(&mut say);
    channels().iter().for_each(|path| say("kind", path));
    reads
}

/// All files of settings, whether they are there or not (conf-file in the manual of Nix).
fn all_settings(say: &mut impl FnMut(&str, &Path)) {
    for file in [conf_file()].into_iter().chain(users()) {
        settings(&file, say, DEPTH);
    }
    let given = std::env::var("NIX_CONFIG").unwrap_or_default();
    includes(&given, &std::env::current_dir().unwrap_or_default(), say, DEPTH);
}

/// The settings of all users.
fn conf_file() -> PathBuf {
    variable("NIX_CONF_DIR").map_or_else(|| "/etc/nix".into(), PathBuf::from).join("nix.conf")
}

/// Where the user's own settings are looked for, by newer Nix also in NIX_CONFIG_HOME (src/libutil/users.cc, getConfigDir).
fn users() -> Vec<PathBuf> {
    let paths = |list: OsString| std::env::split_paths(&list).collect::<Vec<_>>();
    variable("NIX_USER_CONF_FILES").map(paths).unwrap_or_else(|| {
        let everybodys = variable("XDG_CONFIG_DIRS").map_or_else(|| vec!["/etc/xdg".into()], paths);
        let folders = [home("XDG_CONFIG_HOME", ".config")].into_iter().chain(everybodys);
        let newer = variable("NIX_CONFIG_HOME").map(PathBuf::from).into_iter();
        newer.chain(folders.map(|folder| folder.join("nix"))).map(|folder| folder.join("nix.conf")).collect()
    })
}

/// Whether the user has settings of their own, which a client of Nix's daemon would tell it.
pub fn has_own_settings() -> bool {
    variable("NIX_CONFIG").is_some() || !is_home_taken() || users().iter().any(|file| file.exists())
}

/// Whether any Nix takes HOME for the user's own folder. Newer Nix does where it is theirs or not there, and else takes that
/// of passwd(5) (src/libutil/unix/users.cc, getHome): with `sudo -E`, say.
pub fn is_home_taken() -> bool {
    variable("HOME").is_some_and(|home| match fs::metadata(home) {
        Ok(meta) => meta.uid() == rustix::process::geteuid().as_raw(),
        Err(error) => error.kind() == ErrorKind::NotFound,
    })
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The folder that a variable names, else one below the user's own.
pub fn home(name: &str, below: &str) -> PathBuf {
    let home = || variable("HOME").map(PathBuf::from).unwrap_or_default().join(below);
    variable(name).map_or_else(home, PathBuf::from)
}

/// The default of nix-path, which has those of them that are there.
fn channels() -> Vec<PathBuf> {
    if variable("NIX_PATH").is_some() {
        return Vec::new();
    }
    let everybodys = PathBuf::from("/nix/var/nix/profiles/per-user/root/channels");
    let state = home("XDG_STATE_HOME", ".local/state").join("nix");
    let newer = variable("NIX_STATE_HOME").map(PathBuf::from).into_iter();
    let states = newer.chain([state]).map(|state| state.join("defexpr/channels"));
    let own = home("", ".nix-defexpr/channels");
    [own].into_iter().chain(states).chain([everybodys.join("nixpkgs"), everybodys]).collect()
}

/// Where a program is looked for, up to where it is found.
pub fn programs(name: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut programs: Vec<_> = std::env::split_paths(&path).map(|folder| folder.join(name)).collect();
    let found = programs.iter().position(|program| program.exists());
    programs.truncate(found.map_or(0, |found| found + 1));
    programs
}

/// The folders that Nix is sure to look into: of PATH, and of its search path, of which `given` are
/// the entries by -I. What is no path is left out. (Nix itself touches some on the way to channels.)
pub fn folders(given: &[String]) -> Vec<PathBuf> {
    let list = |name: &str| std::env::var(name).unwrap_or_default();
    let mut settings = Vec::new();
    all_settings(&mut |_, path| settings.push(path.to_path_buf()));
    let (path, own) = (list("PATH"), list("NIX_PATH"));
    let entries = given.iter().map(String::as_str).chain(own.split(':')).chain(path.split(':'));
    entries
        .filter_map(|entry| {
            let path = entry.split_once('=').map_or(entry, |(_, path)| path);
            std::path::absolute(path).ok()
        })
        .chain(channels())
        // A home or /etc always changes: others write to it, too.
        .chain(settings)
        .chain([LOADER.into()])
        .collect()
}

/// A file of settings, and those that it includes.
fn settings(file: &Path, say: &mut impl FnMut(&str, &Path), depth: usize) {
    say("maybe", file);
    let text = fs::read_to_string(file).unwrap_or_default();
    includes(&text, file.parent().unwrap_or(Path::new("/")), say, depth);
}

/// The files that settings name (nix.conf(5)).
fn includes(text: &str, folder: &Path, say: &mut impl FnMut(&str, &Path), depth: usize) {
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("include" | "!include"), Some(_)) if depth == 0 => say("unsure", Path::new("settings: too deep")),
            (Some("include" | "!include"), Some(name)) => settings(&folder.join(name), say, depth - 1),
            (Some(name), _) if UNKNOWN.iter().any(|unknown| name.ends_with(unknown)) => say("unsure", Path::new(name)),
            _ => {}
        }
    }
}

/// The program and the libraries that it loads, as ldd(1) says. A path of the store needs no
/// library but those that it names, unless the environment says otherwise.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files = vec![program.to_path_buf()];
    let real = fs::canonicalize(program).map_err(|error| error.to_string())?;
    if is_script(&real) {
        let next = fs::read_to_string(&real).ok().and_then(|script| runs(&script));
        // It may set what Nix reads, and read what nobody tells.
        let next = next.ok_or_else(|| format!("a Nix that the script {} starts", real.display()))?;
        if is_script(&next) {
            return Err(format!("a Nix that the script {} starts", next.display()));
        }
        files.extend(libraries(&next)?);
        return Ok(files);
    }
    let preset = ["LD_LIBRARY_PATH", "LD_PRELOAD"].iter().any(|name| variable(name).is_some());
    if is_stored(&real) && !preset {
        return Ok(files);
    }
    let said = Command::new("ldd").arg(&real).stdin(Stdio::null()).output();
    let said = said.map_err(|error| format!("a Nix whose libraries nobody tells: ldd: {error}"))?;
    let lines = String::from_utf8_lossy(&said.stdout).into_owned();
    files.extend(lines.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from));
    Ok(files)
}

/// The program that a script runs with its own arguments, if that is all it does.
fn runs(script: &str) -> Option<PathBuf> {
    let (first, rest) = script.split_once('\n')?;
    let mut lines = rest.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (command, rest) = (lines.next()?, lines.next());
    let program = command.strip_prefix("exec ")?.strip_suffix(" \"$@\"")?;
    let plain = program.starts_with('/') && program.chars().all(|c| c.is_ascii_alphanumeric() || "/._+-".contains(c));
    (first == "#!/bin/sh" && plain && rest.is_none()).then(|| program.into())
}

fn is_script(program: &Path) -> bool {
    let mut start = [0; 2];
    fs::File::open(program).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == *b"#!"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_that_only_runs_nix_is_told_from_others() {
        let nix = Some(PathBuf::from("/usr/bin/nix-instantiate"));
        assert_eq!(runs("#!/bin/sh\nexec /usr/bin/nix-instantiate \"$@\"\n"), nix);
        assert_eq!(runs("#!/bin/sh\n\n# mine\nexec /usr/bin/nix-instantiate \"$@\"\n# end"), nix);
        for other in [
            "#!/bin/sh\nNIX_PATH=/a exec /usr/bin/nix-instantiate \"$@\"",
            "#!/bin/sh\nexport NIX_PATH=/a\nexec /usr/bin/nix-instantiate \"$@\"",
            "#!/bin/sh\nexec /usr/bin/nix-instantiate \"$@\"\ntrue",
            "#!/bin/sh\nexec /usr/bin/nix-instantiate -I a \"$@\"",
            "#!/bin/sh\nexec /$X \"$@\"",
            "#!/bin/sh\nexec nix-instantiate \"$@\"",
            "#!/bin/bash\nexec /usr/bin/nix-instantiate \"$@\"",
            "#!/bin/sh",
        ] {
            assert_eq!(runs(other), None, "{other}");
        }
    }

    #[test]
    fn settings_that_nobody_can_follow_are_not_known() {
        let folder = std::env::temp_dir().join(format!("nix-files-test-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let said_of = |text: &str| {
            let file = folder.join("nix.conf");
            fs::write(&file, text).unwrap();
            let mut said = Vec::new();
            settings(&file, &mut |what: &str, path: &Path| said.push(format!("{what} {}", path.display())), DEPTH);
            said
        };
        let [round, plugins, native, plain] = [
            "include nix.conf",
            "extra-plugin-files = /a.so",
            "allow-unsafe-native-code-during-evaluation = true",
            "cores = 2\n!include /nowhere/a",
        ]
        .map(said_of);
        fs::remove_dir_all(&folder).unwrap();
        let file = format!("maybe {}", folder.join("nix.conf").display());
        assert!(round[..=DEPTH].iter().all(|said| *said == file), "{round:?}");
        assert_eq!(round[DEPTH + 1..], ["unsure settings: too deep"]);
        assert_eq!(plugins, [&*file, "unsure extra-plugin-files"]);
        assert_eq!(native, [&*file, "unsure allow-unsafe-native-code-during-evaluation"]);
        assert_eq!(plain, [&*file, "maybe /nowhere/a"]);
    }
}
