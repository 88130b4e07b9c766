//! What the user's `ssh_config` says of a host, as OpenSSH's own client tells it (`ssh -G`).

use crate::complaint::complaint;
use crate::jump::Jump;
use anyhow::Result;
use machine_record::{Failure, Kind, log};
use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// The part of a configuration that libssh2 can follow, for one login.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Configured {
    /// The name that was asked for
    given: String,
    /// `HostName`, or the same name
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Who logs in. `User` is not told apart from no word where it is the name of the one who runs this
    pub(crate) user: String,
    /// The `IdentityFile`s, those that OpenSSH tries by itself included, as they are written
    identities: Vec<String>,
    /// `IdentitiesOnly`: no other key of the ssh-agent is tried
    pub(crate) identities_only: bool,
    /// `IdentityAgent`
    agent: Option<String>,
    /// `ProxyJump`, as it is written
    jump: Option<String>,
    /// `ProxyCommand`, as it is written
    command: Option<String>,
}

/// The ssh-agent to ask.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Agent {
    /// The one of `SSH_AUTH_SOCK`
    Usual,
    At(PathBuf),
    None,
}

/// Asks `program`, once for each login. Without OpenSSH there is no configuration.
///
/// `user` and `port` are what is known already; else they are what the configuration says, or `root` and 22.
///
/// # Errors
/// Kind `input`: it cannot be understood.
pub(crate) fn of(program: &Path, host: &str, user: Option<&str>, port: Option<u16>) -> Result<Configured, Failure> {
    type Login = (PathBuf, String, Option<String>, Option<u16>);
    static KNOWN: Mutex<Option<HashMap<Login, Configured>>> = Mutex::new(None);
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (program.to_path_buf(), host.to_string(), user.map(String::from), port);
    if let Some(configured) = known().as_ref().and_then(|known| known.get(&key)) {
        return Ok(configured.clone());
    }
    let configured = ask(program, host, user, port)?;
    // The connection asks by what was found.
    let found = (key.0.clone(), key.1.clone(), Some(configured.user.clone()), Some(configured.port));
    known().get_or_insert_default().extend([(key, configured.clone()), (found, configured.clone())]);
    Ok(configured)
}

fn ask(program: &Path, host: &str, user: Option<&str>, port: Option<u16>) -> Result<Configured, Failure> {
    let flags = |user: Option<&str>| {
        let user = user.into_iter().flat_map(|user| ["-l".to_string(), user.into()]);
        user.chain(port.into_iter().flat_map(|port| ["-p".to_string(), port.to_string()])).collect::<Vec<_>>()
    };
    let Some(mut said) = run(program, &flags(user), host)? else {
        let (host, user) = (host.to_string(), user.unwrap_or("root").into());
        return Ok(Configured { given: host.clone(), host, port: port.unwrap_or(22), user, ..Configured::default() });
    };
    // Without a word, the name would be that of the one who runs this: the login is root's, and what the
    // configuration has for root (Match user) counts.
    if user.is_none() && value(&said, "user") != Some("root") {
        let unsaid = run(program, &["-F".into(), "none".into()], host)?.unwrap_or_default();
        if value(&said, "user") == value(&unsaid, "user") {
            said = run(program, &flags(Some("root")), host)?.unwrap_or_default();
        }
    }
    Ok(read(&said, host))
}

fn run(program: &Path, flags: &[String], host: &str) -> Result<Option<String>, Failure> {
    let mut command = Command::new(program);
    command.args(["-G", "-T"]).args(flags).args(["--", host]).stdin(Stdio::null());
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let text = format!("cannot run {}: {error}", program.display());
            return Err(Failure::new(Kind::Input, text).hint("--ssh names OpenSSH's client, such as ssh"));
        }
    };
    if output.status.success() {
        return Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()));
    }
    let failure = complaint(&format!("cannot read ssh_config for {host}"), &String::from_utf8_lossy(&output.stderr));
    Err(Failure { kind: Kind::Input, ..failure }.hint("look at your ssh_config"))
}

fn values<'a>(said: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    said.lines().filter_map(|line| line.split_once(' ')).filter(move |(word, _)| *word == name).map(|(_, value)| value)
}

fn value<'a>(said: &'a str, name: &'a str) -> Option<&'a str> {
    values(said, name).next()
}

/// Reads the lines of `ssh -G`.
fn read(said: &str, host: &str) -> Configured {
    let text = |name: &str| value(said, name).map(String::from);
    Configured {
        given: host.into(),
        host: text("hostname").unwrap_or_else(|| host.into()),
        port: value(said, "port").and_then(|port| port.parse().ok()).unwrap_or(22),
        user: text("user").unwrap_or_else(|| "root".into()),
        identities: values(said, "identityfile").filter(|file| *file != "none").map(String::from).collect(),
        identities_only: value(said, "identitiesonly") == Some("yes"),
        agent: text("identityagent"),
        jump: text("proxyjump").filter(|jump| jump != "none"),
        command: text("proxycommand").filter(|command| command != "none"),
    }
}

impl Configured {
    /// The jump hosts on the way.
    ///
    /// # Errors
    /// Kind `input`: they are written as none of ours.
    pub(crate) fn jump(&self) -> Result<Option<Jump>, Failure> {
        let Some(text) = &self.jump else { return Ok(None) };
        let jump = self.whole("ProxyJump", text, &[])?.parse();
        let unfit = |failure: Failure| Failure { message: self.cannot("ProxyJump", text), ..failure };
        jump.map(Some).map_err(unfit)
    }

    /// The `ProxyCommand`.
    ///
    /// # Errors
    /// Kind `input`: a token that it cannot have.
    pub(crate) fn proxy_command(&self) -> Result<Option<String>, Failure> {
        self.command.as_ref().map(|command| self.whole("ProxyCommand", command, &[])).transpose()
    }

    /// The `IdentityFile`s that exist; one with a token that is OpenSSH's alone to know counts as absent.
    pub(crate) fn identities(&self) -> Vec<PathBuf> {
        let files = self.identities.iter().filter_map(|file| {
            let file = self.file("IdentityFile", file);
            file.inspect_err(|failure| log::detail("", &failure.message)).ok()
        });
        files.filter(|file| file.is_file()).collect()
    }

    /// The ssh-agent that keys are asked of. `ssh -G` has replaced the tokens of its path, but not those of the files.
    pub(crate) fn agent(&self) -> Agent {
        match self.agent.as_deref() {
            None | Some("SSH_AUTH_SOCK") => Agent::Usual,
            Some("none") => Agent::None,
            Some(path) => match path.strip_prefix('$') {
                Some(name) => std::env::var_os(name).map_or(Agent::None, |path| Agent::At(path.into())),
                None => Agent::At(at_home(path)),
            },
        }
    }

    /// A path of the configuration, as it is meant.
    fn file(&self, word: &str, text: &str) -> Result<PathBuf, Failure> {
        let home = home().display().to_string();
        let me = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_default();
        let id = rustix::process::getuid().as_raw().to_string();
        let mut rest = text;
        let mut named = String::new();
        while let Some((before, (name, after))) =
            rest.split_once("${").and_then(|(before, after)| Some((before, after.split_once('}')?)))
        {
            named += before;
            // A variable that is not set makes OpenSSH stop; here it is a file that is not there.
            named += &std::env::var(name).unwrap_or_default().replace('%', "%%");
            rest = after;
        }
        Ok(at_home(&self.whole(word, &(named + rest), &[('d', &home), ('u', &me), ('i', &id)])?))
    }

    /// A value with its tokens replaced: `%h`, `%n`, `%p`, `%r`, `%%` (ssh_config(5), TOKENS), and `more`.
    fn whole(&self, word: &str, text: &str, more: &[(char, &str)]) -> Result<String, Failure> {
        let port = self.port.to_string();
        let tokens = [('%', "%"), ('h', &self.host), ('n', &self.given), ('p', &port), ('r', &self.user)];
        let mut whole = String::new();
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            if character != '%' {
                whole.push(character);
                continue;
            }
            let token = characters.next();
            match tokens.iter().chain(more).find(|(name, _)| Some(*name) == token) {
                Some((_, meaning)) => whole.push_str(meaning),
                None => {
                    let known: Vec<String> = tokens.iter().chain(more).map(|(name, _)| format!("%{name}")).collect();
                    let hint = format!("of its tokens {} are known here; for others say --ssh ssh", known.join(", "));
                    return Err(Failure::new(Kind::Input, self.cannot(word, text)).hint(hint));
                }
            }
        }
        Ok(whole)
    }

    fn cannot(&self, word: &str, text: &str) -> String {
        format!("cannot use the {word} of ssh_config for {}: {text:?}", self.given)
    }
}

/// A path that may begin with `~/`.
fn at_home(path: &str) -> PathBuf {
    match path.strip_prefix("~/") {
        Some(rest) => home().join(rest),
        None => path.into(),
    }
}

/// The home folder that OpenSSH means: the one of the user's entry, whatever `HOME` says.
fn home() -> PathBuf {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let entered = home_of(&users, &rustix::process::getuid().as_raw().to_string());
    // Users may also come from a directory service.
    entered.or_else(std::env::home_dir).unwrap_or_else(|| "/".into())
}

/// The home folder of a user in the lines of passwd(5).
fn home_of(users: &str, id: &str) -> Option<PathBuf> {
    let mut entries = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    entries.find_map(|entry| match entry[..] {
        [_, _, uid, _, _, home, ..] if uid == id && !home.is_empty() => Some(home.into()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "host web\nuser bob\nhostname 10.0.0.7\nport 2222\nidentitiesonly yes\n\
        identityfile /etc/%u/../passwd\nidentityfile /no/such\nidentityfile none\nproxyjump me@a,%r@b\n";

    #[test]
    fn the_lines_of_a_login_are_read() {
        let configured = read(SAID, "web");
        assert_eq!((configured.host.as_str(), configured.port, configured.user.as_str()), ("10.0.0.7", 2222, "bob"));
        assert_eq!(configured.identities, ["/etc/%u/../passwd", "/no/such"]);
        assert!(configured.identities_only);
        assert_eq!(configured.jump().unwrap().unwrap().to_string(), "me@a,bob@b");
        assert_eq!(configured.proxy_command().unwrap(), None);
        assert_eq!(configured.agent(), Agent::Usual);
    }

    #[test]
    fn a_proxy_command_has_the_tokens_that_are_known() {
        let of = |command: &str| {
            let command = Some(command.to_string());
            Configured { command, ..read(SAID, "web") }.proxy_command()
        };
        assert_eq!(of("nc %h %p # %n %r 5%%").unwrap().unwrap(), "nc 10.0.0.7 2222 # web bob 5%");
        for bad in ["nc %d", "nc %"] {
            let failure = of(bad).unwrap_err();
            assert_eq!(failure.kind, Kind::Input);
            assert_eq!(failure.message, format!("cannot use the ProxyCommand of ssh_config for web: {bad:?}"));
            let hint = "of its tokens %%, %h, %n, %p, %r are known here; for others say --ssh ssh";
            assert_eq!(failure.hint.as_deref(), Some(hint));
        }
    }

    #[test]
    fn the_home_folder_is_that_of_the_users_entry() {
        let users = "root:x:0:0:root:/root:/bin/bash\n\nbob:x:1000:100:Bob:/home/bob:/bin/sh\nno:x:7:7::\n";
        let home = |id| home_of(users, id).map(|home| home.display().to_string());
        assert_eq!((home("0").as_deref(), home("1000").as_deref()), (Some("/root"), Some("/home/bob")));
        assert_eq!((home("7"), home("100")), (None, None));
    }

    #[test]
    fn files_may_be_named_by_tokens_and_by_the_environment() {
        let (home, variable) = (home().display().to_string(), std::env::var("HOME").unwrap_or_default());
        let file = |text: &str| read(SAID, "web").file("IdentityFile", text).unwrap().display().to_string();
        assert_eq!(file("~/.ssh/id_%h_%r"), format!("{home}/.ssh/id_10.0.0.7_bob"));
        assert_eq!(file("%d/a b/%n"), format!("{home}/a b/web"));
        assert_eq!(file("${HOME}/x${NIXPIPE_UNSET}/%p"), format!("{variable}/x/2222"));
        let files = ["/etc/%C", "/etc/passwd"].map(String::from).to_vec();
        assert_eq!(Configured { identities: files, ..read(SAID, "web") }.identities(), [Path::new("/etc/passwd")]);
        let at = |path: String| Agent::At(path.into());
        for (text, agent) in [
            ("none", Agent::None),
            ("SSH_AUTH_SOCK", Agent::Usual),
            ("$PATH", at(std::env::var("PATH").unwrap())),
            ("~/a%l", at(format!("{home}/a%l"))),
        ] {
            let configured = Configured { agent: Some(text.into()), ..read(SAID, "web") };
            assert_eq!(configured.agent(), agent);
        }
    }
}
