//! A pseudo-terminal, read as a terminal would draw it.

use std::io::{Read, Write};
use std::process::Stdio;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tests::Folder;

/// Longer than any of these takes; reached only where something hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// A terminal of some width, after a command has run in it.
#[derive(Default)]
pub struct Screen {
    width: usize,
    rows: Vec<Vec<char>>,
    column: usize,
    /// Each state of the last row that somebody could have seen
    pub seen: Vec<String>,
    pub raw: String,
    pub status: i32,
}

impl Screen {
    /// Draws what was written: printable characters, carriage return, new line, erase to the end of the line.
    fn draw(&mut self, output: &str) {
        self.rows = vec![Vec::new()];
        let mut characters = output.chars();
        while let Some(character) = characters.next() {
            match character {
                '\r' => {
                    self.look();
                    self.column = 0;
                }
                '\n' => {
                    self.look();
                    self.rows.push(Vec::new());
                }
                '\x1b' => {
                    let sequence: String = characters.by_ref().take(2).collect();
                    assert_eq!(sequence, "[K", "an escape sequence that nothing of ours uses");
                    let column = self.column;
                    self.rows.last_mut().unwrap().truncate(column);
                }
                printable => {
                    assert!(!printable.is_control(), "{printable:?}");
                    if self.column == self.width && self.width > 0 {
                        self.rows.push(Vec::new());
                        self.column = 0;
                    }
                    let (column, row) = (self.column, self.rows.last_mut().unwrap());
                    row.resize(row.len().max(column + 1), ' ');
                    row[column] = printable;
                    self.column += 1;
                }
            }
        }
        self.look();
    }

    fn look(&mut self) {
        let row: String = self.rows.last().unwrap().iter().collect();
        if self.seen.last() != Some(&row) {
            self.seen.push(row);
        }
    }

    /// The rows as they stand at the end.
    pub fn rows(&self) -> Vec<String> {
        self.rows.iter().map(|row| row.iter().collect()).collect()
    }

    /// Fails unless every row that was ever seen is of one tool, from its beginning.
    #[track_caller]
    pub fn is_never_scribbled_over(&self) {
        for row in self.seen.iter().filter(|row| !row.is_empty() && !row.starts_with("^C")) {
            // A long line of text goes on in the next row; a live one never does.
            assert!(row.matches("nixos-ami: web-").count() <= 1, "{row:?} in {:#?}", self.seen);
        }
    }

    /// Fails unless the cursor stands in an empty row, below whole lines.
    #[track_caller]
    pub fn is_left_whole(&self) {
        let rows = self.rows();
        assert_eq!((self.column, rows.last().unwrap().as_str()), (0, ""), "{rows:#?}");
        assert!(!rows.iter().any(|row| row.contains("asking EC2, ")), "a live line is left: {rows:#?}");
    }
}

/// Runs a command in a terminal; Ctrl-C is typed when it has written `interrupt`.
pub fn terminal(folder: &Folder, width: usize, environment: &[(&str, &str)], script: &str, interrupt: &str) -> Screen {
    let inner = format!("stty rows 24 cols {width}; {script}").replace('\'', r"'\''");
    // A shell that started the tests in the background ignores SIGINT, and so would all that it starts.
    let mut command =
        folder.command(&format!("exec env --default-signal=INT script --quiet --return --command '{inner}' /dev/null"));
    command.env("TERM", "xterm").env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
    command.env("SHELL", "/bin/bash").env_remove("NO_COLOR").envs(environment.iter().copied());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // Kept open: its end would be typed as Ctrl-D.
    let mut keyboard = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let output = Mutex::new(Vec::new());
    let status = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                output.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        let began = Instant::now();
        let mut typed = interrupt.is_empty();
        loop {
            if !typed && String::from_utf8_lossy(&output.lock().unwrap()).contains(interrupt) {
                keyboard.write_all(b"\x03").unwrap();
                typed = true;
            }
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            assert!(began.elapsed() < LIMIT, "{}", String::from_utf8_lossy(&output.lock().unwrap()));
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let raw = String::from_utf8(output.into_inner().unwrap()).unwrap();
    tests::heard(&raw);
    let mut screen = Screen { width, status: status.code().unwrap_or(-1), ..Screen::default() };
    screen.draw(&raw);
    Screen { raw, ..screen }
}
