//! One machine's record: keeps every member it was given.

use crate::{Failure, Kind, PlanEntry, Section, failure::without_number};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// The version of the record that this library writes.
///
/// A new member leaves it alone; a changed meaning raises it.
pub const VERSION: u64 = 1;

/// What a machine without a name is called, as in the tutorial.
const DEFAULT_NAME: &str = "machine";

/// What is known of one machine: members in the order they came, name and value each with its JSON text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    members: Vec<(String, String)>,
}

impl Default for Record {
    fn default() -> Self {
        Record { members: vec![(quoted("version"), VERSION.to_string())] }
    }
}

impl Record {
    pub(crate) fn from_members(members: Vec<(String, String)>) -> Self {
        Record { members }
    }

    /// The JSON text of a member; `None` if it is absent or null.
    pub fn text(&self, member: &str) -> Option<&str> {
        let (_, text) = self.members.iter().find(|(name, _)| is(name, member))?;
        (text != "null").then_some(text)
    }

    /// The name, or `machine` where there is none.
    pub fn name(&self) -> String {
        self.string("name").ok().flatten().unwrap_or_else(|| DEFAULT_NAME.into())
    }

    /// Reads a member as a `T`; `None` if it is absent or null.
    ///
    /// # Errors
    /// Kind `input`, naming the member, where it is something else.
    pub fn read<T: DeserializeOwned>(&self, member: &str) -> Result<Option<T>, Failure> {
        self.text(member).map(serde_json::from_str).transpose().map_err(|error| {
            // The position is one within the member: no help to the reader of a stream.
            let error = error.to_string();
            let cause = error.split(" at line ").next().unwrap_or(&error);
            // The name of a type says nothing to the reader.
            unusable(
                member,
                &match cause.rsplit_once("expected ") {
                    Some((before, "u16")) => format!("{before}expected a whole number up to {}", u16::MAX),
                    Some((before, "u32")) => format!("{before}expected a whole number up to {}", u32::MAX),
                    Some((before, "u64")) => format!("{before}expected a whole number, 0 or more"),
                    Some((before, "i32" | "i64")) => format!("{before}expected a whole number"),
                    Some((before, "f64")) => format!("{before}expected a number"),
                    Some((before, what)) if what.starts_with("struct ") => format!("{before}expected an object"),
                    _ => cause.into(),
                },
            )
        })
    }

    /// Reads a member that holds text.
    pub fn string(&self, member: &str) -> Result<Option<String>, Failure> {
        self.read(member)
    }

    /// Reads a section, if it is there.
    pub fn section<T: Section>(&self) -> Result<Option<T>, Failure> {
        // serde would take the elements of a list for the members.
        if self.text(T::NAME).is_some_and(|text| text.starts_with('[')) {
            return Err(unusable(T::NAME, "invalid type: list, expected an object"));
        }
        self.read(T::NAME)
    }

    /// Reads a section that must be there.
    ///
    /// # Errors
    /// Kind `input`; the hint names the tool to run first.
    pub fn require<T: Section>(&self) -> Result<T, Failure> {
        self.section()?.ok_or_else(|| {
            Failure::new(Kind::Input, format!("the record has no `{}`", T::NAME))
                .hint(format!("run {} first", T::ADDED_BY))
        })
    }

    /// Whether it is known where ssh reaches the machine: the user may have written no more than the hosts on the way.
    pub fn has_address(&self) -> bool {
        let more = |(name, value): (&String, &Value)| name != "jump" && !value.is_null();
        // What is wrong there is said by whoever needs it.
        self.read::<Map<String, Value>>("ssh").map_or(true, |ssh| ssh.is_some_and(|ssh| ssh.iter().any(more)))
    }

    /// Writes a section: in its place if it is there, else at the end.
    pub fn put<T: Section>(&mut self, section: &T) -> Result<(), Failure> {
        self.set(T::NAME, section)
    }

    /// Writes a member: in its place if it is there, else at the end.
    pub fn set(&mut self, member: &str, value: &impl Serialize) -> Result<(), Failure> {
        let text = to_json(member, value)?;
        match self.members.iter_mut().find(|(name, _)| is(name, member)) {
            Some((_, old)) => *old = text,
            None => self.members.push((quoted(member), text)),
        }
        Ok(())
    }

    /// Takes a member out.
    pub fn remove(&mut self, member: &str) {
        self.members.retain(|(name, _)| !is(name, member));
    }

    /// Appends what a tool would do to `plan`; entries that are there keep their text.
    pub fn plan(&mut self, entry: &PlanEntry) -> Result<(), Failure> {
        let entry = to_json("plan", entry)?;
        let old = self.text("plan").unwrap_or("[]").to_string();
        let text = match old.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some("") => format!("[{entry}]"),
            Some(entries) => format!("[{entries},{entry}]"),
            None => {
                return Err(Failure::new(Kind::Input, "the record's `plan` is not a list")
                    .hint("it is what --plan writes: take it out of the record"));
            }
        };
        self.remove("plan");
        self.members.push((quoted("plan"), text));
        Ok(())
    }

    /// Adds `error`, as `tool` made it.
    pub fn fail(&mut self, tool: &str, failure: &Failure) {
        #[derive(Serialize)]
        struct Error<'a> {
            tool: &'a str,
            kind: Kind,
            message: &'a str,
            hint: Option<&'a str>,
        }
        let message = &without_number(&failure.message);
        let error = Error { tool, kind: failure.kind, message, hint: failure.hint.as_deref() };
        // Four strings always make JSON.
        let _ = self.set("error", &error);
    }

    /// Puts `version` first where there is none, and refuses one that is newer than ours.
    pub fn check_version(&mut self) -> Result<(), Failure> {
        match self.read::<u64>("version")? {
            Some(VERSION) => Ok(()),
            None => {
                self.remove("version");
                self.members.insert(0, (quoted("version"), VERSION.to_string()));
                Ok(())
            }
            Some(version) => Err(Failure::new(
                Kind::Input,
                format!("the record is of version {version}, this tool knows version {VERSION}"),
            )
            .hint("use tools of one release throughout the pipe")),
        }
    }

    /// The record without the named members.
    pub fn without(&self, members: &[&str]) -> Record {
        let kept = |(name, _): &&(String, String)| !members.iter().any(|member| is(name, member));
        Record { members: self.members.iter().filter(kept).cloned().collect() }
    }

    /// The record as one line of JSON, without a newline.
    pub fn to_line(&self) -> String {
        let mut line = String::from("{");
        for (name, text) in &self.members {
            if line.len() > 1 {
                line.push(',');
            }
            line.push_str(name);
            line.push(':');
            line.push_str(text);
        }
        line.push('}');
        line
    }
}

/// A name as it is written where we add it.
fn quoted(name: &str) -> String {
    serde_json::Value::from(name).to_string()
}

/// Whether a name as it stands, which may have escapes, is this one.
fn is(quoted: &str, name: &str) -> bool {
    match quoted.contains('\\') {
        true => serde_json::from_str::<String>(quoted).is_ok_and(|decoded| decoded == name),
        false => quoted.trim_matches('"') == name,
    }
}

fn unusable(member: &str, cause: &str) -> Failure {
    let hint = match cause.ends_with("expected a string") {
        true => "write it in quotes",
        false => "machine-record(5) says what belongs there",
    };
    Failure::new(Kind::Input, format!("cannot use the record's `{member}`: {cause}")).hint(hint)
}

fn to_json(member: &str, value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value)
        .map_err(|error| Failure::new(Kind::Internal, format!("cannot write `{member}`: {error}")))
}

/// Checks that a name is a valid host name: it becomes one, and a file name, and a tag.
///
/// Labels of letters, digits and inner hyphens, at most 63 long, joined by dots, 253 in all
/// (RFC 952, RFC 1123 section 2.1).
pub fn check_name(name: &str) -> Result<(), Failure> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() <= 253 && name.split('.').all(label) {
        Ok(())
    } else {
        Err(Failure::new(Kind::Input, format!("not a valid host name: {name:?}"))
            .hint("use letters, digits and hyphens, as in web-1"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ami, KeyPair, Records};

    fn record(text: &str) -> Record {
        Records::new(text.as_bytes()).read().unwrap().unwrap()
    }

    #[test]
    fn what_is_no_json_is_no_member() {
        let mut record = Record::default();
        let odd = std::collections::BTreeMap::from([(vec![1], 2)]);
        let failure = record.set("x", &odd).unwrap_err();
        assert_eq!((failure.kind, &*failure.message), (Kind::Internal, "cannot write `x`: key must be a string"));
        assert_eq!(record, Record::default());
    }

    #[test]
    fn a_section_that_a_person_wrote_needs_no_more_than_what_is_used() {
        let path = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-nixos-system";
        let record = record(&format!(
            r#"{{"keyPair":{{"privateKeyFile":"/k"}},"instance":{{"id":"i-1"}},"closure":{{"toplevel":"{path}"}},"activation":{{"current":"{path}"}}}}"#
        ));
        assert_eq!(record.section::<KeyPair>().unwrap().unwrap().private_key_file.as_deref(), Some("/k"));
        assert!(!record.section::<crate::Instance>().unwrap().unwrap().created);
        assert_eq!(record.section::<crate::Closure>().unwrap().unwrap().toplevel.as_str(), path);
        assert_eq!(record.section::<crate::Activation>().unwrap().unwrap().current.unwrap().as_str(), path);
    }

    #[test]
    fn a_missing_section_names_the_tool_that_adds_it() {
        let failure = record(r#"{"ami":null}"#).require::<KeyPair>().unwrap_err();
        assert_eq!(failure.message, "the record has no `keyPair`");
        assert_eq!(failure.hint.as_deref(), Some("run keygen first"));
        assert_eq!(record(r#"{"ami":null}"#).section::<Ami>().unwrap(), None);
    }

    #[test]
    fn a_wrong_member_is_named() {
        let failure = record(r#"{"name":"a","region":7}"#).string("region").unwrap_err();
        assert!(failure.message.contains("`region`"), "{}", failure.message);
        assert_eq!(failure.kind, Kind::Input);
    }

    #[test]
    fn what_belongs_in_a_member_is_said_without_names_of_types() {
        for (ssh, cause) in [
            (r#"{"host":"h","port":"22"}"#, "invalid type: string \"22\", expected a whole number up to 65535"),
            (r#"{"host":"h","port":70000}"#, "invalid value: integer `70000`, expected a whole number up to 65535"),
            (r#""h""#, "invalid type: string \"h\", expected an object"),
            (r#"["h"]"#, "invalid type: list, expected an object"),
        ] {
            let failure = record(&format!(r#"{{"ssh":{ssh}}}"#)).section::<crate::Ssh>().unwrap_err();
            assert_eq!(failure.message, format!("cannot use the record's `ssh`: {cause}"));
            assert_eq!(failure.hint.as_deref(), Some("machine-record(5) says what belongs there"));
        }
        let failure = record(r#"{"seconds":"1"}"#).read::<f64>("seconds").unwrap_err();
        let cause = "invalid type: string \"1\", expected a number";
        assert_eq!(failure.message, format!("cannot use the record's `seconds`: {cause}"));
    }

    #[test]
    fn a_machine_behind_others_has_no_address_until_it_is_there() {
        for (ssh, known) in [
            (r#"{"host":"h"}"#, true),
            (r#"{"host":null,"jump":"j"}"#, false),
            (r#"{"jump":"j"}"#, false),
            (r#"{"hostname":"h","jump":"j"}"#, true),
            ("null", false),
            (r#""h""#, true),
        ] {
            assert_eq!(record(&format!(r#"{{"ssh":{ssh}}}"#)).has_address(), known, "{ssh}");
        }
        assert!(!Record::default().has_address());
    }

    #[test]
    fn a_section_is_replaced_in_its_place() {
        let mut record = record(r#"{"a":1,"ami":{"old":true},"b":2}"#);
        record.set("ami", &"new").unwrap();
        assert_eq!(record.to_line(), r#"{"a":1,"ami":"new","b":2}"#);
        record.set("c", &3).unwrap();
        assert_eq!(record.to_line(), r#"{"a":1,"ami":"new","b":2,"c":3}"#);
    }

    #[test]
    fn a_name_is_the_same_however_it_is_written() {
        let mut record = record(r#"{"\u00e9":1,"\u0061mi":2,"a\"b":3}"#);
        assert_eq!((record.text("é"), record.text("ami"), record.text("a\"b")), (Some("1"), Some("2"), Some("3")));
        record.set("ami", &4).unwrap();
        record.set("a\"b", &5).unwrap();
        assert_eq!(record.to_line(), r#"{"\u00e9":1,"\u0061mi":4,"a\"b":5}"#);
        assert_eq!(record.without(&["é"]).to_line(), r#"{"\u0061mi":4,"a\"b":5}"#);
        record.remove("ami");
        assert_eq!(record.to_line(), r#"{"\u00e9":1,"a\"b":5}"#);
    }

    #[test]
    fn the_plan_grows_and_keeps_what_is_there() {
        let mut record = record(r#"{"plan":[{"x":1.50}],"b":2}"#);
        record.plan(&PlanEntry::new("keygen", "create", "file/id_rsa.pem", "no such file")).unwrap();
        let line = record.to_line();
        assert!(line.starts_with(r#"{"b":2,"plan":[{"x":1.50},{"tool":"keygen""#), "{line}");
    }

    #[test]
    fn a_newer_version_is_refused_and_both_are_named() {
        let failure = record(r#"{"version":2}"#).check_version().unwrap_err();
        assert!(failure.message.contains('2') && failure.message.contains('1'));
        let mut old = record(r#"{"name":"a"}"#);
        old.check_version().unwrap();
        assert_eq!(old.to_line(), r#"{"version":1,"name":"a"}"#);
    }

    #[test]
    fn names_are_host_names() {
        for good in ["a", "web-1", "A1", "web-1.example.org", &"x".repeat(63)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", "a/b", "a_b", "ä", "a..b", "../x", &"x".repeat(64)] {
            assert_eq!(check_name(bad).unwrap_err().message, format!("not a valid host name: {bad:?}"));
        }
    }
}
