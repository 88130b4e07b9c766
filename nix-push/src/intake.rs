//! The machine's command that takes paths, builds if it is to, and roots the system; what it says.

use crate::build;
use crate::delta;
use crate::lanes::Second;
use crate::nix;
use crate::pack::Packing;
use crate::remote::{PATH, ROOT, complaint, shell, unkept, words};
use crate::tail::Tail;
use crate::wire::Request;
use anyhow::{Context, Result};
use machine_record::{Failure, Kind, StorePath, WithKind};
use machine_ssh::{Channel, Session, quote};
use std::time::Duration;

/// Bytes of a line of a build's log; a longer one is taken for several.
const LONGEST: usize = 1 << 20;

/// What to do about a machine whose disk is full.
pub const MAKE_ROOM: &str =
    "make room on the machine, for example with nix-collect-garbage, and run the pipe again: what has arrived stays";

/// What the machine's command says where the stream ended before its time.
const EARLY: &str = "its nix-store or what feeds it ended early";

/// Begins the command that takes paths, builds `drv` if there is one, and then roots `toplevel`.
/// With `folder`, the stream comes as [`Lanes`](crate::lanes::Lanes) sends it.
pub fn open(
    session: &Session,
    packing: Packing,
    folder: Option<&str>,
    toplevel: &StorePath,
    drv: Option<&StorePath>,
    options: &[String],
    limit: Option<Duration>,
) -> Result<Channel> {
    let mut take: String = match packing {
        Packing::Zstd => "zstd -dqc | nix-store --serve --write".into(),
        Packing::Gzip => "gzip -dc | nix-store --serve --write".into(),
        Packing::None => "nix-store --serve --write".into(),
        Packing::Delta(limit) => delta::intake(limit),
    };
    if let Some(folder) = folder {
        take = format!("folder={}\n{}merge | {{\n{take}\n}}", quote(folder), include_str!("merge.sh"));
    }
    // What is built is kept by the claim, so Nix's advice to make a root is left out.
    let root: String = match drv {
        Some(_) => r#"
take
if ! nix-store --check-validity "$top" 2>/dev/null; then
  ${limit:+timeout "$limit"} nix-store --realise "$drv" "$@" 2>&1 >/dev/null
  [ $? != 124 ] || echo "nix-push:late $top"
fi
root
"#
        .into(),
        None => format!(
            r#"
if given; then rooted
# The one that was to answer has died, and not for want of the system.
elif [ -e "$top" ]; then root
else drop; echo "{EARLY}" >&2
fi
"#
        ),
    };
    let script = format!(
        "{PATH}{ROOT}top=$1 drv=$2 question=$3 limit=$4; shift 4\nclaim || exit\ntake() {{\n{take}\n}}\n{root}"
    );
    let question = Request::hello().ask_valid_paths(true, false, std::slice::from_ref(toplevel)).printf();
    let limit = limit.map(|limit| limit.as_secs_f64().to_string()).unwrap_or_default();
    let mut arguments = vec![toplevel.as_str(), drv.map_or("", StorePath::as_str), &question, &limit];
    arguments.extend(options.iter().map(String::as_str));
    session.open(&shell(&script, &arguments))
}

/// Begins the command by which a second channel reaches an intake that was given `folder`.
pub fn open_second<'a>(machine: &'a str, session: &'a Session, folder: &str) -> Second<'a> {
    Second::new(machine, session.open_beside(&shell(&format!("{PATH}{}", include_str!("lane.sh")), &[folder])))
}

/// Shows what the machine's Nix says while it builds, and waits for the word that the system is
/// rooted. Gives the last words if it is not.
pub fn rooted(machine: &str, channel: &mut Channel, toplevel: &StorePath, limit: Option<Duration>) -> Result<()> {
    let mut said = Vec::new();
    let mut errors = Tail::default();
    let mut piece = [0; 4096];
    loop {
        match channel.read_some(&mut piece)? {
            0 => break,
            count => said.extend_from_slice(&piece[..count]),
        }
        while let Some(end) =
            said.iter().position(|byte| *byte == b'\n').or_else(|| (said.len() > LONGEST).then(|| said.len() - 1))
        {
            let line: Vec<u8> = said.drain(..=end).collect();
            match String::from_utf8_lossy(&line).trim_end() {
                line if tells(line, "rooted", toplevel) => return Ok(()),
                line if tells(line, "late", toplevel) => {
                    let what = format!("building {toplevel} on the machine");
                    return Err(nix::late(&what, "--build-timeout", limit.unwrap_or_default()).into());
                }
                line if line.contains("--add-root") => {}
                line => {
                    nix::show(machine, line);
                    errors.push(line.to_string());
                }
            }
        }
    }
    let errors = Vec::from(errors);
    // As many as Nix shows of a build here.
    nix::show_error(machine, &errors, 10);
    Err(unbuilt(toplevel, &errors).unwrap_or_else(|| unkept(channel)).into())
}

/// Whether a line is the script's word on a system. What is built says its own words on the same stream, those of
/// another push, too, but not of this system.
fn tells(line: &str, word: &str, toplevel: &StorePath) -> bool {
    line.strip_prefix("nix-push:").and_then(|line| line.split_once(' ')) == Some((word, toplevel.as_str()))
}

/// The failure behind what the machine's Nix said while it built, if it complained.
fn unbuilt(toplevel: &StorePath, said: &[String]) -> Option<Failure> {
    let error = words(said.join("\n").as_bytes())?;
    let failure = Failure::new(Kind::Build, format!("the machine cannot build {toplevel}: {error}"));
    Some(match build::failed(said) {
        Some(drv) => failure.hint(format!("for the whole log, run on the machine: nix-store --read-log {drv}")),
        None => failure.hint("what its Nix said stands above"),
    })
}

/// The failure of a copy: see [`answer`].
pub fn explain<T>(result: Result<T>, channel: &mut Channel) -> Result<T> {
    answer(result, channel).context("cannot copy to the machine")
}

/// The failure behind an answer that did not come: what the machine's nix-store said, if it did and that is the cause.
pub fn answer<T>(result: Result<T>, channel: &mut Channel) -> Result<T> {
    result
        .map_err(|error| {
            let failure = Failure::of(&error);
            if is_explained(&failure) {
                return error;
            }
            // It may be another channel than this one that has told of the end.
            let said = if failure.kind == Kind::Unreachable { channel.last_words() } else { channel.take_stderr() };
            cause(&said, channel.has_ended()).map_or(error, |words| refused(&words).into())
        })
        .with_kind(Kind::Copy)
}

/// Whether a failure has nothing to do with what the machine says: one of this computer, or of the time. Of a lost
/// connection the machine may know more, and one that nobody thought of is not explained by its hint.
fn is_explained(failure: &Failure) -> bool {
    failure.hint.is_some() && !matches!(failure.kind, Kind::Unreachable | Kind::Internal)
}

/// What the machine said of the end. Nix warns and tells what it does while all goes well: of a command that has not ended,
/// errors alone count, and a warning never does.
fn cause(said: &[u8], ended: bool) -> Option<String> {
    complaint(said, |line| line == EARLY || ended && !line.starts_with("warning"))
}

/// Whether a failure is that of a full disk on the machine, and not on this computer.
pub fn says_full(failure: &Failure) -> bool {
    failure.hint.as_deref() == Some(MAKE_ROOM)
}

/// Whether Nix or its database complains of a full disk.
fn is_full(words: &str) -> bool {
    ["No space left on device", "disk is full"].iter().any(|complaint| words.contains(complaint))
}

/// A failure in the words of the machine's nix-store.
fn refused(words: &str) -> Failure {
    let failure = Failure::new(Kind::Copy, format!("the machine said: {words}"));
    if is_full(words) {
        return failure.hint(MAKE_ROOM);
    }
    if words.contains("Permission denied") || words.contains("Operation not permitted") {
        failure.hint("log in as root: a system is kept under /nix/var/nix/gcroots")
    } else if words.contains("lacks a valid signature") || words.contains("lacks a signature") {
        failure.hint(
            "log in as root or as one of the machine's trusted-users, or sign with --sign-key FILE, a key of its trusted-public-keys",
        )
    } else {
        // Differences may be to blame: see `undone` in deliver.rs.
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_differences_may_have_has_no_hint() {
        assert_eq!(refused(EARLY).hint, None);
    }

    #[test]
    fn a_warning_of_the_machine_takes_no_failures_place() {
        let said = |text: &str, ended| cause(format!("{text}\n").as_bytes(), ended);
        for ended in [false, true] {
            assert_eq!(said("warning: unknown setting 'x'", ended), None);
            assert_eq!(said(&format!("warning: x\n{EARLY}\nwarning: y"), ended).as_deref(), Some(EARLY));
            assert_eq!(said("warning: x\nerror: cannot\nwarning: y", ended).as_deref(), Some("cannot"));
        }
        assert_eq!(said("copying path '/nix/store/x' from 'https://x'...", false), None, "the link was cut");
        let full = "ln: failed to create symbolic link: No space left on device";
        assert_eq!(said(&format!("{full}\nwarning: x"), true).as_deref(), Some(full));
        let failure = |kind| Failure::new(kind, "x");
        assert!(
            is_explained(&failure(Kind::Copy).hint("repair it")) && is_explained(&failure(Kind::Timeout).hint("y"))
        );
        assert!(!is_explained(&failure(Kind::Copy)) && !is_explained(&failure(Kind::Unreachable).hint("run it again")));
        assert!(!is_explained(&Failure::of(&anyhow::anyhow!("it took only 1 of 2 paths"))));
    }

    #[test]
    fn a_build_may_say_the_words_of_another_push() {
        let path = |name: &str| StorePath::new(format!("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-{name}")).unwrap();
        let (top, other) = (path("nixos-system"), path("other"));
        assert!(tells(&format!("nix-push:rooted {top}"), "rooted", &top));
        assert!(!tells(&format!("nix-push:rooted {top}"), "late", &top));
        for line in ["nix-push:rooted".to_string(), format!("nix-push:rooted {other}"), format!("rooted {top}")] {
            assert!(!tells(&line, "rooted", &top), "{line}");
        }
    }

    #[test]
    fn a_build_that_fails_by_no_derivation_points_to_what_nix_said() {
        let toplevel = StorePath::new("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-nixos-system").unwrap();
        let failure = unbuilt(&toplevel, &["error: cannot connect to socket".into()]).unwrap();
        assert_eq!(failure.message, format!("the machine cannot build {toplevel}: cannot connect to socket"));
        assert_eq!(failure.hint.as_deref(), Some("what its Nix said stands above"));
        assert!(unbuilt(&toplevel, &[]).is_none());
    }

    #[test]
    fn a_login_that_may_not_write_has_a_hint() {
        let root = Some("log in as root: a system is kept under /nix/var/nix/gcroots");
        for said in
            ["opening lock file '/nix/var/nix/db/big-lock': Permission denied", "chown: Operation not permitted"]
        {
            assert_eq!(refused(said).hint.as_deref(), root, "{said}");
        }
    }

    #[test]
    fn a_full_disk_has_a_hint() {
        let said = b"warning: x\nerror: writing to file '/nix/store/x': No space left on device\n";
        let failure = refused(&words(said).unwrap());
        assert!(failure.hint.is_some() && !failure.message.contains("error"), "{failure}");
    }
}
