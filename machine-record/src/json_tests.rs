use super::*;

fn lines(input: &[u8]) -> Result<Vec<String>, Malformed> {
    let mut records = Records::new(input);
    let mut lines = Vec::new();
    while let Some(record) = records.read()? {
        lines.push(record.to_line());
    }
    Ok(lines)
}

fn error(input: &[u8]) -> Malformed {
    lines(input).expect_err(&String::from_utf8_lossy(input))
}

/// Gives one byte at a time, as a slow pipe may.
struct Drip<'a>(&'a [u8]);

impl Read for Drip<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.len().min(1);
        buffer[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
}

#[test]
fn text_is_kept_and_white_space_is_not() {
    let kept = r#"{"x":{"y":[1,2.50,null,12345678901234567890123,1E5,-0,1e+007,true,false,"\u00e9\/é\n😀","k\u0065y"],"":{},"\u0061b":[]}}"#;
    assert_eq!(lines(kept.as_bytes()).unwrap(), [kept]);
    let names = r#"{"\u00e9":1,"a\/b":2,"é2":3,"\"":4}"#;
    assert_eq!(lines(names.as_bytes()).unwrap(), [names]);
    let spaced = "\n { \"x\" :\t[ 1 ,\r\n 2 ] , \"y\" : { \"z\" : \" a  b \" } } ";
    assert_eq!(lines(spaced.as_bytes()).unwrap(), [r#"{"x":[1,2],"y":{"z":" a  b "}}"#]);
    assert_eq!(Records::new(Drip(kept.as_bytes())).read().unwrap().unwrap().to_line(), kept);
}

#[test]
fn records_need_no_separator_and_may_span_lines() {
    assert_eq!(lines(b"{}{\"a\":1} {\n}\n\n").unwrap(), ["{}", "{\"a\":1}", "{}"]);
    assert_eq!(lines(b"").unwrap(), [""; 0]);
    assert_eq!(lines(b" \n\t\r\n").unwrap(), [""; 0]);
    assert_eq!(lines(b"\xEF\xBB\xBF{}").unwrap(), ["{}"]);
}

#[test]
fn a_byte_order_mark_stands_only_at_the_beginning() {
    assert_eq!(lines(b"\xEF\xBB\xBF").unwrap(), [""; 0]);
    error(b"{}\xEF\xBB\xBF{}");
    error(b"\xEF\xBB{}");
}

#[test]
fn records_before_the_fault_are_read() {
    let mut records = Records::new(&b"{\"a\":1}\n{\"b\":2}\n{\"c\":"[..]);
    assert!(records.read().unwrap().is_some());
    assert!(records.read().unwrap().is_some());
    let malformed = records.read().unwrap_err();
    assert_eq!((malformed.line, malformed.column), (3, 6));
}

#[test]
fn faults_are_found_where_they_stand() {
    for (input, line, column, what) in [
        (&b"[]"[..], 1, 1, "expected a record"),
        (b"{}\n7", 2, 1, "expected a record"),
        (b"\"a\"", 1, 1, "expected a record"),
        (b"null", 1, 1, "expected a record"),
        (b"{\"a\":1,\n \"a\":2}", 2, 2, "twice"),
        (b"{\"a\":1,\"\\u0061\":2}", 1, 8, "twice"),
        (b"{\"x\":{\"a\":1,\"a\":2}}", 1, 13, "twice"),
        (b"{\"\xC3\xA9\xC3\xA9\":tru}", 1, 10, "expected a value"),
        (b"{\"a\":\"\xFF\"}", 1, 7, "UTF-8"),
        (b"{\"a\":\"\xED\xA0\x80\"}", 1, 7, "UTF-8"),
        (b"{\"a\":\"x\0\"}", 1, 8, "control character"),
        (b"{\0}", 1, 2, "name in quotes"),
        (b"{\"a\":01}", 1, 7, "not a number"),
        (b"{\"a\":1.}", 1, 8, "not a number"),
        (b"{\"a\":-}", 1, 7, "not a number"),
        (b"{\"a\":1e}", 1, 8, "not a number"),
        (b"{\"a\":+1}", 1, 6, "expected a value"),
        (b"{\"a\":NaN}", 1, 6, "expected a value"),
        (b"{\"a\":1,}", 1, 8, "name in quotes"),
        (b"{\"a\":[1,]}", 1, 9, "expected a value"),
        (b"{\"a\" 1}", 1, 6, "`:`"),
        (b"{\"a\":1 \"b\":2}", 1, 8, "`,` or `}`"),
        (b"{'a':1}", 1, 2, "name in quotes"),
        (b"{\"a\":\"\\x\"}", 1, 9, "escape"),
        (b"{\"a\":\"\\ud800\"}", 1, 13, "surrogate"),
        (b"{\"a\":\"\\udc00\"}", 1, 13, "surrogate"),
        (b"{\"a\":\"\\u12g4\"}", 1, 12, "hex"),
        (b"{\"a\":\"b", 1, 8, "ends inside a string"),
        (b"{\"a\":{", 1, 7, "ends inside a record"),
        (b"{}}", 1, 3, "expected a record"),
    ] {
        let malformed = error(input);
        let shown = String::from_utf8_lossy(input).into_owned();
        assert!(malformed.what.contains(what), "{shown}: {malformed}");
        assert_eq!((malformed.line, malformed.column), (line, column), "{shown}: {malformed}");
    }
}

#[test]
fn nesting_ends_at_128() {
    let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1)).into_bytes();
    assert!(lines(&nested(128)).is_ok());
    assert!(error(&nested(129)).what.contains("nested"));
    assert!(error(&b"{\"a\":".repeat(100_000)).what.contains("nested"));
}

#[test]
fn a_member_of_ten_megabytes_passes() {
    let input = format!("{{\"big\":\"{}\"}}", "x\\n".repeat(10_000_000 / 3));
    assert_eq!(lines(input.as_bytes()).unwrap(), [input]);
}
