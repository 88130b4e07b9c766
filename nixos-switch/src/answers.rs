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

    /// Adds what was seen on this side.
    pub fn note(&mut self, name: &str, value: &str) {
        self.values.push((name.into(), value.into()));
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
    /// The script speaks; what a login shell says before is not for us
    begun: bool,
    buffer: Vec<u8>,
    /// The length of the piece of the log that is coming, and where it ends in the log
    piece: Option<(usize, usize)>,
    line: Vec<u8>,
    /// How much of the log was seen: where to go on over another connection
    pub offset: usize,
}

impl<'a> Reader<'a> {
    pub fn new(machine: &'a str, offset: usize) -> Self {
        let (answers, buffer, line) = Default::default();
        Reader { machine, answers, begun: false, buffer, piece: None, line, offset }
    }

    /// Takes in the next bytes.
    pub fn take(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        loop {
            if let Some((length, end)) = self.piece {
                // One that was cut comes again over another connection.
                if self.buffer.len() < length {
                    return;
                }
                (self.piece, self.offset) = (None, end);
                for byte in self.buffer.drain(..length).collect::<Vec<u8>>() {
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
        if !self.begun {
            self.begun = line == "nixpipe";
            return;
        }
        let Some((name, value)) = line.split_once('=') else { return };
        match name {
            "log" => {
                let (length, end) = value.split_once(' ').unwrap_or((value, ""));
                let length = length.parse().unwrap_or(0);
                self.piece = Some((length, end.parse().unwrap_or(self.offset + length)));
            }
            "warning" => log::warning(self.machine, value),
            "healthy" => log::event(self.machine, &format!("healthy: {value}")),
            "unhealthy" => log::event(self.machine, &format!("not healthy yet: {value}")),
            "deleted" => log::event(self.machine, &format!("deleted old generations:{value}; collecting garbage")),
            "freed" => log::event(self.machine, value),
            "rebooting" => log::event(self.machine, &format!("it takes a reboot: {value}")),
            "waiting" => log::event(self.machine, &format!("waiting for the deployment of {value}")),
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
        let text = b"Welcome! stage=y\nlog=7\nstage= \nnixpipe\nstage=x\nlog=9 19\na=1\nstage\nrunning=/nix/a=b\nfailed=u\nfailed=v\nstage=done\n";
        for size in 1..text.len() {
            let mut reader = Reader::new("a", 0);
            text.chunks(size).for_each(|piece| reader.take(piece));
            assert_eq!(reader.answers.stage(), Some("done"), "pieces of {size}");
            assert_eq!(reader.answers.one("running"), Some("/nix/a=b"));
            assert_eq!(reader.answers.one("a"), None);
            assert_eq!(reader.answers.all("failed"), ["u", "v"]);
            // There were ten bytes of zero.
            assert_eq!(reader.offset, 19);
        }
    }

    #[test]
    fn a_line_of_the_log_that_was_cut_is_to_come_again_as_a_whole() {
        let mut reader = Reader::new("a", 3);
        reader.take(b"nixpipe\nlog=4 7\none\nlog=4 11\ntw");
        assert_eq!((reader.offset, reader.line.as_slice()), (7, b"".as_slice()));
    }

    #[test]
    fn a_refusal_has_its_kind_and_hint() {
        let mut reader = Reader::new("a", 0);
        reader.take(b"nixpipe\nerror=locked another deployment holds it\nhint=wait\n");
        let failure = reader.answers.refusal().unwrap();
        assert_eq!((failure.kind, failure.hint.as_deref()), (Kind::Locked, Some("wait")));
    }
}
