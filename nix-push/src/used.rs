//! Which facts of a machine an evaluation looked at, and whether another machine has the same.

use crate::facts::numbers_as_text;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

/// A machine's facts, to be compared with those of others.
#[derive(Clone)]
pub struct Facts(Arc<Value>);

/// The paths into a record that an evaluation looked at, in the order it did: `["ssh","host"]`.
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
            hash.update(format!("{path} {}\n", self.seen(path)));
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// What one that looks at `path` sees there.
    pub fn seen(&self, path: &str) -> String {
        match self.at(path) {
            None => "absent".into(),
            Some(Value::Object(members)) => {
                let mut names: Vec<&String> = members.keys().collect();
                names.sort();
                format!("names {names:?}")
            }
            Some(Value::Array(parts)) => format!("length {}", parts.len()),
            Some(value) => format!("value {value}"),
        }
    }

    fn at(&self, path: &str) -> Option<&Value> {
        let steps: Vec<Value> = serde_json::from_str(path).ok()?;
        steps.iter().try_fold(&*self.0, |value, step| match step {
            Value::String(name) => value.get(name),
            step => value.get(usize::try_from(step.as_u64()?).ok()?),
        })
    }

    /// The fact that `error` is about, in words: the one at the place in the code that Nix shows,
    /// else the last that was looked at. None where it cannot be about any.
    pub fn blamed(&self, error: &str, stderr: &[String], looked_at: &[String]) -> Option<String> {
        if NOT_ABOUT_FACTS.iter().any(|words| error.contains(words)) {
            return None;
        }
        let stderr = &with_code(stderr);
        let absent =
            error.strip_prefix("attribute '").and_then(|rest| rest.split_once("' missing")).map(|(name, _)| name);
        let is_meant = |name: &&str| absent.is_none_or(|absent| name.split('.').any(|step| step == absent));
        // Some versions say the error and its place first, and what led to it after that, some last.
        let end = stderr.iter().rposition(|line| line.trim_start().starts_with("error:")).unwrap_or(0);
        let (before, after) = (excerpts(&stderr[..end]), excerpts(&stderr[end..]));
        if let Some(name) = after.chain(before.collect::<Vec<_>>().into_iter().rev()).filter_map(member).find(is_meant)
        {
            let steps: Vec<&str> = name.split('.').skip(1).collect();
            let path = serde_json::to_string(&steps).ok()?;
            return Some(match self.shown(&path) {
                Some(shown) => format!("it is about {shown} in this machine's record"),
                None => format!("this machine's record has no `{}`", name.trim_start_matches("machine.")),
            });
        }
        let shown = self.shown(looked_at.last().filter(|path| *path != "[]" && absent.is_none())?)?;
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

/// What Nix named; `None` if it did not say all of it in our words.
pub fn used(named: &[String]) -> Option<Used> {
    let list = |path: &String| serde_json::from_str::<Vec<Value>>(path).is_ok();
    named.iter().all(list).then(|| named.to_vec())
}

/// Errors that are the same whatever is in a record.
const NOT_ABOUT_FACTS: [&str; 4] = ["syntax error", "infinite recursion", "undefined variable", "already defined"];

/// What Nix said, with the code of those places where it showed none: that of a last line without an end (Nix 2.8).
fn with_code(stderr: &[String]) -> Vec<String> {
    let shows = |line: Option<&String>| line.is_some_and(|line| line.contains('|'));
    let mut said = Vec::new();
    for (at, line) in stderr.iter().enumerate() {
        said.push(line.clone());
        let code = || {
            let mut parts = line.trim().strip_prefix("at /")?.trim_end_matches(':').rsplitn(3, ':');
            let mut number = || parts.next()?.parse::<usize>().ok()?.checked_sub(1);
            let (column, row) = (number()?, number()?);
            let text = std::fs::read_to_string(format!("/{}", parts.next()?)).ok()?;
            Some([format!("|{}", text.lines().nth(row)?), format!("|{:column$}^", "")])
        };
        if !shows(stderr.get(at + 1)) {
            said.extend(code().into_iter().flatten());
        }
    }
    said
}

/// Lines of code that Nix shows, each with the place in it that a caret below marks.
fn excerpts(stderr: &[String]) -> impl Iterator<Item = (&str, usize)> {
    stderr.windows(2).filter_map(|lines| {
        let (_, code) = lines[0].split_once('|')?;
        let (margin, caret) = lines[1].split_once('|')?;
        let at = caret.find('^')?;
        (margin.trim().is_empty() && caret[..at].trim().is_empty()).then_some((code, at))
    })
}

/// The first `machine.a.b` in a line of code that does not end before a place.
fn member((code, place): (&str, usize)) -> Option<&str> {
    let inside = |c: char| c.is_ascii_alphanumeric() || "_-'.".contains(c);
    let starts = code.match_indices("machine.").map(|(at, _)| at).filter(|at| !code[..*at].ends_with(inside));
    let names =
        starts.map(|at| (at, code[at..].split(|c| !inside(c)).next().unwrap_or_default().trim_end_matches('.')));
    let mut at_place = names.filter(|(at, name)| at + name.len() > place && name.len() > "machine.".len());
    at_place.next().map(|(_, name)| name)
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
        let blamed = |error: &str, code: &str, at: usize| {
            let lines =
                [format!("error: {error}"), format!("            3|{code}"), format!("             |{:at$}^", "")];
            facts.blamed(error, &lines, &[r#"["role"]"#.into()])
        };
        let coerced = "cannot coerce an integer to a string";
        let said = "it is about `machine.role`, a number in this machine's record";
        assert_eq!(blamed(coerced, " a = \"${machine.role}\";", 5).unwrap(), said);
        assert_eq!(blamed(coerced, " a = machine.name; b = \"${machine.role}\";", 23).unwrap(), said);
        let missing = |name: &str, code: &str, at| blamed(&format!("attribute '{name}' missing"), code, at);
        assert_eq!(missing("rule", " b = machine.rule.x;", 5).unwrap(), "this machine's record has no `rule.x`");
        // What is beside the place has nothing to do with it.
        for code in
            [" a = machine.role; b = pkgs.none;", " a = x.y.z.v.w.v.u.v.pkgs.none + machine.role;", " my-machine.none"]
        {
            assert_eq!(missing("none", code, 23), None, "{code}");
        }
        assert_eq!(blamed("syntax error, unexpected ')'", " machine.role )", 14), None);
        // Nix shows no code of a last line that has no end.
        let file = std::env::temp_dir().join(format!("nix-push-used-{}", std::process::id()));
        std::fs::write(&file, "{\n a = \"${machine.role}\" + machine.name; }").unwrap();
        let lines = [format!("error: {coerced}"), format!("       at {}:2:7:", file.display())];
        let told = facts.blamed(coerced, &lines, &[r#"["name"]"#.into()]);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(told.unwrap(), said);
        let last = facts.blamed("x", &[], &["[]".into(), r#"["role"]"#.into()]).unwrap();
        assert!(last.ends_with("`machine.role`, a number"), "{last}");
    }
}
