//! A machine's own record, as Nix sees it.

use anyhow::Result;
use machine_record::{Failure, Kind, Record};
use serde_json::{Map, Value};

/// Left out, so that one deploy does not change what the next one evaluates to.
const OURS: [&str; 6] = ["closure", "activation", "status", "generations", "plan", "error"];
const PASSING: [&str; 2] = ["state", "created"];

/// Sections that earlier steps of the pipe add, and by which.
const LATER: [(&str, &str); 3] = [("keyPair", "keygen"), ("instance", "ec2-up"), ("ssh", "ec2-up")];

/// What stands in for such a section; Nix is told so in `expression.rs`.
const UNKNOWN: &str = "nixpipe-unknown";

/// The record as a plan sees it: of a machine that is yet to be made, nobody knows what those sections will hold.
pub fn foreseen(record: &Record) -> Result<Record> {
    let mut record = record.clone();
    if !record.has_address() {
        // The hosts on the way are not all of `ssh`.
        record.remove("ssh");
        for (section, tool) in LATER {
            if record.text(section).is_none() {
                record.set(section, &Map::from_iter([(UNKNOWN.into(), tool.into())]))?;
            }
        }
    }
    Ok(record)
}

/// What an evaluation said that looked at such a section, in its error.
pub fn unknown(error: &str) -> Option<String> {
    let sentences =
        LATER.iter().map(|(section, tool)| format!("machine.{section} is known after apply: {tool} makes it"));
    sentences.into_iter().find(|sentence| error.contains(sentence))
}

/// The record as JSON for Nix's `builtins.fromJSON`.
///
/// # Errors
/// Kind `input` for what Nix would bend: it would not be the value that the user wrote.
pub fn json(record: &Record) -> Result<String> {
    let mut facts = record.without(&OURS);
    if let Some(mut instance) = facts.read::<Map<String, Value>>("instance")? {
        instance.retain(|name, _| !PASSING.contains(&name.as_str()));
        facts.set("instance", &instance)?;
    }
    let text = facts.to_line();
    match bent(&text) {
        Some(value) => Err(Failure::new(Kind::Input, format!("Nix cannot hold a value of the record: {value}"))
            .hint(if value == NUL {
                "leave it out of the record: a string of Nix would end there"
            } else {
                "write it as a string, or leave it out of the record"
            })
            .into()),
        None => Ok(text),
    }
}

/// A NUL as JSON has it.
const NUL: &str = "\\u0000";

/// The first value that Nix would change: an integer beyond 64 bits, a number that is too large or
/// too small for a double or has more digits than one holds, a NUL in a string.
fn bent(json: &str) -> Option<&str> {
    let held = |token: &str| match token.as_bytes() {
        [b'"', ..] => !holds_nul(token),
        _ if token.contains(['.', 'e', 'E']) => holds_digits(token),
        _ => token.parse::<i64>().is_ok(),
    };
    let bent = Tokens(json).find(|token| matches!(token.as_bytes()[0], b'"' | b'-' | b'0'..=b'9') && !held(token))?;
    Some(if bent.starts_with('"') { NUL } else { bent })
}

/// No double has more digits, written out.
const MOST_DIGITS: usize = 767;

/// Whether a double gives back the digits of a number, in the shortest form or with as many as were written.
fn holds_digits(number: &str) -> bool {
    let digits = |text: &str| {
        let digits: String = text.split(['e', 'E']).take(1).flat_map(str::chars).filter(char::is_ascii_digit).collect();
        digits.trim_matches('0').to_string()
    };
    let written = digits(number);
    if written.len() > MOST_DIGITS {
        return false;
    }
    number.parse::<f64>().is_ok_and(|held| {
        let as_many = || format!("{held:.*e}", written.len().saturating_sub(1));
        held.is_finite() && (digits(&format!("{held:e}")) == written || digits(&as_many()) == written)
    })
}

/// Whether a string of JSON has `\u0000`; `\\u0000` is a backslash and a word.
fn holds_nul(string: &str) -> bool {
    let mut rest = string;
    while let Some(at) = rest.find('\\') {
        if rest[at..].starts_with("\\u0000") {
            return true;
        }
        // What a backslash escapes is one character at least.
        rest = rest.get(at + 2..).unwrap_or_default();
    }
    false
}

/// The same JSON with each number as a string: a NUL, which no other string has, and its text.
pub fn numbers_as_text(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for token in Tokens(json) {
        match token.as_bytes()[0] {
            b'-' | b'0'..=b'9' => text += &format!("\"\\u0000{token}\""),
            _ => text += token,
        }
    }
    text
}

/// The strings and the numbers of a JSON text, and what is between them byte by byte.
struct Tokens<'a>(&'a str);

impl<'a> Iterator for Tokens<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let bytes = self.0.as_bytes();
        let end = match bytes.first()? {
            b'"' => {
                let mut at = 1;
                while bytes.get(at).is_some_and(|byte| *byte != b'"') {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at + 1
            }
            b'-' | b'0'..=b'9' => {
                let within = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
                bytes.iter().position(|byte| !within(byte)).unwrap_or(bytes.len())
            }
            // Outside of strings all of JSON is ASCII.
            _ => 1,
        };
        let (token, rest) = self.0.split_at(end.min(self.0.len()));
        self.0 = rest;
        Some(token)
    }
}

/// A string literal of the Nix language, which takes a carriage return for a newline if it is not escaped.
pub fn nix_string(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$").replace('\r', "\\r");
    format!("\"{text}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use machine_record::Records;

    fn facts(text: &str) -> Result<String> {
        json(&Records::new(text.as_bytes()).read().unwrap().unwrap())
    }

    #[test]
    fn what_a_deploy_changes_is_left_out() {
        let first = r#"{"name":"a","x":{"y":[1,2.50,null]},"instance":{"id":"i-1","state":"pending","created":true}}"#;
        let next = r#"{"name":"a","x":{"y":[1,2.50,null]},"instance":{"id":"i-1","state":"running","created":false},"closure":{"toplevel":"/"},"activation":{},"status":{},"generations":[],"plan":[],"error":{}}"#;
        assert_eq!(facts(first).unwrap(), facts(next).unwrap());
        assert_eq!(facts(first).unwrap(), r#"{"name":"a","x":{"y":[1,2.50,null]},"instance":{"id":"i-1"}}"#);
    }

    #[test]
    fn what_nix_would_bend_is_refused() {
        for good in [
            "9223372036854775807",
            "-9223372036854775808",
            "2.50",
            "1e300",
            "-0.0e-999",
            "5e-324",
            "0.1",
            "1e23",
            "-120.0E+1",
            "0.0",
            "9007199254740993e3",
            "0.30000000000000004",
            // As a program writes it that prints 17 digits of each.
            "0.10000000000000001",
            r#""12345678901234567890""#,
            r#""\\u0000""#,
        ] {
            assert!(facts(&format!(r#"{{"x":[{good}]}}"#)).is_ok(), "{good}");
        }
        for bad in [
            "9223372036854775808",
            "-9223372036854775809",
            "1e999",
            "0.1e-999",
            "9007199254740993.0",
            "3.14159265358979323846",
            r#""a\u0000b""#,
            r#"{"k\u0000":1}"#,
        ] {
            let failure = Failure::of(&facts(&format!(r#"{{"x":[{bad}]}}"#)).unwrap_err());
            assert_eq!(failure.kind, Kind::Input, "{bad}");
            let hint = if bad.contains('u') {
                "leave it out of the record: a string of Nix would end there"
            } else {
                "write it as a string, or"
            };
            assert!(failure.hint.as_deref().is_some_and(|said| said.starts_with(hint)), "{bad}: {failure:?}");
        }
    }

    #[test]
    fn a_number_of_any_length_is_looked_at() {
        let long = |digit: &str| format!("0.1{}", digit.repeat(100_000));
        assert!(holds_digits(&long("0")) && !holds_digits(&long("3")));
    }

    #[test]
    fn numbers_keep_their_text() {
        let text = numbers_as_text(r#"{"a1":[1,-2.50e+3,"3 \"4\" ü"],"b":true}"#);
        assert_eq!(text, r#"{"a1":["\u00001","\u0000-2.50e+3","3 \"4\" ü"],"b":true}"#);
    }

    #[test]
    fn nothing_in_a_string_is_code() {
        assert_eq!(nix_string(r#"a"b\c${d}$$"#), r#""a\"b\\c\${d}\$\$""#);
        assert_eq!(nix_string("a\r\nb\rc"), "\"a\\r\nb\\rc\"");
    }
}
