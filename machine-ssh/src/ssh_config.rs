//! What the user's `ssh_config` says of a host, as OpenSSH's own client tells it (`ssh -G`).

use crate::complaint::complaint;
use crate::jump::Jump;
use anyhow::Result;
use machine_record::{Failure, Kind};
use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// The part of a configuration that libssh2 can follow. What it does not say is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Configured {
    /// `HostName`
    pub(crate) host: Option<String>,
    pub(crate) port: Option<u16>,
    /// `User`; not told apart from no word is the name of the one who runs this
    pub(crate) user: Option<String>,
    /// The `IdentityFile`s that exist, those that OpenSSH tries by itself included
    pub(crate) identities: Vec<PathBuf>,
    /// `IdentitiesOnly`: no other key of the ssh-agent is tried
    pub(crate) identities_only: bool,
    /// `ProxyJump`
    pub(crate) jump: Option<String>,
    /// `ProxyCommand`, its tokens not yet replaced
    pub(crate) command: Option<String>,
}

/// Asks `program`, once for each host. Without OpenSSH there is no configuration.
///
/// # Errors
/// Kind `input`: it cannot be understood.
pub(crate) fn of(program: &Path, host: &str) -> Result<Configured, Failure> {
    static KNOWN: Mutex<Option<HashMap<(PathBuf, String), Configured>>> = Mutex::new(None);
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (program.to_path_buf(), host.to_string());
    if let Some(configured) = known().as_ref().and_then(|known| known.get(&key)) {
        return Ok(configured.clone());
    }
    let Some(said) = ask(program, &[], host)? else { return Ok(Configured::default()) };
    // Port 22 and root are taken without a word, too: who says these says nothing.
    let usual = ["port 22", "user root"].iter().all(|usual| said.lines().any(|line| line == *usual));
    let unsaid = if usual { said.clone() } else { ask(program, &["-F", "none"], host)?.unwrap_or_default() };
    let configured = read(&said, &unsaid, host);
    known().get_or_insert_default().insert(key, configured.clone());
    Ok(configured)
}

fn ask(program: &Path, flags: &[&str], host: &str) -> Result<Option<String>, Failure> {
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

/// Reads the lines of `ssh -G` with the configuration, and those without any.
fn read(said: &str, unsaid: &str, host: &str) -> Configured {
    let values = |name: &'static str| {
        let lines = said.lines().filter_map(|line| line.split_once(' '));
        lines.filter(move |(word, _)| *word == name).map(|(_, value)| value.to_string())
    };
    let value = |name: &'static str| values(name).next();
    let changed = |name| value(name).filter(|value| !unsaid.lines().any(|line| line == format!("{name} {value}")));
    let home = std::env::var("HOME").unwrap_or_default();
    let file = |path: String| match path.strip_prefix("~/") {
        Some(rest) => Path::new(&home).join(rest),
        None => path.into(),
    };
    Configured {
        host: value("hostname").filter(|name| name != host),
        port: changed("port").and_then(|port| port.parse().ok()),
        user: changed("user"),
        identities: values("identityfile").map(file).filter(|file| file.is_file()).collect(),
        identities_only: value("identitiesonly").is_some_and(|word| word == "yes"),
        jump: value("proxyjump").filter(|jump| jump != "none"),
        command: value("proxycommand").filter(|command| command != "none"),
    }
}

impl Configured {
    /// The jump hosts on the way.
    ///
    /// # Errors
    /// Kind `input`: they are written as none of ours.
    pub(crate) fn jump(&self, given: &str) -> Result<Option<Jump>, Failure> {
        let Some(text) = &self.jump else { return Ok(None) };
        let unfit = |failure: Failure| Failure {
            message: format!("cannot use the ProxyJump of ssh_config for {given}: {text:?}"),
            ..failure
        };
        text.parse().map(Some).map_err(unfit)
    }

    /// The `ProxyCommand` with its tokens replaced.
    ///
    /// # Errors
    /// Kind `input`: a token that is OpenSSH's alone to know.
    pub(crate) fn proxy_command(&self, given: &str, host: &str, port: u16) -> Result<Option<String>, Failure> {
        let Some(command) = &self.command else { return Ok(None) };
        let mut whole = String::new();
        let mut characters = command.chars();
        while let Some(character) = characters.next() {
            match (character, if character == '%' { characters.next() } else { None }) {
                ('%', Some('%')) => whole.push('%'),
                ('%', Some('h')) => whole.push_str(host),
                ('%', Some('n')) => whole.push_str(given),
                ('%', Some('p')) => whole.push_str(&port.to_string()),
                ('%', _) => {
                    let text = format!("cannot use the ProxyCommand of ssh_config for {given}: {command}");
                    return Err(Failure::new(Kind::Input, text)
                        .hint("of its tokens %h, %n and %p are known here; for others say --ssh ssh"));
                }
                (other, _) => whole.push(other),
            }
        }
        Ok(Some(whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_from_no_configuration_is_what_it_says() {
        let unsaid = "host web\nuser me\nhostname web\nport 22\nidentitiesonly no\n";
        assert_eq!(read(unsaid, unsaid, "web"), Configured::default());
        let said = "host web\nuser bob\nhostname 10.0.0.7\nport 2222\nidentitiesonly yes\nidentityfile /etc/passwd\n\
                    identityfile /no/such\nproxyjump me@a,b\n";
        let configured = read(said, unsaid, "web");
        assert_eq!(configured.host.as_deref(), Some("10.0.0.7"));
        assert_eq!((configured.port, configured.user.as_deref()), (Some(2222), Some("bob")));
        assert_eq!(configured.identities, [Path::new("/etc/passwd")]);
        assert!(configured.identities_only);
        assert_eq!(configured.jump("web").unwrap().unwrap().to_string(), "me@a,b");
    }

    #[test]
    fn a_proxy_command_has_the_tokens_that_are_known() {
        let of = |command: &str| {
            let command = Some(command.to_string());
            Configured { command, ..Configured::default() }.proxy_command("web", "10.0.0.7", 2222)
        };
        assert_eq!(of("nc %h %p # %n 5%%").unwrap().unwrap(), "nc 10.0.0.7 2222 # web 5%");
        for bad in ["nc %r", "nc %"] {
            let failure = of(bad).unwrap_err();
            assert_eq!(failure.kind, Kind::Input);
            assert_eq!(failure.message, format!("cannot use the ProxyCommand of ssh_config for web: {bad}"));
            let hint = "of its tokens %h, %n and %p are known here; for others say --ssh ssh";
            assert_eq!(failure.hint.as_deref(), Some(hint));
        }
    }
}
