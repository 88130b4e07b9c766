//! What the session's script says: `name=value` lines, and pieces of the machine's log.

use machine_record::{Failure, Kind, log};

/// The answers of one session.
#[derive(Debug, Default)]
pub struct Answers {
    values: Vec<(String, String)>,
}

impl Answers {
    /// The last value of this name, if it is not empty.
    pub fn one(&self, name: &str) -> Option<&str> {
        let (_, value) = self.values.iter().rev().find(|(known, _)| known == name)?;
        (!value.is_empty()).then_some(value.as_str())
    }

    /// All values of this name.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.values.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone()).collect()
    }

    /// How far the deployment is; without it the session did not come to its end.
    pub fn stage(&self) -> Option<&str> {
        self.one("stage")
    }

    /// The refusal that ended the session.
    pub fn refusal(&self) -> Option<Failure> {
        let (kind, message) = self.one("error")?.split_once(' ')?;
        let kind = match kind {
            "input" => Kind::Input,
            "not-found" => Kind::NotFound,
            "denied" => Kind::Denied,
            "limit" => Kind::Limit,
            "conflict" => Kind::Conflict,
            "copy" => Kind::Copy,
            "wrong-machine" => Kind::WrongMachine,
            "locked" => Kind::Locked,
            "activation" => Kind::Activation,
            _ => Kind::Internal,
        };
        Some(Failure { kind, message: message.into(), hint: self.one("hint").map(str::to_string) })
    }

    /// Adds what a later session said, in place of what was said before of the same.
    pub fn extend(&mut self, later: Answers) {
        self.values.retain(|(name, _)| !later.values.iter().any(|(newer, _)| newer == name));
        self.values.extend(later.values);
    }
}

/// Takes the bytes as they come and shows people what concerns them.
pub struct Reader<'a> {
    machine: &'a str,
    pub answers: Answers,
    buffer: Vec<u8>,
    /// Bytes of the log that are still to come before the next line of the protocol
    log_left: usize,
    line: Vec<u8>,
    /// Bytes of the log seen so far: where to go on over another connection
    pub offset: usize,
}

impl<'a> Reader<'a> {
    pub fn new(machine: &'a str, offset: usize) -> Self {
        Reader { machine, answers: Answers::default(), buffer: Vec::new(), log_left: 0, line: Vec::new(), offset }
    }

    /// Takes in the next bytes.
    pub fn take(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        loop {
            if self.log_left > 0 {
                let count = self.log_left.min(self.buffer.len());
                if count == 0 {
                    return;
                }
                self.log_left -= count;
                self.offset += count;
                for byte in self.buffer.drain(..count).collect::<Vec<u8>>() {
                    if byte == b'\n' { self.show() } else { self.line.push(byte) }
                }
            } else if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                self.answer(String::from_utf8_lossy(&line[..end]).into_owned());
            } else {
                return;
            }
        }
    }

    fn show(&mut self) {
        log::event(self.machine, &String::from_utf8_lossy(&self.line));
        self.line.clear();
    }

    fn answer(&mut self, line: String) {
        let Some((name, value)) = line.split_once('=') else { return };
        match name {
            "log" => self.log_left = value.parse().unwrap_or(0),
            "warning" => log::warning(self.machine, value),
            "healthy" => log::event(self.machine, &format!("healthy: {value}")),
            "unhealthy" => log::event(self.machine, &format!("not healthy yet: {value}")),
            "deleted" => log::event(self.machine, &format!("deleted old generations:{value}; collecting garbage")),
            "freed" => log::event(self.machine, value),
            "rebooting" => log::event(self.machine, &format!("it takes a reboot: {value}")),
            "joined" => log::event(self.machine, &format!("joining the deployment that is under way: {value}")),
            _ => {}
        }
        self.answers.values.push((name.into(), value.into()));
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.show();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_log_are_told_apart_wherever_they_are_cut() {
        let text = b"stage=x\nlog=9\na=1\nstage\nrunning=/nix/a=b\nfailed=u\nfailed=v\nstage=done\n";
        for size in 1..text.len() {
            let mut reader = Reader::new("a", 0);
            text.chunks(size).for_each(|piece| reader.take(piece));
            assert_eq!(reader.answers.stage(), Some("done"), "pieces of {size}");
            assert_eq!(reader.answers.one("running"), Some("/nix/a=b"));
            assert_eq!(reader.answers.one("a"), None);
            assert_eq!(reader.answers.all("failed"), ["u", "v"]);
            assert_eq!(reader.offset, 9);
        }
    }

    #[test]
    fn a_refusal_has_its_kind_and_hint() {
        let mut reader = Reader::new("a", 0);
        reader.take(b"error=locked another deployment holds it\nhint=wait\n");
        let failure = reader.answers.refusal().unwrap();
        assert_eq!((failure.kind, failure.hint.as_deref()), (Kind::Locked, Some("wait")));
    }
}
