//! Why a machine failed: one of a few kinds, a message, and what to do.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The classes of failure that a script can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The record or the configuration is wrong
    Input,
    /// What was asked for does not exist
    NotFound,
    /// Credentials or permissions
    Denied,
    /// Quota, capacity or throttling
    Limit,
    /// Reality differs from the wish
    Conflict,
    /// A time limit was reached
    Timeout,
    /// The machine cannot be reached
    Unreachable,
    /// The machine shows another host key
    HostKey,
    /// Another machine answers at the address
    WrongMachine,
    /// Somebody else is at work there
    Locked,
    /// Nix cannot evaluate the configuration
    Evaluation,
    /// Nix cannot build the system
    Build,
    /// The closure did not arrive
    Copy,
    /// The system did not activate
    Activation,
    /// The new system failed and the previous one runs again
    RolledBack,
    /// Not begun, after too many failures
    NotStarted,
    /// A fault of the tool itself, or one that it does not know
    Internal,
}

/// One failure: `what failed: cause`, with what to do in `hint`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: Kind,
    pub message: String,
    pub hint: Option<String>,
}

impl Failure {
    /// Makes a failure from its kind and `what failed: cause`; only an `internal` one has a hint then.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Failure { kind, message: message.into(), hint: (kind == Kind::Internal).then(|| INTERNAL.into()) }
    }

    /// Adds what the reader can do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Reads an error's kind and hint from its chain of causes; the message is the whole chain.
    pub fn of(error: &anyhow::Error) -> Self {
        let message = format!("{error:#}");
        match known(error) {
            Some(known) => Failure { message, ..known.clone() },
            None => Failure::new(Kind::Internal, message),
        }
    }
}

/// The outermost failure of a chain: one of its errors, or a context that was added to one.
fn known(error: &anyhow::Error) -> Option<&Failure> {
    error.downcast_ref().or_else(|| error.chain().find_map(|cause| cause.downcast_ref()))
}

/// What to do about a fault that nobody thought of.
const INTERNAL: &str = "run it again; if it stays so, -v shows every step: report what it says";

/// The system's words for an error without the number that Rust adds to them: `(os error 2)`.
pub(crate) fn without_number(text: &str) -> String {
    let mut pieces = text.split(" (os error ");
    let mut out = pieces.next().unwrap_or_default().to_string();
    for piece in pieces {
        match piece.split_once(')') {
            Some((number, rest)) if number.bytes().all(|byte| byte.is_ascii_digit()) => out += rest,
            _ => out += &format!(" (os error {piece}"),
        }
    }
    out
}

/// The first line of an error's innermost cause, for errors whose outer ones say little, as those of the EC2 SDK.
pub fn innermost(mut error: &(dyn std::error::Error + 'static)) -> String {
    while let Some(cause) = error.source() {
        error = cause;
    }
    // Which sources of credentials the SDK has tried fills a screen.
    error.to_string().lines().next().unwrap_or_default().replace(" in chain. Attempted:", "")
}

/// Whether the text of an error says that a host's name does not exist, as that of a misspelled region.
///
/// In the words of glibc and of musl for `EAI_NONAME` (getaddrinfo(3)). A name server that does not answer has others.
pub fn is_unknown_host(message: &str) -> bool {
    ["Name or service not known", "Name does not resolve"].iter().any(|words| message.contains(words))
}

/// Whether the text of an error says that a server's certificate was not accepted, in the words of rustls.
pub fn is_untrusted(message: &str) -> bool {
    message.contains("invalid peer certificate")
}

/// The AWS profile that the environment names, and by which variable: as for the AWS command line 2 (awscli/botocore,
/// configprovider.py). The SDK knows the first one alone.
pub fn aws_profile() -> Option<(&'static str, String)> {
    let named = |variable| Some((variable, std::env::var(variable).ok().filter(|name| !name.is_empty())?));
    named("AWS_PROFILE").or_else(|| named("AWS_DEFAULT_PROFILE"))
}

/// What to do where AWS's credentials are missing, or are none.
pub fn no_credentials() -> String {
    let what = match aws_profile() {
        Some((variable, profile)) => format!("is the profile {profile} of {variable} in ~/.aws/config? For one"),
        None => "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a profile".into(),
    };
    // For the latter the SDK has a feature that brings another client along, and elliptic curves.
    format!(
        "{what} with SSO: aws sso login; for one of aws login: eval \"$(aws configure export-credentials --format env)\""
    )
}

/// What to do about it.
pub const UNTRUSTED: &str = "is the clock right? If a proxy opens what is encrypted: name a file in SSL_CERT_FILE, of the system's certificates and its own";

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Gives an error of another library its kind; one that has a kind keeps it.
pub trait WithKind<T> {
    fn with_kind(self, kind: Kind) -> anyhow::Result<T>;
}

/// Adds what to do about a failure, if nothing is said yet.
pub trait WithHint<T> {
    fn with_hint(self, hint: &str) -> anyhow::Result<T>;
}

impl<T> WithHint<T> for anyhow::Result<T> {
    fn with_hint(self, hint: &str) -> anyhow::Result<T> {
        self.map_err(|mut error| {
            if let Some(failure) = error.downcast_mut::<Failure>() {
                failure.hint.get_or_insert_with(|| hint.into());
            }
            error
        })
    }
}

impl<T, E: Into<anyhow::Error>> WithKind<T> for Result<T, E> {
    fn with_kind(self, kind: Kind) -> anyhow::Result<T> {
        self.map_err(|error| {
            let error = error.into();
            match known(&error) {
                Some(_) => error,
                None => Failure::new(kind, format!("{error:#}")).into(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn kind_and_hint_are_found_below_added_context() {
        let error = Err::<(), _>(Failure::new(Kind::Denied, "no permission").hint("ask"))
            .context("cannot list images")
            .unwrap_err();
        let failure = Failure::of(&error);
        assert_eq!(failure.kind, Kind::Denied);
        assert_eq!(failure.message, "cannot list images: no permission");
        assert_eq!(failure.hint.as_deref(), Some("ask"));
    }

    #[test]
    fn a_failure_may_be_the_context_of_another_error() {
        let damaged = || Failure::new(Kind::Copy, "damaged").hint("repair it");
        let error = Err::<(), _>(std::io::Error::other("gone")).context(damaged()).context("cannot send").unwrap_err();
        let failure = Failure::of(&error);
        assert_eq!((failure.kind, &*failure.message), (Kind::Copy, "cannot send: damaged: gone"));
        assert_eq!(failure.hint.as_deref(), Some("repair it"));
        assert_eq!(Failure::of(&Err::<(), _>(error).with_kind(Kind::Input).unwrap_err()), failure);
    }

    #[test]
    fn a_kind_is_given_once() {
        let error = Err::<(), _>(Failure::new(Kind::Limit, "slow down")).with_kind(Kind::Internal).unwrap_err();
        assert_eq!(Failure::of(&error).kind, Kind::Limit);
        let error = Err::<(), _>(std::io::Error::other("gone")).with_kind(Kind::Copy).unwrap_err();
        assert_eq!(Failure::of(&error).kind, Kind::Copy);
    }

    #[test]
    fn a_hint_is_given_where_there_is_none_and_only_there() {
        let hint = |error: anyhow::Error| Failure::of(&error).hint.unwrap();
        let bare = || Err::<(), _>(std::io::Error::other("gone")).context("cannot read").with_kind(Kind::Input);
        assert_eq!(hint(bare().context("x").with_hint("look").unwrap_err()), "look");
        assert_eq!(hint(bare().with_hint("look").context("x").with_hint("no").unwrap_err()), "look");
        assert_eq!(Failure::of(&bare().unwrap_err()).hint, None);
        assert_eq!(hint(std::io::Error::other("gone").into()), INTERNAL);
        assert_eq!(Failure::new(Kind::Internal, "x").hint("y").hint.as_deref(), Some("y"));
    }

    #[test]
    fn an_error_of_the_system_is_told_in_words() {
        let refused = std::io::Error::from_raw_os_error(111);
        let text = format!("cannot connect to {refused}; looking again (os error x)");
        assert_eq!(without_number(&text), "cannot connect to Connection refused; looking again (os error x)");
    }

    #[test]
    fn the_innermost_cause_is_one_line() {
        let error =
            anyhow::anyhow!("no providers in chain. Attempted:\n1. environment\n2. profile").context("dispatch");
        let error: Box<dyn std::error::Error + 'static> = error.context("call").into();
        assert_eq!(innermost(error.as_ref()), "no providers");
    }

    #[test]
    fn a_name_that_does_not_exist_is_told_from_a_name_server_that_does_not_answer() {
        let lookup = "failed to lookup address information: ";
        assert!(is_unknown_host(&format!("{lookup}Name or service not known")));
        assert!(is_unknown_host(&format!("{lookup}Name does not resolve")));
        assert!(!is_unknown_host(&format!("{lookup}Temporary failure in name resolution")));
    }
}
