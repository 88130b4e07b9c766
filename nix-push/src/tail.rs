//! The last lines of what was said, in memory that is bounded whatever that is.

use std::collections::VecDeque;

/// Bytes of lines that are kept.
const MOST: usize = 1 << 20;

/// Keeps as many of the last lines as fit, and at least one.
#[derive(Default)]
pub struct Tail {
    lines: VecDeque<String>,
    bytes: usize,
}

impl Tail {
    pub fn push(&mut self, line: String) {
        self.bytes += cost(&line);
        self.lines.push_back(line);
        while self.bytes > MOST
            && self.lines.len() > 1
            && let Some(first) = self.lines.pop_front()
        {
            self.bytes -= cost(&first);
        }
    }
}

/// What a line takes: an empty one is something, too.
fn cost(line: &str) -> usize {
    line.len() + size_of::<String>()
}

impl From<Tail> for Vec<String> {
    fn from(tail: Tail) -> Vec<String> {
        tail.lines.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_lines_take_no_more_memory_than_few_long_ones_and_the_last_are_kept() {
        for length in [0, 1, 1000, MOST / 2, MOST, 2 * MOST] {
            let mut tail = Tail::default();
            for _ in 0..2 * MOST / (length + 1) + 3 {
                tail.push("x".repeat(length));
            }
            tail.push("error: last".into());
            let lines = Vec::from(tail);
            let bytes: usize = lines.iter().map(|line| cost(line)).sum();
            assert!(bytes <= MOST && bytes > MOST / 4 || lines.len() == 1, "{} of {length}", lines.len());
            assert_eq!(lines.last().unwrap(), "error: last");
        }
    }
}
