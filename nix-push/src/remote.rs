//! The machine's side of a push: what it is asked, and the scripts that it runs.
//!
//! Two commands on one connection. The first tells what the machine has, then becomes the serve
//! protocol: it is asked what is valid, and keeps what is still to come from being collected as
//! garbage. The second, in `intake.rs`, takes the paths as one compressed stream, and roots the system.

use crate::serve::Serve;
use anyhow::{Result, bail};
use machine_record::{Failure, Kind, StorePath};
use machine_ssh::{Address, Channel, Session, quote};
use std::sync::OnceLock;
use std::time::Duration;

/// Where a bare machine keeps its Nix: NixOS, then Nix on another system.
pub const PATH: &str = "PATH=/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin:$PATH; export PATH\n";

/// Marks where the script's words begin, should a login shell have said something before.
const MARK: &str = "nix-push: facts\n";
const END: &str = "\nend\n";
/// The same on stderr, of every script.
const BEGUN: &str = "nix-push:begun\n";
/// Bytes up to which they and what a login shell says are listened to.
const MOST: usize = 1 << 20;

/// Tells what is free where the store is.
const ROOM: &str = r#"
room() { df -Pk /nix/store | { read -r _; read -r _ _ _ free _; echo "free=$free"; }; }
"#;

/// Tells the facts, then does as it is told: `root TOPLEVEL`, then perhaps `serve OPTIONS`.
const FACTS: &str = r#"
echo "nix-push: facts"
command -v nix-store >/dev/null && echo "tool=nix-store"
command -v zstd >/dev/null && echo "tool=zstd" && command -v xargs >/dev/null && echo "zstd=$(zstd -V 2>&1)"
command -v gzip >/dev/null && echo "tool=gzip"
set --
for link in /run/current-system /nix/var/nix/profiles/system "$roots/pushed"; do
  [ ! -e "$link" ] || set -- "$@" "$link"
done
[ $# = 0 ] || printf 'has=%s\n' $(readlink -f "$@")
room
echo "disk=$(stat -f -c %T /nix/store 2>/dev/null)"
while read -r name kib _; do [ "$name" = MemAvailable: ] && echo "memory=$kib"; done < /proc/meminfo
echo "end"
while read -r what top; do
  case $what in
    root) { [ -e "$top" ] && claim && root; } || echo "absent";;
    serve) eval "exec nix-store --serve --write $top";;
  esac
done
"#;

/// `claim` makes a root at once, under a name of its own: nothing can be collected from the
/// moment on when the system is whole. `keep` gives it its fixed name, in one step, once Nix has said that it is.
/// Who may not write there has Nix's daemon make a root of a link at home, if the system is whole;
/// until then the serve protocol keeps it.
///
/// A garbage collector that looked for roots before there was this one may still be at work. Nix tells it of the system when
/// it is asked for that (a temporary root, by the collector's socket: libstore/gc.cc). One that began later saw the
/// first name, or the second, but for one that looked in between: so after `keep` either none is at work, as its lock
/// shows, and none has taken the system; or Nix is asked again.
///
/// `given` takes paths by `take`, and says whether the system is valid then: a nix-store that has started meanwhile is told
/// `question`, so that nobody waits for one to start.
pub const ROOT: &str = r#"
if [ -w /nix/var/nix/gcroots ]; then
  roots=/nix/var/nix/gcroots/nixpipe
  claim() {
    [ -d $roots ] || mkdir -p $roots || return
    # What a machine that lost its power has left would be kept for ever.
    for old in $roots/.pushed.*; do [ ! -L "$old" ] || [ -e /proc/"${old##*.}" ] || rm -f "$old"; done
    ln -sfn "$top" $roots/.pushed.$$
  }
  valid() { ask; }
  keep() { mv -fT $roots/.pushed.$$ $roots/pushed && { calm 2>/dev/null || ask; }; }
  drop() { rm -f $roots/.pushed.$$; }
else
  roots=${XDG_STATE_HOME:-$HOME/.local/state}/nixpipe
  claim() { mkdir -p "$roots"; }
  valid() { :; }
  keep() { nix-store --realise "$top" --option substitute false --add-root "$roots/pushed" --indirect >/dev/null && ask; }
  drop() { :; }
fi
ask() { said=$(nix-store --realise "$top" --option substitute false 2>&1 >/dev/null) || { echo "$said" >&2; false; }; }
given() {
  { { take >&3 3>&-; printf "$question"; } | nix-store --serve --write 3>&- | LC_ALL=C grep -qF -e "$top"; } 3>&1
}
# The lock is the collector's from before it looks for roots until it has ended.
calm() { flock -sn 9 && [ -e "$top" ]; } 9</nix/var/nix/gc.lock
rooted() { if keep; then echo "nix-push:rooted $top"; else drop; false; fi; }
root() { if valid; then rooted; else drop; false; fi; }
"#;

/// What the machine says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Systems that it keeps: the running one, the profile's, the one pushed last
    pub has: Vec<StorePath>,
    pub zstd: bool,
    pub gzip: bool,
    /// Of a machine that has what else differences take
    pub zstd_version: Option<[u32; 3]>,
    /// Bytes of memory that are free for programs
    pub memory: Option<u64>,
    /// Bytes that its store's file system has left
    pub free: Option<u64>,
    /// The kind of that file system
    pub disk: String,
}

/// Bytes that the store's file system has left at this moment, if the machine tells.
pub fn free_now(session: &Session) -> Option<u64> {
    let told = session.run(&shell(&format!("{PATH}{ROOM}room"), &[]), b"").ok()?;
    bytes(String::from_utf8_lossy(&told.stdout).trim().strip_prefix("free=")?)
}

/// KiB as the machine says them.
fn bytes(kib: &str) -> Option<u64> {
    kib.parse::<u64>().ok()?.checked_mul(1024)
}

/// A machine that has told its facts.
pub struct Remote {
    pub session: Session,
    pub facts: Facts,
    pub script: Script,
}

/// The first command, which waits to be told more.
pub struct Script {
    channel: Channel,
    /// What it said after the facts
    said: Vec<u8>,
    /// A system that it was asked to root before it had told the facts
    asked: Option<StorePath>,
}

impl Remote {
    /// Connects, and hears the facts. `toplevel` is the system, if it is known by now: a machine
    /// that has it roots it in the same round trip.
    pub fn connect(address: &Address, timeout: Duration, toplevel: &OnceLock<StorePath>) -> Result<Self> {
        let session = Session::connect(address, timeout)?;
        let mut channel = session.open_ahead(&shell(&format!("{PATH}{ROOT}{ROOM}{FACTS}"), &[]))?;
        let asked = toplevel.get().cloned();
        if let Some(toplevel) = &asked {
            channel.write_all(format!("root {toplevel}\n").as_bytes())?;
        }
        let mut script = Script { channel, said: Vec::new(), asked };
        let facts = script.facts()?;
        Ok(Remote { session, facts, script })
    }

    /// See [`Channel::keep`].
    pub fn keep(&mut self) -> Option<bool> {
        self.script.channel.keep()
    }
}

impl Script {
    fn facts(&mut self) -> Result<Facts> {
        loop {
            let text = String::from_utf8_lossy(&self.said);
            if let Some((_, told)) = text.split_once(MARK)
                && let Some((facts, rest)) = told.split_once(END)
            {
                let facts = Facts::parse(facts);
                self.said = rest.as_bytes().to_vec();
                return facts;
            }
            if !self.hear()? {
                let words = words(&self.channel.take_stderr()).unwrap_or_else(|| "it ended without a word".into());
                bail!(Failure::new(Kind::Copy, format!("cannot run a script on the machine: {words}")).hint(
                    "is Nix there, and does the login's shell run commands? Try: ssh MACHINE nix-store --version"
                ));
            }
        }
    }

    /// Waits for more; false at the end.
    fn hear(&mut self) -> Result<bool> {
        let mut piece = [0; 4096];
        let count = self.channel.read_some(&mut piece)?;
        self.said.extend_from_slice(&piece[..count]);
        if self.said.len() > MOST {
            let words = String::from_utf8_lossy(&self.said[..80]).escape_debug().to_string();
            bail!(
                Failure::new(
                    Kind::Copy,
                    format!("the machine says far more than was asked for, and begins with: {words}")
                )
                .hint("what does its login shell say? Try: ssh MACHINE true")
            );
        }
        Ok(count > 0)
    }

    /// Whether it was asked to root the system, and has answered or will.
    pub fn was_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// Roots a system if it is there; false if it is not.
    pub fn root(&mut self, toplevel: &StorePath) -> Result<bool> {
        if self.asked.take().as_ref() != Some(toplevel) {
            self.channel.write_all(format!("root {toplevel}\n").as_bytes())?;
        }
        self.verdict()
    }

    fn verdict(&mut self) -> Result<bool> {
        loop {
            if let Some(end) = self.said.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.said.drain(..=end).collect();
                return Ok(line.starts_with(b"nix-push:rooted "));
            }
            if !self.hear()? {
                bail!(unkept(&mut self.channel));
            }
        }
    }

    /// Begins the serve protocol, with options for the machine's nix-store. What is locked through
    /// it stays for as long as it is held.
    pub fn serve(mut self, options: &[String]) -> Result<Serve<Channel>> {
        if self.asked.take().is_some() {
            // Its answer comes first.
            self.verdict()?;
        }
        let options: String = options.iter().map(|option| format!(" {}", quote(option))).collect();
        self.channel.write_all(format!("serve{options}\n").as_bytes())?;
        Serve::greet(self.channel)
    }
}

impl Facts {
    /// Reads what the script says between its mark and its end.
    fn parse(said: &str) -> Result<Facts> {
        let mut facts = Facts::default();
        let mut nix = false;
        for line in said.lines() {
            match line.split_once('=') {
                Some(("tool", "nix-store")) => nix = true,
                Some(("tool", "zstd")) => facts.zstd = true,
                Some(("tool", "gzip")) => facts.gzip = true,
                // A system is asked for as valid before anything rests on it.
                Some(("has", path)) => facts.has.extend(StorePath::new(path)),
                Some(("free", kib)) => facts.free = bytes(kib),
                Some(("disk", kind)) => facts.disk = kind.into(),
                Some(("memory", kib)) => facts.memory = bytes(kib),
                Some(("zstd", words)) => facts.zstd_version = version(words),
                _ => {}
            }
        }
        facts.has.sort_unstable();
        facts.has.dedup();
        if nix {
            Ok(facts)
        } else {
            Err(Failure::new(Kind::Copy, "the machine has no nix-store")
                .hint("is it a NixOS machine? Nix is looked for in /run/current-system/sw/bin and in PATH")
                .into())
        }
    }
}

/// The version among the words of `zstd -V`, such as `*** Zstandard CLI (64-bit) v1.5.4, by Yann Collet ***`.
fn version(words: &str) -> Option<[u32; 3]> {
    let mut numbers = words.split([' ', ',']).filter_map(|word| {
        let numbers: Vec<u32> = word.strip_prefix('v')?.split('.').map_while(|number| number.parse().ok()).collect();
        numbers.try_into().ok()
    });
    numbers.next()
}

pub fn unkept(channel: &mut Channel) -> Failure {
    let words = words(&channel.take_stderr()).unwrap_or_else(|| "it said nothing".into());
    Failure::new(Kind::Copy, format!("the machine cannot keep the system: {words}"))
        .hint("log in as root, or as a user whose home can hold a link to it")
}

/// What a machine's command complained of, in one line.
pub fn words(stderr: &[u8]) -> Option<String> {
    complaint(stderr, |_| true)
}

/// An error that a machine's command said, or the last of its other lines that `tells` something.
pub fn complaint(stderr: &[u8], tells: impl Fn(&str) -> bool) -> Option<String> {
    let text = String::from_utf8_lossy(stderr);
    let text = text.split_once(BEGUN).map_or(&*text, |(_, said)| said);
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = lines().find(|line| line.starts_with("error")).or(lines().rfind(|line| tells(line)))?;
    Some(error.trim_start_matches("error:").trim().into())
}

/// A command for any login shell that runs `script` under /bin/sh.
pub fn shell(script: &str, arguments: &[&str]) -> String {
    let arguments: String = arguments.iter().map(|argument| format!(" {}", quote(argument))).collect();
    let script = format!("echo {} >&2\n{script}", BEGUN.trim_end());
    format!("exec /bin/sh -c {} nix-push{arguments}", quote(&script))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_understood() {
        let path = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-nixos-system";
        let facts = Facts::parse(&format!(
            "tool=nix-store\ntool=zstd\nhas={path}\nhas={path}\nhas=/etc/x\nfree=20\ndisk=btrfs\nzstd=*** Zstandard CLI (64-bit) v1.5.4, by Yann Collet ***\nmemory=30"
        ));
        assert_eq!(
            facts.unwrap(),
            Facts {
                has: vec![StorePath::new(path).unwrap()],
                zstd: true,
                zstd_version: Some([1, 5, 4]),
                free: Some(20 * 1024),
                disk: "btrfs".into(),
                memory: Some(30 * 1024),
                ..Facts::default()
            }
        );
    }

    #[test]
    fn what_a_login_shell_says_is_no_complaint() {
        assert_eq!(words(format!("error: no mail\n{BEGUN}").as_bytes()), None);
        assert_eq!(words(format!("hi\n{BEGUN}x\n").as_bytes()).as_deref(), Some("x"));
        assert_eq!(words(b"this account is locked\n").as_deref(), Some("this account is locked"));
    }

    #[test]
    fn a_machine_without_nix_is_told_so() {
        let failure = Failure::of(&Facts::parse("tool=gzip").unwrap_err());
        assert_eq!((failure.kind, failure.hint.is_some()), (Kind::Copy, true));
    }
}
