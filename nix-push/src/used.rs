//! Which facts of a machine an evaluation looked at, and whether another machine has the same.

use crate::facts::numbers_as_text;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

/// A machine's facts, to be compared with those of others.
#[derive(Clone)]
pub struct Facts(Arc<Value>);

/// The paths into a record that an evaluation looked at, in a fixed order: `["ssh","host"]`.
///
/// Of a set it sees the names, of a list the length, of anything else the value. What it does not
/// look at cannot change what it comes to.
pub type Used = Vec<String>;

impl Facts {
    /// Reads the JSON that Nix is given; `None` if it is nested too deep to be compared.
    pub fn new(json: &str) -> Option<Facts> {
        serde_json::from_str(&numbers_as_text(json)).ok().map(|value| Facts(Arc::new(value)))
    }

    /// What an evaluation that looks at `used` can tell of this machine.
    pub fn digest(&self, used: &Used) -> String {
        let mut hash = Sha256::new();
        for path in used {
            let seen = match self.at(path) {
                None => "absent".into(),
                Some(Value::Object(members)) => {
                    let mut names: Vec<&String> = members.keys().collect();
                    names.sort();
                    format!("names {names:?}")
                }
                Some(Value::Array(parts)) => format!("length {}", parts.len()),
                Some(value) => format!("value {value}"),
            };
            hash.update(format!("{path} {seen}\n"));
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn at(&self, path: &str) -> Option<&Value> {
        let steps: Vec<Value> = serde_json::from_str(path).ok()?;
        steps.iter().try_fold(&*self.0, |value, step| match step {
            Value::String(name) => value.get(name),
            step => value.get(usize::try_from(step.as_u64()?).ok()?),
        })
    }

    /// The fact that an error is about, in words: the one that Nix's excerpt of the code names,
    /// else the last that was looked at.
    pub fn blamed(&self, stderr: &[String], looked_at: &[String]) -> Option<String> {
        let code = stderr.iter().rev().filter_map(|line| line.split_once("| ")).map(|(_, code)| code);
        if let Some(name) = code.clone().find_map(member) {
            let steps: Vec<&str> = name.split('.').skip(1).collect();
            let path = serde_json::to_string(&steps).ok()?;
            return Some(match self.shown(&path) {
                Some(shown) => format!("it is about {shown} in this machine's record"),
                None => format!("this machine's record has no `{}`", name.trim_start_matches("machine.")),
            });
        }
        let shown = self.shown(looked_at.last().filter(|path| *path != "[]")?)?;
        Some(format!("the last that it looked at in this machine's record is {shown}"))
    }

    /// A fact in words: `machine.ssh.host, a string`.
    pub fn shown(&self, path: &str) -> Option<String> {
        let steps: Vec<Value> = serde_json::from_str(path).ok()?;
        let mut name = String::from("machine");
        for step in &steps {
            match step {
                Value::String(step) => name += &format!(".{step}"),
                step => name = format!("(builtins.elemAt {name} {step})"),
            }
        }
        let kind = match self.at(path)? {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(text) if text.starts_with('\0') => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "a list",
            Value::Object(_) => "a set",
        };
        Some(format!("`{name}`, {kind}"))
    }
}

/// Puts what Nix named into a fixed order; `None` if Nix did not say all of it in our words.
pub fn used(named: &[String]) -> Option<Used> {
    let mut used: Used = named.to_vec();
    used.sort();
    used.dedup();
    let list = |path: &String| serde_json::from_str::<Vec<Value>>(path).is_ok();
    used.iter().all(list).then_some(used)
}

/// The first `machine.a.b` in a line of code.
fn member(code: &str) -> Option<&str> {
    let inside = |c: char| c.is_ascii_alphanumeric() || "_-'.".contains(c);
    let at = code.match_indices("machine.").map(|(at, _)| at).find(|at| !code[..*at].ends_with(inside))?;
    let name = &code[at..];
    let end = name.find(|c| !inside(c)).unwrap_or(name.len());
    Some(name[..end].trim_end_matches('.')).filter(|name| name.len() > "machine.".len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(json: &str) -> Facts {
        Facts::new(json).unwrap()
    }

    #[test]
    fn machines_are_the_same_if_what_is_used_is() {
        let one = facts(r#"{"name":"a","role":"db","ssh":{"host":"h1","port":22},"l":[1,2.50]}"#);
        let two = facts(r#"{"role":"db","name":"b","ssh":{"port":22,"host":"h2"},"l":[1,2.5]}"#);
        let same = |paths: &[&str]| {
            let used = paths.iter().map(|path| path.to_string()).collect();
            one.digest(&used) == two.digest(&used)
        };
        assert!(same(&["[]", r#"["role"]"#, r#"["ssh"]"#, r#"["ssh","port"]"#, r#"["l",0]"#]));
        assert!(!same(&[r#"["name"]"#]) && !same(&[r#"["ssh","host"]"#]));
        // Another text of a number may be another number.
        assert!(!same(&[r#"["l",1]"#]));
    }

    #[test]
    fn a_shape_counts_where_it_was_seen() {
        let one = facts(r#"{"name":"a","tags":[]}"#);
        let two = facts(r#"{"name":"a","tags":[],"role":"db"}"#);
        let top = vec!["[]".to_string()];
        assert_ne!(one.digest(&top), two.digest(&top));
        let tags = vec![r#"["tags"]"#.to_string()];
        assert_eq!(one.digest(&tags), two.digest(&tags));
        // A number is no string of the same digits.
        let at = vec![r#"["x"]"#.to_string()];
        assert_ne!(facts(r#"{"x":1}"#).digest(&at), facts(r#"{"x":"1"}"#).digest(&at));
    }

    #[test]
    fn a_fact_has_a_name_and_a_type() {
        let facts = facts(r#"{"a":{"b":[7]}}"#);
        assert_eq!(facts.shown(r#"["a","b"]"#).unwrap(), "`machine.a.b`, a list");
        assert_eq!(facts.shown(r#"["a","b",0]"#).unwrap(), "`(builtins.elemAt machine.a.b 0)`, a number");
    }

    #[test]
    fn an_error_names_the_fact_that_it_is_about() {
        let facts = facts(r#"{"role":7}"#);
        let say =
            |code: &str| facts.blamed(&[format!("            3|  {code}"), "             |  ^".into()], &[]).unwrap();
        assert_eq!(say("a = \"${machine.role}\";"), "it is about `machine.role`, a number in this machine's record");
        assert_eq!(say("b = machine.rule.x;"), "this machine's record has no `rule.x`");
        assert!(facts.blamed(&["  3| my-machine.role".into()], &[]).is_none());
        let last = facts.blamed(&[], &["[]".into(), r#"["role"]"#.into()]).unwrap();
        assert!(last.ends_with("`machine.role`, a number"), "{last}");
    }
}
