//! Reads a stream of records strictly and keeps each member's text as it came.
//!
//! A JSON library of the registry is not enough here: none of them refuses a name
//! given twice at any depth *and* keeps the text of numbers and strings (serde_json's
//! `arbitrary_precision` turns `1E5` into `1e+5`, its `RawValue` looks at no names).
//! The grammar is RFC 8259; nesting ends at 128, as in serde_json.

use crate::Record;
use std::collections::HashSet;
use std::fmt;
use std::io::{self, Read};

/// The deepest nesting of arrays and objects that is read, the record itself included.
const MAX_DEPTH: usize = 128;

/// Where and why the input is not a stream of records.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Counted from 1
    pub line: usize,
    /// In characters, counted from 1
    pub column: usize,
    /// The cause
    pub what: String,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.what)
    }
}

impl std::error::Error for Malformed {}

/// The records of a byte stream. Each is given out as soon as its last brace has come.
pub struct Records<R> {
    input: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    line: usize,
    column: usize,
    begun: bool,
}

impl<R: Read> Records<R> {
    /// Begins to read; a byte order mark at the very beginning is skipped.
    pub fn new(input: R) -> Self {
        Records { input, buffer: vec![0; 64 * 1024].into(), start: 0, end: 0, line: 1, column: 1, begun: false }
    }

    /// Reads one record; `None` at the end of the input.
    pub fn read(&mut self) -> Result<Option<Record>, Malformed> {
        if !self.begun {
            self.begun = true;
            self.skip_byte_order_mark()?;
        }
        match self.next_token()? {
            None => return Ok(None),
            Some(b'{') => {}
            Some(_) => return Err(self.malformed("expected a record, that is an object: {…}")),
        }
        let mut members = Vec::new();
        self.members(1, |reader, name| {
            let mut text = Vec::new();
            reader.value(&mut text, 2)?;
            // Strings are checked to be UTF-8 as they are read, all else is ASCII.
            let utf8 = |text| String::from_utf8(text).map_err(|_| reader.malformed("invalid UTF-8"));
            members.push((utf8(name.to_vec())?, utf8(text)?));
            Ok(())
        })?;
        Ok(Some(Record::from_members(members)))
    }

    fn malformed(&self, what: impl Into<String>) -> Malformed {
        Malformed { line: self.line, column: self.column, what: what.into() }
    }

    fn peek(&mut self) -> Result<Option<u8>, Malformed> {
        while self.start == self.end {
            match self.input.read(&mut self.buffer) {
                Ok(0) => return Ok(None),
                Ok(count) => (self.start, self.end) = (0, count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.malformed(format!("cannot read: {error}"))),
            }
        }
        Ok(Some(self.buffer[self.start]))
    }

    /// Passes over the byte that `peek` gave.
    fn advance(&mut self, byte: u8) {
        self.start += 1;
        if byte == b'\n' {
            self.line += 1;
            self.column = 1;
        } else if byte & 0b1100_0000 != 0b1000_0000 {
            // Continuation bytes of UTF-8 are no characters of their own.
            self.column += 1;
        }
    }

    fn next(&mut self) -> Result<u8, Malformed> {
        let byte = self.peek()?.ok_or_else(|| self.malformed("the input ends inside a record"))?;
        self.advance(byte);
        Ok(byte)
    }

    fn skip_byte_order_mark(&mut self) -> Result<(), Malformed> {
        if self.peek()? == Some(0xEF) {
            for expected in [0xEF, 0xBB, 0xBF] {
                if self.peek()? != Some(expected) {
                    return Err(self.malformed("expected a record, that is an object: {…}"));
                }
                self.start += 1;
            }
        }
        Ok(())
    }

    /// Passes over white space; the byte after it is not consumed.
    fn next_token(&mut self) -> Result<Option<u8>, Malformed> {
        loop {
            match self.peek()? {
                Some(byte @ (b' ' | b'\t' | b'\n' | b'\r')) => self.advance(byte),
                other => return Ok(other),
            }
        }
    }

    fn token(&mut self) -> Result<u8, Malformed> {
        self.next_token()?.ok_or_else(|| self.malformed("the input ends inside a record"))
    }

    /// Reads an object, the opening brace not yet consumed; `each` reads the value of a name,
    /// which it is given as it stood.
    fn members(
        &mut self,
        depth: usize,
        mut each: impl FnMut(&mut Self, &[u8]) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        self.enter(depth)?;
        let mut names = HashSet::new();
        if self.token()? == b'}' {
            self.advance(b'}');
            return Ok(());
        }
        loop {
            if self.token()? != b'"' {
                return Err(self.malformed("expected a name in quotes"));
            }
            let (line, column) = (self.line, self.column);
            let mut text = Vec::new();
            self.string(&mut text)?;
            let name: String =
                serde_json::from_slice(&text).map_err(|_| self.malformed("expected a name in quotes"))?;
            if !names.insert(name.clone()) {
                return Err(Malformed { line, column, what: format!("the name {name:?} stands twice in one object") });
            }
            if self.token()? != b':' {
                return Err(self.malformed("expected `:` after a name"));
            }
            self.advance(b':');
            each(self, &text)?;
            match self.token()? {
                b',' => self.advance(b','),
                b'}' => {
                    self.advance(b'}');
                    return Ok(());
                }
                _ => return Err(self.malformed("expected `,` or `}`")),
            }
        }
    }

    fn enter(&mut self, depth: usize) -> Result<(), Malformed> {
        if depth > MAX_DEPTH {
            return Err(self.malformed(format!("nested deeper than {MAX_DEPTH}")));
        }
        self.next().map(drop)
    }

    /// Reads any value and appends its text, without the white space between its parts.
    fn value(&mut self, text: &mut Vec<u8>, depth: usize) -> Result<(), Malformed> {
        match self.token()? {
            b'{' => {
                text.push(b'{');
                let mut first = true;
                self.members(depth, |reader, name| {
                    if !std::mem::take(&mut first) {
                        text.push(b',');
                    }
                    text.extend_from_slice(name);
                    text.push(b':');
                    reader.value(text, depth + 1)
                })?;
                text.push(b'}');
                Ok(())
            }
            b'[' => self.array(text, depth),
            b'"' => self.string(text),
            b't' => self.literal(text, b"true"),
            b'f' => self.literal(text, b"false"),
            b'n' => self.literal(text, b"null"),
            b'-' | b'0'..=b'9' => self.number(text),
            _ => Err(self.malformed("expected a value")),
        }
    }

    fn array(&mut self, text: &mut Vec<u8>, depth: usize) -> Result<(), Malformed> {
        self.enter(depth)?;
        text.push(b'[');
        if self.token()? == b']' {
            self.advance(b']');
            text.push(b']');
            return Ok(());
        }
        loop {
            self.value(text, depth + 1)?;
            let byte = self.token()?;
            if byte != b',' && byte != b']' {
                return Err(self.malformed("expected `,` or `]`"));
            }
            self.advance(byte);
            text.push(byte);
            if byte == b']' {
                return Ok(());
            }
        }
    }

    fn literal(&mut self, text: &mut Vec<u8>, word: &[u8]) -> Result<(), Malformed> {
        for &expected in word {
            if self.peek()? != Some(expected) {
                return Err(self.malformed("expected a value"));
            }
            self.advance(expected);
        }
        text.extend_from_slice(word);
        Ok(())
    }

    fn number(&mut self, text: &mut Vec<u8>) -> Result<(), Malformed> {
        self.accept(text, b"-")?;
        if !self.accept(text, b"0")? {
            self.digits(text)?;
        }
        if self.accept(text, b".")? {
            self.digits(text)?;
        }
        if self.accept(text, b"eE")? {
            self.accept(text, b"+-")?;
            self.digits(text)?;
        }
        // `01` and `1.2.3` would otherwise be seen as a missing comma.
        match self.peek()? {
            Some(b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-') => Err(self.malformed("not a number")),
            _ => Ok(()),
        }
    }

    fn accept(&mut self, text: &mut Vec<u8>, any: &[u8]) -> Result<bool, Malformed> {
        match self.peek()? {
            Some(byte) if any.contains(&byte) => {
                self.advance(byte);
                text.push(byte);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn digits(&mut self, text: &mut Vec<u8>) -> Result<(), Malformed> {
        if !self.accept(text, b"0123456789")? {
            return Err(self.malformed("not a number"));
        }
        while self.accept(text, b"0123456789")? {}
        Ok(())
    }

    /// Reads a string and appends it as it stands, quotes and escapes included.
    fn string(&mut self, text: &mut Vec<u8>) -> Result<(), Malformed> {
        let from = text.len();
        let column = self.column;
        text.push(self.next()?);
        loop {
            let byte = self.peek()?.ok_or_else(|| self.malformed("the input ends inside a string"))?;
            if byte < 0x20 {
                return Err(self.malformed(format!("control character {byte:#04x} in a string")));
            }
            self.advance(byte);
            text.push(byte);
            match byte {
                b'"' => break,
                b'\\' => self.escape(text)?,
                _ => {}
            }
        }
        if let Err(error) = std::str::from_utf8(&text[from..]) {
            let valid = String::from_utf8_lossy(&text[from..from + error.valid_up_to()]).chars().count();
            return Err(Malformed { line: self.line, column: column + valid, what: "invalid UTF-8".into() });
        }
        Ok(())
    }

    fn escape(&mut self, text: &mut Vec<u8>) -> Result<(), Malformed> {
        let byte = self.next()?;
        text.push(byte);
        match byte {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(()),
            b'u' => match self.hex(text)? {
                0xD800..=0xDBFF => {
                    for expected in [b'\\', b'u'] {
                        if self.peek()? != Some(expected) {
                            return Err(self.malformed("half of a surrogate pair"));
                        }
                        self.advance(expected);
                        text.push(expected);
                    }
                    match self.hex(text)? {
                        0xDC00..=0xDFFF => Ok(()),
                        _ => Err(self.malformed("half of a surrogate pair")),
                    }
                }
                0xDC00..=0xDFFF => Err(self.malformed("half of a surrogate pair")),
                _ => Ok(()),
            },
            _ => Err(self.malformed("unknown escape in a string")),
        }
    }

    fn hex(&mut self, text: &mut Vec<u8>) -> Result<u32, Malformed> {
        let mut code = 0;
        for _ in 0..4 {
            let byte = self.next()?;
            let digit = (byte as char).to_digit(16).ok_or_else(|| self.malformed("expected four hex digits"))?;
            text.push(byte);
            code = code * 16 + digit;
        }
        Ok(code)
    }
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
